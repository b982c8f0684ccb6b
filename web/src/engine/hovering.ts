/** Of many hovers only the latest counts. */

import type { Mask } from "../types.ts";

interface WaitingHover {
  readonly x: number;
  readonly y: number;
  resolve(mask: Mask | null): void;
}

/** Asks for one hover at a time; the latest waits, those before it are told null. */
export class Hovering {
  readonly #ask: (x: number, y: number) => Promise<Mask | null>;
  #isAsking = false;
  #waiting: WaitingHover | null = null;

  /** @param ask what is asked for a hover; its failures are told as null */
  constructor(ask: (x: number, y: number) => Promise<Mask | null>) {
    this.#ask = ask;
  }

  /** The mask at x, y, or null if a later hover came before its turn. */
  hover(x: number, y: number): Promise<Mask | null> {
    this.clear();
    return new Promise((resolve) => {
      this.#waiting = { x, y, resolve };
      void this.#work();
    });
  }

  /** Tell the hover that waits that it will not be asked. */
  clear(): void {
    this.#waiting?.resolve(null);
    this.#waiting = null;
  }

  async #work(): Promise<void> {
    if (this.#isAsking) {
      return;
    }
    this.#isAsking = true;
    for (let next = this.#waiting; next; next = this.#waiting) {
      this.#waiting = null;
      next.resolve(await this.#ask(next.x, next.y).catch(() => null));
    }
    this.#isAsking = false;
  }
}
