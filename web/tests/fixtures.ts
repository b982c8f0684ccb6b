/** What make_fixtures.py wrote. */

import { readFileSync } from "node:fs";

type Pair = [width: number, height: number];

export interface Fixtures {
  readonly resize: readonly { from: Pair; to: Pair; rgb: number[]; expected: number[] }[];
  readonly rle: readonly { size: Pair; pixels: number[]; counts: number[]; box: number[]; area: number }[];
  readonly upscale: readonly { counts: number[]; width: number; height: number; stability: number }[];
  readonly chelsea: {
    readonly prompts: readonly {
      points: Pair[];
      labels: number[];
      box: [number, number, number, number] | null;
      counts: number[][];
      ious: number[];
    }[];
    readonly everything_4: readonly {
      counts: number[];
      area: number;
      predicted_iou: number;
      stability_score: number;
    }[];
  };
}

const text = readFileSync(new URL("fixtures.json", import.meta.url), "utf8");

export const fixtures = JSON.parse(text) as Fixtures;
