import assert from "node:assert/strict";
import test from "node:test";
import { inflateSync } from "node:zlib";

import { cocoJson, exportName, labelMap, polygonsSvg, type ExportObject } from "../src/ui/export_files.ts";
import { greyPng } from "../src/ui/png.ts";
import { shapeOfMask } from "../src/ui/shapes.ts";

const PICTURE = { fileName: "cup.jpg", width: 4, height: 3 };

function object(name: string, pixels: readonly number[], score: number | null = 0.98765): ExportObject {
  const data = new Uint8Array(12);
  for (const at of pixels) data[at] = 1;
  return { name, score, colour: [230, 159, 0], shape: shapeOfMask({ width: 4, height: 3, data }) };
}

test("COCO has one category for each name and a box, an area and runs for each object", () => {
  const objects = [object("cup", [5, 6]), object("spoon", [0]), object("cup", [11], null)];
  const rle = { size: [3, 4], counts: [4, 1, 2, 1, 4] } as const;
  const json = JSON.parse(JSON.stringify(cocoJson(PICTURE, objects, () => rle)));
  assert.deepEqual(json.images, [{ id: 1, file_name: "cup.jpg", width: 4, height: 3 }]);
  assert.deepEqual(
    json.categories.map((category: { id: number; name: string }) => [category.id, category.name]),
    [
      [1, "cup"],
      [2, "spoon"],
    ],
  );
  assert.deepEqual(json.annotations[0], {
    id: 1,
    image_id: 1,
    category_id: 1,
    segmentation: { size: [3, 4], counts: [4, 1, 2, 1, 4] },
    bbox: [1, 1, 2, 1],
    area: 2,
    iscrowd: 0,
    score: 0.9877,
  });
  assert.equal(json.annotations[2].category_id, 1);
  assert.ok(!("score" in json.annotations[2]));
});

test("names cannot break out of the SVG", () => {
  const ring = [
    [0, 0],
    [2, 0],
    [2, 1.005],
  ] as const;
  const svg = polygonsSvg(PICTURE, [object('</title><script>"&', [0])], () => [ring]);
  assert.ok(!svg.includes("<script"));
  assert.match(svg, /viewBox="0 0 4 3"/);
  assert.match(svg, /d="M0 0L2 0L2 1(\.01)?Z"/);
});

test("where objects overlap, the label map shows the smaller one", () => {
  const labels = labelMap(PICTURE, [object("small", [5]), object("large", [4, 5, 6])]);
  assert.deepEqual([...labels], [0, 0, 0, 0, 2, 1, 2, 0, 0, 0, 0, 0]);
});

test("more than 255 objects get 16-bit labels", () => {
  const many = Array.from({ length: 256 }, () => object("one", [1]));
  assert.ok(labelMap(PICTURE, many) instanceof Uint16Array);
  assert.ok(labelMap(PICTURE, many.slice(1)) instanceof Uint8Array);
});

test("grey PNGs have the size, the depth and the pixels that went in", async () => {
  for (const values of [Uint8Array.of(0, 255, 3, 4, 5, 6), Uint16Array.of(0, 65535, 256, 4, 5, 6)]) {
    const bytes = new Uint8Array(await (await greyPng(values, 3, 2)).arrayBuffer());
    const view = new DataView(bytes.buffer);
    const depth = values.BYTES_PER_ELEMENT;
    assert.deepEqual([view.getUint32(16), view.getUint32(20), bytes[24], bytes[25]], [3, 2, 8 * depth, 0]);
    const rows = inflateSync(bytes.subarray(41, 41 + view.getUint32(33)));
    assert.equal(rows.length, 2 * (1 + 3 * depth));
    const first = depth === 1 ? rows[2] : rows.readUInt16BE(3);
    assert.equal(first, values[1]);
    // The end of every PNG file, with its checksum, is the same twelve bytes.
    const end = [0, 0, 0, 0, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82];
    assert.deepEqual([...bytes.subarray(-12)], end);
  }
});

test("file names keep to characters that every system takes", () => {
  assert.equal(exportName("a/b:c", "Object 1_mask", "png"), "a-b-c_Object_1_mask.png");
});
