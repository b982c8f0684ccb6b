/** Calls of the worker as promises. */

import type { OnProgress } from "../types.ts";
import { abortError, type Answer, type Calls, type Kind } from "./messages.ts";

interface Waiting {
  resolve(value: Calls[Kind]["answer"]): void;
  reject(error: Error): void;
  readonly onProgress: OnProgress | undefined;
}

/** One worker and the calls that it has not answered. */
export class WorkerLink {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  #numCalls = 0;

  constructor() {
    this.#worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    this.#worker.onmessage = ({ data }: MessageEvent<Answer>) => this.#take(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      const reason = event.message || "it could not be started";
      this.close(new Error(`The part of the page that runs the model has stopped: ${reason}. Reload it.`));
    };
  }

  /** Call the worker; an aborted signal rejects at once and tells the worker to stop. */
  call<K extends Kind>(
    kind: K,
    ask: Calls[K]["ask"],
    options: { onProgress?: OnProgress | undefined; signal?: AbortSignal; transfer?: Transferable[] } = {},
  ): Promise<Calls[K]["answer"]> {
    const { onProgress, signal, transfer = [] } = options;
    const id = ++this.#numCalls;
    return new Promise<Calls[K]["answer"]>((resolve, reject) => {
      const stop = (): void => {
        this.#waiting.delete(id);
        this.#worker.postMessage({ id: ++this.#numCalls, kind: "cancel", ask: { call: id } });
        reject(abortError("Cancelled."));
      };
      if (signal?.aborted) {
        reject(abortError("Cancelled."));
        return;
      }
      signal?.addEventListener("abort", stop, { once: true });
      const settle = (): void => signal?.removeEventListener("abort", stop);
      this.#waiting.set(id, {
        resolve: (value) => (settle(), resolve(value as Calls[K]["answer"])),
        reject: (error) => (settle(), reject(error)),
        onProgress,
      });
      this.#worker.postMessage({ id, kind, ask }, transfer);
    });
  }

  /** Stop the worker; what it has not answered rejects with `error`. */
  close(error: Error): void {
    this.#worker.terminate();
    for (const { reject } of this.#waiting.values()) {
      reject(error);
    }
    this.#waiting.clear();
  }

  #take(answer: Answer): void {
    const waiting = this.#waiting.get(answer.id);
    if (!waiting) {
      return; // of a call that was given up
    }
    if (answer.kind === "progress") {
      waiting.onProgress?.(answer.progress);
      return;
    }
    this.#waiting.delete(answer.id);
    if (answer.kind === "done") {
      waiting.resolve(answer.value);
    } else {
      const { name, message } = answer;
      waiting.reject(name === "AbortError" ? abortError(message) : new Error(message));
    }
  }
}
