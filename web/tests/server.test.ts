/** The server mode against a small HTTP server that answers as it is told. */

import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, beforeEach, test } from "node:test";

import { createSegmenter } from "../src/engine/index.ts";
import { EVERYTHING_DEFAULTS, type Segmenter } from "../src/types.ts";

type Reply = (response: ServerResponse, body: string) => void;

const picture = { width: 3, height: 2, data: new Uint8ClampedArray(24) } as unknown as ImageData;
const asked: { line: string; body: string; token: string | undefined }[] = [];
let replies: Record<string, Reply[]>;
let segmenter: Segmenter;

const RLE = { size: [2, 3], counts: [2, 3, 1] };

const json = (status: number, value: object, headers: Record<string, string> = {}): Reply => (response) => {
  response.writeHead(status, { "Content-Type": "application/json", ...headers }).end(JSON.stringify(value));
};
const uploaded = (id: string): Reply => json(201, { id, width: 3, height: 2 });
const masks = json(200, {
  objects: [{ masks: [0, 1, 2, 3].map((token) => ({ token, score: token / 4, rle: RLE })) }],
});

const server = createServer(async (request: IncomingMessage, response) => {
  let body = "";
  for await (const part of request.setEncoding("utf8")) {
    body += part as string;
  }
  const line = `${request.method} ${request.url}`;
  asked.push({ line, body, token: request.headers.authorization });
  const next = replies[line]?.shift() ?? json(500, { title: `not expected: ${line}` });
  next(response, body);
});

before(async () => {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  Object.assign(globalThis, { OffscreenCanvas: PaperCanvas });
});

after(() => {
  server.closeAllConnections();
  server.close();
});

beforeEach(() => {
  asked.length = 0;
  replies = {};
  const { port } = server.address() as AddressInfo;
  segmenter = createSegmenter({ where: "server", url: `http://127.0.0.1:${port}/below`, token: "secret" });
});

test("a picture is sent as PNG with the token, and the four candidates come with their masks", async () => {
  replies = { "POST /below/v1/embeddings": [uploaded("a")], "POST /below/v1/segment": [masks] };
  await segmenter.setPicture(picture);
  const box = { x1: 0, y1: 0, x2: 2, y2: 1 };
  const candidates = await segmenter.segment({ clicks: [{ x: 1, y: 1, isForeground: false }], box });
  assert.deepEqual(asked.map(({ token }) => token), ["Bearer secret", "Bearer secret"]);
  assert.equal(asked[0]!.body, "image/png of 3 x 2");
  assert.deepEqual(JSON.parse(asked[1]!.body), {
    image: "a",
    objects: [{ points: [[1, 1]], labels: [0], box: [0, 0, 2, 1] }],
    candidates: "all",
    output: "rle",
    counts_format: "plain",
  });
  assert.deepEqual(candidates.map(({ token }) => token), [0, 1, 2, 3]);
  assert.deepEqual(candidates.map(({ score }) => score), [0, 0.25, 0.5, 0.75]);
  assert.deepEqual(Array.from((await candidates[1]!.mask()).data), [0, 1, 1, 0, 1, 0]);
});

test("a picture that is too large as PNG is sent as JPEG", async () => {
  replies = { "POST /below/v1/embeddings": [json(413, { title: "too large" }), uploaded("a")] };
  await segmenter.setPicture(picture);
  assert.deepEqual(asked.map(({ body }) => body), ["image/png of 3 x 2", "image/jpeg of 3 x 2"]);
});

test("a busy server is asked again, three times", async () => {
  const busy = json(429, { title: "busy", detail: "32 pictures wait" }, { "Retry-After": "0.1" });
  replies = { "POST /below/v1/embeddings": [busy, busy, busy, uploaded("a")] };
  await segmenter.setPicture(picture);
  replies = { "POST /below/v1/segment": [busy, busy, busy, busy] };
  await assert.rejects(segmenter.segment(click()), { message: "busy: 32 pictures wait" });
  assert.equal(asked.length, 8);
});

test("a picture that the server has forgotten is sent again", async () => {
  const forgotten = json(404, { title: "no such embedding" });
  replies = {
    "POST /below/v1/embeddings": [uploaded("a"), uploaded("b")],
    "POST /below/v1/segment": [forgotten, masks, masks],
  };
  await segmenter.setPicture(picture);
  await segmenter.segment(click());
  await segmenter.segment(click());
  const ids = asked.filter(({ line }) => line.endsWith("segment")).map(({ body }) => JSON.parse(body).image);
  assert.deepEqual(ids, ["a", "b", "b"]);
});

