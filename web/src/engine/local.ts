/** The model in this browser, behind a worker. */

import type {
  Candidate,
  EverythingSettings,
  FoundMask,
  Mask,
  OnProgress,
  Prompt,
  RuntimeInfo,
  Segmenter,
} from "../types.ts";
import type { Size } from "./geometry.ts";
import { Hovering } from "./hovering.ts";
import { abortError, type RawCandidate } from "./messages.ts";
import { PictureTurn, unlessAborted } from "./picture_turn.ts";
import { WorkerLink } from "./worker_link.ts";

/** Runs the model on WebGPU or WebAssembly of this device. */
export class LocalSegmenter implements Segmenter {
  readonly #where: "auto" | "webgpu" | "wasm";
  readonly #turn = new PictureTurn();
  readonly #listeners = new Set<OnProgress>();
  readonly #hovering = new Hovering((x, y) => this.#askHover(x, y));
  #link: WorkerLink | null = null;
  #loading: Promise<RuntimeInfo> | null = null;
  #picture: Size | null = null;

  /** @param where "auto" takes WebGPU where there is one that works, else WebAssembly */
  constructor(where: "auto" | "webgpu" | "wasm") {
    this.#where = where;
  }

  load(onProgress?: OnProgress): Promise<RuntimeInfo> {
    if (onProgress) {
      this.#listeners.add(onProgress);
    }
    this.#loading ??= this.#start().finally(() => this.#listeners.clear());
    this.#loading.catch(() => (this.#loading = null)); // so that it can be tried again
    return this.#loading;
  }

  async setPicture(picture: ImageData, onProgress?: OnProgress): Promise<void> {
    const signal = this.#turn.next();
    this.#picture = null;
    const size = { width: picture.width, height: picture.height };
    await this.#hovering.yieldTo(async () => {
      await unlessAborted(this.load(), signal);
      const rgba = picture.data.slice().buffer; // a copy, as it is handed over
      await this.#call().call("picture", { size, rgba }, { onProgress, signal, transfer: [rgba] });
    });
    this.#picture = size;
  }

  async segment(prompt: Prompt): Promise<readonly Candidate[]> {
    const picture = this.#opened();
    const { signal } = this.#turn;
    const raw = await this.#hovering.yieldTo(() => this.#call().call("segment", { prompt }, { signal }));
    return raw.map((candidate) => new LocalCandidate(candidate, picture, this.#call(), signal));
  }

  async hover(x: number, y: number): Promise<Mask | null> {
    return this.#picture ? this.#hovering.hover(x, y) : null;
  }

  async everything(
    settings: EverythingSettings,
    onProgress: OnProgress,
    signal: AbortSignal,
  ): Promise<readonly FoundMask[]> {
    this.#opened();
    const either = AbortSignal.any([this.#turn.signal, signal]);
    return this.#hovering.yieldTo(() =>
      this.#call().call("everything", { settings }, { onProgress, signal: either }),
    );
  }

  dispose(): void {
    this.#turn.next();
    this.#hovering.clear();
    this.#link?.close(abortError("The model was closed."));
    this.#link = null;
    this.#picture = null;
    this.#loading = Promise.reject(abortError("The model was closed."));
    this.#loading.catch(() => undefined);
  }

  async #start(): Promise<RuntimeInfo> {
    if (this.#where !== "auto") {
      return this.#startOn(this.#where);
    }
    if ("gpu" in navigator) {
      try {
        return await this.#startOn("webgpu");
      } catch (error) {
        if (error instanceof DOMException && error.name === "AbortError") {
          throw error;
        }
        console.info("WebGPU is not used:", error); // WebAssembly is
      }
    }
    return this.#startOn("wasm");
  }

  /** A worker of its own for each attempt, so that a failed one leaves nothing behind. */
  async #startOn(where: "webgpu" | "wasm"): Promise<RuntimeInfo> {
    const link = new WorkerLink();
    this.#link = link;
    const onProgress: OnProgress = (progress) => this.#listeners.forEach((listener) => listener(progress));
    const baseUrl = new URL("./", document.baseURI).href;
    try {
      return await link.call("load", { where, isChosen: this.#where === where, baseUrl }, { onProgress });
    } catch (error) {
      link.close(abortError("The model could not be loaded."));
      throw error;
    }
  }

  async #askHover(x: number, y: number): Promise<Mask | null> {
    return this.#call().call("hover", { x, y }, { signal: this.#turn.signal });
  }

  #call(): WorkerLink {
    if (!this.#link) {
      throw abortError("The model was closed.");
    }
    return this.#link;
  }

  #opened(): Size {
    if (!this.#picture) {
      throw new Error("Open a picture first, and wait until it is encoded.");
    }
    return this.#picture;
  }
}

/** A candidate whose mask is drawn by the worker when it is first asked for. */
class LocalCandidate implements Candidate {
  readonly token: 0 | 1 | 2 | 3;
  readonly score: number;
  readonly #picture: Size;
  readonly #link: WorkerLink;
  readonly #signal: AbortSignal;
  #logits: Float32Array | null;
  #mask: Promise<Mask> | null = null;

  constructor({ token, score, logits }: RawCandidate, picture: Size, link: WorkerLink, signal: AbortSignal) {
    this.token = token as 0 | 1 | 2 | 3;
    this.score = score;
    this.#logits = logits;
    this.#picture = picture;
    this.#link = link;
    this.#signal = signal;
  }

  mask(): Promise<Mask> {
    if (!this.#mask) {
      const ask = { logits: this.#logits!, picture: this.#picture };
      this.#mask = this.#link.call("mask", ask, { signal: this.#signal });
      this.#logits = null;
    }
    return this.#mask;
  }
}
