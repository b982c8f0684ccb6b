/** Everything mode: its settings, its progress, and what it found. */

import { EVERYTHING_DEFAULTS, type EverythingSettings, type FoundMask } from "../types.ts";
import { fillProgress, progressText } from "./announce.ts";
import type { App } from "./app.ts";
import { byId, make, onButton } from "./dom.ts";
import { colourOf, cssColour } from "./palette.ts";

/** Wire everything mode; returns what starts it. */
export function setUpEverything(app: App): () => void {
  const points = byId("points-per-side", HTMLSelectElement);
  const quality = byId("quality", HTMLInputElement);
  const qualityText = byId("quality-text", HTMLOutputElement);
  const running = byId("everything-running", HTMLElement);
  const bar = byId("everything-progress", HTMLProgressElement);
  const text = byId("everything-text", HTMLElement);
  const showQuality = () => (qualityText.value = Number(quality.value).toFixed(2));
  points.value = String(EVERYTHING_DEFAULTS.pointsPerSide);
  quality.value = String(EVERYTHING_DEFAULTS.predIouThresh);
  quality.addEventListener("input", showQuality);
  showQuality();
  const start = () => {
    if (app.picture === null || app.everythingProgress !== null) return;
    void app.findEverything(settingsOf(Number(points.value), Number(quality.value)));
  };
  const button = onButton("everything", start);
  const cancel = onButton("cancel", () => {
    app.cancelEverything();
    button.focus();
  });
  let wasRunning = false;
  app.onChange(() => {
    const progress = app.everythingProgress;
    const isRunning = progress !== null;
    running.hidden = !isRunning;
    button.disabled = app.picture === null;
    button.hidden = isRunning;
    if (isRunning && !wasRunning && document.activeElement === document.body) cancel.focus();
    wasRunning = isRunning;
    if (progress === null) return;
    fillProgress(bar, progress);
    text.textContent = progressText(progress);
  });
  setUpFound(app);
  return start;
}

function settingsOf(pointsPerSide: number, predIouThresh: number): EverythingSettings {
  return { ...EVERYTHING_DEFAULTS, pointsPerSide, predIouThresh };
}

/** The group of found masks: light buttons, of which only one is in the order of the Tab key. */
function setUpFound(app: App): void {
  const group = byId("found", HTMLDetailsElement);
  const count = byId("found-count", HTMLElement);
  const list = byId("found-list", HTMLElement);
  const visible = onButton("found-visible", () => app.toggleFound());
  const keep = onButton("found-keep", () => withPicked(app, (picked) => app.keepFound(picked)));
  const drop = onButton("found-delete", () => withPicked(app, (picked) => app.dropFound(picked)));
  let shown: readonly FoundMask[] = [];
  let lastPicked: FoundMask | null = null;
  list.addEventListener("keydown", (event) => moveFocus(list, event));
  list.addEventListener("click", (event) => {
    const index = indexOf(list, event.target);
    const found = app.document.found[index];
    if (found !== undefined) app.pick(found);
  });
  app.onChange(() => {
    const { found, picked, isFoundVisible } = app.document;
    group.hidden = found.length === 0;
    count.textContent = String(found.length);
    if (found !== shown) {
      shown = found;
      list.replaceChildren(...found.map((mask, index) => makeTile(app, mask, index)));
    }
    const pickedIndex = picked === null ? -1 : found.indexOf(picked);
    [...list.children].forEach((tile, index) => {
      tile.setAttribute("aria-selected", String(index === pickedIndex));
      (tile as HTMLElement).tabIndex = index === Math.max(0, pickedIndex) ? 0 : -1;
    });
    keep.textContent = picked === null ? "Keep all" : `Keep ${pickedIndex + 1}`;
    drop.textContent = picked === null ? "Delete all" : `Delete ${pickedIndex + 1}`;
    if (picked !== null && picked !== lastPicked) keep.scrollIntoView({ block: "nearest" });
    lastPicked = picked;
    visible.textContent = isFoundVisible ? "Hide" : "Show";
    visible.setAttribute("aria-label", isFoundVisible ? "Hide found masks" : "Show found masks");
  });
}

function withPicked(app: App, act: (masks: readonly FoundMask[]) => void): void {
  const { found, picked } = app.document;
  act(picked === null ? found : [picked]);
}

function makeTile(app: App, mask: FoundMask, index: number): HTMLElement {
  const tile = make("div", { className: "found-tile", textContent: String(index + 1) });
  tile.setAttribute("role", "option");
  const share = app.shareText(mask.areaPx);
  tile.setAttribute("aria-label", `Mask ${index + 1}, ${share}, score ${mask.predictedIou.toFixed(2)}`);
  tile.style.setProperty("--colour", cssColour(colourOf(index)));
  return tile;
}

function indexOf(list: HTMLElement, target: EventTarget | null): number {
  return target instanceof HTMLElement ? [...list.children].indexOf(target) : -1;
}

function moveFocus(list: HTMLElement, event: KeyboardEvent): void {
  const index = indexOf(list, event.target);
  const steps: Readonly<Record<string, number>> = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  const step = steps[event.key];
  if (step !== undefined) {
    const next = list.children[index + step];
    if (next instanceof HTMLElement) next.focus();
  } else if ((event.key === "Enter" || event.key === " ") && event.target instanceof HTMLElement)
    event.target.click();
  else return;
  event.preventDefault();
}
