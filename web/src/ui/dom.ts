/** Small steps with the page's elements. */

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id, which must be of this kind. */
export function byId<T extends HTMLElement>(id: string, kind: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`index.html has no ${kind.name} with id "${id}"`);
  return found;
}

/** A new element with properties and children. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Partial<HTMLElementTagNameMap[K]> = {},
  ...children: readonly (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** An icon of the sprite in index.html. */
export function icon(name: string): SVGSVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(SVG, "use"));
  setIcon(svg, name);
  return svg;
}

/** Show another icon. */
export function setIcon(svg: Element, name: string): void {
  svg.querySelector("use")?.setAttribute("href", `#icon-${name}`);
}

/** A button that shows an icon and says `label`. */
export function iconButton(iconName: string, label: string, onClick: () => void): HTMLButtonElement {
  const button = make("button", { type: "button", className: "icon-button", title: label, onclick: onClick });
  button.setAttribute("aria-label", label);
  button.append(icon(iconName));
  return button;
}

/** Do something at each click of the button with this id. */
export function onButton(id: string, action: () => void): HTMLButtonElement {
  const button = byId(id, HTMLButtonElement);
  button.addEventListener("click", action);
  return button;
}

/** Say whether a toggle button is on. */
export function setPressed(button: HTMLButtonElement, isPressed: boolean): void {
  button.setAttribute("aria-pressed", String(isPressed));
}

/** A canvas that is in no page. */
export function makeCanvas(
  width: number,
  height: number,
): [OffscreenCanvas, OffscreenCanvasRenderingContext2D] {
  const canvas = new OffscreenCanvas(Math.max(1, width), Math.max(1, height));
  return [canvas, contextOf(canvas)];
}

/** What one draws with on such a canvas. */
export function contextOf(canvas: OffscreenCanvas): OffscreenCanvasRenderingContext2D {
  const context = canvas.getContext("2d");
  if (context === null) throw new Error("This browser cannot draw; it may be out of memory.");
  return context;
}

/** What an error says to the visitor. */
export function messageOf(error: unknown): string {
  return error instanceof Error && error.message !== "" ? error.message : String(error);
}

/** Whether the work was given up on purpose. */
export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}
