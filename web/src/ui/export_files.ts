/** Exported files that are text or numbers: COCO JSON, SVG, label maps. */

import type { Rle } from "../types.ts";
import { hexColour, type Rgb } from "./palette.ts";
import { paintLabel, type Shape } from "./shapes.ts";

/** An object to export. */
export interface ExportObject {
  readonly name: string;
  readonly colour: Rgb;
  readonly score: number | null;
  readonly shape: Shape;
}

/** The picture that it is of. */
export interface ExportPicture {
  readonly fileName: string;
  readonly width: number;
  readonly height: number;
}

/** A closed outline: x, y in pixels of the picture. */
type Ring = readonly (readonly [x: number, y: number])[];

/**
 * COCO's annotations: a category for each name, in the order of first use. Masks as uncompressed run lengths.
 */
export function cocoJson(
  picture: ExportPicture,
  objects: readonly ExportObject[],
  toRle: (shape: Shape) => Rle,
): object {
  const names = [...new Set(objects.map((object) => object.name))];
  const { fileName, width, height } = picture;
  return {
    info: { description: "Masks made with mobile-sam" },
    images: [{ id: 1, file_name: fileName, width, height }],
    categories: names.map((name, index) => ({ id: index + 1, name, supercategory: "" })),
    annotations: objects.map(({ name, score, shape }, index) => ({
      id: index + 1,
      image_id: 1,
      category_id: names.indexOf(name) + 1,
      segmentation: toRle(shape),
      bbox: [shape.x, shape.y, shape.width, shape.height],
      area: shape.areaPx,
      iscrowd: 0,
      ...(score === null ? {} : { score: Number(score.toFixed(4)) }),
    })),
  };
}

/** Outlines as an SVG drawing of the picture's size; holes by the even-odd rule. */
export function polygonsSvg(
  picture: ExportPicture,
  objects: readonly ExportObject[],
  toRings: (shape: Shape) => readonly Ring[],
): string {
  const { width, height } = picture;
  const paths = objects.map((object, index) => {
    const path = toRings(object.shape).map(ringPath).join(" ");
    const colour = hexColour(object.colour);
    return [
      `  <path id="object-${index + 1}" fill="${colour}" fill-opacity="0.5" fill-rule="evenodd"`,
      `    stroke="${colour}" d="${path}"><title>${escapeXml(object.name)}</title></path>`,
    ].join("\n");
  });
  const size = `width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"`;
  return [`<svg xmlns="http://www.w3.org/2000/svg" ${size}>`, ...paths, "</svg>", ""].join("\n");
}

/** The number of the object, from 1 on, at each pixel; 0 is none; where objects overlap, the smaller one. */
export function labelMap(picture: ExportPicture, objects: readonly ExportObject[]): Uint8Array | Uint16Array {
  const numPixels = picture.width * picture.height;
  const labels = objects.length < 256 ? new Uint8Array(numPixels) : new Uint16Array(numPixels);
  const order = objects.map(({ shape }, index) => ({ shape, label: index + 1 }));
  order.sort((one, other) => other.shape.areaPx - one.shape.areaPx);
  for (const { shape, label } of order) paintLabel(labels, picture.width, shape, label);
  return labels;
}

/** A file's name: the picture's, what it is, its ending; only characters that every system takes. */
export function exportName(picture: string, what: string, ending: string): string {
  const safe = `${picture}_${what}`.replace(/[\\/:*?"<>|\p{Cc}]+/gu, "-").replace(/\s+/g, "_");
  return `${safe.slice(0, 120)}.${ending}`;
}

function ringPath(ring: Ring): string {
  return ring.length === 0 ? "" : `M${ring.map(([x, y]) => `${tidy(x)} ${tidy(y)}`).join("L")}Z`;
}

function tidy(value: number): number {
  return Math.round(value * 100) / 100;
}

function escapeXml(text: string): string {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}
