/** Where the model runs: on this device, or on a server if the visitor asks for that. */

import type { EngineChoice } from "../engine/index.ts";
import type { Announcer } from "./announce.ts";
import type { App } from "./app.ts";
import { byId, onButton } from "./dom.ts";

/** What the page's address says of the model. */
export interface AddressChoice {
  readonly choice: EngineChoice;
  /** A server that the visitor may choose; null if the address names none. */
  readonly offeredServer: string | null;
}

/** Read `?where=wasm`, `?where=webgpu` and `?server`, `?server=https://...` off the page's address. */
export function readAddress(address: string): AddressChoice {
  const { searchParams, href } = new URL(address);
  const where = searchParams.get("where");
  const server = searchParams.get("server");
  return {
    choice: { where: where === "wasm" || where === "webgpu" ? where : "auto" },
    offeredServer: server === null ? null : server === "" ? new URL(".", href).href : server,
  };
}

/** A server's address in full; throws what is wrong with it. */
export function checkServerUrl(text: string, pageUrl: string): string {
  let url: URL;
  try {
    url = new URL(text.trim());
  } catch {
    throw new Error(
      "Give the server's whole address, such as https://example.org/ or http://127.0.0.1:8000/.",
    );
  }
  const isNear =
    url.hostname === "localhost" || url.hostname === "127.0.0.1" || url.origin === new URL(pageUrl).origin;
  if (url.protocol === "https:" || (url.protocol === "http:" && isNear))
    return `${url.origin}${url.pathname}`;
  throw new Error(
    "Pictures go to a server by https only, except on this device (127.0.0.1) and the page's own server.",
  );
}

/** Wire the settings dialog and the line that says where pictures go. */
export function setUpSettings(app: App, announcer: Announcer, offeredServer: string | null): void {
  const dialog = byId("settings-dialog", HTMLDialogElement);
  const form = byId("settings-form", HTMLFormElement);
  const local = byId("where-local", HTMLInputElement);
  const server = byId("where-server", HTMLInputElement);
  const device = byId("device", HTMLSelectElement);
  const url = byId("server-url", HTMLInputElement);
  const token = byId("server-token", HTMLInputElement);
  const problem = byId("settings-problem", HTMLElement);
  const showFields = () => {
    byId("server-fields", HTMLFieldSetElement).disabled = !server.checked;
    device.disabled = !local.checked;
  };
  const open = () => {
    const { choice } = app;
    (choice.where === "server" ? server : local).checked = true;
    if (choice.where !== "server") device.value = choice.where;
    url.value ||= offeredServer ?? "";
    problem.textContent = "";
    showFields();
    dialog.showModal();
  };
  onButton("settings", open);
  local.addEventListener("change", showFields);
  server.addEventListener("change", showFields);
  onButton("this-server", () => (url.value = new URL(".", document.baseURI).href));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    try {
      app.start(local.checked ? deviceChoice(device.value) : serverChoice(url.value, token.value));
      dialog.close();
    } catch (error) {
      problem.textContent = error instanceof Error ? error.message : String(error);
      url.focus();
    }
  });
  if (offeredServer !== null) {
    const action = { label: "Open the settings", run: open };
    announcer.tell(`A server is offered for slow devices: ${offeredServer}`, "notice", action);
  }
  const privacy = byId("privacy", HTMLElement);
  app.onChange(() => {
    const { choice } = app;
    const isLocal = choice.where !== "server";
    privacy.classList.toggle("is-server", !isLocal);
    const text = isLocal
      ? "Nothing leaves this device."
      : `Pictures are sent to ${new URL(choice.url).host}.`;
    const line = byId("privacy-text", HTMLElement);
    if (line.textContent !== text) line.textContent = text;
  });
}

function deviceChoice(value: string): EngineChoice {
  return { where: value === "wasm" || value === "webgpu" ? value : "auto" };
}

function serverChoice(url: string, token: string): EngineChoice {
  const checked = checkServerUrl(url, document.baseURI);
  return token.trim() === ""
    ? { where: "server", url: checked }
    : { where: "server", url: checked, token: token.trim() };
}
