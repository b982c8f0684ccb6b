import assert from "node:assert/strict";
import { test } from "node:test";

import { boxIou, type Corners, KeptBoxes } from "../src/engine/boxes.ts";
import { gridPoints, pointBatch, promptBatch } from "../src/engine/prompts.ts";

const PICTURE = { width: 640, height: 480 }; // 1.6 model pixels a pixel

test("clicks without a box get SAM's padding point", () => {
  const clicks = [{ x: 10, y: 20, isForeground: true }, { x: 640, y: 480, isForeground: false }];
  const { coords, labels, numPrompts, numTokens } = promptBatch({ clicks }, PICTURE);
  assert.deepEqual([numPrompts, numTokens], [1, 3]);
  assert.deepEqual(Array.from(coords), [16, 32, 1024, 768, 0, 0]);
  assert.deepEqual(Array.from(labels), [1, 0, -1]);
});

test("a box is its two corners after the clicks, without a padding point", () => {
  const box = { x1: 10, y1: 20, x2: 30, y2: 40 };
  const { coords, labels } = promptBatch({ clicks: [{ x: 5, y: 5, isForeground: true }], box }, PICTURE);
  assert.deepEqual(Array.from(coords), [8, 8, 16, 32, 48, 64]);
  assert.deepEqual(Array.from(labels), [1, 2, 3]);
});

test("points of a batch have a padding point each", () => {
  const { coords, labels, numTokens } = pointBatch([[10, 20], [20, 10]], PICTURE);
  assert.equal(numTokens, 2);
  assert.deepEqual(Array.from(coords), [16, 32, 0, 0, 32, 16, 0, 0]);
  assert.deepEqual(Array.from(labels), [1, -1, 1, -1]);
});

test("prompts that are empty, outside or turned around are refused in words", () => {
  assert.throws(() => promptBatch({ clicks: [] }, PICTURE), /empty prompt/);
  assert.throws(() => promptBatch({ clicks: [{ x: 641, y: 0, isForeground: true }] }, PICTURE), /outside/);
  assert.throws(() => promptBatch({ clicks: [{ x: NaN, y: 0, isForeground: true }] }, PICTURE), /outside/);
  assert.throws(() => promptBatch({ clicks: [], box: { x1: 9, y1: 0, x2: 9, y2: 5 } }, PICTURE), /empty/);
  const wide = { x1: 0, y1: 0, x2: 700, y2: 5 };
  assert.throws(() => promptBatch({ clicks: [], box: wide }, PICTURE), /sticks out/);
  promptBatch({ clicks: [], box: { x1: -30, y1: 0, x2: 670, y2: 5 } }, PICTURE); // as detectors' boxes do
});

test("the grid's points are the centres of its cells, row by row", () => {
  assert.deepEqual(gridPoints(2, PICTURE), [[160, 120], [480, 120], [160, 360], [480, 360]]);
  assert.throws(() => gridPoints(0, PICTURE), /whole number/);
});

test("boxes overlap by SAM's measure, without a pixel for the edges", () => {
  assert.equal(boxIou([0, 0, 10, 10], [0, 5, 10, 15]), Math.fround(50 / 150));
  assert.equal(boxIou([0, 0, 0, 10], [0, 0, 0, 10]), 0);
});

test("of two boxes that overlap too much the later one is dropped", () => {
  const kept = new KeptBoxes(0.7);
  assert.equal(kept.add([0, 0, 9, 10]), true);
  assert.equal(kept.add([0, 0, 9, 9]), false); // 0.9
  assert.equal(kept.add([20, 0, 29, 9]), true);
});

test("a box is suppressed before it is known only if every box within its bounds would be", () => {
  const kept = new KeptBoxes(0.7);
  kept.add([0, 0, 100, 100]);
  const inner: Corners = [2, 2, 98, 98];
  assert.equal(kept.surelySuppress(inner, [0, 0, 102, 102]), true); // at least 9216 of 11188
  assert.equal(kept.surelySuppress(inner, [0, 0, 130, 130]), false);
  assert.equal(kept.surelySuppress(null, [0, 0, 100, 100]), false);
});
