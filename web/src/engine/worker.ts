/** The worker: runs the model, so that the page never waits for it. */

import type { EverythingSettings, FoundMask, Mask, Progress, Prompt } from "../types.ts";
import { findEverything } from "./everything.ts";
import { LOW_RES_SIDE, type Size } from "./geometry.ts";
import { abortError, type Answer, type Ask, type Calls, type Kind, type RawCandidate } from "./messages.ts";
import type { Decoded, Model } from "./model.ts";
import { toModelInput } from "./preprocess.ts";
import { pointBatch, promptBatch } from "./prompts.ts";
import { openModel } from "./runtime.ts";
import { maskOfModel, maskOfPicture } from "./upscale.ts";

const LOW_RES_AREA = LOW_RES_SIDE * LOW_RES_SIDE;
const ALL_TOKENS = [0, 1, 2, 3] as const;
const THREE_TOKENS = [1, 2, 3] as const;

/** The picture that prompts are about. */
interface Encoded {
  readonly size: Size;
  readonly features: Float32Array;
}

const scope = self as unknown as DedicatedWorkerGlobalScope;
const cancelled = new Set<number>();
let model: Model | null = null;
let encoded: Encoded | null = null;
let latestPicture = 0; // the id of the call that brought it
let running: Promise<unknown> = Promise.resolve();

/** Runs of the model, one after the other. */
function exclusively<T>(run: () => Promise<T>): Promise<T> {
  const mine = running.then(run, run);
  running = mine;
  return mine;
}

/** Let messages that have arrived be handled. */
function nextTask(): Promise<void> {
  return new Promise((resolve) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => {
      channel.port1.close();
      resolve();
    };
    channel.port2.postMessage(null);
  });
}

function post(answer: Answer, transfer: Transferable[] = []): void {
  scope.postMessage(answer, transfer);
}

function theModel(): Model {
  if (!model) {
    throw new Error("The model is not loaded yet.");
  }
  return model;
}

function thePicture(): Encoded {
  if (!encoded) {
    throw new Error("There is no picture yet.");
  }
  return encoded;
}

async function setPicture(id: number, { size, rgba }: Calls["picture"]["ask"]): Promise<null> {
  encoded = null;
  await exclusively(async () => {
    await nextTask();
    if (id !== latestPicture) {
      throw abortError("Another picture was opened.");
    }
    post({ id, kind: "progress", progress: { stage: "encode", done: 0, total: 1 } });
    const features = await theModel().encode(toModelInput(new Uint8ClampedArray(rgba), size));
    encoded = { size, features };
    post({ id, kind: "progress", progress: { stage: "encode", done: 1, total: 1 } });
  });
  return null;
}

async function segment(prompt: Prompt): Promise<RawCandidate[]> {
  const { size, features } = thePicture();
  const batch = promptBatch(prompt, size);
  const { logits, ious } = await exclusively(() => theModel().decode(features, batch, ALL_TOKENS));
  return ALL_TOKENS.map((token, row) => ({
    token,
    score: ious[row]!,
    logits: maskLogits(logits, row).slice(),
  }));
}

async function hover(x: number, y: number): Promise<Mask> {
  const { size, features } = thePicture();
  const batch = pointBatch([[x, y]], size);
  const { logits, ious } = await exclusively(() => theModel().decode(features, batch, THREE_TOKENS));
  const best = ious.indexOf(Math.max(...ious));
  return maskOfModel(maskLogits(logits, best), size);
}

function maskLogits(logits: Float32Array, row: number): Float32Array {
  return logits.subarray(row * LOW_RES_AREA, (row + 1) * LOW_RES_AREA);
}

function everything(id: number, settings: EverythingSettings): Promise<FoundMask[]> {
  const { size, features } = thePicture();
  return findEverything(size, settings, {
    decode: (batch, minIou): Promise<Decoded> =>
      exclusively(() => theModel().decode(features, batch, THREE_TOKENS, minIou)),
    pause: async () => {
      await nextTask();
      if (cancelled.has(id)) {
        throw abortError("Cancelled.");
      }
    },
    tell: (done, total) => post({ id, kind: "progress", progress: { stage: "everything", done, total } }),
  });
}

async function load(id: number, choice: Calls["load"]["ask"]): Promise<Calls["load"]["answer"]> {
  const tell = (progress: Progress): void => post({ id, kind: "progress", progress });
  const opened = await openModel(choice, tell);
  model = opened.model;
  return opened.info;
}

async function answer(message: Ask): Promise<Calls[Kind]["answer"]> {
  switch (message.kind) {
    case "load":
      return load(message.id, message.ask);
    case "picture":
      return setPicture(message.id, message.ask);
    case "segment":
      return segment(message.ask.prompt);
    case "hover":
      return hover(message.ask.x, message.ask.y);
    case "mask":
      return maskOfPicture(message.ask.logits, message.ask.picture);
    case "everything":
      return everything(message.id, message.ask.settings);
    case "cancel":
      return null;
  }
}

/** Buffers that are handed over, not copied. */
function transferable(value: Calls[Kind]["answer"]): Transferable[] {
  if (Array.isArray(value)) {
    return value.flatMap((item) => ("logits" in item ? [item.logits.buffer] : []));
  }
  return value && "data" in value ? [value.data.buffer as ArrayBuffer] : [];
}

scope.onmessage = async ({ data: message }: MessageEvent<Ask>): Promise<void> => {
  const { id } = message;
  if (message.kind === "picture") {
    latestPicture = id;
  } else if (message.kind === "cancel") {
    cancelled.add(message.ask.call);
  }
  try {
    const value = await answer(message);
    post({ id, kind: "done", value }, transferable(value));
  } catch (error) {
    const { name, message: text } = error instanceof Error ? error : new Error(`${error}`);
    post({ id, kind: "failed", name, message: text });
  } finally {
    cancelled.delete(id);
  }
};
