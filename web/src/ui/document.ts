/**
 * The document: the objects of a picture and what the visitor said of them. Values that never change, for
 * undo.
 */

import type { Box, Candidate, Click, FoundMask, Prompt } from "../types.ts";

/** One of the decoder's masks. */
export type Token = Candidate["token"];

/** An object that the visitor marked, or kept from what everything mode found. */
export interface PageObject {
  readonly id: number;
  readonly name: string;
  /** Index into the palette. */
  readonly colour: number;
  readonly isVisible: boolean;
  readonly prompt: Prompt;
  /** The candidate that the visitor chose; null takes the one that is best by SAM's rule. */
  readonly token: Token | null;
  /** The mask of an object kept from everything mode, until it is refined. */
  readonly found: FoundMask | null;
}

/** All that undo brings back. */
export interface PageDocument {
  readonly objects: readonly PageObject[];
  readonly selectedId: number | null;
  readonly nextId: number;
  /** What everything mode found and was neither kept nor deleted yet. */
  readonly found: readonly FoundMask[];
  readonly picked: FoundMask | null;
  readonly isFoundVisible: boolean;
}

export const NO_PROMPT: Prompt = { clicks: [] };

export const EMPTY_DOCUMENT: PageDocument = {
  objects: [],
  selectedId: null,
  nextId: 1,
  found: [],
  picked: null,
  isFoundVisible: true,
};

/** Whether nothing was said. */
export function isEmptyPrompt(prompt: Prompt): boolean {
  return prompt.clicks.length === 0 && prompt.box === undefined;
}

/** Whether the object has a mask, or will have one. */
export function hasMask(object: PageObject): boolean {
  return object.found !== null || !isEmptyPrompt(object.prompt);
}

/** The selected object, or null. */
export function selectedObject(document: PageDocument): PageObject | null {
  return document.objects.find((object) => object.id === document.selectedId) ?? null;
}

/** A click for the selected object; a new object if none is selected. */
export function addClick(document: PageDocument, click: Click): PageDocument {
  return editPrompt(document, (prompt) => ({ ...prompt, clicks: [...prompt.clicks, click] }));
}

/** A box for the selected object in place of its earlier one; a new object if none is selected. */
export function setBox(document: PageDocument, box: Box): PageDocument {
  return editPrompt(document, (prompt) => ({ ...prompt, box }));
}

/** Take back all that was said of the selected object; it keeps its name and colour. */
export function clearPrompt(document: PageDocument): PageDocument {
  const selected = selectedObject(document);
  if (selected === null || !hasMask(selected)) return document;
  return replaceObject(document, { ...selected, prompt: NO_PROMPT, token: null, found: null });
}

/** Let another candidate be the selected object's mask. */
export function chooseToken(document: PageDocument, token: Token): PageDocument {
  const selected = selectedObject(document);
  return selected === null ? document : replaceObject(document, { ...selected, token });
}

/** Give an object another name; blanks alone are none. */
export function renameObject(document: PageDocument, id: number, name: string): PageDocument {
  const object = document.objects.find((candidate) => candidate.id === id);
  const trimmed = name.trim();
  if (object === undefined || trimmed === "" || trimmed === object.name) return document;
  return replaceObject(document, { ...object, name: trimmed });
}

/** Show an object that is hidden, hide one that is shown. */
export function toggleObject(document: PageDocument, id: number): PageDocument {
  const object = document.objects.find((candidate) => candidate.id === id);
  return object === undefined
    ? document
    : replaceObject(document, { ...object, isVisible: !object.isVisible });
}

/** Remove an object. */
export function removeObject(document: PageDocument, id: number): PageDocument {
  const objects = document.objects.filter((object) => object.id !== id);
  return { ...document, objects, selectedId: document.selectedId === id ? null : document.selectedId };
}

/** Select an object, or none: then the next click begins a new one. */
export function selectObject(document: PageDocument, id: number | null): PageDocument {
  return { ...document, selectedId: id, picked: null };
}

/** Make objects of found masks; the last one is selected if it is the only one. */
export function keepFound(document: PageDocument, kept: readonly FoundMask[]): PageDocument {
  let next = dropFound(document, kept);
  for (const found of kept) next = addObject(next, { found });
  return kept.length === 1 ? next : { ...next, selectedId: document.selectedId };
}

/** Forget found masks. */
export function dropFound(document: PageDocument, dropped: readonly FoundMask[]): PageDocument {
  const gone = new Set(dropped);
  return { ...document, found: document.found.filter((mask) => !gone.has(mask)), picked: null };
}

function editPrompt(document: PageDocument, edit: (prompt: Prompt) => Prompt): PageDocument {
  const selected = selectedObject(document);
  if (selected === null) return addObject(document, { prompt: edit(NO_PROMPT) });
  const prompt = selected.found === null ? selected.prompt : boxPrompt(selected.found);
  return replaceObject(document, {
    ...selected,
    prompt: edit(prompt),
    token: null,
    found: null,
    isVisible: true,
  });
}

/** To refine a found mask, SAM begins with its box. */
function boxPrompt(found: FoundMask): Prompt {
  const [x, y, width, height] = found.bbox;
  return { clicks: [], box: { x1: x, y1: y, x2: x + width, y2: y + height } };
}

function addObject(document: PageDocument, part: Partial<PageObject>): PageDocument {
  const id = document.nextId;
  const object: PageObject = {
    id,
    name: `Object ${id}`,
    colour: id - 1,
    isVisible: true,
    prompt: NO_PROMPT,
    token: null,
    found: null,
    ...part,
  };
  return {
    ...document,
    objects: [...document.objects, object],
    selectedId: id,
    nextId: id + 1,
    picked: null,
  };
}

function replaceObject(document: PageDocument, object: PageObject): PageDocument {
  return { ...document, objects: document.objects.map((other) => (other.id === object.id ? object : other)) };
}
