/**
 * From the decoder's 256 x 256 logits to masks.
 *
 * SAM's rule has two bilinear steps (pixel centres at halves, no antialiasing): to the model's square, cut to
 * the input frame, then to the picture. An interpolated value never exceeds those it lies between, so work is
 * done only where logits above a floor are near.
 */

import type { Mask } from "../types.ts";
import { INPUT_SIDE, inputSize, LOW_RES_SIDE, type Size } from "./geometry.ts";
import type { MaskPart } from "./rle.ts";

/** Low-resolution values beyond the last one that counts: an interpolated pixel has inputs up to there. */
const CONTEXT = 2;

/** Part of a map of logits; elsewhere they are at most the floor that it was cut at. */
export interface LogitsPart {
  /** Column and row of its first value in the whole. */
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
  readonly values: Float32Array;
}

/** A mask as the pixels of its tight box, and how little it changes when its threshold moves. */
export interface DrawnMask extends MaskPart {
  /** IoU of the masks cut at plus and minus the offset; 0 if there is nothing at either. */
  readonly stabilityScore: number;
}

/** Where something is: column, row, width and height; zeros if it is nowhere. */
export interface Rectangle {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/** The smallest rectangle around the values above a floor, row by row. */
export function rectangleAbove(values: Float32Array | Uint8Array, size: Size, floor: number): Rectangle {
  let [left, right, top, bottom] = [size.width, -1, -1, -1];
  for (let y = 0, row = 0; y < size.height; y++, row += size.width) {
    let first = 0;
    while (first < size.width && !(values[row + first]! > floor)) {
      first++;
    }
    if (first === size.width) {
      continue;
    }
    let last = size.width - 1;
    while (!(values[row + last]! > floor)) {
      last--;
    }
    left = Math.min(left, first);
    right = Math.max(right, last);
    top = top < 0 ? y : top;
    bottom = y;
  }
  return top < 0 ? { x: 0, y: 0, width: 0, height: 0 } : box(left, top, right + 1, bottom + 1);
}

/** Copy the part of 256 x 256 logits that matters where they exceed a floor. */
export function partAbove(logits: Float32Array, floor: number): LogitsPart {
  const inside = rectangleAbove(logits, { width: LOW_RES_SIDE, height: LOW_RES_SIDE }, floor);
  if (!inside.width) {
    return { ...inside, values: new Float32Array(0) };
  }
  const part = box(
    Math.max(inside.x - CONTEXT, 0),
    Math.max(inside.y - CONTEXT, 0),
    Math.min(inside.x + inside.width + CONTEXT, LOW_RES_SIDE),
    Math.min(inside.y + inside.height + CONTEXT, LOW_RES_SIDE),
  );
  const values = new Float32Array(part.width * part.height);
  for (let y = 0; y < part.height; y++) {
    const start = (part.y + y) * LOW_RES_SIDE + part.x;
    values.set(logits.subarray(start, start + part.width), y * part.width);
  }
  return { ...part, values };
}

/** Draw the mask of the picture's size from logits that were cut at `-offset` or below. */
export function drawMask(part: LogitsPart, picture: Size, offset: number): DrawnMask {
  const input = inputSize(picture);
  const frame = toInputFrame(part, input);
  const columns = taps(frame.x, frame.width, input.width, picture.width, picture.width);
  const rows = taps(frame.y, frame.height, input.height, picture.height, picture.height);
  const [width, height] = [columns.count, rows.count];
  const data = new Uint8Array(width * height);
  let [numAbove, numBelow] = [0, 0];
  interpolate(frame, columns, rows, (values, y) => {
    const row = y * width;
    for (let x = 0; x < width; x++) {
      const value = values[x]!;
      if (value > -offset) {
        numBelow++;
        data[row + x] = value > 0 ? 1 : 0;
        numAbove += value > offset ? 1 : 0;
      }
    }
  });
  const drawn: MaskPart = { x: columns.start, y: rows.start, width, height, data };
  return { ...tight(drawn), stabilityScore: numAbove / Math.max(numBelow, 1) };
}

/** The mask of 256 x 256 logits in the picture's size. */
export function maskOfPicture(logits: Float32Array, picture: Size): Mask {
  return pasted(drawMask(partAbove(logits, 0), picture, 0), picture);
}

/**
 * The mask of 256 x 256 logits in the input frame, longer side 1024; a picture that is smaller gets its own
 * size.
 */
export function maskOfModel(logits: Float32Array, picture: Size): Mask {
  const input = inputSize(picture);
  if (picture.width <= input.width) {
    return maskOfPicture(logits, picture);
  }
  const frame = toInputFrame(partAbove(logits, 0), input);
  const data = Uint8Array.from(frame.values, (value) => (value > 0 ? 1 : 0));
  return pasted({ ...frame, data }, input);
}

function pasted(part: MaskPart, size: Size): Mask {
  const data = new Uint8Array(size.width * size.height);
  for (let y = 0; y < part.height; y++) {
    const row = part.data.subarray(y * part.width, (y + 1) * part.width);
    data.set(row, (part.y + y) * size.width + part.x);
  }
  return { width: size.width, height: size.height, data };
}

function tight(part: MaskPart): MaskPart {
  const inside = rectangleAbove(part.data, part, 0);
  const data = new Uint8Array(inside.width * inside.height);
  for (let y = 0; y < inside.height; y++) {
    const start = (inside.y + y) * part.width + inside.x;
    data.set(part.data.subarray(start, start + inside.width), y * inside.width);
  }
  const corner = inside.width ? { x: part.x + inside.x, y: part.y + inside.y } : { x: 0, y: 0 };
  return { ...corner, width: inside.width, height: inside.height, data };
}

/** The first step: four times as wide and high, cut to the input frame. */
function toInputFrame(part: LogitsPart, input: Size): LogitsPart {
  const columns = taps(part.x, part.width, LOW_RES_SIDE, INPUT_SIDE, input.width);
  const rows = taps(part.y, part.height, LOW_RES_SIDE, INPUT_SIDE, input.height);
  const values = new Float32Array(columns.count * rows.count);
  interpolate(part, columns, rows, (row, y) => values.set(row, y * columns.count));
  return { x: columns.start, y: rows.start, width: columns.count, height: rows.count, values };
}

/**
 * For outputs along an axis from `start` on: the two inputs within the part, and the weight of the second.
 */
interface Taps {
  readonly start: number;
  readonly count: number;
  readonly first: Int32Array;
  readonly second: Int32Array;
  readonly weight: Float32Array;
}

/**
 * Find the outputs that a part of an axis has to do with, and where they come from.
 *
 * @param partStart where the part begins
 * @param partLength its length
 * @param numIn length of the whole axis
 * @param numOut number of outputs for the whole
 * @param limit outputs from here on are not wanted
 */
function taps(partStart: number, partLength: number, numIn: number, numOut: number, limit: number): Taps {
  const scale = numIn / numOut;
  const centre = (i: number): number => Math.min(Math.max((i + 0.5) * scale - 0.5, 0), numIn - 1);
  const isReached = (i: number): boolean => {
    const input = Math.floor(centre(i));
    return Math.min(input + 1, numIn - 1) >= partStart && input < partStart + partLength;
  };
  const end = partLength ? Math.min(Math.ceil((partStart + partLength + 1) / scale) + 1, limit) : 0;
  let start = partLength ? Math.max(Math.floor((partStart - 1) / scale) - 1, 0) : 0;
  while (start < end && !isReached(start)) {
    start++;
  }
  let count = 0;
  while (start + count < end && isReached(start + count)) {
    count++;
  }
  const first = new Int32Array(count);
  const second = new Int32Array(count);
  const weight = new Float32Array(count);
  const within = (input: number): number => Math.min(Math.max(input - partStart, 0), partLength - 1);
  for (let i = 0; i < count; i++) {
    const position = centre(start + i);
    const input = Math.floor(position);
    first[i] = within(input);
    second[i] = within(Math.min(input + 1, numIn - 1));
    weight[i] = position - input;
  }
  return { start, count, first, second, weight };
}

/** Interpolate row by row; a row is only valid until the next. */
function interpolate(
  part: LogitsPart,
  columns: Taps,
  rows: Taps,
  take: (row: Float32Array, y: number) => void,
): void {
  const widened = [new Float32Array(columns.count), new Float32Array(columns.count)];
  const isOf = [-1, -1]; // the part's rows that were widened last: an even one and an odd one
  const widen = (y: number): Float32Array => {
    const target = widened[y % 2]!;
    if (isOf[y % 2] !== y) {
      isOf[y % 2] = y;
      const start = y * part.width;
      for (let x = 0; x < columns.count; x++) {
        const left = part.values[start + columns.first[x]!]!;
        target[x] = left + (part.values[start + columns.second[x]!]! - left) * columns.weight[x]!;
      }
    }
    return target;
  };
  const row = new Float32Array(columns.count);
  for (let y = 0; y < rows.count; y++) {
    const upper = widen(rows.first[y]!);
    const lower = widen(rows.second[y]!);
    const weight = rows.weight[y]!;
    for (let x = 0; x < columns.count; x++) {
      row[x] = upper[x]! + (lower[x]! - upper[x]!) * weight;
    }
    take(row, y);
  }
}

function box(left: number, top: number, right: number, bottom: number): Rectangle {
  return { x: left, y: top, width: right - left, height: bottom - top };
}
