/** The status line: what the model does, what the visitor can do next, where the model runs. */

import { progressText, type Announcer } from "./announce.ts";
import type { App } from "./app.ts";
import { byId, onButton } from "./dom.ts";

/** Keep the line up to date. */
export function setUpStatus(app: App, announcer: Announcer): void {
  const runtime = byId("runtime", HTMLElement);
  const stage = byId("stage", HTMLElement);
  const busy = byId("busy", HTMLElement);
  const retry = onButton("retry", () => app.start(app.choice));
  let last = "";
  const say = (key: string, text: string) => {
    if (key !== last) announcer.say(text);
    last = key;
  };
  app.onChange(() => {
    const { session, picture } = app;
    const state = session.state;
    announcer.showProgress(state.progress);
    runtime.textContent =
      state.runtime?.text ?? (state.progress === null ? "" : progressText(state.progress));
    retry.hidden = state.error === null;
    document.documentElement.dataset["model"] = modelState(app);
    const isWaiting = app.isBusy || state.progress?.stage === "encode";
    stage.setAttribute("aria-busy", String(isWaiting));
    busy.hidden = !isWaiting || picture === null;
    if (state.error !== null) say(`error ${state.error}`, state.error);
    else if (state.runtime === null && picture === null) say("loading", "Loading the model …");
    else if (state.runtime === null)
      say("waiting", "You can click already; masks come when the model is ready.");
    else if (picture === null) say("ready", "The model is ready: open a picture.");
    else if (!state.isEncoded) say(`encoding ${app.pictureNumber}`, "Looking at the picture …");
    else say(`encoded ${app.pictureNumber}`, "Click an object, or drag a box around it.");
  });
}

function modelState(app: App): string {
  const { error, runtime, isEncoded } = app.session.state;
  if (error !== null) return "failed";
  if (runtime === null) return "loading";
  return isEncoded ? "encoded" : "ready";
}
