/** Of many hovers only the latest counts, and none while there is other work. */

import type { Mask } from "../types.ts";

interface WaitingHover {
  readonly x: number;
  readonly y: number;
  resolve(mask: Mask | null): void;
}

/** Asks for one hover at a time. The latest waits; others, and all during other work, are told null. */
export class Hovering {
  readonly #ask: (x: number, y: number) => Promise<Mask | null>;
  #isAsking = false;
  #numBusy = 0;
  #waiting: WaitingHover | null = null;

  /** @param ask what is asked for a hover; its failures are told as null */
  constructor(ask: (x: number, y: number) => Promise<Mask | null>) {
    this.#ask = ask;
  }

  /** Do other work, during which no hover is asked for. */
  async yieldTo<T>(work: () => Promise<T>): Promise<T> {
    this.#numBusy++;
    this.clear();
    try {
      return await work();
    } finally {
      this.#numBusy--;
    }
  }

  /** The mask at x, y, or null if a later hover or other work came before its turn. */
  async hover(x: number, y: number): Promise<Mask | null> {
    if (this.#numBusy) {
      return null;
    }
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
