/**
 * The model's answers to prompts, kept while they may be asked for again: undo and redo show them at once.
 */

import type { Candidate, Prompt } from "../types.ts";
import { isEmptyPrompt, type PageObject, type Token } from "./document.ts";
import { isAbort } from "./dom.ts";
import { shapeOfMask, shapeOfRle, type Shape } from "./shapes.ts";

/** Answers to prompts that are no object's any more, kept for undo. */
const MAX_SPARE = 24;

interface Answer {
  readonly candidates: readonly Candidate[];
  readonly shapes: Map<Token, Shape>;
}

/** A candidate with its shape, null until it was computed. */
export interface CandidateView {
  readonly token: Token;
  readonly score: number;
  readonly shape: Shape | null;
}

/** Whether the prompt is a click and nothing else: then SAM means any of three masks. */
export function isLoneClick(prompt: Prompt): boolean {
  return prompt.clicks.length === 1 && prompt.box === undefined;
}

/** The candidate that answers a prompt: the best of three for a lone click, else SAM's single mask. */
export function bestToken(prompt: Prompt, candidates: readonly { token: Token; score: number }[]): Token {
  if (!isLoneClick(prompt)) return 0;
  const three = candidates.filter((candidate) => candidate.token !== 0);
  const best = three.reduce(
    (one, other) => (other.score > one.score ? other : one),
    three[0] ?? { token: 0, score: 0 },
  );
  return best.token;
}

/** Asks the model and remembers. Prompts never change, so each is its own key. */
export class Answers {
  #answers = new Map<Prompt, Answer>();
  #failed = new WeakSet<Prompt>();
  readonly #ask: (prompt: Prompt) => Promise<readonly Candidate[]>;

  constructor(ask: (prompt: Prompt) => Promise<readonly Candidate[]>) {
    this.#ask = ask;
  }

  /**
   * What is known of an object's candidates, those that are offered for its kind of prompt; empty: nothing
   * yet.
   */
  candidatesOf(object: PageObject): CandidateView[] {
    const answer = this.#answers.get(object.prompt);
    if (answer === undefined || object.found !== null) return [];
    return answer.candidates
      .filter((candidate) => candidate.token !== 0 || !isLoneClick(object.prompt))
      .map(({ token, score }) => ({ token, score, shape: answer.shapes.get(token) ?? null }));
  }

  /** The token of the object's mask, null while there is no answer. */
  tokenOf(object: PageObject): Token | null {
    const answer = this.#answers.get(object.prompt);
    if (answer === undefined) return null;
    return object.token ?? bestToken(object.prompt, answer.candidates);
  }

  /** The score of the object's mask, null while there is no answer. */
  scoreOf(object: PageObject): number | null {
    if (object.found !== null) return object.found.predictedIou;
    const token = this.tokenOf(object);
    const candidates = this.#answers.get(object.prompt)?.candidates;
    return candidates?.find((candidate) => candidate.token === token)?.score ?? null;
  }

  /** The object's mask, null while it is not computed. */
  shapeOf(object: PageObject): Shape | null {
    if (object.found !== null) return shapeOfRle(object.found.rle);
    const token = this.tokenOf(object);
    return token === null ? null : (this.#answers.get(object.prompt)?.shapes.get(token) ?? null);
  }

  /** Whether the object's mask is still to be asked for. */
  isMissing(object: PageObject): boolean {
    if (object.found !== null || isEmptyPrompt(object.prompt) || this.#failed.has(object.prompt))
      return false;
    return this.shapeOf(object) === null;
  }

  /** A candidate whose shape is still to be computed, for the pictures to choose from. */
  missingCandidate(object: PageObject): Token | null {
    if (this.#failed.has(object.prompt)) return null;
    return this.candidatesOf(object).find((candidate) => candidate.shape === null)?.token ?? null;
  }

  /**
   * Ask the model for the object's mask, or compute one candidate's. A prompt that failed is not asked again.
   */
  async compute(object: PageObject, token?: Token): Promise<void> {
    const { prompt } = object;
    try {
      let answer = this.#answers.get(prompt);
      if (answer === undefined) {
        const asked = this.#answers;
        answer = { candidates: await this.#ask(prompt), shapes: new Map() };
        asked.set(prompt, answer);
      }
      const wanted = token ?? object.token ?? bestToken(prompt, answer.candidates);
      const candidate = answer.candidates.find((other) => other.token === wanted);
      if (candidate === undefined) throw new Error(`The model gave no mask ${wanted}.`);
      answer.shapes.set(wanted, shapeOfMask(await candidate.mask()));
    } catch (error) {
      if (!isAbort(error)) this.#failed.add(prompt);
      throw error;
    }
  }

  /** Let prompts that failed be asked again. */
  forgetFailures(): void {
    this.#failed = new WeakSet();
  }

  /** Forget everything: another picture, or another model. */
  clear(): void {
    this.#answers = new Map();
    this.#failed = new WeakSet();
  }

  /** Forget the oldest answers that belong to none of the objects. */
  trim(objects: readonly PageObject[]): void {
    const kept = new Set(objects.map((object) => object.prompt));
    const spare = [...this.#answers.keys()].filter((prompt) => !kept.has(prompt));
    for (const prompt of spare.slice(0, Math.max(0, spare.length - MAX_SPARE))) this.#answers.delete(prompt);
  }
}
