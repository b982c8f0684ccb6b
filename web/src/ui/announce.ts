/** What the page says: the status line, messages that stay, words for screen readers only, progress. */

import type { Progress } from "../types.ts";
import type { Voice, VoiceAction } from "./app.ts";
import { byId, onButton } from "./dom.ts";

const WHISPER_MS = 250;

/** Writes to the status line and its neighbours. */
export class Announcer implements Voice {
  readonly #status = byId("status", HTMLElement);
  readonly #whisper = byId("whisper", HTMLElement);
  readonly #message = byId("message", HTMLElement);
  readonly #messageText = byId("message-text", HTMLElement);
  readonly #messageAction = byId("message-action", HTMLButtonElement);
  readonly #progress = byId("progress", HTMLProgressElement);
  #timer = 0;

  constructor() {
    onButton("message-close", () => this.hush());
  }

  say(text: string): void {
    this.#status.textContent = text;
  }

  tell(text: string, kind: "notice" | "error", action?: VoiceAction): void {
    this.#message.dataset["kind"] = kind;
    this.#message.hidden = false;
    this.#messageText.textContent = text;
    this.#messageAction.hidden = action === undefined;
    this.#messageAction.textContent = action?.label ?? "";
    this.#messageAction.onclick = () => {
      this.hush();
      action?.run();
    };
  }

  hush(): void {
    this.#message.hidden = true;
    this.#messageText.textContent = "";
  }

  /** Say something to screen readers only; of what comes quickly one after the other, the last. */
  whisper(text: string): void {
    window.clearTimeout(this.#timer);
    this.#timer = window.setTimeout(() => (this.#whisper.textContent = text), WHISPER_MS);
  }

  /** Show how far the model or the picture is, or nothing. */
  showProgress(progress: Progress | null): void {
    this.#progress.hidden = progress === null;
    if (progress === null) return;
    this.#progress.setAttribute("aria-label", stageText(progress.stage));
    fillProgress(this.#progress, progress);
  }
}

/** Set a progress bar; unknown totals make it run to and fro. */
export function fillProgress(bar: HTMLProgressElement, progress: Progress): void {
  if (progress.total <= 0) {
    bar.removeAttribute("value");
    return;
  }
  bar.max = progress.total;
  bar.value = progress.done;
}

/** What is going on, and how far it is. */
export function progressText({ stage, done, total }: Progress): string {
  if (total <= 0) return `${stageText(stage)} …`;
  if (stage === "download") return `${stageText(stage)}: ${megabytes(done)} of ${megabytes(total)} MB`;
  return `${stageText(stage)}: ${Math.round((100 * done) / total)} %`;
}

function stageText(stage: Progress["stage"]): string {
  const texts = {
    download: "Loading the model",
    prepare: "Preparing the model",
    encode: "Looking at the picture",
    everything: "Finding everything",
  };
  return texts[stage];
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(bytes < 1e6 ? 1 : 0);
}
