import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { beforeEach, test } from "node:test";

import { FILE_CACHE, type FileTable, getFiles } from "../src/engine/files.ts";
import { Hovering } from "../src/engine/hovering.ts";

const BASE = "https://host/page/";
const content = Uint8Array.from({ length: 1000 }, (_, i) => i % 251);
const sha256 = createHash("sha256").update(content).digest("hex");
const table: FileTable = { "models/one": { bytes: 1000, sha256 } };
const key = `${BASE}models/one?sha256=${sha256}`;

let cached: Map<string, Uint8Array>;
let numFetched: number;

/** A host that answers with these bytes, in pieces of 400. */
function hostWith(bytes: Uint8Array, status = 200): void {
  const pieces = [0, 400, 800].map((start) => bytes.slice(start, start + 400));
  globalThis.fetch = async () => {
    numFetched++;
    return new Response(new Blob(pieces as BlobPart[]).stream(), { status });
  };
}

beforeEach(() => {
  cached = new Map();
  numFetched = 0;
  const cache = {
    match: async (url: string) => cached.get(url) && new Response(cached.get(url) as BodyInit),
    put: async (url: string, response: Response) => {
      cached.set(url, new Uint8Array(await response.arrayBuffer()));
    },
    keys: async () => Array.from(cached.keys(), (url) => ({ url })),
    delete: async (url: string) => cached.delete(url),
  };
  const open = async (name: string): Promise<object> => (assert.equal(name, FILE_CACHE), cache);
  Object.defineProperty(globalThis, "caches", { value: { open }, configurable: true });
});

test("a file is downloaded once, with its bytes counted, and comes from the cache afterwards", async () => {
  hostWith(content);
  const told: [number, number][] = [];
  const [file] = await getFiles(["models/one"], table, BASE, (done, total) => told.push([done, total]));
  assert.deepEqual(file, content);
  assert.deepEqual(told.at(-1), [1000, 1000]);
  assert.deepEqual([...cached.keys()], [key]);
  assert.deepEqual(await getFiles(["models/one"], table, BASE, () => undefined), [content]);
  assert.equal(numFetched, 1);
});

test("older versions of the page's files are dropped, those of other pages are not", async () => {
  hostWith(content);
  cached.set(`${BASE}models/one?sha256=old`, content);
  cached.set(`${BASE}other/models/one?sha256=old`, content);
  await getFiles(["models/one"], table, BASE, () => undefined);
  assert.deepEqual([...cached.keys()], [`${BASE}other/models/one?sha256=old`, key]);
});

const damaged = content.slice();
damaged[500]! ^= 1;

for (const [name, bytes, status, message] of [
  ["is cut off", content.slice(0, 700), 200, /one came with 700 of 1000 bytes/],
  ["is too long", Uint8Array.from([...content, 1]), 200, /one came with 1001 of 1000 bytes/],
  ["is damaged", damaged, 200, /one is damaged or of another version/],
  ["is not there", content, 404, /one could not be downloaded: the host answers 404/],
] as const) {
  test(`a file that ${name} is refused in words and not kept`, async () => {
    hostWith(bytes, status);
    await assert.rejects(getFiles(["models/one"], table, BASE, () => undefined), message);
    assert.equal(cached.size, 0);
  });
}

test("without a network the error asks about it", async () => {
  globalThis.fetch = () => Promise.reject(new TypeError("Failed to fetch"));
  await assert.rejects(getFiles(["models/one"], table, BASE, () => undefined), /is the device offline/);
});

test("of hovers that come while one is asked only the latest gets its turn", async () => {
  const asked: number[] = [];
  const answers: (() => void)[] = [];
  const mask = { width: 1, height: 1, data: new Uint8Array(1) };
  const hovering = new Hovering((x) => {
    asked.push(x);
    return new Promise((resolve) => answers.push(() => resolve(mask)));
  });
  const hovers = [1, 2, 3].map((x) => hovering.hover(x, 0));
  answers[0]!();
  assert.deepEqual([await hovers[0], await hovers[1]], [mask, null]);
  await new Promise((resolve) => setTimeout(resolve, 0));
  answers[1]!();
  assert.equal(await hovers[2], mask);
  assert.deepEqual(asked, [1, 3]);
});

test("during other work no hover is asked for, and the one that waits is told so", async () => {
  const asked: number[] = [];
  const answers: (() => void)[] = [];
  const hovering = new Hovering((x) => {
    asked.push(x);
    return new Promise((resolve) => answers.push(() => resolve(null)));
  });
  const running = hovering.hover(1, 0);
  const waiting = hovering.hover(2, 0);
  let done = (): void => undefined;
  const work = hovering.yieldTo(() => new Promise<string>((resolve) => (done = () => resolve("done"))));
  assert.equal(await waiting, null);
  assert.equal(await hovering.hover(3, 0), null);
  answers[0]!();
  await running;
  done();
  assert.equal(await work, "done");
  const after = hovering.hover(4, 0);
  answers[1]!();
  await after;
  assert.deepEqual(asked, [1, 4]);
});
