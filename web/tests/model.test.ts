/** The model on onnxruntime-web's WebAssembly in node: the same masks as Python's, of the same picture. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { before, test } from "node:test";

import * as ort from "onnxruntime-web/wasm";

import { findEverything } from "../src/engine/everything.ts";
import { Model } from "../src/engine/model.ts";
import { toModelInput } from "../src/engine/preprocess.ts";
import { promptBatch } from "../src/engine/prompts.ts";
import { rleToMask } from "../src/engine/rle.ts";
import { maskOfPicture } from "../src/engine/upscale.ts";
import { EVERYTHING_DEFAULTS, type Mask } from "../src/types.ts";
import { fixtures } from "./fixtures.ts";
import { readPng } from "./png.ts";

const WEIGHTS = new URL("../../src/mobile_sam/weights/", import.meta.url);
const picture = readPng(new URL("../../examples/chelsea.png", import.meta.url));
const AREA = 256 * 256;

let model: Model;
let features: Float32Array;

before(async () => {
  ort.env.wasm.numThreads = 1;
  const names = ["encoder.onnx", "decoder.onnx", "mobile_sam.safetensors"];
  const files = names.map((name) => readFile(new URL(name, WEIGHTS)));
  const [encoder, decoder, weights] = await Promise.all(files);
  model = await Model.open(ort, { encoder: encoder!, decoder: decoder!, weights: weights! }, "wasm");
  features = await model.encode(toModelInput(picture.rgba, picture));
});

fixtures.chelsea.prompts.forEach(({ points, labels, box, counts, ious }, i) => {
  test(`prompt ${i}: the four masks and their scores are the Python predictor's`, async () => {
    const prompt = {
      clicks: points.map(([x, y], row) => ({ x, y, isForeground: labels[row] === 1 })),
      ...(box && { box: { x1: box[0], y1: box[1], x2: box[2], y2: box[3] } }),
    };
    const decoded = await model.decode(features, promptBatch(prompt, picture), [0, 1, 2, 3]);
    for (const token of [0, 1, 2, 3]) {
      const mask = maskOfPicture(decoded.logits.subarray(token * AREA, (token + 1) * AREA), picture);
      const overlap = iou(mask, rleToMask({ size: [picture.height, picture.width], counts: counts[token]! }));
      assert.ok(overlap > 0.995, `token ${token}: IoU ${overlap}`);
      assert.ok(Math.abs(decoded.ious[token]! - ious[token]!) < 1e-3);
    }
  });
});

test("everything mode finds the masks of Python's generator, in its order", async () => {
  const told: number[] = [];
  const found = await findEverything(picture, { ...EVERYTHING_DEFAULTS, pointsPerSide: 4 }, {
    decode: (batch, minIou) => model.decode(features, batch, [1, 2, 3], minIou),
    pause: () => Promise.resolve(),
    tell: (done) => told.push(done),
  });
  assert.deepEqual(told, [0, 4, 8, 12, 16]);
  assert.equal(found.length, fixtures.chelsea.everything_4.length);
  found.forEach((mask, i) => {
    const expected = fixtures.chelsea.everything_4[i]!;
    const overlap = iou(rleToMask(mask.rle), rleToMask({ size: mask.rle.size, counts: expected.counts }));
    assert.ok(overlap > 0.995, `mask ${i}: IoU ${overlap}`);
    assert.ok(Math.abs(mask.predictedIou - expected.predicted_iou) < 1e-3);
    assert.ok(Math.abs(mask.stabilityScore - expected.stability_score) < 2e-3);
  });
});

test("everything mode stops when it is paused by an AbortError", async () => {
  let numBatches = 0;
  const finding = findEverything(picture, { ...EVERYTHING_DEFAULTS, pointsPerSide: 4 }, {
    decode: async () => ({ logits: new Float32Array(0), ious: new Float32Array(12), drawn: [] }),
    pause: async () => {
      if (++numBatches === 2) {
        throw new DOMException("Cancelled.", "AbortError");
      }
    },
    tell: () => undefined,
  });
  await assert.rejects(finding, { name: "AbortError" });
});

function iou(a: Mask, b: Mask): number {
  let [both, either] = [0, 0];
  a.data.forEach((value, i) => {
    both += value & b.data[i]!;
    either += value | b.data[i]!;
  });
  return either ? both / either : 1;
}
