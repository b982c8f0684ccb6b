/** What tests of the page may ask it; nothing can be changed through it. */

import { maskToRle } from "../engine/rle.ts";
import type { App } from "./app.ts";
import { selectedObject } from "./document.ts";
import { maskOfShape } from "./shapes.ts";
import type { Stage } from "./stage.ts";

/** The page's state, as `window.mobileSam` tells it. */
export interface PageHook {
  state(): unknown;
  /** The selected object's mask in COCO's run lengths, once it is computed; rejects if there is none. */
  currentMask(): Promise<{ width: number; height: number; counts: readonly number[] }>;
  /** Where in the window a point of the picture is, in CSS px. */
  clientPoint(x: number, y: number): { x: number; y: number };
}

declare global {
  interface Window {
    readonly mobileSam: PageHook;
  }
}

/** Put the hook where tests look for it. */
export function setUpHook(app: App, stage: Stage): void {
  const hook: PageHook = {
    state: () => stateOf(app, stage),
    currentMask: async () => {
      await app.session.whenEncoded();
      await app.whenMasked();
      const selected = selectedObject(app.document);
      const shape = selected === null ? null : app.answers.shapeOf(selected);
      if (shape === null) throw new Error("no object with a mask is selected");
      const { size, counts } = maskToRle(maskOfShape(shape));
      return { width: size[1], height: size[0], counts };
    },
    clientPoint: (x, y) => stage.clientPoint(x, y),
  };
  Object.defineProperty(window, "mobileSam", { value: Object.freeze(hook) });
}

function stateOf(app: App, stage: Stage): unknown {
  const { picture, document, session, answers, history } = app;
  const { runtime, progress, isEncoded, error } = session.state;
  return {
    picture:
      picture === null ? null : { name: picture.fileName, width: picture.width, height: picture.height },
    runtime,
    progress,
    error,
    isModelReady: runtime !== null,
    isEncoded,
    isBusy: app.isBusy,
    tool: app.tool,
    selectedId: document.selectedId,
    objects: document.objects.map((object) => ({
      id: object.id,
      name: object.name,
      isVisible: object.isVisible,
      clicks: object.prompt.clicks,
      box: object.prompt.box ?? null,
      token: answers.tokenOf(object),
      score: answers.scoreOf(object),
      areaPx: answers.shapeOf(object)?.areaPx ?? null,
    })),
    numFound: document.found.length,
    pickedFound: document.picked === null ? null : document.found.indexOf(document.picked),
    hasHover: stage.passing.hover !== null,
    crosshair: stage.passing.crosshair,
    view: stage.view,
    canUndo: history.canUndo,
    canRedo: history.canRedo,
  };
}
