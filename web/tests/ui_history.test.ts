import assert from "node:assert/strict";
import test from "node:test";

import { History } from "../src/ui/history.ts";

test("undo and redo go through the steps in order", () => {
  const history = new History("a");
  history.commit("b");
  history.commit("c");
  const seen: string[] = [];
  while (history.undo()) seen.push(history.present);
  while (history.redo()) seen.push(history.present);
  assert.deepEqual(seen, ["b", "a", "b", "c"]);
});

test("a new step after an undo drops what was undone", () => {
  const history = new History("a");
  history.commit("b");
  history.undo();
  history.commit("c");
  assert.equal(history.redo(), false);
  history.undo();
  assert.equal(history.present, "a");
});

test("the same value again is no step", () => {
  const history = new History("a");
  history.commit("a");
  assert.equal(history.canUndo, false);
});

test("amending changes the present and leaves the steps alone", () => {
  const history = new History("a");
  history.commit("b");
  history.amend("b, selected");
  assert.equal(history.present, "b, selected");
  history.undo();
  assert.equal(history.present, "a");
});

test("only so many steps are kept", () => {
  const history = new History(0);
  for (let step = 1; step <= 1000; step++) history.commit(step);
  let numUndone = 0;
  while (history.undo()) numUndone++;
  assert.ok(numUndone >= 100 && numUndone < 1000, `${numUndone} steps`);
  assert.equal(history.present, 1000 - numUndone);
});
