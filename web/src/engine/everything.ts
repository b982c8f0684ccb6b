/** Segment everything: a grid of points, candidates, and the best of those whose boxes overlap. */

import type { EverythingSettings, FoundMask } from "../types.ts";
import { KeptBoxes } from "./boxes.ts";
import { Candidates } from "./candidates.ts";
import { LOW_RES_SIDE, type Size } from "./geometry.ts";
import type { Decoded } from "./model.ts";
import { gridPoints, pointBatch, type PromptBatch } from "./prompts.ts";
import { rleArea, rleBox } from "./rle.ts";

/** Points decoded together; more do not run faster on a CPU, and the answer to a cancel waits for them. */
const POINTS_AT_ONCE = 4;

/** How long masks are drawn before others get their turn. */
const TURN_MS = 40;

/** What everything mode needs of its surroundings. */
export interface EverythingHost {
  /** Decode the three masks of each prompt, drawing only prompts with a mask above `minIou`. */
  decode(batch: PromptBatch, minIou: number): Promise<Decoded>;
  /** Let others have their turn; throws an AbortError if the work is not wanted any more. */
  pause(): Promise<void>;
  /** Told after each batch how many points are done. */
  tell(numDone: number, numPoints: number): void;
}

/** Find the masks of everything in a picture, the best predicted first. */
export async function findEverything(
  picture: Size,
  settings: EverythingSettings,
  host: EverythingHost,
): Promise<FoundMask[]> {
  const points = gridPoints(settings.pointsPerSide, picture);
  const candidates = new Candidates(picture, settings);
  host.tell(0, points.length);
  for (let start = 0; start < points.length; start += POINTS_AT_ONCE) {
    await host.pause();
    const some = points.slice(start, start + POINTS_AT_ONCE);
    await addCandidates(candidates, some, picture, settings, host);
    host.tell(start + some.length, points.length);
  }
  return select(candidates, settings, host);
}

async function addCandidates(
  candidates: Candidates,
  points: readonly (readonly [number, number])[],
  picture: Size,
  settings: EverythingSettings,
  host: EverythingHost,
): Promise<void> {
  const minIou = settings.predIouThresh > 0 ? Math.fround(settings.predIouThresh) : -Infinity; // 0: no limit
  const { logits, ious, drawn } = await host.decode(pointBatch(points, picture), minIou);
  const numMasks = ious.length / points.length;
  const area = LOW_RES_SIDE * LOW_RES_SIDE;
  drawn.forEach((prompt, row) => {
    for (let column = 0; column < numMasks; column++) {
      const predictedIou = ious[prompt * numMasks + column]!;
      if (predictedIou > minIou || minIou === -Infinity) {
        const mask = row * numMasks + column;
        candidates.add(logits.subarray(mask * area, (mask + 1) * area), predictedIou);
      }
    }
  });
  if (candidates.isFull) {
    await inTurns(candidates.settle(), host);
  }
}

/** Take candidates by falling predicted IoU; most are suppressed by their box before their mask is drawn. */
async function select(
  candidates: Candidates,
  settings: EverythingSettings,
  host: EverythingHost,
): Promise<FoundMask[]> {
  const found: FoundMask[] = [];
  await inTurns(selection(candidates, settings, found), host);
  return found;
}

function* selection(
  candidates: Candidates,
  settings: EverythingSettings,
  found: FoundMask[],
): Generator<void> {
  const kept = new KeptBoxes(settings.boxNmsThresh);
  for (const candidate of candidates.byPredictedIou()) {
    if (kept.surelySuppress(candidate.inner, candidate.outer)) {
      continue;
    }
    const mask = candidates.settled(candidate);
    if (mask && kept.add(mask.corners)) {
      found.push({
        rle: mask.rle,
        bbox: rleBox(mask.rle),
        areaPx: rleArea(mask.rle),
        predictedIou: candidate.predictedIou,
        stabilityScore: mask.stabilityScore,
      });
    }
    yield;
  }
}

/** Do steps of work, letting others have their turn now and then. */
async function inTurns(steps: Generator<void>, host: EverythingHost): Promise<void> {
  let turnEnd = performance.now() + TURN_MS;
  for (;;) {
    if (steps.next().done) {
      return;
    }
    if (performance.now() > turnEnd) {
      await host.pause();
      turnEnd = performance.now() + TURN_MS;
    }
  }
}
