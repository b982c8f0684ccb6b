/** The model on a server, by its HTTP interface: for devices that are too weak for it. */

import type {
  Candidate,
  EverythingSettings,
  FoundMask,
  Mask,
  OnProgress,
  Prompt,
  Rle,
  RuntimeInfo,
  Segmenter,
} from "../types.ts";
import { Hovering } from "./hovering.ts";
import { abortError } from "./messages.ts";
import { PictureTurn } from "./picture_turn.ts";
import { rleArea, rleBox, rleToMask } from "./rle.ts";
import { HttpApi, ServerError } from "./server_http.ts";

/** Longer side of hovers' masks, as in the browser. */
const HOVER_SIDE = 1024;

interface SegmentAnswer {
  readonly objects: readonly {
    readonly masks: readonly { readonly token: 0 | 1 | 2 | 3; readonly score: number; readonly rle: Rle }[];
  }[];
}

interface FoundOnServer {
  readonly rle: Rle;
  readonly predicted_iou: number;
  readonly stability_score: number;
}

type EverythingLine =
  | { readonly event: "progress"; readonly done: number; readonly total: number }
  | { readonly event: "result"; readonly masks: readonly FoundOnServer[] }
  | { readonly event: "error"; readonly problem: { readonly title?: string; readonly detail?: string } };

/** Sends pictures and prompts to a server; what the browser does itself is only to show them. */
export class ServerSegmenter implements Segmenter {
  readonly #api: HttpApi;
  readonly #closed = new AbortController();
  readonly #turn = new PictureTurn();
  readonly #hovering = new Hovering((x, y) => this.#askHover(x, y));
  #loading: Promise<RuntimeInfo> | null = null;
  #picture: ImageData | null = null;
  #id: string | null = null;

  /** Throws an Error if the address is none. */
  constructor(url: string, token?: string) {
    this.#api = new HttpApi(url, token);
  }

  load(): Promise<RuntimeInfo> {
    this.#loading ??= this.#askModels();
    this.#loading.catch(() => (this.#loading = null)); // so that it can be tried again
    return this.#loading;
  }

  async setPicture(picture: ImageData, onProgress?: OnProgress): Promise<void> {
    const signal = AbortSignal.any([this.#turn.next(), this.#closed.signal]);
    this.#picture = null;
    this.#id = null;
    onProgress?.({ stage: "encode", done: 0, total: 1 });
    const id = await this.#hovering.yieldTo(() => this.#upload(picture, signal));
    [this.#picture, this.#id] = [picture, id];
    onProgress?.({ stage: "encode", done: 1, total: 1 });
  }

  async segment(prompt: Prompt): Promise<readonly Candidate[]> {
    const answer = await this.#hovering.yieldTo(() => this.#segment(prompt, "all"));
    return answer.map(({ token, score, rle }) => new ServerCandidate(token, score, rle));
  }

  async hover(x: number, y: number): Promise<Mask | null> {
    return this.#picture ? this.#hovering.hover(x, y) : null;
  }

  async everything(
    settings: EverythingSettings,
    onProgress: OnProgress,
    signal: AbortSignal,
  ): Promise<readonly FoundMask[]> {
    const either = AbortSignal.any([this.#turn.signal, signal]);
    return this.#hovering.yieldTo(() =>
      this.#withPicture(async (image) => {
        const request = { image, settings: settingsOnServer(settings), counts_format: "plain" };
        for await (const line of this.#api.lines<EverythingLine>("v1/everything", request, either)) {
          if (line.event === "result") {
            return line.masks.map(foundMask);
          }
          if (line.event === "error") {
            throw new Error(line.problem.detail ?? line.problem.title ?? "The server failed.");
          }
          onProgress({ stage: "everything", done: line.done, total: line.total });
        }
        throw new Error("The server's answer broke off; try again.");
      }, either),
    );
  }

  dispose(): void {
    this.#turn.next();
    this.#hovering.clear();
    this.#closed.abort();
    [this.#picture, this.#id] = [null, null];
  }

  async #askModels(): Promise<RuntimeInfo> {
    const { models } = await this.#api.json<{ models: readonly { engine?: string; is_default?: boolean }[] }>(
      "v1/models",
      {},
      this.#closed.signal,
    );
    const model = models.find((one) => one.is_default) ?? models[0];
    return { where: "server", text: [`Server ${this.#api.host}`, model?.engine].filter(Boolean).join(", ") };
  }

  async #upload(picture: ImageData, signal: AbortSignal): Promise<string> {
    try {
      return await this.#send(await encodedPicture(picture, "image/png"), signal);
    } catch (error) {
      if (error instanceof ServerError && error.status === 413) {
        return this.#send(await encodedPicture(picture, "image/jpeg"), signal); // PNG is exact, but large
      }
      throw error;
    }
  }

