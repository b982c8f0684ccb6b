/** The candidate masks of the selected object, to choose from. */

import type { App } from "./app.ts";
import type { CandidateView } from "./answers.ts";
import { hasMask, selectedObject, type PageObject } from "./document.ts";
import { byId, make } from "./dom.ts";
import { layerOf } from "./layers.ts";
import { colourOf, type Rgb } from "./palette.ts";
import { levelFor, type Picture } from "./picture.ts";
import type { Shape } from "./shapes.ts";

const THUMBNAIL_PX = 76;

/** A square of the picture, in its pixels. */
interface Region {
  readonly x: number;
  readonly y: number;
  readonly side: number;
}

interface Choice {
  readonly input: HTMLInputElement;
  readonly canvas: HTMLCanvasElement;
  readonly score: HTMLElement;
  drawn: { shape: Shape; region: Region } | null;
}

/** Keep the radio group as the selected object's candidates are. */
export function setUpCandidates(app: App): void {
  const group = byId("candidates", HTMLFieldSetElement);
  const list = byId("candidate-list", HTMLElement);
  const hint = byId("candidates-hint", HTMLElement);
  let shownKey = "";
  let choices = new Map<number, Choice>();
  app.onChange(() => {
    const selected = selectedObject(app.document);
    const views = selected === null ? [] : app.answers.candidatesOf(selected);
    // While the answer to a further click is awaited, the last candidates stay: the panel does not jump.
    const isAwaited =
      selected !== null && hasMask(selected) && app.answers.isMissing(selected) && choices.size > 0;
    group.disabled = isAwaited && views.length === 0;
    if (group.disabled) return;
    const key = `${app.pictureNumber}/${selected?.id ?? 0}/${views.map((view) => view.token).join(",")}`;
    if (key !== shownKey) {
      shownKey = key;
      choices = new Map(views.map((view, index) => [view.token, makeChoice(app, view, index)]));
      list.replaceChildren(...[...choices.values()].map((choice) => labelOf(choice)));
    }
    group.hidden = views.length === 0;
    hint.hidden = views.length > 0;
    if (selected === null || app.picture === null) return;
    const region = regionOf(views, app.picture);
    for (const view of views) showChoice(app, selected, view, region, choices.get(view.token));
  });
}

function makeChoice(app: App, view: CandidateView, index: number): Choice {
  const input = make("input", { type: "radio", name: "candidate", value: String(view.token) });
  input.className = "candidate-input";
  input.dataset["testid"] = `candidate-${index + 1}`;
  input.addEventListener("change", () => app.choose(view.token));
  const canvas = make("canvas", { width: THUMBNAIL_PX * 2, height: THUMBNAIL_PX * 2 });
  canvas.setAttribute("aria-hidden", "true");
  return { input, canvas, score: make("span", { className: "candidate-score" }), drawn: null };
}

function labelOf({ input, canvas, score }: Choice): HTMLElement {
  return make("label", { className: "candidate" }, input, canvas, score);
}

function showChoice(
  app: App,
  object: PageObject,
  view: CandidateView,
  region: Region,
  choice: Choice | undefined,
): void {
  const { picture } = app;
  const { shape } = view;
  if (choice === undefined || picture === null) return;
  choice.input.checked = app.answers.tokenOf(object) === view.token;
  const share = shape === null ? "" : `, ${app.shareText(shape.areaPx)}`;
  choice.input.setAttribute("aria-label", `Mask, score ${view.score.toFixed(2)}${share}`);
  choice.score.textContent = view.score.toFixed(2);
  const { drawn } = choice;
  const isSame = drawn?.shape === shape && JSON.stringify(drawn?.region) === JSON.stringify(region);
  if (shape === null || isSame) return;
  choice.drawn = { shape, region };
  drawThumbnail(choice.canvas, picture, region, shape, colourOf(object.colour));
}

/** The square around all candidates that are computed, with some of what surrounds them. */
function regionOf(views: readonly CandidateView[], picture: Picture): Region {
  const shapes = views.flatMap(({ shape }) => (shape === null || shape.areaPx === 0 ? [] : [shape]));
  if (shapes.length === 0) return { x: 0, y: 0, side: Math.max(picture.width, picture.height) };
  const left = Math.min(...shapes.map((shape) => shape.x));
  const top = Math.min(...shapes.map((shape) => shape.y));
  const right = Math.max(...shapes.map((shape) => shape.x + shape.width));
  const bottom = Math.max(...shapes.map((shape) => shape.y + shape.height));
  const side = Math.max(right - left, bottom - top) * 1.3;
  return { x: (left + right - side) / 2, y: (top + bottom - side) / 2, side };
}

/** The picture, faint, and the object in its colour. */
function drawThumbnail(
  canvas: HTMLCanvasElement,
  picture: Picture,
  region: Region,
  shape: Shape,
  colour: Rgb,
): void {
  const context = canvas.getContext("2d");
  if (context === null) return;
  const scale = canvas.width / region.side;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.setTransform(scale, 0, 0, scale, -region.x * scale, -region.y * scale);
  context.globalAlpha = 0.55;
  const level = levelFor(picture, picture.width * Math.min(1, scale));
  context.drawImage(level, 0, 0, picture.width, picture.height);
  const layer = layerOf(shape, colour);
  if (layer.fill === null) return;
  context.globalAlpha = 0.85;
  context.drawImage(layer.fill, layer.x, layer.y, layer.width, layer.height);
  context.globalAlpha = 1;
}
