/** Masks made ready to be drawn: a coloured picture and an outline, each made once. */

import type { FoundMask, Mask } from "../types.ts";
import { contextOf, makeCanvas } from "./dom.ts";
import { colourOf, pixelColour, type Rgb } from "./palette.ts";
import { forEachRun, outlineOf, shapeOfMask, type Shape } from "./shapes.ts";
import type { Size } from "./view_transform.ts";

/** Layers of more pixels than this are made smaller; outlines stay exact. */
const MAX_LAYER_PX = 4_000_000;
/** Longer side of the picture of all found masks. */
const MAX_FOUND_SIDE_PX = 2048;

/** A mask to be drawn, in pixels of the picture. */
export interface Layer {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
  /** Opaque where the object is; null for an empty mask. */
  readonly fill: OffscreenCanvas | null;
  readonly outline: Path2D;
}

const layers = new WeakMap<Shape, { layer: Layer; colour: Rgb }>();

/** The layer of a shape in a colour. */
export function layerOf(shape: Shape, colour: Rgb): Layer {
  const known = layers.get(shape);
  if (known !== undefined && known.colour === colour) return known.layer;
  const layer = makeLayer(shape, colour);
  layers.set(shape, { layer, colour });
  return layer;
}

/** A layer of a mask that was made at another resolution than the picture's. */
export function layerOfPreview(mask: Mask, colour: Rgb, picture: Size): Layer {
  const scaleX = picture.width / mask.width;
  const scaleY = picture.height / mask.height;
  const small = makeLayer(shapeOfMask(mask), colour);
  const outline = new Path2D();
  outline.addPath(small.outline, new DOMMatrix([scaleX, 0, 0, scaleY, 0, 0]));
  const [x, y] = [small.x * scaleX, small.y * scaleY];
  return { x, y, width: small.width * scaleX, height: small.height * scaleY, fill: small.fill, outline };
}

/** All found masks in one picture, and which of them is where. */
export interface FoundLayer {
  readonly canvas: OffscreenCanvas;
  /** The mask at a place of the picture, or null; the smallest one if several are there. */
  maskAt(x: number, y: number): FoundMask | null;
}

/** Draw found masks, large ones first, in the colours of their order. */
export function makeFoundLayer(found: readonly FoundMask[], picture: Size): FoundLayer {
  const step = Math.ceil(Math.max(picture.width, picture.height) / MAX_FOUND_SIDE_PX);
  const width = Math.ceil(picture.width / step);
  const height = Math.ceil(picture.height / step);
  const labels = new Uint16Array(width * height);
  const order = found.map((mask, index) => ({ mask, index })).sort((a, b) => b.mask.areaPx - a.mask.areaPx);
  for (const { mask, index } of order) {
    forEachRun(mask.rle, (x, y1, y2) => {
      if (x % step !== 0) return;
      for (let y = Math.ceil(y1 / step); y * step < y2; y++) labels[y * width + x / step] = index + 1;
    });
  }
  return {
    canvas: drawLabels(labels, width, height),
    maskAt: (x, y) => {
      const [column, row] = [Math.floor(x / step), Math.floor(y / step)];
      if (column < 0 || row < 0 || column >= width || row >= height) return null;
      return found[(labels[row * width + column] ?? 0) - 1] ?? null;
    },
  };
}

function drawLabels(labels: Uint16Array, width: number, height: number): OffscreenCanvas {
  const [canvas, context] = makeCanvas(width, height);
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const largest = labels.reduce((most, label) => Math.max(most, label), 0);
  const fills = new Uint32Array(largest + 1);
  const edges = new Uint32Array(largest + 1);
  for (let label = 1; label <= largest; label++) {
    fills[label] = pixelColour(colourOf(label - 1), 128);
    edges[label] = pixelColour(colourOf(label - 1), 255);
  }
  for (let at = 0; at < labels.length; at++) {
    const label = labels[at] ?? 0;
    if (label === 0) continue;
    const isEdge = labels[at - 1] !== label || labels[at - width] !== label || labels[at + 1] !== label;
    pixels[at] = (isEdge || labels[at + width] !== label ? edges : fills)[label] ?? 0;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function makeLayer(shape: Shape, colour: Rgb): Layer {
  const outline = new Path2D();
  const lines = outlineOf(shape);
  for (let at = 0; at < lines.length; at += 4) {
    outline.moveTo(lines[at] ?? 0, lines[at + 1] ?? 0);
    outline.lineTo(lines[at + 2] ?? 0, lines[at + 3] ?? 0);
  }
  const { x, y, width, height } = shape;
  return { x, y, width, height, fill: shape.areaPx === 0 ? null : fillOf(shape, colour), outline };
}

function fillOf(shape: Shape, colour: Rgb): OffscreenCanvas {
  const step = Math.ceil(Math.sqrt((shape.width * shape.height) / MAX_LAYER_PX));
  const width = Math.ceil(shape.width / step);
  const height = Math.ceil(shape.height / step);
  const canvas = new OffscreenCanvas(width, height);
  const context = contextOf(canvas);
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const pixel = pixelColour(colour, 255);
  for (let y = 0; y < height; y++) {
    const row = y * step * shape.width;
    for (let x = 0; x < width; x++) {
      if (shape.data[row + x * step] === 1) pixels[y * width + x] = pixel;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}
