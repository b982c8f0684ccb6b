import assert from "node:assert/strict";
import { test } from "node:test";

import { INPUT_SIDE, inputSize } from "../src/engine/geometry.ts";
import { toModelInput } from "../src/engine/preprocess.ts";
import { resizeToRgb } from "../src/engine/resize.ts";
import { fixtures } from "./fixtures.ts";

function withOpacity(rgb: readonly number[]): Uint8Array {
  const valueAt = (i: number): number => (i % 4 === 3 ? 255 : rgb[(i >> 2) * 3 + (i % 4)]!);
  return Uint8Array.from({ length: (rgb.length / 3) * 4 }, (_, i) => valueAt(i));
}

for (const { from, to, rgb, expected } of fixtures.resize) {
  test(`resizing ${from.join(" x ")} to ${to.join(" x ")} gives Pillow's bytes`, () => {
    const [size, target] = [from, to].map(([width, height]) => ({ width: width!, height: height! }));
    assert.deepEqual(Array.from(resizeToRgb(withOpacity(rgb), size!, target!)), expected);
  });
}

test("the longer side becomes 1024, the other is rounded and never nothing", () => {
  assert.deepEqual(inputSize({ width: 640, height: 480 }), { width: 1024, height: 768 });
  assert.deepEqual(inputSize({ width: 333, height: 2000 }), { width: 170, height: 1024 }); // 170.496
  assert.deepEqual(inputSize({ width: 5000, height: 1 }), { width: 1024, height: 1 });
});

test("the padding is zero after normalisation, and channels come one after the other", () => {
  const rgba = Uint8Array.of(255, 0, 10, 255, 255, 0, 10, 255); // 2 x 1
  const input = toModelInput(rgba, { width: 2, height: 1 }); // a frame of 1024 x 512
  const area = INPUT_SIDE * INPUT_SIDE;
  const expected = [(255 - 123.675) / 58.395, (0 - 116.28) / 57.12, (10 - 103.53) / 57.375];
  expected.forEach((value, channel) => {
    assert.ok(Math.abs(input[channel * area]! - value) < 1e-6);
    assert.ok(Math.abs(input[channel * area + 511 * INPUT_SIDE + 1023]! - value) < 1e-6);
    assert.equal(input[channel * area + 512 * INPUT_SIDE], 0);
  });
});
