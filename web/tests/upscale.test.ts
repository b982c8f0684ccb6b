import assert from "node:assert/strict";
import { test } from "node:test";

import { boxBounds } from "../src/engine/candidates.ts";
import { drawMask, maskOfModel, maskOfPicture, partAbove } from "../src/engine/upscale.ts";
import { fixtures } from "./fixtures.ts";
import { rleToMask } from "../src/engine/rle.ts";

/** The same as in make_fixtures.py. */
const logits = Float32Array.from({ length: 256 * 256 }, (_, i) => {
  const [x, y] = [i % 256, Math.floor(i / 256)];
  const squared = (x - 90) ** 2 + 1.5 * (y - 70) ** 2;
  const ring = 5 - Math.abs(squared - 2500) / 300;
  const ramp = (x - 150) / 9 - Math.abs(y - 120) / 4;
  return Math.max(ring, ramp) + ((x * 7 + y * 13) % 11) * 0.25 - 1.25;
});

for (const { counts, width, height, stability } of fixtures.upscale) {
  const picture = { width, height };
  const expected = rleToMask({ size: [height, width], counts });

  test(`${width} x ${height}: the mask is torch's but for pixels that are almost on the threshold`, () => {
    const mask = maskOfPicture(logits, picture);
    assert.deepEqual([mask.width, mask.height], [width, height]);
    const numOther = mask.data.reduce((sum, value, i) => sum + (value === expected.data[i] ? 0 : 1), 0);
    assert.ok(numOther <= 2e-5 * width * height, `${numOther} pixels differ`);
  });

  test(`${width} x ${height}: the stability score is torch's`, () => {
    const drawn = drawMask(partAbove(logits, -1), picture, 1);
    assert.ok(Math.abs(drawn.stabilityScore - stability) < 2e-4);
  });

  test(`${width} x ${height}: the box lies between its bounds`, () => {
    const { x, y, width: w, height: h } = drawMask(partAbove(logits, -1), picture, 1);
    const { inner, outer } = boxBounds(logits, picture);
    assert.ok(outer[0] <= x && outer[1] <= y && outer[2] >= x + w - 1 && outer[3] >= y + h - 1);
    if (inner) {
      assert.ok(inner[0] >= x && inner[1] >= y && inner[2] <= x + w - 1 && inner[3] <= y + h - 1);
    }
    assert.equal(inner === null, width === 300); // too small for anything to be sure
  });
}

test("a hover's mask has a longer side of 1024, or that of a smaller picture", () => {
  const large = maskOfModel(logits, { width: 4096, height: 2048 });
  assert.deepEqual([large.width, large.height], [1024, 512]);
  const small = maskOfModel(logits, { width: 300, height: 200 });
  assert.deepEqual([small.width, small.height], [300, 200]);
});

test("logits below the threshold give an empty mask", () => {
  const nothing = new Float32Array(256 * 256).fill(-3);
  assert.ok(maskOfPicture(nothing, { width: 30, height: 20 }).data.every((value) => value === 0));
  assert.deepEqual(drawMask(partAbove(nothing, -1), { width: 30, height: 20 }, 1).width, 0);
});
