/** Masks as the page keeps them: only the part that their box holds. */

import type { Mask, Rle } from "../types.ts";

/** A mask of a picture of `pictureWidth` x `pictureHeight`, cut to the box around it. */
export interface Shape {
  readonly pictureWidth: number;
  readonly pictureHeight: number;
  /** The box's upper left pixel. */
  readonly x: number;
  readonly y: number;
  /** The box's sides in pixels; 0 for an empty mask. */
  readonly width: number;
  readonly height: number;
  /** Row by row within the box: 1 the object, 0 not. */
  readonly data: Uint8Array;
  readonly areaPx: number;
}

/** Cut a mask to its box. */
export function shapeOfMask(mask: Mask): Shape {
  const { width, height, data } = mask;
  let [left, right, top, bottom, areaPx] = [width, -1, -1, -1, 0];
  for (let y = 0; y < height; y++) {
    const row = data.subarray(y * width, (y + 1) * width);
    const first = row.indexOf(1);
    if (first < 0) continue;
    const last = row.lastIndexOf(1);
    if (top < 0) top = y;
    bottom = y;
    if (first < left) left = first;
    if (last > right) right = last;
    for (let x = first; x <= last; x++) areaPx += row[x] ?? 0;
  }
  if (areaPx === 0) return emptyShape(width, height);
  const shape = blankShape(width, height, left, top, right + 1 - left, bottom + 1 - top, areaPx);
  for (let y = 0; y < shape.height; y++) {
    const from = (top + y) * width + left;
    shape.data.set(data.subarray(from, from + shape.width), y * shape.width);
  }
  return shape;
}

const unfolded = new WeakMap<Rle, Shape>();

/** Unfold run lengths within their box, without ever having a mask of the picture's size; once for each. */
export function shapeOfRle(rle: Rle): Shape {
  const shape = unfolded.get(rle) ?? unfold(rle);
  unfolded.set(rle, shape);
  return shape;
}

function unfold(rle: Rle): Shape {
  const [height, width] = rle.size;
  let [left, right, top, bottom, areaPx] = [width, -1, height, -1, 0];
  forEachRun(rle, (x, y1, y2) => {
    left = Math.min(left, x);
    right = Math.max(right, x);
    top = Math.min(top, y1);
    bottom = Math.max(bottom, y2 - 1);
    areaPx += y2 - y1;
  });
  if (areaPx === 0) return emptyShape(width, height);
  const shape = blankShape(width, height, left, top, right + 1 - left, bottom + 1 - top, areaPx);
  forEachRun(rle, (x, y1, y2) => {
    for (let y = y1; y < y2; y++) shape.data[(y - top) * shape.width + x - left] = 1;
  });
  return shape;
}

/** Go through the object's pixels by column: `visit(x, y1, y2)` for rows y1 to y2 - 1. */
export function forEachRun(rle: Rle, visit: (x: number, y1: number, y2: number) => void): void {
  const height = rle.size[0];
  let position = 0;
  rle.counts.forEach((count, index) => {
    const end = position + count;
    if (index % 2 === 1) {
      for (let at = position; at < end;) {
        const x = Math.floor(at / height);
        const stop = Math.min(end, (x + 1) * height);
        visit(x, at - x * height, stop - x * height);
        at = stop;
      }
    }
    position = end;
  });
}

/** The mask in the picture's size. */
export function maskOfShape(shape: Shape): Mask {
  return unionMask([shape], shape.pictureWidth, shape.pictureHeight);
}

/** All pixels of any of the shapes, in the picture's size. */
export function unionMask(shapes: readonly Shape[], width: number, height: number): Mask {
  const data = new Uint8Array(width * height);
  for (const shape of shapes) paintLabel(data, width, shape, 1);
  return { width, height, data };
}

/** Write a number wherever the shape is into rows of `width` labels. */
export function paintLabel(
  labels: Uint8Array | Uint16Array,
  width: number,
  shape: Shape,
  label: number,
): void {
  for (let y = 0; y < shape.height; y++) {
    const row = (shape.y + y) * width + shape.x;
    for (let x = 0; x < shape.width; x++) {
      if (shape.data[y * shape.width + x] === 1) labels[row + x] = label;
    }
  }
}

/**
 * The lines between object and background, in pixels of the picture: x1, y1, x2, y2 for each, all upright or
 * level, neighbours in one line joined.
 */
export function outlineOf(shape: Shape): Int32Array {
  const { x: left, y: top, width, height, data } = shape;
  const lines: number[] = [];
  const openSince = new Int32Array(width + 1).fill(-1);
  for (let y = 0; y <= height; y++) {
    const row = y * width;
    let levelSince = -1;
    for (let x = 0; x <= width; x++) {
      const here = x < width && y < height ? data[row + x] : 0;
      const above = x < width && y > 0 ? data[row - width + x] : 0;
      const before = x > 0 && y < height ? data[row + x - 1] : 0;
      if (here !== above) {
        if (levelSince < 0) levelSince = x;
      } else if (levelSince >= 0) {
        lines.push(left + levelSince, top + y, left + x, top + y);
        levelSince = -1;
      }
      const since = openSince[x] ?? -1;
      if (here !== before) {
        if (since < 0) openSince[x] = y;
      } else if (since >= 0) {
        lines.push(left + x, top + since, left + x, top + y);
        openSince[x] = -1;
      }
    }
  }
  return Int32Array.from(lines);
}

function emptyShape(pictureWidth: number, pictureHeight: number): Shape {
  return blankShape(pictureWidth, pictureHeight, 0, 0, 0, 0, 0);
}

function blankShape(
  pictureWidth: number,
  pictureHeight: number,
  x: number,
  y: number,
  width: number,
  height: number,
  areaPx: number,
): Shape {
  return { pictureWidth, pictureHeight, x, y, width, height, data: new Uint8Array(width * height), areaPx };
}
