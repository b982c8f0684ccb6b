/**
 * Masks of everything mode that may be kept: what the decoder drew, and all that is known of it at 256 x 256.
 */

import type { EverythingSettings, Rle } from "../types.ts";
import type { Corners } from "./boxes.ts";
import { inputSize, LOW_RES_SIDE, type Size } from "./geometry.ts";
import { partToRle, type MaskPart } from "./rle.ts";
import { drawMask, type LogitsPart, partAbove, rectangleAbove } from "./upscale.ts";

/** Shift of the threshold that stability is measured with, in logits. */
const STABILITY_OFFSET = 1;

/**
 * A mask is dropped at 256 x 256 only if its stability score there is too low by more than this, as it is
 * nearly known there (docs/architecture.md, "Segment everything").
 */
const STABILITY_MARGIN = 0.12;

/** Not so masks of fewer pixels, and pictures that are so few low-resolution pixels high or wide. */
const LEAST_AREA = 100;
const LEAST_SIDE = 16;

/** Logits that take more memory are made into masks, tested and kept as run lengths. */
const MAX_KEPT_BYTES = 1 << 26;

/** A mask that passed all tests, in the picture's size. */
export interface SettledMask {
  readonly rle: Rle;
  readonly corners: Corners;
  readonly stabilityScore: number;
}

/** A mask that the model predicts to be good. */
export interface Candidate {
  readonly predictedIou: number;
  /** Its box surely contains this; null if nothing is sure. */
  readonly inner: Corners | null;
  /** Its box surely is within this. */
  readonly outer: Corners;
  /** Its logits, or its mask when it is settled; null if it did not pass. */
  found: LogitsPart | SettledMask | null;
}

/** All candidates of a picture. */
export class Candidates {
  readonly #entries: Candidate[] = [];
  readonly #picture: Size;
  readonly #settings: EverythingSettings;
  readonly #leastArea: number;
  #keptBytes = 0;

  constructor(picture: Size, settings: EverythingSettings) {
    this.#picture = picture;
    this.#settings = settings;
    const input = inputSize(picture);
    const modelPixels = (input.width / picture.width) * (input.height / picture.height);
    this.#leastArea = LEAST_AREA * Math.max(1, modelPixels / 16);
  }

  /** Take a mask of 256 x 256 logits if it passes at that resolution. */
  add(logits: Float32Array, predictedIou: number): void {
    if (!this.#mayBeStable(logits)) {
      return;
    }
    const part = partAbove(logits, -STABILITY_OFFSET);
    this.#entries.push({ predictedIou, ...boxBounds(logits, this.#picture), found: part });
    this.#keptBytes += part.values.byteLength;
  }

  /** Whether so many logits are kept that it is time for `settleOne`. */
  get isFull(): boolean {
    return this.#keptBytes > MAX_KEPT_BYTES;
  }

  /** Make masks of the logits that are kept, a few at a time: each step of the iteration makes one. */
  *settle(): Generator<void> {
    for (const candidate of this.#entries) {
      if (candidate.found && "values" in candidate.found) {
        candidate.found = this.settled(candidate);
        yield;
      }
    }
    this.#keptBytes = 0;
  }

