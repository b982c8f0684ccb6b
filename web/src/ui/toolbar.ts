/** Tools, undo, redo, clear and zoom. */

import type { App, Tool } from "./app.ts";
import { hasMask, selectedObject } from "./document.ts";
import { byId, onButton, setPressed } from "./dom.ts";
import type { Stage } from "./stage.ts";

const TOOLS: readonly Tool[] = ["foreground", "background", "box", "pan", "pick"];

/** Wire the buttons around the canvas. */
export function setUpToolbar(app: App, stage: Stage): void {
  const tools = TOOLS.map((tool) => ({ tool, button: onButton(`tool-${tool}`, () => app.setTool(tool)) }));
  const undo = onButton("undo", () => app.undo());
  const redo = onButton("redo", () => app.redo());
  const clear = onButton("clear", () => app.clear());
  const zooms = [
    onButton("zoom-in", () => stage.zoom(1.4)),
    onButton("zoom-fit", () => stage.fit()),
    onButton("zoom-out", () => stage.zoom(1 / 1.4)),
  ];
  const start = byId("start", HTMLElement);
  const pickTool = byId("tool-pick", HTMLButtonElement);
  app.onChange(() => {
    const isOpen = app.picture !== null;
    const selected = selectedObject(app.document);
    start.hidden = isOpen;
    const { dataset } = document.documentElement;
    dataset["tool"] = app.tool;
    if (isOpen) dataset["picture"] = "open";
    stage.canvas.dataset["tool"] = app.tool;
    for (const { tool, button } of tools) {
      setPressed(button, app.tool === tool);
      button.disabled = !isOpen;
    }
    pickTool.hidden = app.document.found.length === 0;
    undo.disabled = !app.history.canUndo;
    redo.disabled = !app.history.canRedo;
    clear.disabled = selected === null || !hasMask(selected);
    for (const zoom of zooms) zoom.disabled = !isOpen;
  });
}
