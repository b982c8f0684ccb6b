/** The door to the model: in this browser, or on a server. */

import type { Segmenter } from "../types.ts";
import { LocalSegmenter } from "./local.ts";
import { ServerSegmenter } from "./server.ts";

/** Where the model is to run. */
export type EngineChoice =
  | { readonly where: "auto" | "webgpu" | "wasm" }
  | { readonly where: "server"; readonly url: string; readonly token?: string };

/**
 * Make a segmenter; nothing is downloaded before its `load`.
 *
 * "auto" takes WebGPU where there is one that works and is no stand-in on the CPU, else WebAssembly. Throws
 * an Error if a server's address is none.
 */
export function createSegmenter(choice: EngineChoice): Segmenter {
  return choice.where === "server"
    ? new ServerSegmenter(choice.url, choice.token)
    : new LocalSegmenter(choice.where);
}
