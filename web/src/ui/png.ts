/** Grey PNG files, written here since a canvas only makes coloured ones. */

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
const GREY = 0;

/** Grey values, row by row: 8 bits for a Uint8Array, 16 bits for a Uint16Array. */
export async function greyPng(
  values: Uint8Array | Uint16Array,
  width: number,
  height: number,
): Promise<Blob> {
  if (values.length !== width * height) {
    throw new Error(`a picture of ${width} x ${height} has not ${values.length} pixels`);
  }
  const bytesPerPixel = values instanceof Uint16Array ? 2 : 1;
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  view.setUint8(8, 8 * bytesPerPixel);
  view.setUint8(9, GREY);
  const packed = await deflate(scanlines(values, width, height, bytesPerPixel));
  const chunks = [...chunk("IHDR", header), ...chunk("IDAT", packed), ...chunk("IEND", new Uint8Array(0))];
  return new Blob([SIGNATURE, ...chunks], { type: "image/png" });
}

/** Each row begins with the number of its filter: 0, none. */
function scanlines(
  values: Uint8Array | Uint16Array,
  width: number,
  height: number,
  bytesPerPixel: number,
): Uint8Array<ArrayBuffer> {
  const stride = 1 + width * bytesPerPixel;
  const rows = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const from = values.subarray(y * width, (y + 1) * width);
    if (bytesPerPixel === 1) rows.set(from, y * stride + 1);
    else {
      from.forEach((value, x) => {
        rows[y * stride + 1 + 2 * x] = value >> 8;
        rows[y * stride + 2 + 2 * x] = value & 255;
      });
    }
  }
  return rows;
}

async function deflate(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function chunk(kind: string, body: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer>[] {
  const start = new Uint8Array(8);
  new DataView(start.buffer).setUint32(0, body.length);
  start.set(new TextEncoder().encode(kind), 4);
  const end = new Uint8Array(4);
  new DataView(end.buffer).setUint32(0, crc32([start.subarray(4), body]));
  return [start, body, end];
}

/** The checksum of PNG and zip, bit by bit over a table. */
function crc32(parts: readonly Uint8Array[]): number {
  let crc = 0xffffffff;
  for (const part of parts) {
    for (const byte of part) crc = (CRC_TABLE[(crc ^ byte) & 255] ?? 0) ^ (crc >>> 8);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1;
  return crc;
});
