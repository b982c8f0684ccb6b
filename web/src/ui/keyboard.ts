/** Keys: single letters only while the canvas has the focus, undo and redo everywhere but in text fields. */

import type { App } from "./app.ts";
import { selectedObject } from "./document.ts";
import type { Announcer } from "./announce.ts";
import type { Stage } from "./stage.ts";
import type { Point } from "./view_transform.ts";

/** What other parts of the page do when a key is pressed. */
export interface KeyActions {
  everything(): void;
  help(): void;
}

const STEPS: Readonly<Record<string, Point>> = {
  ArrowLeft: { x: -1, y: 0 },
  ArrowRight: { x: 1, y: 0 },
  ArrowUp: { x: 0, y: -1 },
  ArrowDown: { x: 0, y: 1 },
};
const FAR_STEP_PX = 10;

/** Listens to the keyboard. */
export class Keyboard {
  #boxStart: Point | null = null;
  readonly #app: App;
  readonly #stage: Stage;
  readonly #announcer: Announcer;
  readonly #actions: KeyActions;

  constructor(app: App, stage: Stage, announcer: Announcer, actions: KeyActions) {
    this.#app = app;
    this.#stage = stage;
    this.#announcer = announcer;
    this.#actions = actions;
    document.addEventListener("keydown", (event) => this.#anywhere(event));
    stage.canvas.addEventListener("keydown", (event) => this.#onCanvas(event));
    stage.canvas.addEventListener("pointerdown", () => this.#dropBox());
  }

  #anywhere(event: KeyboardEvent): void {
    const isTyping = event.target instanceof HTMLInputElement && event.target.type !== "range";
    const isInDialog = event.target instanceof Element && event.target.closest("dialog") !== null;
    if (isTyping || isInDialog || !(event.ctrlKey || event.metaKey) || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key === "z" && !event.shiftKey) this.#app.undo();
    else if (key === "y" || key === "z") this.#app.redo();
    else return;
    event.preventDefault();
  }

  #onCanvas(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "?") {
      this.#actions.help();
    } else if (this.#app.picture !== null) {
      const step = STEPS[event.key];
      if (step !== undefined) this.#step(step, event.shiftKey);
      else if (!this.#command(event)) return;
    } else return;
    event.preventDefault();
  }

  #command(event: KeyboardEvent): boolean {
    const { key } = event;
    if (key === "Enter") this.#enter(!event.shiftKey);
    else if (key === "Escape") this.#escape();
    else if (key === "Delete" || key === "Backspace") this.#delete();
    else if (/^[1-4]$/.test(key)) this.#choose(Number(key) - 1);
    else if (key === "+" || key === "=") this.#stage.zoom(1.25);
    else if (key === "-") this.#stage.zoom(0.8);
    else if (key === "0") this.#stage.fit();
    else if (key.toLowerCase() === "b") this.#box();
    else if (key.toLowerCase() === "n") this.#app.newObject();
    else if (key.toLowerCase() === "e") this.#actions.everything();
    else return false;
    return true;
  }

  #step(step: Point, isFar: boolean): void {
    const { picture } = this.#app;
    const { passing } = this.#stage;
    if (picture === null) return;
    const size = isFar ? FAR_STEP_PX : 1;
    const from = passing.crosshair;
    const to =
      from === null
        ? { x: Math.floor(picture.width / 2), y: Math.floor(picture.height / 2) }
        : { x: from.x + step.x * size, y: from.y + step.y * size };
    this.#stage.moveCrosshair(to);
    this.#showBox();
    const at = passing.crosshair;
    if (at !== null) this.#announcer.whisper(`${at.x}, ${at.y}`);
  }

  /** The crosshair, put into the middle if there is none yet. Its pixel's centre is what is clicked. */
  #crosshair(): Point | null {
    if (this.#stage.passing.crosshair === null) this.#step({ x: 0, y: 0 }, false);
    return this.#stage.passing.crosshair;
  }

  #enter(isForeground: boolean): void {
    const at = this.#crosshair();
    if (at === null) return;
    if (this.#boxStart !== null) this.#box();
    else if (this.#app.tool === "pick") this.#pick(at);
    else this.#app.click(at.x + 0.5, at.y + 0.5, isForeground);
  }

  /** The first time picks the found mask at the crosshair, the second time keeps it. */
  #pick(at: Point): void {
    const found = this.#stage.foundLayer?.maskAt(at.x, at.y) ?? null;
    if (found !== null && found === this.#app.document.picked) this.#app.keepFound([found]);
    else this.#app.pick(found);
  }

  #escape(): void {
    if (this.#boxStart !== null) this.#dropBox();
    else if (this.#app.document.picked !== null) this.#app.pick(null);
    else this.#app.clear();
  }

  #delete(): void {
    const { picked, selectedId } = this.#app.document;
    if (picked !== null) this.#app.dropFound([picked]);
    else if (selectedId !== null) this.#app.remove(selectedId);
  }

  #choose(index: number): void {
    const selected = selectedObject(this.#app.document);
    const candidate = selected === null ? undefined : this.#app.answers.candidatesOf(selected)[index];
    if (candidate !== undefined) this.#app.choose(candidate.token);
  }

  #box(): void {
    const at = this.#crosshair();
    if (at === null) return;
    const start = this.#boxStart;
    if (start === null) {
      this.#boxStart = at;
      this.#announcer.whisper("Box begun; move to the opposite corner and press B again.");
      this.#showBox();
      return;
    }
    const box = boxBetween(start, at);
    this.#dropBox();
    this.#app.setBox(box);
  }

  #showBox(): void {
    const at = this.#stage.passing.crosshair;
    if (this.#boxStart === null || at === null) return;
    this.#stage.passing.box = boxBetween(this.#boxStart, at);
    this.#stage.draw();
  }

  #dropBox(): void {
    if (this.#boxStart === null) return;
    this.#boxStart = null;
    this.#stage.passing.box = null;
    this.#stage.draw();
  }
}

/** A box that holds both pixels. */
function boxBetween(one: Point, other: Point): { x1: number; y1: number; x2: number; y2: number } {
  return {
    x1: Math.min(one.x, other.x),
    y1: Math.min(one.y, other.y),
    x2: Math.max(one.x, other.x) + 1,
    y2: Math.max(one.y, other.y) + 1,
  };
}
