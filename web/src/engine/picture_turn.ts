/** Which picture is the current one: answers about an earlier one are of no use to anybody. */

import { abortError } from "./messages.ts";

/** Ends the turn of a picture when the next one begins. */
export class PictureTurn {
  #controller = new AbortController();

  /** Aborted when another picture is opened. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Begin the next picture's turn; what was asked of the one before rejects with an AbortError. */
  next(): AbortSignal {
    this.#controller.abort();
    this.#controller = new AbortController();
    return this.#controller.signal;
  }
}

/** The answer, or an AbortError as soon as one of the signals is aborted. */
export function unlessAborted<T>(answer: Promise<T>, ...signals: AbortSignal[]): Promise<T> {
  const signal = AbortSignal.any(signals);
  return new Promise((resolve, reject) => {
    const stop = (): void => reject(abortError("Another picture was opened, or the work was cancelled."));
    if (signal.aborted) {
      stop();
    }
    signal.addEventListener("abort", stop, { once: true });
    answer.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}
