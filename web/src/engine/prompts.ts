/** From what the visitor says to the decoder's tensors. */

import type { Prompt } from "../types.ts";
import { inputSize, type Size } from "./geometry.ts";

const LABEL_BACKGROUND = 0;
const LABEL_FOREGROUND = 1;
const LABEL_BOX_UPPER_LEFT = 2;
const LABEL_BOX_LOWER_RIGHT = 3;
/** SAM's own padding point: it stands in for the missing box when points come alone. */
const LABEL_PADDING = -1;

/** Share of the picture's side by which a box may stick out. */
const BOX_OVERSHOOT = 0.05;

/** P prompts of N tokens each, in model pixels. */
export interface PromptBatch {
  readonly numPrompts: number;
  readonly numTokens: number;
  /** (P, N, 2) x, y. */
  readonly coords: Float32Array<ArrayBuffer>;
  /** (P, N). */
  readonly labels: Float32Array<ArrayBuffer>;
}

/**
 * One prompt by SAM's rule: points without a box get one padding point, a box becomes its two corners.
 *
 * Throws an Error if the prompt is empty or outside of the picture.
 */
export function promptBatch(prompt: Prompt, picture: Size): PromptBatch {
  checkPrompt(prompt, picture);
  const tokens = prompt.clicks.map(({ x, y, isForeground }) => ({
    x,
    y,
    label: isForeground ? LABEL_FOREGROUND : LABEL_BACKGROUND,
  }));
  if (prompt.box) {
    const { x1, y1, x2, y2 } = prompt.box;
    tokens.push({ x: x1, y: y1, label: LABEL_BOX_UPPER_LEFT });
    tokens.push({ x: x2, y: y2, label: LABEL_BOX_LOWER_RIGHT });
  } else {
    tokens.push({ x: 0, y: 0, label: LABEL_PADDING });
  }
  const toModel = modelScale(picture);
  return {
    numPrompts: 1,
    numTokens: tokens.length,
    coords: Float32Array.from(tokens.flatMap(({ x, y }) => toModel(x, y))),
    labels: Float32Array.from(tokens, ({ label }) => label),
  };
}

/** A prompt of one foreground point for each of some points. */
export function pointBatch(points: readonly (readonly [x: number, y: number])[], picture: Size): PromptBatch {
  const toModel = modelScale(picture);
  return {
    numPrompts: points.length,
    numTokens: 2,
    coords: Float32Array.from(points.flatMap(([x, y]) => [...toModel(x, y), 0, 0])),
    labels: Float32Array.from(points.flatMap(() => [LABEL_FOREGROUND, LABEL_PADDING])),
  };
}

/** Points at the centres of a grid's cells, in pixels of the picture, row by row. */
export function gridPoints(pointsPerSide: number, picture: Size): (readonly [x: number, y: number])[] {
  if (!Number.isInteger(pointsPerSide) || pointsPerSide < 1) {
    throw new Error(`Points per side must be a whole number of at least 1, not ${pointsPerSide}.`);
  }
  const shares = Array.from({ length: pointsPerSide }, (_, i) => (i + 0.5) / pointsPerSide);
  return shares.flatMap((y) => shares.map((x) => [x * picture.width, y * picture.height] as const));
}

function modelScale(picture: Size): (x: number, y: number) => [number, number] {
  const frame = inputSize(picture);
  const scaleX = frame.width / picture.width;
  const scaleY = frame.height / picture.height;
  return (x, y) => [Math.fround(x) * scaleX, Math.fround(y) * scaleY];
}

function checkPrompt({ clicks, box }: Prompt, { width, height }: Size): void {
  if (!clicks.length && !box) {
    throw new Error("An empty prompt: click on the object, or draw a box around it.");
  }
  for (const { x, y } of clicks) {
    if (!(x >= 0 && y >= 0 && x <= width && y <= height)) {
      throw new Error(`The click at ${x}, ${y} is outside of the picture of ${width} x ${height} pixels.`);
    }
  }
  if (!box) {
    return;
  }
  const { x1, y1, x2, y2 } = box;
  if (!(x1 < x2 && y1 < y2)) {
    throw new Error("The box is empty; draw it from one corner to the opposite one.");
  }
  const [slackX, slackY] = [BOX_OVERSHOOT * width, BOX_OVERSHOOT * height];
  if (!(x1 >= -slackX && y1 >= -slackY && x2 <= width + slackX && y2 <= height + slackY)) {
    throw new Error(`The box sticks out of the picture of ${width} x ${height} pixels.`);
  }
}
