/** The list of objects. */

import type { App } from "./app.ts";
import { hasMask, type PageObject } from "./document.ts";
import { byId, icon, iconButton, make, onButton, setIcon, setPressed } from "./dom.ts";
import { colourOf, cssColour } from "./palette.ts";

interface Row {
  readonly item: HTMLLIElement;
  readonly select: HTMLButtonElement;
  readonly name: HTMLInputElement;
  readonly detail: HTMLElement;
  readonly eye: HTMLButtonElement;
  readonly remove: HTMLButtonElement;
}

/** Keep the list as the document is; rows stay the same elements, so that the focus stays. */
export function setUpObjects(app: App): void {
  const list = byId("objects", HTMLUListElement);
  const empty = byId("objects-empty", HTMLElement);
  const newObject = onButton("new-object", () => {
    app.newObject();
    byId("canvas", HTMLCanvasElement).focus({ preventScroll: true });
  });
  const rows = new Map<number, Row>();
  let pictureNumber = 0;
  app.onChange(() => {
    if (app.pictureNumber !== pictureNumber) {
      pictureNumber = app.pictureNumber;
      rows.clear();
      list.replaceChildren();
    }
    const { objects, selectedId } = app.document;
    const ids = new Set(objects.map((object) => object.id));
    for (const [id, row] of rows) {
      if (ids.has(id)) continue;
      rows.delete(id);
      removeRow(row, newObject);
    }
    objects.forEach((object, index) => {
      const row = rows.get(object.id) ?? makeRow(app, object);
      rows.set(object.id, row);
      if (list.children[index] !== row.item) list.insertBefore(row.item, list.children[index] ?? null);
      showRow(app, row, object, object.id === selectedId);
    });
    empty.hidden = objects.length > 0;
    newObject.disabled = app.picture === null || objects.length === 0;
  });
}

/** The focus must not be lost with the button that was pressed. */
function removeRow(row: Row, newObject: HTMLButtonElement): void {
  const neighbour = row.item.nextElementSibling ?? row.item.previousElementSibling;
  const hadFocus = row.item.contains(document.activeElement);
  row.item.remove();
  if (!hadFocus) return;
  const next = neighbour?.querySelector<HTMLButtonElement>(".object-select") ?? byId("canvas", HTMLElement);
  (next.isConnected ? next : newObject).focus();
}

function makeRow(app: App, { id, colour }: PageObject): Row {
  const swatch = make("span", { className: "swatch" });
  swatch.style.backgroundColor = cssColour(colourOf(colour));
  const select = make(
    "button",
    { type: "button", className: "object-select", onclick: () => app.select(id) },
    swatch,
  );
  const name = make("input", { type: "text", className: "object-name", maxLength: 80, spellcheck: false });
  name.autocomplete = "off";
  name.addEventListener("change", () => app.rename(id, name.value));
  name.addEventListener("keydown", (event) => {
    if (event.key === "Enter") name.blur();
  });
  const detail = make("span", { className: "object-detail" });
  const eye = iconButton("eye", "", () => app.toggle(id));
  const remove = iconButton("trash", "", () => app.remove(id));
  const text = make("div", { className: "object-text" }, name, detail);
  const item = make("li", { className: "object" }, select, text, eye, remove);
  item.dataset["testid"] = `object-${id}`;
  item.addEventListener("click", (event) => {
    if (event.target === item || event.target === detail || event.target === text) app.select(id);
  });
  return { item, select, name, detail, eye, remove };
}

function showRow(app: App, row: Row, object: PageObject, isSelected: boolean): void {
  row.item.classList.toggle("is-selected", isSelected);
  row.item.classList.toggle("is-hidden", !object.isVisible);
  setPressed(row.select, isSelected);
  label(row.select, `Go on with ${object.name}`);
  if (document.activeElement !== row.name) row.name.value = object.name;
  row.name.setAttribute("aria-label", `Name of ${object.name}`);
  row.detail.textContent = detailText(app, object);
  label(row.eye, object.isVisible ? `Hide ${object.name}` : `Show ${object.name}`);
  setIcon(row.eye.querySelector("svg") ?? icon("eye"), object.isVisible ? "eye" : "eye-off");
  label(row.remove, `Delete ${object.name}`);
}

function detailText(app: App, object: PageObject): string {
  if (!hasMask(object)) return "no mask yet";
  const shape = app.answers.shapeOf(object);
  if (shape === null) return app.answers.isMissing(object) ? "waiting …" : "no mask";
  if (shape.areaPx === 0) return "empty mask";
  const score = app.answers.scoreOf(object);
  const share = app.shareText(shape.areaPx).replace(" of the picture", "");
  return score === null ? share : `${share} · score ${score.toFixed(2)}`;
}

function label(button: HTMLButtonElement, text: string): void {
  if (button.title === text) return;
  button.title = text;
  button.setAttribute("aria-label", text);
}
