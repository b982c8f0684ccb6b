/** One model, one picture: which of them is ready, and how far the rest is. */

import { createSegmenter, type EngineChoice } from "../engine/index.ts";
import type { Progress, RuntimeInfo, Segmenter } from "../types.ts";
import { isAbort, messageOf } from "./dom.ts";
import { picturePixels, type Picture } from "./picture.ts";

/** What the page tells the visitor of the model. */
export interface SessionState {
  readonly runtime: RuntimeInfo | null;
  /** Set while the model loads or the picture is encoded. */
  readonly progress: Progress | null;
  readonly isEncoded: boolean;
  readonly error: string | null;
}

const AT_START: SessionState = { runtime: null, progress: null, isEncoded: false, error: null };

/** Loads the model, encodes the picture; a new model encodes the open picture again. */
export class Session {
  #segmenter: Segmenter | null = null;
  #loaded: Promise<RuntimeInfo> | null = null;
  #encoded: Promise<Segmenter> | null = null;
  #picture: Picture | null = null;
  #state = AT_START;
  readonly #make: (choice: EngineChoice) => Segmenter;
  readonly #onChange: () => void;

  constructor(onChange: () => void, makeSegmenter: (choice: EngineChoice) => Segmenter = createSegmenter) {
    this.#onChange = onChange;
    this.#make = makeSegmenter;
  }

  get state(): SessionState {
    return this.#state;
  }

  /** Take another model, or try the same one again, and encode the open picture with it. */
  start(choice: EngineChoice): void {
    const segmenter = this.#make(choice);
    this.#segmenter?.dispose();
    this.#state = AT_START;
    this.#encoded = null;
    this.#segmenter = segmenter;
    const tell = (progress: Progress) => this.#tell(segmenter, { progress });
    tell({ stage: "prepare", done: 0, total: 0 });
    this.#loaded = segmenter.load(tell);
    this.#loaded.then(
      (runtime) => this.#tell(segmenter, { runtime, progress: null }),
      (error: unknown) => this.#tell(segmenter, { error: messageOf(error), progress: null }),
    );
    if (this.#picture !== null) this.setPicture(this.#picture);
  }

  /** Encode a picture as soon as the model is there. */
  setPicture(picture: Picture): void {
    this.#picture = picture;
    const segmenter = this.#segmenter;
    const loaded = this.#loaded;
    if (segmenter === null || loaded === null) return;
    this.#tell(segmenter, { isEncoded: false });
    const encoded = this.#encode(segmenter, loaded, picture);
    this.#encoded = encoded;
    encoded.catch(() => undefined);
  }

  /** The model once it has seen the picture; rejects if it cannot. */
  whenEncoded(): Promise<Segmenter> {
    return this.#encoded ?? Promise.reject(new Error("Open a picture first."));
  }

  async #encode(segmenter: Segmenter, loaded: Promise<RuntimeInfo>, picture: Picture): Promise<Segmenter> {
    await loaded;
    const isCurrent = () => this.#segmenter === segmenter && this.#picture === picture;
    if (!isCurrent()) throw new DOMException("Another picture was opened.", "AbortError");
    try {
      this.#tell(segmenter, { progress: { stage: "encode", done: 0, total: 0 }, error: null });
      await segmenter.setPicture(picturePixels(picture), (progress) => {
        if (isCurrent()) this.#tell(segmenter, { progress });
      });
      if (isCurrent()) this.#tell(segmenter, { progress: null, isEncoded: true });
    } catch (error) {
      if (isCurrent() && !isAbort(error)) this.#tell(segmenter, { progress: null, error: messageOf(error) });
      throw error;
    }
    return segmenter;
  }

  #tell(segmenter: Segmenter, change: Partial<SessionState>): void {
    if (this.#segmenter !== segmenter) return;
    this.#state = { ...this.#state, ...change };
    this.#onChange();
  }
}
