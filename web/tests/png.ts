import { readFileSync } from "node:fs";
import { inflateSync } from "node:zlib";

/** Read a PNG of 8-bit RGB without interlacing: all that the tests need. */
export function readPng(path: URL): { width: number; height: number; rgba: Uint8Array } {
  const file = readFileSync(path);
  const [width, height] = [file.readUInt32BE(16), file.readUInt32BE(20)];
  if (file[24] !== 8 || file[25] !== 2 || file[28] !== 0) {
    throw new Error(`${path.pathname} is not 8-bit RGB without interlacing`);
  }
  const parts: Buffer[] = [];
  for (let at = 8; at < file.length; at += 12 + file.readUInt32BE(at)) {
    if (file.toString("latin1", at + 4, at + 8) === "IDAT") {
      parts.push(file.subarray(at + 8, at + 8 + file.readUInt32BE(at)));
    }
  }
  const filtered = inflateSync(Buffer.concat(parts));
  const stride = width * 3;
  const rows = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const filter = filtered[y * (stride + 1)];
    for (let i = 0; i < stride; i++) {
      const at = y * stride + i;
      const left = i < 3 ? 0 : rows[at - 3]!;
      const above = y ? rows[at - stride]! : 0;
      const corner = i < 3 || !y ? 0 : rows[at - stride - 3]!;
      const guesses = [0, left, above, (left + above) >> 1, paeth(left, above, corner)];
      rows[at] = filtered[y * (stride + 1) + 1 + i]! + guesses[filter!]!;
    }
  }
  const valueAt = (i: number): number => (i % 4 === 3 ? 255 : rows[(i >> 2) * 3 + (i % 4)]!);
  const rgba = Uint8Array.from({ length: width * height * 4 }, (_, i) => valueAt(i));
  return { width, height, rgba };
}

function paeth(left: number, above: number, corner: number): number {
  const guess = left + above - corner;
  const [a, b, c] = [left, above, corner].map((value) => Math.abs(guess - value)) as [number, number, number];
  return a <= b && a <= c ? left : b <= c ? above : corner;
}
