import assert from "node:assert/strict";
import test from "node:test";

import type { Mask } from "../src/types.ts";
import { maskOfShape, outlineOf, shapeOfMask, shapeOfRle } from "../src/ui/shapes.ts";

/** Rows of "." and "#". */
function maskOf(...rows: readonly string[]): Mask {
  const data = Uint8Array.from(rows.join(""), (character) => (character === "#" ? 1 : 0));
  return { width: rows[0]?.length ?? 0, height: rows.length, data };
}

const RING = maskOf("......", ".###..", ".#.#..", ".###..", "......");

test("a mask is cut to its box and comes back whole", () => {
  const shape = shapeOfMask(RING);
  assert.deepEqual([shape.x, shape.y, shape.width, shape.height, shape.areaPx], [1, 1, 3, 3, 8]);
  assert.deepEqual(maskOfShape(shape), RING);
});

test("an empty mask has no box and comes back empty", () => {
  const empty = maskOf("...", "...");
  const shape = shapeOfMask(empty);
  assert.deepEqual([shape.width, shape.height, shape.areaPx], [0, 0, 0]);
  assert.deepEqual(maskOfShape(shape), empty);
  assert.equal(outlineOf(shape).length, 0);
});

test("run lengths give the same shape as the mask that they are of", () => {
  // Columns of RING: 5 zeros, .###., .#.#., .###., 10 zeros.
  const shape = shapeOfRle({ size: [5, 6], counts: [6, 3, 2, 1, 1, 1, 2, 3, 11] });
  assert.deepEqual(shape, shapeOfMask(RING));
});

test("a run that goes over from one column to the next fills both", () => {
  const shape = shapeOfRle({ size: [2, 3], counts: [1, 3, 2] });
  assert.deepEqual(maskOfShape(shape), maskOf(".#.", "##."));
});

test("the outline of a rectangle is its four sides, each in one line", () => {
  const lines = outlineOf(shapeOfMask(maskOf("....", ".##.", ".##.", ".##.", "....")));
  const sides = new Set<string>();
  for (let at = 0; at < lines.length; at += 4) sides.add(lines.slice(at, at + 4).join(" "));
  assert.deepEqual(sides, new Set(["1 1 3 1", "1 4 3 4", "1 1 1 4", "3 1 3 4"]));
});

test("the outline's length is the number of sides of pixels between object and background", () => {
  const lines = outlineOf(shapeOfMask(RING));
  let length = 0;
  for (let at = 0; at < lines.length; at += 4) {
    const [x1 = 0, y1 = 0, x2 = 0, y2 = 0] = lines.slice(at, at + 4);
    length += Math.abs(x2 - x1) + Math.abs(y2 - y1);
  }
  assert.equal(length, 12 + 4); // around it, and around its hole
});
