/** Mouse, pen and fingers on the canvas: clicks, boxes, panning, zooming. */

import type { Box } from "../types.ts";
import type { App } from "./app.ts";
import type { Hover } from "./hover.ts";
import type { Stage } from "./stage.ts";
import { clampToPicture, isInside, type Point } from "./view_transform.ts";

/** A pointer that moved further than this is dragged. */
const DRAG_PX = { mouse: 5, touch: 10 };
const LONG_PRESS_MS = 500;
/** A box smaller than this on screen was a slip. */
const MIN_BOX_PX = 4;

type Drag = "undecided" | "pan" | "box" | "done";

interface Press {
  readonly pointerId: number;
  readonly isTouch: boolean;
  readonly isBackground: boolean;
  readonly start: Point;
  last: Point;
  drag: Drag;
  longPress: number;
}

/** Listens to the canvas. */
export class Gestures {
  readonly #app: App;
  readonly #stage: Stage;
  readonly #hover: Hover;
  readonly #fingers = new Map<number, Point>();
  #press: Press | null = null;
  #isSpaceHeld = false;

  constructor(app: App, stage: Stage, hover: Hover) {
    this.#app = app;
    this.#stage = stage;
    this.#hover = hover;
    const { canvas } = stage;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", (event) => this.#cancel(event));
    canvas.addEventListener("pointerleave", () => hover.leave());
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => this.#keepPicked());
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.#space(event, true));
    window.addEventListener("keyup", (event) => this.#space(event, false));
    window.addEventListener("blur", () => this.#holdSpace(false));
  }

  #down(event: PointerEvent): void {
    const { picture, tool } = this.#app;
    if (picture === null) return;
    const { canvas } = this.#stage;
    if (event.button === 1) event.preventDefault();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    const start = this.#stage.canvasPoint(event);
    const isTouch = event.pointerType === "touch";
    if (isTouch) {
      this.#fingers.set(event.pointerId, start);
      if (this.#fingers.size > 1) return this.#dropPress();
    } else if (this.#press !== null) return;
    const isPan = tool === "pan" || tool === "pick" || this.#isSpaceHeld;
    const isBackground = event.button === 2 || event.altKey || event.ctrlKey || tool === "background";
    const press: Press = {
      pointerId: event.pointerId,
      isTouch,
      isBackground,
      start,
      last: start,
      drag: event.button === 1 ? "pan" : "undecided",
      longPress: isTouch && !isPan ? window.setTimeout(() => this.#longPress(), LONG_PRESS_MS) : 0,
    };
    this.#press = press;
    this.#hover.leave();
    this.#stage.passing.crosshair = null;
    this.#showCursor();
  }

  #move(event: PointerEvent): void {
    const at = this.#stage.canvasPoint(event);
    if (this.#fingers.has(event.pointerId) && this.#fingers.size > 1) return this.#pinch(event.pointerId, at);
    const press = this.#press;
    if (press === null) {
      if (event.pointerType !== "touch") this.#hover.at(this.#stage.picturePoint(event));
      return;
    }
    if (press.pointerId !== event.pointerId) return;
    const limit = press.isTouch ? DRAG_PX.touch : DRAG_PX.mouse;
    if (press.drag === "undecided" && Math.hypot(at.x - press.start.x, at.y - press.start.y) > limit) {
      window.clearTimeout(press.longPress);
      press.drag = this.#dragOf(press);
      this.#showCursor();
    }
    if (press.drag === "pan") this.#stage.pan(at.x - press.last.x, at.y - press.last.y);
    if (press.drag === "box") this.#drawBox(press.start, at);
    press.last = at;
  }

  #up(event: PointerEvent): void {
    this.#fingers.delete(event.pointerId);
    const press = this.#press;
    if (press === null || press.pointerId !== event.pointerId) return;
    const { drag } = press;
    this.#dropPress(drag === "box");
    if (drag === "undecided") this.#click(press.start, press.isBackground);
    if (drag === "box") this.#finishBox(press);
    this.#showCursor();
  }

  #cancel(event: PointerEvent): void {
    this.#fingers.delete(event.pointerId);
    this.#dropPress();
    this.#showCursor();
  }

  /** Forget what was begun. */
  #dropPress(isBoxKept = false): void {
    if (this.#press !== null) window.clearTimeout(this.#press.longPress);
    this.#press = null;
    if (!isBoxKept && this.#stage.passing.box !== null) {
      this.#stage.passing.box = null;
      this.#stage.draw();
    }
  }

  #dragOf(press: Press): Drag {
    const { tool } = this.#app;
    if (tool === "pan" || tool === "pick" || this.#isSpaceHeld) return "pan";
    if (tool === "box") return "box";
    if (press.isTouch) return "pan";
    return press.isBackground ? "done" : "box";
  }

  #click(at: Point, isBackground: boolean): void {
    const { picture, tool } = this.#app;
    const point = this.#stage.picturePoint(this.#client(at));
    if (picture === null || tool === "pan" || this.#isSpaceHeld || !isInside(point, picture)) return;
    if (tool === "pick") this.#app.pick(this.#stage.foundLayer?.maskAt(point.x, point.y) ?? null);
    else this.#app.click(point.x, point.y, !isBackground);
  }

  #longPress(): void {
    const press = this.#press;
    if (press === null || press.drag !== "undecided") return;
    press.drag = "done";
    if ("vibrate" in navigator) navigator.vibrate(20);
    this.#click(press.start, true);
  }

  #keepPicked(): void {
    const { picked } = this.#app.document;
    if (this.#app.tool === "pick" && picked !== null) this.#app.keepFound([picked]);
  }

  #drawBox(start: Point, end: Point): void {
    this.#stage.passing.box = this.#boxOf(start, end);
    this.#stage.draw();
  }

