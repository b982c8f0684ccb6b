/** The export dialog: cut-outs, masks, COCO JSON, SVG, the clipboard. */

import { maskToPolygons } from "../engine/polygons.ts";
import { maskToRle } from "../engine/rle.ts";
import type { FoundMask } from "../types.ts";
import type { Announcer } from "./announce.ts";
import type { App } from "./app.ts";
import { selectedObject, type PageObject } from "./document.ts";
import { byId, makeCanvas, messageOf, onButton } from "./dom.ts";
import { cocoJson, exportName, labelMap, polygonsSvg, type ExportObject } from "./export_files.ts";
import { colourOf } from "./palette.ts";
import { levelFor, type Picture } from "./picture.ts";
import { greyPng } from "./png.ts";
import { maskOfShape, shapeOfRle, unionMask } from "./shapes.ts";

/** What is exported, and whose name the file bears. */
interface Selection {
  readonly picture: Picture;
  readonly objects: readonly ExportObject[];
  readonly isAll: boolean;
}

/** Wire the dialog and its button. */
export function setUpExport(app: App, announcer: Announcer): void {
  const dialog = byId("export-dialog", HTMLDialogElement);
  const current = byId("export-current", HTMLInputElement);
  const all = byId("export-all", HTMLInputElement);
  const crop = byId("export-crop", HTMLInputElement);
  const count = byId("export-count", HTMLElement);
  const name = byId("export-name", HTMLElement);
  const outcome = byId("export-outcome", HTMLElement);
  const open = onButton("export", () => {
    const one = currentObjects(app);
    current.disabled = one.length === 0;
    (one.length === 0 ? all : current).checked = true;
    name.textContent = one[0]?.name ?? "no object is selected";
    count.textContent = String(allObjects(app).length);
    outcome.textContent = "";
    dialog.showModal();
  });
  app.onChange(() => (open.disabled = currentObjects(app).length + allObjects(app).length === 0));
  const run = async (action: (selection: Selection) => Promise<string>) => {
    const { picture } = app;
    if (picture === null) return;
    outcome.textContent = "Working …";
    try {
      await app.whenMasked();
      const objects = all.checked ? allObjects(app) : currentObjects(app);
      outcome.textContent = await action({ picture, objects, isAll: all.checked });
    } catch (error) {
      outcome.textContent = messageOf(error);
      announcer.tell(messageOf(error), "error");
    }
  };
  const onExport = (id: string, action: (selection: Selection) => Promise<string>) =>
    onButton(id, () => void run(action));
  onExport("export-cutout", async (selection) => {
    return save(selection, "cutout", "png", await cutout(selection, crop.checked));
  });
  onExport("export-mask", async (selection) => {
    return save(selection, selection.isAll ? "labels" : "mask", "png", await maskPng(selection));
  });
  onExport("export-coco", async (selection) => {
    const { picture, objects } = selection;
    const json = JSON.stringify(cocoJson(picture, objects, (shape) => maskToRle(maskOfShape(shape))));
    return save(selection, "coco", "json", new Blob([json], { type: "application/json" }));
  });
  onExport("export-svg", async (selection) => {
    const { picture, objects } = selection;
    const svg = polygonsSvg(picture, objects, (shape) => maskToPolygons(maskOfShape(shape)));
    return save(selection, "polygons", "svg", new Blob([svg], { type: "image/svg+xml" }));
  });
  onExport("export-copy", async (selection) => {
    // The promise goes in, since Safari forgets the click while one waits.
    await navigator.clipboard.write([new ClipboardItem({ "image/png": cutout(selection, crop.checked) })]);
    return "The cut-out is on the clipboard.";
  });
  byId("export-copy", HTMLButtonElement).hidden = !("clipboard" in navigator) || !("ClipboardItem" in window);
}

/** The selected object, or the found mask that is picked; empty: neither has a mask. */
function currentObjects(app: App): ExportObject[] {
  const { picked, found } = app.document;
  if (picked !== null) return [foundObject(picked, found.indexOf(picked))];
  const selected = selectedObject(app.document);
  return selected === null ? [] : markedObjects(app, [selected]);
}

/** All objects that are shown, and the found masks if they are. */
function allObjects(app: App): ExportObject[] {
  const { objects, found, isFoundVisible } = app.document;
  const marked = markedObjects(
    app,
    objects.filter((object) => object.isVisible),
  );
  const others = isFoundVisible ? found : [];
  return [...marked, ...others.map(foundObject)];
}

function markedObjects(app: App, objects: readonly PageObject[]): ExportObject[] {
  return objects.flatMap((object) => {
    const shape = app.answers.shapeOf(object);
    if (shape === null || shape.areaPx === 0) return [];
    return [
      { name: object.name, colour: colourOf(object.colour), score: app.answers.scoreOf(object), shape },
    ];
  });
}

function foundObject(mask: FoundMask, index: number): ExportObject {
  const shape = shapeOfRle(mask.rle);
  return { name: `Mask ${index + 1}`, colour: colourOf(index), score: mask.predictedIou, shape };
}

/** The objects' pixels, all else transparent. */
async function cutout({ picture, objects }: Selection, isCropped: boolean): Promise<Blob> {
  const { width, height } = picture;
  const shapes = objects.map((object) => object.shape);
  const mask = unionMask(shapes, width, height);
  const [canvas, context] = makeCanvas(width, height);
  context.drawImage(levelFor(picture, width), 0, 0);
  const image = context.getImageData(0, 0, width, height);
  mask.data.forEach((isObject, at) => {
    if (isObject === 0) image.data[4 * at + 3] = 0;
  });
  if (!isCropped) {
    context.putImageData(image, 0, 0);
    return canvas.convertToBlob({ type: "image/png" });
  }
  const left = Math.min(...shapes.map((shape) => shape.x));
  const top = Math.min(...shapes.map((shape) => shape.y));
  const right = Math.max(...shapes.map((shape) => shape.x + shape.width));
  const bottom = Math.max(...shapes.map((shape) => shape.y + shape.height));
  const [cropped, cropContext] = makeCanvas(right - left, bottom - top);
  cropContext.putImageData(image, -left, -top);
  return cropped.convertToBlob({ type: "image/png" });
}

/** One object: 255 on it, 0 elsewhere. All: their numbers. */
async function maskPng({ picture, objects, isAll }: Selection): Promise<Blob> {
  const { width, height } = picture;
  const labels = labelMap(picture, objects);
  return greyPng(isAll ? labels : labels.map((label) => (label === 0 ? 0 : 255)), width, height);
}

function save({ picture, objects, isAll }: Selection, what: string, ending: string, blob: Blob): string {
  const object = isAll ? "all" : (objects[0]?.name ?? "object");
  const name = exportName(picture.name, `${object}_${what}`, ending);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  return `Saved ${name}.`;
}
