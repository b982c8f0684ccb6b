import assert from "node:assert/strict";
import { test } from "node:test";

import { maskToPolygons, type Ring, ringArea } from "../src/engine/polygons.ts";
import { maskToRle, partToRle, rleArea, rleBox, rleToMask } from "../src/engine/rle.ts";
import type { Mask } from "../src/types.ts";
import { fixtures } from "./fixtures.ts";

const masks: readonly Mask[] = fixtures.rle.map(({ size: [height, width], pixels }) => ({
  width,
  height,
  data: Uint8Array.from(pixels),
}));

fixtures.rle.forEach(({ size, counts, box, area }, i) => {
  test(`mask ${i}: run lengths, box and area are pycocotools'`, () => {
    const rle = maskToRle(masks[i]!);
    assert.deepEqual(rle, { size, counts });
    assert.deepEqual(rleToMask(rle), masks[i]);
    assert.deepEqual(rleBox(rle), box);
    assert.equal(rleArea(rle), area);
  });

  test(`mask ${i}: filling its outlines by the even-odd rule gives it back`, () => {
    const rings = maskToPolygons(masks[i]!);
    assert.deepEqual(filled(rings, masks[i]!), masks[i]);
    assert.equal(rings.reduce((sum, ring) => sum + ringArea(ring), 0), area);
  });
});

test("run lengths of a part are those of the whole mask", () => {
  const part = { x: 2, y: 1, width: 2, height: 2, data: Uint8Array.of(1, 0, 1, 1) };
  assert.deepEqual(partToRle(part, { width: 5, height: 4 }).counts, [9, 2, 3, 1, 5]);
});

test("run lengths that do not fill the mask are refused", () => {
  assert.throws(() => rleToMask({ size: [2, 3], counts: [2, 3] }), /fill 5 of the mask's 6/);
  assert.throws(() => rleToMask({ size: [2, 3], counts: [2, 5] }), /beyond the mask/);
});

test("a square with a hole has a clockwise and an anticlockwise ring, with corners only", () => {
  const data = Uint8Array.of(1, 1, 1, 1, 0, 1, 1, 1, 1);
  const rings = maskToPolygons({ width: 3, height: 3, data });
  assert.deepEqual(rings.map(ringArea), [9, -1]);
  assert.deepEqual(rings.map((ring) => ring.length), [4, 4]);
});

test("pixels that touch at a corner have rings of their own", () => {
  const rings = maskToPolygons({ width: 2, height: 2, data: Uint8Array.of(1, 0, 0, 1) });
  assert.deepEqual(rings.map(ringArea), [1, 1]);
});

test("a tolerance of a pixel makes a staircase a straight line, and leaves what is small alone", () => {
  const side = 20;
  const data = Uint8Array.from({ length: side * side }, (_, i) => (i % side <= Math.floor(i / side) ? 1 : 0));
  const mask = { width: side, height: side, data };
  assert.ok(maskToPolygons(mask)[0]!.length > 30);
  assert.ok(maskToPolygons(mask, 1)[0]!.length <= 5);
  assert.equal(maskToPolygons({ width: 1, height: 1, data: Uint8Array.of(1) }, 50)[0]!.length, 4);
});

/** A pixel is inside if a ray from its centre to the left crosses the rings an odd number of times. */
function filled(rings: readonly Ring[], { width, height }: Mask): Mask {
  const data = new Uint8Array(width * height);
  for (let i = 0; i < data.length; i++) {
    const [x, y] = [(i % width) + 0.5, Math.floor(i / width) + 0.5];
    for (const ring of rings) {
      ring.forEach(([x1, y1], corner) => {
        const [x2, y2] = ring[(corner + 1) % ring.length]!;
        data[i]! ^= x1 === x2 && x1 < x && y1 < y !== y2 < y ? 1 : 0;
      });
    }
  }
  return { width, height, data };
}
