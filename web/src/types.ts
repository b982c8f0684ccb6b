/**
 * What the parts of the page say to each other.
 *
 * Coordinates are x, y in pixels of the opened picture, x to the right, y down; a pixel's centre is at + 0.5.
 */

/** A click: on the object, or beside it. */
export interface Click {
  readonly x: number;
  readonly y: number;
  readonly isForeground: boolean;
}

/** Upper left and lower right corner. */
export interface Box {
  readonly x1: number;
  readonly y1: number;
  readonly x2: number;
  readonly y2: number;
}

/** What the visitor says of one object; clicks, a box, or both. */
export interface Prompt {
  readonly clicks: readonly Click[];
  readonly box?: Box;
}

/** A binary mask, row by row: 1 the object, 0 not. */
export interface Mask {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** One of the decoder's four masks: token 0 is SAM's single mask, 1 to 3 its three for ambiguous prompts. */
export interface Candidate {
  readonly token: 0 | 1 | 2 | 3;
  /** The model's own guess of the mask's IoU, about 0 to 1. */
  readonly score: number;
  /** The mask in the picture's size; computed at the first call, kept. */
  mask(): Promise<Mask>;
}

/** COCO's run lengths: column by column, beginning with zeros, uncompressed. */
export interface Rle {
  readonly size: readonly [height: number, width: number];
  readonly counts: readonly number[];
}

/** A mask that everything mode found. */
export interface FoundMask {
  readonly rle: Rle;
  /** x, y, width, height. */
  readonly bbox: readonly [number, number, number, number];
  readonly areaPx: number;
  readonly predictedIou: number;
  readonly stabilityScore: number;
}

export interface EverythingSettings {
  /** Points along each side of the grid; 32 is SAM's, 16 is four times as quick. */
  readonly pointsPerSide: number;
  readonly predIouThresh: number;
  readonly stabilityScoreThresh: number;
  readonly boxNmsThresh: number;
}

export const EVERYTHING_DEFAULTS: EverythingSettings = {
  pointsPerSide: 16,
  predIouThresh: 0.88,
  stabilityScoreThresh: 0.95,
  boxNmsThresh: 0.7,
};

/** How far something is: `done` of `total`, in the unit that `stage` implies (bytes, points); total 0 is unknown. */
export interface Progress {
  readonly stage: "download" | "prepare" | "encode" | "everything";
  readonly done: number;
  readonly total: number;
}

export type OnProgress = (progress: Progress) => void;

/** Where and how the model runs, for the status line. */
export interface RuntimeInfo {
  readonly where: "webgpu" | "wasm" | "server";
  /** Such as "WebAssembly, 2 threads". */
  readonly text: string;
}

/**
 * Turns prompts into masks. All methods reject with an `Error` whose message can be shown to the visitor.
 *
 * A new `setPicture` makes answers about the earlier picture reject with an `AbortError` (DOMException).
 */
export interface Segmenter {
  /** Download (or take from the cache) and prepare the model; once, further calls give the same promise. */
  load(onProgress?: OnProgress): Promise<RuntimeInfo>;
  /** Encode a picture (RGBA, upright, opaque). */
  setPicture(picture: ImageData, onProgress?: OnProgress): Promise<void>;
  /** The four candidates, in the order of their tokens. */
  segment(prompt: Prompt): Promise<readonly Candidate[]>;
  /**
   * The best of the three masks for a click at x, y, at the model's resolution (longer side at most 1024).
   * Only the latest hover matters: earlier ones that have not begun resolve to null, as do all while others are busy.
   */
  hover(x: number, y: number): Promise<Mask | null>;
  /** Find everything; an aborted signal rejects with an `AbortError`. */
  everything(settings: EverythingSettings, onProgress: OnProgress, signal: AbortSignal): Promise<readonly FoundMask[]>;
  /** Stop workers and free memory. */
  dispose(): void;
}