  /** The candidates, the best first, equals in the order in which they came. */
  byPredictedIou(): Candidate[] {
    return [...this.#entries].sort((a, b) => b.predictedIou - a.predictedIou);
  }

  /** Make the mask of the picture's size; null if it does not pass SAM's tests. */
  settled({ found }: Candidate): SettledMask | null {
    if (!found || !("values" in found)) {
      return found;
    }
    const drawn = drawMask(found, this.#picture, STABILITY_OFFSET);
    if (!drawn.width || drawn.stabilityScore < this.#settings.stabilityScoreThresh) {
      return null;
    }
    const rle = partToRle(drawn, this.#picture);
    return { rle, corners: cornersOf(drawn), stabilityScore: drawn.stabilityScore };
  }

  #mayBeStable(logits: Float32Array): boolean {
    const { width, height } = lowResSize(this.#picture);
    let [numAbove, numBelow] = [0, 0];
    for (let y = 0; y < height; y++) {
      for (let x = 0, i = y * LOW_RES_SIDE; x < width; x++, i++) {
        if (logits[i]! > -STABILITY_OFFSET) {
          numBelow++;
          numAbove += logits[i]! > STABILITY_OFFSET ? 1 : 0;
        }
      }
    }
    const saysMuch = numBelow >= this.#leastArea && Math.min(width, height) >= LEAST_SIDE;
    const least = this.#settings.stabilityScoreThresh - STABILITY_MARGIN;
    return !saysMuch || numAbove / Math.max(numBelow, 1) >= least;
  }
}

/** Low-resolution pixels that lie in the picture. */
function lowResSize(picture: Size): Size {
  const input = inputSize(picture);
  return { width: Math.ceil(input.width / 4), height: Math.ceil(input.height / 4) };
}

function cornersOf({ x, y, width, height }: MaskPart): Corners {
  return [x, y, x + width - 1, y + height - 1];
}

/**
 * What the box of a mask of the picture's size contains, and what contains it, from the 256 x 256 logits.
 *
 * Where a pixel and its eight neighbours are set, all that is interpolated between them is; where none of the
 * three by three is, nothing is. In pictures whose longer side is below 342 px nothing is sure: a pixel there
 * is more than three of the model's.
 */
export function boxBounds(logits: Float32Array, picture: Size): { inner: Corners | null; outer: Corners } {
  const input = inputSize(picture);
  const reached = {
    width: Math.min(Math.floor((input.width + 1) / 4) + 1, LOW_RES_SIDE),
    height: Math.min(Math.floor((input.height + 1) / 4) + 1, LOW_RES_SIDE),
  };
  const isMask = cut(logits, reached);
  const around = rectangleAbove(isMask, reached, 0);
  if (!around.width) {
    return { inner: null, outer: [0, 0, picture.width - 1, picture.height - 1] };
  }
  const [scaleX, scaleY] = [input.width / picture.width, input.height / picture.height];
  const outer: Corners = [
    Math.max(Math.floor((4 * around.x - 4) / scaleX) - 1, 0),
    Math.max(Math.floor((4 * around.y - 4) / scaleY) - 1, 0),
    Math.min(Math.ceil((4 * (around.x + around.width) + 4) / scaleX) + 1, picture.width - 1),
    Math.min(Math.ceil((4 * (around.y + around.height) + 4) / scaleY) + 1, picture.height - 1),
  ];
  const deep = rectangleAbove(eroded(isMask, reached), reached, 0);
  if (Math.max(scaleX, scaleY) > 3 || !deep.width) {
    return { inner: null, outer };
  }
  const inner: Corners = [
    Math.ceil((4 * deep.x + 4) / scaleX),
    Math.ceil((4 * deep.y + 4) / scaleY),
    Math.min(Math.floor((4 * (deep.x + deep.width) - 4) / scaleX), picture.width) - 1,
    Math.min(Math.floor((4 * (deep.y + deep.height) - 4) / scaleY), picture.height) - 1,
  ];
  return { inner: inner[0] < inner[2] && inner[1] < inner[3] ? inner : null, outer };
}

function cut(logits: Float32Array, { width, height }: Size): Uint8Array {
  const isMask = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      isMask[y * width + x] = logits[y * LOW_RES_SIDE + x]! > 0 ? 1 : 0;
    }
  }
  return isMask;
}

/** Keep the pixels whose eight neighbours are set as well; what lies beyond the edges counts as set. */
function eroded(isMask: Uint8Array, { width, height }: Size): Uint8Array {
  const inRow = new Uint8Array(isMask.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0, i = y * width; x < width; x++, i++) {
      inRow[i] = isMask[i]! & (x ? isMask[i - 1]! : 1) & (x < width - 1 ? isMask[i + 1]! : 1);
    }
  }
  return inRow.map((isSet, i) => isSet & (inRow[i - width] ?? 1) & (inRow[i + width] ?? 1));
}
