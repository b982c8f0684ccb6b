/**
 * Pillow's antialiased bilinear filter, bit for bit, since the model was trained with it.
 *
 * A triangle as wide as a pixel of the result, weights as fixed-point numbers, rows first and then columns,
 * with 8-bit values in between.
 */

import type { Size } from "./geometry.ts";

const PRECISION_BITS = 22;
const HALF = 1 << (PRECISION_BITS - 1);

/**
 * For each pixel of the result along an axis: where its inputs begin, how many they are, and their weights.
 */
interface Kernel {
  readonly first: Int32Array;
  readonly length: Int32Array;
  /** `stride` weights for each pixel of the result. */
  readonly weights: Int32Array;
  readonly stride: number;
}

/**
 * Resize RGBA to RGB; opacity is not looked at.
 *
 * @param rgba row by row, four bytes a pixel
 * @returns row by row, three bytes a pixel
 */
export function resizeToRgb(rgba: Uint8ClampedArray | Uint8Array, from: Size, to: Size): Uint8Array {
  const rows = from.width === to.width ? withoutOpacity(rgba) : resizeRows(rgba, from, to.width);
  return from.height === to.height ? rows : resizeColumns(rows, to.width, from.height, to.height);
}

function withoutOpacity(rgba: Uint8ClampedArray | Uint8Array): Uint8Array {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let source = 0, target = 0; source < rgba.length; source += 4, target += 3) {
    rgb[target] = rgba[source]!;
    rgb[target + 1] = rgba[source + 1]!;
    rgb[target + 2] = rgba[source + 2]!;
  }
  return rgb;
}

function resizeRows(rgba: Uint8ClampedArray | Uint8Array, from: Size, width: number): Uint8Array {
  const { first, length, weights, stride } = kernel(from.width, width);
  const rgb = new Uint8Array(width * from.height * 3);
  let target = 0;
  for (let y = 0; y < from.height; y++) {
    const row = y * from.width;
    for (let x = 0; x < width; x++) {
      let r = HALF;
      let g = HALF;
      let b = HALF;
      let source = (row + first[x]!) * 4;
      const end = x * stride + length[x]!;
      for (let k = x * stride; k < end; k++, source += 4) {
        const weight = weights[k]!;
        r += rgba[source]! * weight;
        g += rgba[source + 1]! * weight;
        b += rgba[source + 2]! * weight;
      }
      rgb[target++] = clipped(r);
      rgb[target++] = clipped(g);
      rgb[target++] = clipped(b);
    }
  }
  return rgb;
}

function resizeColumns(rgb: Uint8Array, width: number, fromHeight: number, height: number): Uint8Array {
  const { first, length, weights, stride } = kernel(fromHeight, height);
  const rowBytes = width * 3;
  const resized = new Uint8Array(rowBytes * height);
  const sums = new Int32Array(rowBytes);
  for (let y = 0; y < height; y++) {
    sums.fill(HALF);
    for (let k = 0; k < length[y]!; k++) {
      const weight = weights[y * stride + k]!;
      const source = (first[y]! + k) * rowBytes;
      for (let i = 0; i < rowBytes; i++) {
        sums[i]! += rgb[source + i]! * weight;
      }
    }
    const target = y * rowBytes;
    for (let i = 0; i < rowBytes; i++) {
      resized[target + i] = clipped(sums[i]!);
    }
  }
  return resized;
}

function clipped(sum: number): number {
  const value = sum >> PRECISION_BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

function kernel(numIn: number, numOut: number): Kernel {
  const scale = numIn / numOut;
  const support = Math.max(scale, 1); // in inputs, to either side of the centre
  const stride = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(numOut);
  const length = new Int32Array(numOut);
  const weights = new Int32Array(numOut * stride);
  const exact = new Float64Array(stride);
  for (let i = 0; i < numOut; i++) {
    const centre = (i + 0.5) * scale;
    const start = Math.max(Math.trunc(centre - support + 0.5), 0);
    const count = Math.min(Math.trunc(centre + support + 0.5), numIn) - start;
    let sum = 0;
    for (let k = 0; k < count; k++) {
      const distance = Math.abs((k + start - centre + 0.5) * (1 / support));
      exact[k] = distance < 1 ? 1 - distance : 0;
      sum += exact[k]!;
    }
    first[i] = start;
    length[i] = count;
    for (let k = 0; k < count; k++) {
      const share = sum === 0 ? exact[k]! : exact[k]! / sum;
      weights[i * stride + k] = Math.trunc(share * (1 << PRECISION_BITS) + 0.5);
    }
  }
  return { first, length, weights, stride };
}
