/** The two networks on onnxruntime-web, in a browser's worker or in node. */

import type * as Ort from "onnxruntime-web";

import { INPUT_SIDE, LOW_RES_SIDE } from "./geometry.ts";
import type { PromptBatch } from "./prompts.ts";

/** The name under which the graphs refer to the weights. */
const WEIGHTS_PATH = "mobile_sam.safetensors";

/** The files of the model. */
export interface ModelFiles {
  readonly encoder: Uint8Array;
  readonly decoder: Uint8Array;
  readonly weights: Uint8Array;
}

/** Answers to P prompts of which R were drawn, M masks each. */
export interface Decoded {
  /** (R, M, 256, 256). */
  readonly logits: Float32Array;
  /** (P, M) predicted IoU. */
  readonly ious: Float32Array;
  /** (R) which prompts the logits are of. */
  readonly drawn: readonly number[];
}

/** Encoder and decoder, ready to run. One run at a time. */
export class Model {
  readonly #ort: typeof Ort;
  readonly #encoder: Ort.InferenceSession;
  readonly #decoder: Ort.InferenceSession;
  readonly #noMask: Ort.Tensor;
  readonly #hasNoMask: Ort.Tensor;

  private constructor(ort: typeof Ort, encoder: Ort.InferenceSession, decoder: Ort.InferenceSession) {
    this.#ort = ort;
    this.#encoder = encoder;
    this.#decoder = decoder;
    const numValues = LOW_RES_SIDE * LOW_RES_SIDE;
    this.#noMask = new ort.Tensor("float32", new Float32Array(numValues), [1, 1, LOW_RES_SIDE, LOW_RES_SIDE]);
    this.#hasNoMask = new ort.Tensor("float32", new Float32Array(1), [1]);
  }

  /**
   * Make both sessions.
   *
   * @param ort the library, whose `env` is set up already
   * @param provider what runs the encoder
   */
  static async open(ort: typeof Ort, files: ModelFiles, provider: "wasm" | "webgpu"): Promise<Model> {
    const encoder = await ort.InferenceSession.create(files.encoder, sessionOptions(files, provider));
    const decoder = await ort.InferenceSession.create(files.decoder, sessionOptions(files, "wasm"));
    return new Model(ort, encoder, decoder);
  }

  /** Encode (3, 1024, 1024): features (1, 256, 64, 64). */
  async encode(input: Float32Array): Promise<Float32Array> {
    const image = new this.#ort.Tensor("float32", input, [1, 3, INPUT_SIDE, INPUT_SIDE]);
    const { features } = await this.#encoder.run({ image });
    return features!.data as Float32Array;
  }

  /**
   * Decode prompts over the features of one picture.
   *
   * @param tokens which of the four masks
   * @param minIou prompts without a mask of a predicted IoU above this are not drawn
   */
  async decode(
    features: Float32Array,
    batch: PromptBatch,
    tokens: readonly number[],
    minIou = -Infinity,
  ): Promise<Decoded> {
    const { Tensor } = this.#ort;
    const { numPrompts, numTokens } = batch;
    const answers = await this.#decoder.run({
      features: new Tensor("float32", features, [1, 256, 64, 64]),
      point_coords: new Tensor("float32", batch.coords, [numPrompts, numTokens, 2]),
      point_labels: new Tensor("float32", batch.labels, [numPrompts, numTokens]),
      mask_input: this.#noMask,
      has_mask_input: this.#hasNoMask,
      mask_tokens: new Tensor("int64", BigInt64Array.from(tokens, BigInt), [tokens.length]),
      min_iou: new Tensor("float32", Float32Array.of(minIou), []),
    });
    return {
      logits: answers["low_res_logits"]!.data as Float32Array,
      ious: answers["iou_predictions"]!.data as Float32Array,
      drawn: Array.from(answers["drawn"]!.data as BigInt64Array, Number),
    };
  }
}

function sessionOptions(files: ModelFiles, provider: "wasm" | "webgpu"): Ort.InferenceSession.SessionOptions {
  return {
    executionProviders: [provider],
    externalData: [{ path: WEIGHTS_PATH, data: files.weights }],
    enableMemPattern: false, // else the second picture takes more memory (docs/log.md)
    logSeverityLevel: 3, // errors; its warnings are about nodes that belong on the CPU
  };
}
