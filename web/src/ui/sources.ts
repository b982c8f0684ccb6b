/** Where pictures come from: files, dropping, the clipboard, examples. */

import type { Announcer } from "./announce.ts";
import type { App } from "./app.ts";
import { byId, make, messageOf, onButton } from "./dom.ts";

const EXAMPLES = [
  { file: "cat", label: "Cat" },
  { file: "coffee", label: "Coffee" },
  { file: "astronaut", label: "Astronaut" },
  { file: "rocket", label: "Rocket" },
] as const;

/** Wire all of them but the camera. */
export function setUpSources(app: App, announcer: Announcer): void {
  setUpFile(app);
  setUpDrop(app, announcer);
  setUpPaste(app, announcer);
  setUpExamples(app, announcer);
}

function setUpFile(app: App): void {
  const file = byId("file", HTMLInputElement);
  for (const id of ["open", "start-open"]) onButton(id, () => file.click());
  file.addEventListener("change", () => {
    const chosen = file.files?.[0];
    if (chosen !== undefined) void app.open(chosen, chosen.name);
    file.value = "";
  });
}

function setUpDrop(app: App, announcer: Announcer): void {
  const veil = byId("drop-veil", HTMLElement);
  const hasFiles = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
  window.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    veil.hidden = false;
  });
  window.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) veil.hidden = true;
  });
  window.addEventListener("drop", (event) => {
    veil.hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    const files = [...(event.dataTransfer?.files ?? [])];
    const dropped = files.find((file) => file.type.startsWith("image/")) ?? files[0];
    if (dropped === undefined) announcer.tell("Nothing that was dropped is a file.", "error");
    else void app.open(dropped, dropped.name);
  });
}

function setUpPaste(app: App, announcer: Announcer): void {
  // A middle click pastes too on some systems; only who pressed the keys is told that nothing came of it.
  let isByKeys = false;
  window.addEventListener("keydown", (event) => {
    isByKeys = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "v";
  });
  window.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((other) => other.type.startsWith("image/"));
    if (file === undefined) {
      const isTyping = event.target instanceof HTMLInputElement;
      if (isByKeys && !isTyping) announcer.tell("There is no picture on the clipboard.", "error");
      isByKeys = false;
      return;
    }
    event.preventDefault();
    void app.open(file, file.name === "" ? "pasted.png" : file.name);
  });
  onButton("paste", () => void pasteByButton(app, announcer));
}

async function pasteByButton(app: App, announcer: Announcer): Promise<void> {
  if (!("clipboard" in navigator) || !("read" in navigator.clipboard)) {
    announcer.tell("This browser gives pages no clipboard by a button; press Ctrl+V instead.", "error");
    return;
  }
  try {
    for (const item of await navigator.clipboard.read()) {
      const type = item.types.find((name) => name.startsWith("image/"));
      if (type !== undefined) return await app.open(await item.getType(type), "pasted.png");
    }
    announcer.tell("There is no picture on the clipboard.", "error");
  } catch {
    announcer.tell("The clipboard could not be read: allow it, or press Ctrl+V.", "error");
  }
}

function setUpExamples(app: App, announcer: Announcer): void {
  const dialog = byId("examples-dialog", HTMLDialogElement);
  onButton("examples", () => dialog.showModal());
  for (const list of document.querySelectorAll("[data-examples]")) {
    list.replaceChildren(
      ...EXAMPLES.map(({ file, label }) => {
        const thumbnail = make("img", { src: exampleUrl(`${file}_small`), alt: "", width: 88, height: 88 });
        const open = () => {
          dialog.close();
          void openExample(app, announcer, file);
        };
        const button = make(
          "button",
          { type: "button", className: "example", onclick: open },
          thumbnail,
          label,
        );
        button.dataset["testid"] = `example-${file}`;
        return button;
      }),
    );
  }
}

async function openExample(app: App, announcer: Announcer, file: string): Promise<void> {
  try {
    const response = await fetch(exampleUrl(file));
    if (!response.ok) throw new Error(`The example could not be loaded (${response.status}).`);
    await app.open(await response.blob(), `${file}.jpg`);
  } catch (error) {
    announcer.tell(messageOf(error), "error");
  }
}

function exampleUrl(file: string): string {
  return new URL(`examples/${file}.jpg`, document.baseURI).href;
}
