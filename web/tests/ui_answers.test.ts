import assert from "node:assert/strict";
import test from "node:test";

import type { Candidate, Prompt } from "../src/types.ts";
import { Answers, bestToken } from "../src/ui/answers.ts";
import {
  EMPTY_DOCUMENT,
  addClick,
  chooseToken,
  selectedObject,
  type PageObject,
} from "../src/ui/document.ts";

const CLICK = { x: 0, y: 0, isForeground: true };
const SCORES = [0.99, 0.5, 0.8, 0.7];

/** Candidates whose mask for token t has t + 1 pixels. */
function candidates(): Candidate[] {
  return ([0, 1, 2, 3] as const).map((token) => ({
    token,
    score: SCORES[token] ?? 0,
    mask: async () => ({
      width: 4,
      height: 1,
      data: Uint8Array.from([0, 1, 2, 3], (x) => (x <= token ? 1 : 0)),
    }),
  }));
}

function clicked(numClicks = 1): PageObject {
  let document = EMPTY_DOCUMENT;
  for (let click = 0; click < numClicks; click++) document = addClick(document, CLICK);
  return selectedObject(document) as PageObject;
}

test("a lone click means the best of three masks, all else the single mask", () => {
  const box = { x1: 0, y1: 0, x2: 1, y2: 1 };
  const cases: [Prompt, number][] = [
    [{ clicks: [CLICK] }, 2],
    [{ clicks: [CLICK, CLICK] }, 0],
    [{ clicks: [], box }, 0],
    [{ clicks: [CLICK], box }, 0],
  ];
  for (const [prompt, token] of cases) assert.equal(bestToken(prompt, candidates()), token);
});

test("three candidates are offered for a lone click, four for more", async () => {
  for (const [numClicks, tokens] of [
    [1, [1, 2, 3]],
    [2, [0, 1, 2, 3]],
  ] as const) {
    const answers = new Answers(async () => candidates());
    const object = clicked(numClicks);
    await answers.compute(object);
    assert.deepEqual(
      answers.candidatesOf(object).map((view) => view.token),
      tokens,
    );
  }
});

test("the same prompt is asked once, also when another candidate is chosen", async () => {
  let numAsked = 0;
  const answers = new Answers(async () => {
    numAsked++;
    return candidates();
  });
  const document = addClick(EMPTY_DOCUMENT, CLICK);
  await answers.compute(selectedObject(document) as PageObject);
  const chosen = selectedObject(chooseToken(document, 3)) as PageObject;
  assert.equal(answers.isMissing(chosen), true);
  await answers.compute(chosen);
  assert.equal(answers.shapeOf(chosen)?.areaPx, 4);
  assert.equal(numAsked, 1);
});

test("a prompt that failed is not asked for again until failures are forgotten", async () => {
  const answers = new Answers(async () => Promise.reject(new Error("no model")));
  const object = clicked();
  await assert.rejects(answers.compute(object), /no model/);
  assert.equal(answers.isMissing(object), false);
  answers.forgetFailures();
  assert.equal(answers.isMissing(object), true);
});

test("answers to objects of the document are never forgotten, old ones of others are", async () => {
  const answers = new Answers(async () => candidates());
  const kept = clicked();
  await answers.compute(kept);
  const others = Array.from({ length: 60 }, () => clicked());
  for (const other of others) await answers.compute(other);
  answers.trim([kept]);
  assert.equal(answers.isMissing(kept), false);
  assert.equal(answers.isMissing(others[0] as PageObject), true);
  assert.equal(answers.isMissing(others[59] as PageObject), false);
});