test("what the server says of a mistake is the error's message", async () => {
  replies = {
    "POST /below/v1/embeddings": [json(400, { title: "Broken picture", detail: "it is cut off" })],
    "GET /below/v1/models": [
      json(401, { title: "Unauthorized" }),
      json(200, { models: [{ engine: "ort" }] }),
    ],
  };
  await assert.rejects(segmenter.setPicture(picture), { message: "Broken picture: it is cut off" });
  await assert.rejects(segmenter.load(), /wants a token, or does not know this one/);
  const { text } = await segmenter.load(); // tried again
  assert.match(text, /^Server 127\.0\.0\.1:\d+, ort$/);
});

test("everything mode tells its progress and gives masks with their boxes", async () => {
  const mask = { rle: RLE, predicted_iou: 0.9, stability_score: 0.97 };
  const lines = [
    { event: "progress", done: 64, total: 256 },
    { event: "result", masks: [mask] },
  ].map((line) => JSON.stringify(line));
  replies = {
    "POST /below/v1/embeddings": [uploaded("a")],
    "POST /below/v1/everything": [
      (response) => {
        response.write(`${lines[0]}\n${lines[1]!.slice(0, 20)}`); // lines may arrive in pieces
        setTimeout(() => response.end(`${lines[1]!.slice(20)}\n`), 20);
      },
    ],
  };
  await segmenter.setPicture(picture);
  const told: unknown[] = [];
  const { signal } = new AbortController();
  const found = await segmenter.everything(EVERYTHING_DEFAULTS, (one) => told.push(one), signal);
  assert.deepEqual(told, [{ stage: "everything", done: 64, total: 256 }]);
  assert.equal(found.length, 1);
  assert.deepEqual(found[0], {
    rle: mask.rle,
    bbox: [1, 0, 2, 2],
    areaPx: 3,
    predictedIou: 0.9,
    stabilityScore: 0.97,
  });
});

test("cancelling everything mode closes the connection, so that the server stops", async () => {
  const closed = withResolvers();
  replies = {
    "POST /below/v1/embeddings": [uploaded("a")],
    "POST /below/v1/everything": [
      (response) => {
        response.on("close", () => closed.resolve(null));
        response.write('{"event":"progress","done":4,"total":16}\n');
      },
    ],
  };
  await segmenter.setPicture(picture);
  const stop = new AbortController();
  const finding = segmenter.everything(EVERYTHING_DEFAULTS, () => stop.abort(), stop.signal);
  await assert.rejects(finding, { name: "AbortError" });
  await closed.promise;
});

test("answers about an earlier picture reject with an AbortError when another one is opened", async () => {
  replies = {
    "POST /below/v1/embeddings": [uploaded("a"), uploaded("b")],
    "POST /below/v1/segment": [() => undefined], // never answered
  };
  await segmenter.setPicture(picture);
  const segmenting = segmenter.segment(click());
  const isAborted = assert.rejects(segmenting, { name: "AbortError" });
  await segmenter.setPicture(picture);
  await isAborted;
});

test("a server that is not there, and an address that is none, are told in words", async () => {
  const lost = createSegmenter({ where: "server", url: "http://127.0.0.1:9" });
  await assert.rejects(lost.load(), /cannot be reached/);
  assert.throws(() => createSegmenter({ where: "server", url: "example" }), /no address of a server/);
  assert.throws(() => createSegmenter({ where: "server", url: "javascript:1" }), /no address of a server/);
});

function click(): { clicks: { x: number; y: number; isForeground: boolean }[] } {
  return { clicks: [{ x: 1, y: 1, isForeground: true }] };
}

/** What node lacks: a canvas, whose pictures say what they should have been. */
class PaperCanvas {
  readonly width: number;
  readonly height: number;

  constructor(width: number, height: number) {
    [this.width, this.height] = [width, height];
  }

  getContext(): object {
    return { putImageData: () => undefined };
  }

  convertToBlob({ type }: { type: string }): Promise<Blob> {
    return Promise.resolve(new Blob([`${type} of ${this.width} x ${this.height}`], { type }));
  }
}

function withResolvers(): { promise: Promise<unknown>; resolve: (value: unknown) => void } {
  let resolve: (value: unknown) => void = () => undefined;
  const promise = new Promise((done) => (resolve = done));
  return { promise, resolve };
}
