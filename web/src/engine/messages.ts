/** What the page and its worker say to each other. */

import type { EverythingSettings, FoundMask, Mask, Progress, Prompt, RuntimeInfo } from "../types.ts";
import type { Size } from "./geometry.ts";

/** A candidate as the worker sends it: its mask is drawn when somebody asks. */
export interface RawCandidate {
  readonly token: number;
  readonly score: number;
  /** (256, 256). */
  readonly logits: Float32Array<ArrayBuffer>;
}

/** Each kind of call: what is asked, and what is answered. */
export interface Calls {
  load: { ask: { where: "webgpu" | "wasm"; isChosen: boolean; baseUrl: string }; answer: RuntimeInfo };
  picture: { ask: { size: Size; rgba: ArrayBuffer }; answer: null };
  segment: { ask: { prompt: Prompt }; answer: RawCandidate[] };
  hover: { ask: { x: number; y: number }; answer: Mask };
  mask: { ask: { logits: Float32Array; picture: Size }; answer: Mask };
  everything: { ask: { settings: EverythingSettings }; answer: FoundMask[] };
  cancel: { ask: { call: number }; answer: null };
}

export type Kind = keyof Calls;

/** From the page to the worker. */
export type Ask = {
  [K in Kind]: { readonly id: number; readonly kind: K; readonly ask: Calls[K]["ask"] };
}[Kind];

/** From the worker to the page. */
export type Answer =
  | { readonly id: number; readonly kind: "progress"; readonly progress: Progress }
  | { readonly id: number; readonly kind: "done"; readonly value: Calls[Kind]["answer"] }
  | { readonly id: number; readonly kind: "failed"; readonly name: string; readonly message: string };

/** The error that an abandoned call rejects with. */
export function abortError(reason: string): DOMException {
  return new DOMException(reason, "AbortError");
}
