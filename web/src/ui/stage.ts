/** The canvas: its size in device pixels, what part of the picture it shows, and when it is drawn anew. */

import type { Box, FoundMask, Mask } from "../types.ts";
import type { App } from "./app.ts";
import { makeFoundLayer, type FoundLayer } from "./layers.ts";
import { drawScene } from "./scene.ts";
import { clampToPicture, fitView, panBy, reveal, toPicture, toView, zoomAt } from "./view_transform.ts";
import type { Point, Size, View } from "./view_transform.ts";

/** What is on the canvas and not in the document. */
export interface Passing {
  /** Where the keyboard's crosshair is, in the picture; null while it is not used. */
  crosshair: Point | null;
  /** A box that is being drawn, in the picture. */
  box: Box | null;
  /** The mask under the pointer. */
  hover: Mask | null;
  /** The found mask under the pointer. */
  hoverFound: FoundMask | null;
}

/** The canvas and its view. */
export class Stage {
  readonly canvas: HTMLCanvasElement;
  readonly passing: Passing = { crosshair: null, box: null, hover: null, hoverFound: null };
  view: View = { scale: 1, x: 0, y: 0 };
  /** In CSS px. */
  size: Size = { width: 1, height: 1 };
  foundLayer: FoundLayer | null = null;

  #isFitted = true;
  #willDraw = false;
  #drawnFound: readonly FoundMask[] = [];
  #pictureNumber = 0;
  readonly #app: App;
  readonly #context: CanvasRenderingContext2D;

  constructor(canvas: HTMLCanvasElement, app: App) {
    const context = canvas.getContext("2d");
    if (context === null) throw new Error("This browser cannot draw on a canvas.");
    this.canvas = canvas;
    this.#context = context;
    this.#app = app;
    new ResizeObserver(() => this.#resize()).observe(canvas);
    app.onChange(() => this.#update());
  }

  /** Draw with the next frame. */
  draw(): void {
    if (this.#willDraw) return;
    this.#willDraw = true;
    requestAnimationFrame(() => {
      this.#willDraw = false;
      drawScene(this.#context, this, this.#app, window.devicePixelRatio);
    });
  }

  /** Show the whole picture. */
  fit(): void {
    const { picture } = this.#app;
    if (picture !== null) this.view = fitView(picture, this.size);
    this.#isFitted = true;
    this.draw();
  }

  /** Zoom; what is at `centre` (canvas, CSS px) stays there, by default the middle. */
  zoom(factor: number, centre: Point = { x: this.size.width / 2, y: this.size.height / 2 }): void {
    const { picture } = this.#app;
    if (picture === null) return;
    this.view = zoomAt(this.view, factor, centre, picture, this.size);
    this.#isFitted = false;
    this.draw();
  }

  /** Move the picture by CSS px. */
  pan(dx: number, dy: number): void {
    const { picture } = this.#app;
    if (picture === null) return;
    this.view = panBy(this.view, dx, dy, picture, this.size);
    this.#isFitted = false;
    this.draw();
  }

  /** Put the crosshair somewhere and see to it that it can be seen. */
  moveCrosshair(to: Point): void {
    const { picture } = this.#app;
    if (picture === null) return;
    const last = { width: picture.width - 1, height: picture.height - 1 };
    this.passing.crosshair = clampToPicture(to, last);
    const seen = reveal(this.view, this.passing.crosshair, this.size);
    if (seen.x !== this.view.x || seen.y !== this.view.y) this.#isFitted = false;
    this.view = seen;
    this.draw();
  }

  /** From a pointer's place in the window to the picture. */
  picturePoint(client: { clientX: number; clientY: number }): Point {
    return toPicture(this.view, this.canvasPoint(client));
  }

  /** From a pointer's place in the window to the canvas. */
  canvasPoint(client: { clientX: number; clientY: number }): Point {
    const rect = this.canvas.getBoundingClientRect();
    return { x: client.clientX - rect.left, y: client.clientY - rect.top };
  }

  /** From the picture to the window. */
  clientPoint(x: number, y: number): Point {
    const rect = this.canvas.getBoundingClientRect();
    const at = toView(this.view, { x, y });
    return { x: at.x + rect.left, y: at.y + rect.top };
  }

  #update(): void {
    const { picture, pictureNumber, document } = this.#app;
    if (pictureNumber !== this.#pictureNumber) {
      this.#pictureNumber = pictureNumber;
      Object.assign(this.passing, { crosshair: null, box: null, hover: null, hoverFound: null });
      this.fit();
    }
    if (document.found !== this.#drawnFound) {
      this.#drawnFound = document.found;
      this.passing.hoverFound = null;
      this.foundLayer =
        picture === null || document.found.length === 0 ? null : makeFoundLayer(document.found, picture);
    }
    this.draw();
  }

  #resize(): void {
    const { clientWidth, clientHeight } = this.canvas;
    const before = this.size;
    this.size = { width: Math.max(1, clientWidth), height: Math.max(1, clientHeight) };
    this.canvas.width = Math.round(this.size.width * window.devicePixelRatio);
    this.canvas.height = Math.round(this.size.height * window.devicePixelRatio);
    if (this.#isFitted) this.fit();
    else this.pan((this.size.width - before.width) / 2, (this.size.height - before.height) / 2);
    // Setting the size has emptied the canvas: it must not stay empty until the next frame.
    drawScene(this.#context, this, this.#app, window.devicePixelRatio);
  }
}
