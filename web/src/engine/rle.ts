/** COCO's run lengths, uncompressed: column by column, beginning with zeros. */

import type { Mask, Rle } from "../types.ts";
import type { Size } from "./geometry.ts";

/** A part of a mask; outside of it the mask is empty. */
export interface MaskPart extends Mask {
  /** Column and row of its upper left pixel in the picture. */
  readonly x: number;
  readonly y: number;
}

/** Read the runs off a mask. */
export function maskToRle(mask: Mask): Rle {
  return partToRle({ ...mask, x: 0, y: 0 }, mask);
}

/** Read the runs of a picture's mask off the only part of it that is not empty. */
export function partToRle(part: MaskPart, picture: Size): Rle {
  const { starts, ends } = columnRuns(part);
  const counts: number[] = [];
  let end = 0; // of the last run of ones
  for (let i = 0; i < starts.length; i++) {
    const column = Math.floor(starts[i]! / part.height);
    const base = (part.x + column) * picture.height + part.y - column * part.height;
    const start = base + starts[i]!;
    if (start === end && counts.length) {
      counts[counts.length - 1]! += ends[i]! - starts[i]!; // it goes on from the foot of the column before
    } else {
      counts.push(start - end, ends[i]! - starts[i]!);
    }
    end = base + ends[i]!;
  }
  const numPixels = picture.width * picture.height;
  if (end < numPixels || !counts.length) {
    counts.push(numPixels - end);
  }
  return { size: [picture.height, picture.width], counts };
}

/** Unfold the mask of run lengths; throws an Error if they do not fill it. */
export function rleToMask(rle: Rle): Mask {
  const [height, width] = rle.size;
  const data = new Uint8Array(width * height);
  let position = 0;
  rle.counts.forEach((count, i) => {
    if (!(count >= 0) || position + count > data.length) {
      throw new Error(`Run lengths go beyond the mask of ${width} x ${height} pixels.`);
    }
    if (i % 2) {
      for (let p = position; p < position + count; p++) {
        data[(p % height) * width + Math.floor(p / height)] = 1;
      }
    }
    position += count;
  });
  if (position !== data.length) {
    throw new Error(`Run lengths fill ${position} of the mask's ${data.length} pixels.`);
  }
  return { width, height, data };
}

/** Count the mask's pixels without unfolding it. */
export function rleArea(rle: Rle): number {
  return rle.counts.reduce((area, count, i) => (i % 2 ? area + count : area), 0);
}

/** The tight box: x, y, width, height; zeros if the mask is empty. */
export function rleBox(rle: Rle): [x: number, y: number, width: number, height: number] {
  const [height] = rle.size;
  let [x1, y1, x2, y2] = [Infinity, Infinity, -1, -1]; // both corners inclusive
  let position = 0;
  rle.counts.forEach((count, i) => {
    if (i % 2 && count) {
      const last = position + count - 1;
      const [firstColumn, lastColumn] = [Math.floor(position / height), Math.floor(last / height)];
      const goesOn = lastColumn > firstColumn; // so it has the bottom row and the top row
      x1 = Math.min(x1, firstColumn);
      x2 = Math.max(x2, lastColumn);
      y1 = goesOn ? 0 : Math.min(y1, position % height);
      y2 = goesOn ? height - 1 : Math.max(y2, last % height);
    }
    position += count;
  });
  return x2 < 0 ? [0, 0, 0, 0] : [x1, y1, x2 - x1 + 1, y2 - y1 + 1];
}

/**
 * Runs of ones within columns, as positions column by column: where each starts, and one past its end.
 *
 * Memory is read row by row, which for a large mask is several times quicker than down the columns: first the
 * starts and ends in each column are counted, then they are written where they belong.
 */
function columnRuns({ width, height, data }: Mask): { starts: Uint32Array; ends: Uint32Array } {
  const next = new Uint32Array(width); // first the number of runs in each column, then where its next goes
  for (let y = 0; y < height; y++) {
    for (let x = 0, i = y * width; x < width; x++, i++) {
      if (data[i] && (y === 0 || !data[i - width])) {
        next[x]! += 1;
      }
    }
  }
  let numRuns = 0;
  for (let x = 0; x < width; x++) {
    const inColumn = next[x]!;
    next[x] = numRuns;
    numRuns += inColumn;
  }
  const starts = new Uint32Array(numRuns);
  const ends = new Uint32Array(numRuns);
  for (let y = 0; y < height; y++) {
    for (let x = 0, i = y * width; x < width; x++, i++) {
      if (!data[i]) {
        continue;
      }
      if (y === 0 || !data[i - width]) {
        starts[next[x]!] = x * height + y;
      }
      if (y === height - 1 || !data[i + width]) {
        ends[next[x]!] = x * height + y + 1;
        next[x]! += 1;
      }
    }
  }
  return { starts, ends };
}
