/** Draws the picture, its masks and marks. */

import type { Box, Click } from "../types.ts";
import type { App } from "./app.ts";
import { hasMask, selectedObject } from "./document.ts";
import { layerOf, layerOfPreview, type Layer } from "./layers.ts";
import { colourOf, cssColour, type Rgb } from "./palette.ts";
import { levelFor, type Picture } from "./picture.ts";
import { shapeOfRle, type Shape } from "./shapes.ts";
import type { Stage } from "./stage.ts";
import { toView, type Point, type View } from "./view_transform.ts";

const FILL_ALPHA = 0.42;
const DIM_FILL_ALPHA = 0.3;
const MARK_RADIUS_PX = 7;
const FOREGROUND: Rgb = [12, 122, 72];
const BACKGROUND: Rgb = [190, 30, 45];

/** The last mask of each object of a picture. */
const lastShapes = new WeakMap<Picture, Map<number, Shape>>();
const hoverLayers = new WeakMap<object, Layer>();

/** Draw everything. `ratio`: device pixels per CSS px. */
export function drawScene(context: CanvasRenderingContext2D, stage: Stage, app: App, ratio: number): void {
  const { picture } = app;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, stage.canvas.width, stage.canvas.height);
  if (picture === null) return;
  const { view, passing } = stage;
  const scale = view.scale * ratio;
  const inPicture = () => context.setTransform(scale, 0, 0, scale, view.x * ratio, view.y * ratio);
  inPicture();
  drawPicture(context, picture, scale);
  drawFound(context, stage, app, scale);
  drawObjects(context, app, picture, scale);
  if (passing.hover !== null) {
    const layer = hoverLayers.get(passing.hover) ?? layerOfPreview(passing.hover, hoverColour(app), picture);
    hoverLayers.set(passing.hover, layer);
    drawLayer(context, layer, hoverColour(app), 0.26, 1.5 / scale);
  }
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  const selected = selectedObject(app.document);
  const isPicking = app.tool === "pick";
  const box = passing.box ?? (isPicking ? undefined : selected?.prompt.box);
  if (box !== undefined) drawBox(context, view, box, colourOf(selected?.colour ?? app.document.nextId - 1));
  for (const click of isPicking ? [] : (selected?.prompt.clicks ?? []))
    drawClick(context, toView(view, click), click);
  if (passing.crosshair !== null) drawCrosshair(context, toView(view, passing.crosshair));
}

function hoverColour(app: App): Rgb {
  return colourOf(selectedObject(app.document)?.colour ?? app.document.nextId - 1);
}

function drawPicture(context: CanvasRenderingContext2D, picture: Picture, scale: number): void {
  context.imageSmoothingEnabled = scale < 3;
  context.imageSmoothingQuality = "high";
  context.drawImage(
    levelFor(picture, picture.width * Math.min(1, scale)),
    0,
    0,
    picture.width,
    picture.height,
  );
}

function drawFound(context: CanvasRenderingContext2D, stage: Stage, app: App, scale: number): void {
  const { document, picture } = app;
  if (stage.foundLayer === null || picture === null || !document.isFoundVisible) return;
  context.imageSmoothingEnabled = true;
  context.globalAlpha = document.picked === null ? 0.9 : 0.45;
  context.drawImage(stage.foundLayer.canvas, 0, 0, picture.width, picture.height);
  context.globalAlpha = 1;
  for (const mask of [stage.passing.hoverFound, document.picked]) {
    if (mask === null) continue;
    const shape = shapeOfRle(mask.rle);
    const colour = colourOf(document.found.indexOf(mask));
    const alpha = mask === document.picked ? 0.6 : 0.2;
    drawLayer(context, layerOf(shape, colour), colour, alpha, 2 / scale);
  }
}

