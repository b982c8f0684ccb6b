/** Pictures: read from files, upright, opaque, and not too large for the page. */

import { makeCanvas } from "./dom.ts";
import type { Size } from "./view_transform.ts";

/** Longer side of the largest picture that the page works with; larger ones are made smaller. */
export const MAX_SIDE_PX = 4096;

/** An opened picture. */
export interface Picture {
  /** The file's name without its ending, for names of exported files. */
  readonly name: string;
  readonly fileName: string;
  readonly width: number;
  readonly height: number;
  /** The picture, then each half the size of the one before: far zooms draw from the small ones. */
  readonly levels: readonly ImageBitmap[];
  /** Its size before it was made smaller, if it was. */
  readonly shrunkFrom: Size | null;
}

/**
 * Read a picture: EXIF orientation applied, transparent pixels over white. Throws what the visitor may read.
 */
export async function readPicture(blob: Blob, fileName: string): Promise<Picture> {
  let original: ImageBitmap;
  try {
    original = await createImageBitmap(blob, { imageOrientation: "from-image" });
  } catch {
    throw new Error(
      `"${fileName}" cannot be opened: it is damaged, or no picture that this browser can read.`,
    );
  }
  try {
    return await pictureOfBitmap(original, fileName);
  } finally {
    original.close();
  }
}

/** The picture's pixels: RGBA, all of them opaque. */
export function picturePixels(picture: Picture): ImageData {
  const [, context] = makeCanvas(picture.width, picture.height);
  context.drawImage(levelFor(picture, picture.width), 0, 0);
  return context.getImageData(0, 0, picture.width, picture.height);
}

/** The smallest level that is at least so many pixels wide. */
export function levelFor(picture: Picture, widthPx: number): ImageBitmap {
  const level = picture.levels.findLast((bitmap) => bitmap.width >= widthPx) ?? picture.levels[0];
  if (level === undefined) throw new Error("the picture was closed");
  return level;
}

/** Free the picture's memory. */
export function closePicture(picture: Picture): void {
  for (const level of picture.levels) level.close();
}

/** The size that a picture is worked with. */
export function workingSize(size: Size): Size {
  const factor = Math.min(1, MAX_SIDE_PX / Math.max(size.width, size.height));
  return {
    width: Math.max(1, Math.round(size.width * factor)),
    height: Math.max(1, Math.round(size.height * factor)),
  };
}

/** A file's name without folder and ending. */
export function stemOf(fileName: string): string {
  const base = fileName.split(/[\\/]/).at(-1) ?? "";
  return base.replace(/\.[^.]+$/, "") || "picture";
}

async function pictureOfBitmap(original: ImageBitmap, fileName: string): Promise<Picture> {
  const { width, height } = workingSize(original);
  const levels: ImageBitmap[] = [await scaled(original, width, height)];
  for (let side = 2; Math.max(width, height) / side >= 512; side *= 2) {
    const previous = levels.at(-1) ?? original;
    levels.push(await scaled(previous, Math.ceil(width / side), Math.ceil(height / side)));
  }
  const shrunkFrom = width === original.width ? null : { width: original.width, height: original.height };
  return { name: stemOf(fileName), fileName, width, height, levels, shrunkFrom };
}

async function scaled(source: ImageBitmap, width: number, height: number): Promise<ImageBitmap> {
  const [canvas, context] = makeCanvas(width, height);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, width, height);
  return createImageBitmap(canvas);
}