  #finishBox({ start, last }: Press): void {
    this.#stage.passing.box = null;
    const box = this.#boxOf(start, last);
    const isSlip = Math.min(Math.abs(last.x - start.x), Math.abs(last.y - start.y)) < MIN_BOX_PX;
    if (box === null || isSlip || box.x2 - box.x1 < 1 || box.y2 - box.y1 < 1) this.#stage.draw();
    else this.#app.setBox(box);
  }

  /** The box between two points of the canvas, cut to the picture. */
  #boxOf(start: Point, end: Point): Box | null {
    const { picture } = this.#app;
    if (picture === null) return null;
    const one = clampToPicture(this.#stage.picturePoint(this.#client(start)), picture);
    const other = clampToPicture(this.#stage.picturePoint(this.#client(end)), picture);
    return {
      x1: Math.min(one.x, other.x),
      y1: Math.min(one.y, other.y),
      x2: Math.max(one.x, other.x),
      y2: Math.max(one.y, other.y),
    };
  }

  /** Two fingers: what is under them stays under them. */
  #pinch(pointerId: number, at: Point): void {
    const before = this.#fingers.get(pointerId);
    const other = [...this.#fingers].find(([id]) => id !== pointerId)?.[1];
    this.#fingers.set(pointerId, at);
    if (before === undefined || other === undefined) return;
    const distanceBefore = Math.hypot(before.x - other.x, before.y - other.y);
    const distance = Math.hypot(at.x - other.x, at.y - other.y);
    this.#stage.pan((at.x - before.x) / 2, (at.y - before.y) / 2);
    const middle = { x: (at.x + other.x) / 2, y: (at.y + other.y) / 2 };
    if (distanceBefore > 10) this.#stage.zoom(distance / distanceBefore, middle);
  }

  #wheel(event: WheelEvent): void {
    if (this.#app.picture === null) return;
    event.preventDefault();
    const unit = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1;
    const delta = Math.max(-200, Math.min(200, event.deltaY * unit));
    // A trackpad's pinch comes as a wheel with the control key, in smaller steps.
    this.#stage.zoom(Math.exp(-delta * (event.ctrlKey ? 0.008 : 0.0018)), this.#stage.canvasPoint(event));
    this.#hover.leave();
  }

  #space(event: KeyboardEvent, isDown: boolean): void {
    if (event.key !== " ") return;
    if (isDown) event.preventDefault();
    this.#holdSpace(isDown);
  }

  #holdSpace(isHeld: boolean): void {
    this.#isSpaceHeld = isHeld;
    this.#showCursor();
  }

  #showCursor(): void {
    const isPan = this.#isSpaceHeld || this.#press?.drag === "pan";
    this.#stage.canvas.classList.toggle("is-panning", isPan);
    this.#stage.draw();
  }

  #client(at: Point): { clientX: number; clientY: number } {
    const rect = this.#stage.canvas.getBoundingClientRect();
    return { clientX: at.x + rect.left, clientY: at.y + rect.top };
  }
}
