import assert from "node:assert/strict";
import test from "node:test";

import { fitView, panBy, reveal, toPicture, toView, zoomAt } from "../src/ui/view_transform.ts";

const PICTURE = { width: 400, height: 200 };
const CANVAS = { width: 800, height: 600 };

function assertNear(actual: { x: number; y: number }, expected: { x: number; y: number }): void {
  assert.ok(
    Math.hypot(actual.x - expected.x, actual.y - expected.y) < 1e-9,
    JSON.stringify({ actual, expected }),
  );
}

test("a fitted picture is centred and wholly on the canvas", () => {
  const view = fitView(PICTURE, CANVAS);
  assertNear(toView(view, { x: 200, y: 100 }), { x: 400, y: 300 });
  const corner = toView(view, { x: 0, y: 0 });
  assert.ok(corner.x >= 0 && corner.y >= 0);
});

test("points return from the canvas to where they were in the picture", () => {
  const view = { scale: 1.7, x: -31, y: 12 };
  assertNear(toPicture(view, toView(view, { x: 12.5, y: 99 })), { x: 12.5, y: 99 });
});

test("what is under the pointer stays there while zooming", () => {
  const pointer = { x: 500, y: 350 };
  const before = fitView(PICTURE, CANVAS);
  for (const factor of [1.3, 4, 0.8]) {
    const after = zoomAt(before, factor, pointer, PICTURE, CANVAS);
    assertNear(toPicture(after, pointer), toPicture(before, pointer));
    assert.ok(Math.abs(after.scale / before.scale - factor) < 1e-9);
  }
});

test("however far it is dragged, some of the picture stays in sight", () => {
  for (const [dx, dy] of [
    [1e5, 1e5],
    [-1e5, -1e5],
    [1e5, -1e5],
  ] as const) {
    const view = panBy(fitView(PICTURE, CANVAS), dx, dy, PICTURE, CANVAS);
    const start = toView(view, { x: 0, y: 0 });
    const end = toView(view, { x: PICTURE.width, y: PICTURE.height });
    assert.ok(start.x < CANVAS.width && end.x > 0 && start.y < CANVAS.height && end.y > 0);
  }
});

test("zoom has an end on both sides", () => {
  let view = fitView(PICTURE, CANVAS);
  for (let step = 0; step < 100; step++) view = zoomAt(view, 2, { x: 0, y: 0 }, PICTURE, CANVAS);
  assert.ok(view.scale <= 64);
  for (let step = 0; step < 100; step++) view = zoomAt(view, 0.5, { x: 0, y: 0 }, PICTURE, CANVAS);
  assert.ok(view.scale > 0.1);
});

test("a point that is out of sight is brought onto the canvas; one that is there moves nothing", () => {
  const far = { scale: 10, x: 0, y: 0 };
  const at = toView(reveal(far, { x: 399, y: 199 }, CANVAS), { x: 399, y: 199 });
  assert.ok(at.x > 0 && at.x < CANVAS.width && at.y > 0 && at.y < CANVAS.height);
  assert.deepEqual(reveal(far, { x: 40, y: 30 }, CANVAS), far);
});
