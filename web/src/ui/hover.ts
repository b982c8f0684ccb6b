/** The mask under the pointer, asked for only as quickly as the model answers. */

import type { Segmenter } from "../types.ts";
import type { App } from "./app.ts";
import { hasMask, selectedObject } from "./document.ts";
import { isAbort } from "./dom.ts";
import type { Stage } from "./stage.ts";
import { isInside, type Point } from "./view_transform.ts";

/** Asks for the mask under the pointer. */
export class Hover {
  #wanted: Point | null = null;
  /** Whom an answer is awaited from; one that was put away may never give it. */
  #asked: Segmenter | null = null;
  readonly #app: App;
  readonly #stage: Stage;

  constructor(app: App, stage: Stage) {
    this.#app = app;
    this.#stage = stage;
    app.onChange(() => {
      if (this.#isOff() && app.tool !== "pick") this.leave();
    });
  }

  /** The pointer is at a point of the picture. */
  at(point: Point): void {
    const { picture, tool } = this.#app;
    if (picture === null || !isInside(point, picture)) return this.leave();
    if (tool === "pick") return this.#pick(point);
    if (this.#isOff()) return;
    this.#wanted = point;
    void this.#ask();
  }

  /** The pointer is nowhere. */
  leave(): void {
    this.#wanted = null;
    const { passing } = this.#stage;
    if (passing.hover === null && passing.hoverFound === null) return;
    passing.hover = null;
    passing.hoverFound = null;
    this.#stage.draw();
  }

  #pick(point: Point): void {
    const { passing, foundLayer } = this.#stage;
    const found = foundLayer?.maskAt(point.x, point.y) ?? null;
    if (found === passing.hoverFound) return;
    passing.hoverFound = found;
    this.#stage.draw();
  }

  /** A preview is of a new object: none while one is being refined. */
  #isOff(): boolean {
    const { tool, isBusy, session, document } = this.#app;
    const selected = selectedObject(document);
    const isRefining = selected !== null && hasMask(selected);
    return tool !== "foreground" || isBusy || isRefining || !session.state.isEncoded;
  }

  async #ask(): Promise<void> {
    try {
      const segmenter = await this.#app.session.whenEncoded();
      if (this.#asked === segmenter) return;
      this.#asked = segmenter;
      for (let point = this.#wanted; point !== null; point = this.#wanted === point ? null : this.#wanted) {
        const mask = await segmenter.hover(point.x, point.y);
        if (this.#wanted === null || mask === null || this.#asked !== segmenter) continue;
        this.#stage.passing.hover = mask;
        this.#stage.draw();
      }
    } catch (error) {
      // A preview that fails is not worth a message: the click would say why.
      if (!isAbort(error)) console.warn(error);
    }
    this.#asked = null;
  }
}
