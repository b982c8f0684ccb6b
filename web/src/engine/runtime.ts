/** Sets up onnxruntime-web in the worker, on WebAssembly or WebGPU, and opens the model with it. */

import type * as Ort from "onnxruntime-web";

import type { Progress, RuntimeInfo } from "../types.ts";
import { type FileTable, getFiles } from "./files.ts";
import { INPUT_SIDE } from "./geometry.ts";
import { Model } from "./model.ts";
import { pointBatch } from "./prompts.ts";

/** Written by the build: the model's files and onnxruntime-web's, with their hashes. */
declare const __ENGINE_FILES__: FileTable;

const MODEL_FILES = ["models/encoder.onnx", "models/decoder.onnx", "models/mobile_sam.safetensors"] as const;
const ORT_FILES = {
  wasm: "ort/ort-wasm-simd-threaded",
  webgpu: "ort/ort-wasm-simd-threaded.asyncify",
} as const;

const MAX_THREADS = 4;

/** Where the model is to run; `isChosen` if a person said so, else anything doubtful is refused. */
export interface RuntimeChoice {
  readonly where: "webgpu" | "wasm";
  readonly isChosen: boolean;
  readonly baseUrl: string;
}

/** Download and open the model; rejects with an Error that says what is missing. */
export async function openModel(
  { where, isChosen, baseUrl }: RuntimeChoice,
  tell: (progress: Progress) => void,
): Promise<{ model: Model; info: RuntimeInfo }> {
  const gpu = where === "webgpu" ? await gpuName(isChosen) : "";
  const names = [...MODEL_FILES, `${ORT_FILES[where]}.wasm`];
  const [files, ort] = await Promise.all([
    getFiles(names, __ENGINE_FILES__, baseUrl, (done, total) => tell({ stage: "download", done, total })),
    importOrt(where),
  ]);
  tell({ stage: "prepare", done: 0, total: 1 });
  const numThreads = crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency || 1) : 1;
  const [encoder, decoder, weights, wasm] = files as [Bytes, Bytes, Bytes, Bytes];
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = numThreads;
  ort.env.wasm.wasmBinary = wasm.buffer;
  ort.env.wasm.wasmPaths = { mjs: new URL(`${ORT_FILES[where]}.mjs`, baseUrl).href };
  const model = await Model.open(ort, { encoder, decoder, weights }, where);
  ort.env.wasm.wasmBinary = undefined; // frees the memory
  await warmUp(model, where);
  tell({ stage: "prepare", done: 1, total: 1 });
  const threads = `${numThreads} thread${numThreads > 1 ? "s" : ""}`;
  return { model, info: { where, text: where === "webgpu" ? `WebGPU${gpu}` : `WebAssembly, ${threads}` } };
}

type Bytes = Uint8Array<ArrayBuffer>;

/** Each form of the library is a chunk of its own, of which only one is loaded. */
async function importOrt(where: "webgpu" | "wasm"): Promise<typeof Ort> {
  return where === "webgpu" ? import("onnxruntime-web/webgpu") : import("onnxruntime-web/wasm");
}

/**
 * Run both networks once, so that the first click does not wait for what is prepared at the first run; on
 * WebGPU also find out whether the answer is one, since some drivers give none.
 */
async function warmUp(model: Model, where: "webgpu" | "wasm"): Promise<void> {
  let features: Float32Array = new Float32Array(256 * 64 * 64);
  if (where === "webgpu") {
    features = await model.encode(new Float32Array(3 * INPUT_SIDE * INPUT_SIDE));
    const meanSquare = features.reduce((sum, value) => sum + value * value, 0) / features.length;
    if (!(Math.abs(meanSquare / EMPTY_MEAN_SQUARE - 1) < 0.05)) {
      throw new Error("This device's WebGPU computes wrong numbers.");
    }
  }
  await model.decode(features, pointBatch([[0, 0]], { width: 1, height: 1 }), [0, 1, 2, 3]);
}

/** Mean square of the features of an empty picture, by onnxruntime on a CPU. */
const EMPTY_MEAN_SQUARE = 0.01215;

/**
 * The GPU's name, to be appended; throws if there is none, or, unless it was chosen, if it is a slow stand-
 * in.
 */
async function gpuName(isChosen: boolean): Promise<string> {
  const adapter = await (navigator as WithGpu).gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) {
    throw new Error("This browser has no WebGPU; choose WebAssembly.");
  }
  const { vendor = "", architecture = "", description = "", isFallbackAdapter } = adapter.info ?? {};
  const name = [vendor, architecture, description].filter(Boolean).join(" ");
  const isOnCpu = /swiftshader|llvmpipe|basic render/i.test(name);
  const isSlow = isFallbackAdapter || adapter.isFallbackAdapter || isOnCpu;
  if (isSlow && !isChosen) {
    throw new Error("This browser's WebGPU runs on the CPU, where WebAssembly is quicker.");
  }
  return name && ` (${name})`;
}

/** The little of WebGPU's API that is used here. */
interface WithGpu {
  readonly gpu?: { requestAdapter(options: { powerPreference: string }): Promise<GpuAdapter | null> };
}

interface GpuAdapter {
  readonly isFallbackAdapter?: boolean;
  readonly info?: {
    readonly vendor?: string;
    readonly architecture?: string;
    readonly description?: string;
    readonly isFallbackAdapter?: boolean;
  };
}
