import assert from "node:assert/strict";
import test from "node:test";

import type { FoundMask } from "../src/types.ts";
import * as doc from "../src/ui/document.ts";

const CLICK = { x: 3, y: 4, isForeground: true };
const BOX = { x1: 1, y1: 2, x2: 5, y2: 6 };

function foundMask(areaPx: number): FoundMask {
  const rle = { size: [4, 4], counts: [0, 16] } as const;
  return { rle, bbox: [1, 2, 3, 4], areaPx, predictedIou: 0.9, stabilityScore: 0.95 };
}

test("the first click makes an object and selects it, the next one refines it", () => {
  const first = doc.addClick(doc.EMPTY_DOCUMENT, CLICK);
  const second = doc.addClick(first, { ...CLICK, isForeground: false });
  assert.equal(second.objects.length, 1);
  assert.deepEqual(
    doc.selectedObject(second)?.prompt.clicks.map((click) => click.isForeground),
    [true, false],
  );
});

test("with no object selected a click begins another one with a colour and name of its own", () => {
  const first = doc.addClick(doc.EMPTY_DOCUMENT, CLICK);
  const second = doc.addClick(doc.selectObject(first, null), CLICK);
  assert.equal(second.objects.length, 2);
  assert.equal(new Set(second.objects.map((object) => object.colour)).size, 2);
  assert.equal(new Set(second.objects.map((object) => object.name)).size, 2);
});

test("a box takes the place of the earlier box and leaves the clicks", () => {
  const clicked = doc.addClick(doc.EMPTY_DOCUMENT, CLICK);
  const boxed = doc.setBox(doc.setBox(clicked, { ...BOX, x2: 9 }), BOX);
  assert.deepEqual(doc.selectedObject(boxed)?.prompt, { clicks: [CLICK], box: BOX });
});

test("a further click takes back the choice of a candidate", () => {
  const chosen = doc.chooseToken(doc.addClick(doc.EMPTY_DOCUMENT, CLICK), 3);
  assert.equal(doc.selectedObject(chosen)?.token, 3);
  assert.equal(doc.selectedObject(doc.addClick(chosen, CLICK))?.token, null);
});

test("clearing leaves name and colour and no mask", () => {
  const named = doc.renameObject(doc.addClick(doc.EMPTY_DOCUMENT, CLICK), 1, "  cup ");
  const cleared = doc.clearPrompt(named);
  const selected = doc.selectedObject(cleared);
  assert.equal(selected?.name, "cup");
  assert.ok(selected !== null && !doc.hasMask(selected));
});

test("clearing what is empty and renaming to blanks are no change", () => {
  const one = doc.clearPrompt(doc.addClick(doc.EMPTY_DOCUMENT, CLICK));
  assert.equal(doc.clearPrompt(one), one);
  assert.equal(doc.renameObject(one, 1, "   "), one);
});

test("removing the selected object selects none; numbers are not given twice", () => {
  const removed = doc.removeObject(doc.addClick(doc.EMPTY_DOCUMENT, CLICK), 1);
  assert.equal(removed.selectedId, null);
  assert.equal(doc.addClick(removed, CLICK).selectedId, 2);
});

test("a found mask that is kept becomes an object and leaves the group", () => {
  const [small, large] = [foundMask(3), foundMask(9)];
  const kept = doc.keepFound({ ...doc.EMPTY_DOCUMENT, found: [small, large], picked: small }, [small]);
  assert.deepEqual(kept.found, [large]);
  assert.equal(kept.picked, null);
  assert.equal(doc.selectedObject(kept)?.found, small);
});

test("refining a kept mask begins with its box", () => {
  const mask = foundMask(3);
  const kept = doc.keepFound({ ...doc.EMPTY_DOCUMENT, found: [mask] }, [mask]);
  const refined = doc.selectedObject(doc.addClick(kept, CLICK));
  assert.equal(refined?.found, null);
  assert.deepEqual(refined?.prompt, { clicks: [CLICK], box: { x1: 1, y1: 2, x2: 4, y2: 6 } });
});