  async #send(body: Blob, signal: AbortSignal): Promise<string> {
    const { id } = await this.#api.json<{ id: string }>("v1/embeddings", { method: "POST", body }, signal);
    return id;
  }

  /** Do something with the picture's id; if the server has forgotten it, upload the picture again. */
  async #withPicture<T>(work: (id: string) => Promise<T>, signal: AbortSignal): Promise<T> {
    if (!this.#picture || !this.#id) {
      throw new Error("Open a picture first, and wait until it is encoded.");
    }
    try {
      return await work(this.#id);
    } catch (error) {
      if (!(error instanceof ServerError) || error.status !== 404) {
        throw error;
      }
    }
    if (signal.aborted || !this.#picture) {
      throw abortError("Another picture was opened.");
    }
    const id = await this.#upload(this.#picture, signal);
    this.#id = id;
    return work(id);
  }

  #segment(prompt: Prompt, candidates: "all" | "three"): Promise<SegmentAnswer["objects"][number]["masks"]> {
    const { signal } = this.#turn;
    return this.#withPicture(async (image) => {
      const request = {
        image,
        objects: [objectOnServer(prompt)],
        candidates,
        output: "rle",
        counts_format: "plain",
      };
      const { objects } = await this.#api.postJson<SegmentAnswer>("v1/segment", request, signal);
      return objects[0]?.masks ?? [];
    }, signal);
  }

  async #askHover(x: number, y: number): Promise<Mask | null> {
    const three = await this.#segment({ clicks: [{ x, y, isForeground: true }] }, "three");
    const best = three.reduce((a, b) => (b.score > a.score ? b : a));
    return shrunk(rleToMask(best.rle), HOVER_SIDE);
  }
}

class ServerCandidate implements Candidate {
  #mask: Promise<Mask> | null = null;

  constructor(
    readonly token: 0 | 1 | 2 | 3,
    readonly score: number,
    readonly rle: Rle,
  ) {}

  mask(): Promise<Mask> {
    this.#mask ??= Promise.resolve().then(() => rleToMask(this.rle));
    return this.#mask;
  }
}

function objectOnServer({ clicks, box }: Prompt): object {
  return {
    ...(clicks.length > 0 && {
      points: clicks.map(({ x, y }) => [x, y]),
      labels: clicks.map(({ isForeground }) => (isForeground ? 1 : 0)),
    }),
    ...(box && { box: [box.x1, box.y1, box.x2, box.y2] }),
  };
}

function settingsOnServer(settings: EverythingSettings): object {
  return {
    points_per_side: settings.pointsPerSide,
    pred_iou_thresh: settings.predIouThresh,
    stability_score_thresh: settings.stabilityScoreThresh,
    box_nms_thresh: settings.boxNmsThresh,
  };
}

function foundMask({ rle, predicted_iou, stability_score }: FoundOnServer): FoundMask {
  return {
    rle,
    bbox: rleBox(rle),
    areaPx: rleArea(rle),
    predictedIou: predicted_iou,
    stabilityScore: stability_score,
  };
}

async function encodedPicture(picture: ImageData, type: "image/png" | "image/jpeg"): Promise<Blob> {
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = canvas.getContext("2d");
  if (!context) {
    throw new Error("This browser cannot draw pictures of that size.");
  }
  context.putImageData(picture, 0, 0);
  return canvas.convertToBlob({ type, quality: 0.95 });
}

/** Every so-manieth pixel of a mask that is larger than a side. */
function shrunk(mask: Mask, side: number): Mask {
  const scale = side / Math.max(mask.width, mask.height);
  if (scale >= 1) {
    return mask;
  }
  const width = Math.max(1, Math.round(mask.width * scale));
  const height = Math.max(1, Math.round(mask.height * scale));
  const data = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const row = Math.floor(((y + 0.5) * mask.height) / height) * mask.width;
    for (let x = 0; x < width; x++) {
      data[y * width + x] = mask.data[row + Math.floor(((x + 0.5) * mask.width) / width)]!;
    }
  }
  return { width, height, data };
}