function drawObjects(context: CanvasRenderingContext2D, app: App, picture: Picture, scale: number): void {
  const { objects, selectedId } = app.document;
  const last = lastShapes.get(picture);
  const shapes = new Map<number, Shape>();
  for (const object of objects) {
    // Until the new mask is there, the last one stays: nothing flickers.
    const shape = app.answers.shapeOf(object) ?? (hasMask(object) ? last?.get(object.id) : undefined);
    if (shape === undefined) continue;
    shapes.set(object.id, shape);
    if (!object.isVisible) continue;
    const isSelected = object.id === selectedId;
    const colour = colourOf(object.colour);
    const alpha = isSelected ? FILL_ALPHA : DIM_FILL_ALPHA;
    drawLayer(context, layerOf(shape, colour), colour, alpha, (isSelected ? 2 : 1.25) / scale);
  }
  lastShapes.set(picture, shapes);
}

/** The fill, then the outline on a dark one, so that it stands out on any picture. */
function drawLayer(
  context: CanvasRenderingContext2D,
  layer: Layer,
  colour: Rgb,
  alpha: number,
  lineWidth: number,
): void {
  if (layer.fill === null) return;
  context.imageSmoothingEnabled = false;
  context.globalAlpha = alpha;
  context.drawImage(layer.fill, layer.x, layer.y, layer.width, layer.height);
  context.globalAlpha = 1;
  context.lineCap = "square";
  context.strokeStyle = "rgb(0 0 0 / 0.55)";
  context.lineWidth = lineWidth * 2.2;
  context.stroke(layer.outline);
  context.strokeStyle = cssColour(colour);
  context.lineWidth = lineWidth;
  context.stroke(layer.outline);
}

function drawBox(context: CanvasRenderingContext2D, view: View, box: Box, colour: Rgb): void {
  const start = toView(view, { x: box.x1, y: box.y1 });
  const end = toView(view, { x: box.x2, y: box.y2 });
  context.setLineDash([]);
  context.strokeStyle = "rgb(0 0 0 / 0.7)";
  context.lineWidth = 4;
  context.strokeRect(start.x, start.y, end.x - start.x, end.y - start.y);
  context.setLineDash([7, 5]);
  context.strokeStyle = "#fff";
  context.lineWidth = 2;
  context.strokeRect(start.x, start.y, end.x - start.x, end.y - start.y);
  context.setLineDash([]);
  for (const x of [start.x, end.x]) {
    for (const y of [start.y, end.y]) {
      context.fillStyle = "#fff";
      context.fillRect(x - 4, y - 4, 8, 8);
      context.fillStyle = cssColour(colour);
      context.fillRect(x - 3, y - 3, 6, 6);
    }
  }
}

/** A plus or a minus in a disc: told apart without colours. */
function drawClick(context: CanvasRenderingContext2D, at: Point, click: Click): void {
  context.beginPath();
  context.arc(at.x, at.y, MARK_RADIUS_PX, 0, 2 * Math.PI);
  context.fillStyle = cssColour(click.isForeground ? FOREGROUND : BACKGROUND);
  context.fill();
  context.strokeStyle = "rgb(0 0 0 / 0.5)";
  context.lineWidth = 4;
  context.stroke();
  context.strokeStyle = "#fff";
  context.lineWidth = 2;
  context.stroke();
  context.beginPath();
  context.moveTo(at.x - 3.5, at.y);
  context.lineTo(at.x + 3.5, at.y);
  if (click.isForeground) {
    context.moveTo(at.x, at.y - 3.5);
    context.lineTo(at.x, at.y + 3.5);
  }
  context.stroke();
}

function drawCrosshair(context: CanvasRenderingContext2D, at: Point): void {
  for (const [colour, width] of [
    ["rgb(0 0 0 / 0.75)", 4],
    ["#fff", 2],
  ] as const) {
    context.beginPath();
    for (const [dx, dy] of [
      [1, 0],
      [-1, 0],
      [0, 1],
      [0, -1],
    ] as const) {
      context.moveTo(at.x + 4 * dx, at.y + 4 * dy);
      context.lineTo(at.x + 18 * dx, at.y + 18 * dy);
    }
    context.lineCap = "butt";
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.stroke();
  }
}
