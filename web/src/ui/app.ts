/**
 * The page's state, and everything that a visitor can do, as verbs. Panels show it and call it; they hold
 * nothing.
 */

import type { EngineChoice } from "../engine/index.ts";
import type { Box, EverythingSettings, FoundMask, Progress, RuntimeInfo } from "../types.ts";
import { Answers } from "./answers.ts";
import * as doc from "./document.ts";
import { isAbort, messageOf } from "./dom.ts";
import { History } from "./history.ts";
import { closePicture, readPicture, type Picture } from "./picture.ts";
import { Session } from "./session.ts";

/** What a click or drag on the picture does. */
export type Tool = "foreground" | "background" | "box" | "pan" | "pick";

/** A button beside a message. */
export interface VoiceAction {
  readonly label: string;
  run(): void;
}

/** How the page speaks to the visitor. */
export interface Voice {
  /** In the status line, and read out when nothing else is. */
  say(text: string): void;
  /** In a box that stays until it is closed. */
  tell(text: string, kind: "notice" | "error", action?: VoiceAction): void;
  /** Take that box away. */
  hush(): void;
}

/** The state and the verbs. */
export class App {
  readonly history = new History(doc.EMPTY_DOCUMENT);
  readonly session: Session;
  readonly answers: Answers;
  picture: Picture | null = null;
  tool: Tool = "foreground";
  choice: EngineChoice = { where: "auto" };
  /** Set while everything mode runs. */
  everythingProgress: Progress | null = null;
  /** Counts opened pictures, so that views know when to begin anew. */
  pictureNumber = 0;

  #listeners: (() => void)[] = [];
  #waiting: (() => void)[] = [];
  #willTell = false;
  #generation = 0;
  #isRefreshing = false;
  #toAnnounce = false;
  #cancelEverything: AbortController | null = null;
  #lastRuntime: RuntimeInfo | null = null;
  readonly #voice: Voice;

  constructor(voice: Voice) {
    this.#voice = voice;
    this.session = new Session(() => this.#onSession());
    this.answers = new Answers(async (prompt) => (await this.session.whenEncoded()).segment(prompt));
  }

  get document(): doc.PageDocument {
    return this.history.present;
  }

  /** Whether masks are being computed. */
  get isBusy(): boolean {
    return this.#isRefreshing || this.everythingProgress !== null;
  }

  /** Call `listener` after changes, once for all that happen together. */
  onChange(listener: () => void): void {
    this.#listeners.push(listener);
  }

  /**
   * Take a model, on this device or on a server; throws if the server's address is none, and changes nothing.
   */
  start(choice: EngineChoice): void {
    this.session.start(choice);
    this.choice = choice;
    this.cancelEverything();
    this.#lastRuntime = null;
    this.answers.clear();
    this.#generation++;
    this.#isRefreshing = false;
    this.#changed();
  }

  /** Open a picture; if it cannot be read, say so and keep the one that is open. */
  async open(blob: Blob, fileName: string): Promise<void> {
    let picture: Picture;
    try {
      picture = await readPicture(blob, fileName);
    } catch (error) {
      this.#voice.tell(messageOf(error), "error");
      return;
    }
    this.cancelEverything();
    if (this.picture !== null) closePicture(this.picture);
    this.picture = picture;
    this.pictureNumber++;
    this.history.reset(doc.EMPTY_DOCUMENT);
    this.answers.clear();
    this.#generation++;
    this.#isRefreshing = false;
    if (this.tool === "pick") this.tool = "foreground";
    const { width, height, shrunkFrom } = picture;
    if (shrunkFrom === null) this.#voice.hush();
    else {
      const before = `${shrunkFrom.width} × ${shrunkFrom.height}`;
      this.#voice.tell(
        `The picture had ${before} pixels; the page works with ${width} × ${height}.`,
        "notice",
      );
    }
    this.session.setPicture(picture);
    this.#changed();
  }

  setTool(tool: Tool): void {
    this.tool = tool;
    this.#changed();
  }

  click(x: number, y: number, isForeground: boolean): void {
    this.#commit(doc.addClick(this.document, { x, y, isForeground }));
  }

  setBox(box: Box): void {
    this.#commit(doc.setBox(this.document, box));
  }

  undo(): void {
    if (this.history.undo()) this.#afterStep("Undone.");
  }

  redo(): void {
    if (this.history.redo()) this.#afterStep("Done again.");
  }

  /** Take back the selected object's clicks and box. */
  clear(): void {
    this.#commit(doc.clearPrompt(this.document));
    this.#voice.say("Cleared.");
  }

  /** Let the next click begin an object. */
  newObject(): void {
    this.select(null);
    if (this.tool === "pick") this.tool = "foreground";
    this.#voice.say("The next click or box begins a new object.");
  }

  select(id: number | null): void {
    this.history.amend(doc.selectObject(this.document, id));
    this.#refresh();
    this.#changed();
  }

  rename(id: number, name: string): void {
    this.#commit(doc.renameObject(this.document, id, name));
    this.#changed();
  }

  toggle(id: number): void {
    this.#commit(doc.toggleObject(this.document, id));
  }

  remove(id: number): void {
    this.#commit(doc.removeObject(this.document, id));
    this.#voice.say("Object deleted.");
  }

  choose(token: doc.Token): void {
    this.#commit(doc.chooseToken(this.document, token));
  }

  /** Find everything; what it finds can be picked, kept and deleted. */
  async findEverything(settings: EverythingSettings): Promise<void> {
    this.cancelEverything();
    const controller = new AbortController();
    const { signal } = controller;
    this.#cancelEverything = controller;
    const tell = (progress: Progress) => {
      if (signal.aborted) return;
      this.everythingProgress = progress;
      this.#changed();
    };
    tell({ stage: "everything", done: 0, total: 0 });
    try {
      const segmenter = await this.session.whenEncoded();
      signal.throwIfAborted();
      const found = await segmenter.everything(settings, tell, signal);
      signal.throwIfAborted();
      this.#showFound(found);
    } catch (error) {
      if (!signal.aborted && !isAbort(error)) this.#voice.tell(messageOf(error), "error");
    } finally {
      if (this.#cancelEverything === controller) {
        this.#cancelEverything = null;
        this.everythingProgress = null;
      }
      this.#refresh();
      this.#changed();
    }
  }

  cancelEverything(): void {
    if (this.#cancelEverything !== null) this.#voice.say("Stopped; nothing was changed.");
    this.#cancelEverything?.abort();
    this.#cancelEverything = null;
    this.everythingProgress = null;
    this.#changed();
  }

  /** Look at one of the found masks, or at none. */
  pick(found: FoundMask | null): void {
    this.history.amend({ ...this.document, picked: found });
    if (found !== null) {
      const number = this.document.found.indexOf(found) + 1;
      this.#voice.say(
        `Mask ${number}, ${this.shareText(found.areaPx)}, score ${found.predictedIou.toFixed(2)}.`,
      );
    }
    this.#changed();
  }

  keepFound(kept: readonly FoundMask[]): void {
    this.#commit(doc.keepFound(this.document, kept));
    this.#voice.say(kept.length === 1 ? "Kept as an object." : `${kept.length} masks kept as objects.`);
    this.#leavePickTool();
  }

  dropFound(dropped: readonly FoundMask[]): void {
    this.#commit(doc.dropFound(this.document, dropped));
    this.#voice.say(dropped.length === 1 ? "Mask deleted." : `${dropped.length} masks deleted.`);
    this.#leavePickTool();
  }

  toggleFound(): void {
    this.history.amend({ ...this.document, isFoundVisible: !this.document.isFoundVisible });
    this.#changed();
  }

  /** How much of the picture so many pixels are, in words. */
  shareText(areaPx: number): string {
    const total = this.picture === null ? 1 : this.picture.width * this.picture.height;
    const percent = (100 * areaPx) / total;
    return `${percent > 0 && percent < 1 ? "under 1" : Math.round(percent)} % of the picture`;
  }

  /**
   * Resolves when all objects that can have a mask have it; candidates to choose from may still be missing.
   */
  async whenMasked(): Promise<void> {
    while (this.#isRefreshing && this.document.objects.some((object) => this.answers.isMissing(object))) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  #showFound(found: readonly FoundMask[]): void {
    const next = { ...this.document, found, picked: null, isFoundVisible: true };
    this.history.commit(next);
    if (found.length > 0) this.tool = "pick";
    this.#voice.say(
      found.length === 0 ? "Nothing was found; try a lower quality." : `${found.length} masks found.`,
    );
  }

  #leavePickTool(): void {
    if (this.document.found.length === 0 && this.tool === "pick") this.setTool("foreground");
  }

  #commit(next: doc.PageDocument): void {
    this.history.commit(next);
    this.#afterStep(null);
  }

  #afterStep(text: string | null): void {
    if (text !== null) this.#voice.say(text);
    if (this.document.found.length === 0 && this.tool === "pick") this.tool = "foreground";
    this.answers.trim(this.document.objects);
    const selected = doc.selectedObject(this.document);
    this.#toAnnounce = selected !== null && doc.hasMask(selected);
    this.#refresh();
    this.#changed();
  }

  #onSession(): void {
    const { runtime, isEncoded } = this.session.state;
    if (runtime !== null && this.#lastRuntime === null) this.answers.forgetFailures();
    this.#lastRuntime = runtime;
    if (isEncoded) this.#refresh();
    this.#changed();
  }

  /**
   * Compute what is missing, one after the other: first masks that are shown, then candidates to choose from.
   */
  #refresh(): void {
    if (this.#isRefreshing || !this.session.state.isEncoded) return;
    this.#isRefreshing = true;
    void this.#computeMissing(this.#generation);
  }

  async #computeMissing(generation: number): Promise<void> {
    for (let work = this.#nextWork(); work !== null; work = this.#nextWork()) {
      try {
        await work();
      } catch (error) {
        if (generation !== this.#generation) return;
        if (isAbort(error)) break;
        const run = () => this.#tryAgain();
        this.#voice.tell(messageOf(error), "error", { label: "Try again", run });
      }
      if (generation !== this.#generation) return;
      this.#changed();
    }
    this.#isRefreshing = false;
    this.#changed();
  }

  #nextWork(): (() => Promise<void>) | null {
    const selected = doc.selectedObject(this.document);
    const first = selected !== null && this.answers.isMissing(selected) ? selected : null;
    const missing = first ?? this.document.objects.find((object) => this.answers.isMissing(object));
    if (missing !== undefined) return () => this.answers.compute(missing);
    this.#announce(selected);
    const token = selected === null ? null : this.answers.missingCandidate(selected);
    if (selected === null || token === null) return null;
    return () => this.answers.compute(selected, token);
  }

  #tryAgain(): void {
    this.answers.forgetFailures();
    this.#refresh();
    this.#changed();
  }

  #announce(selected: doc.PageObject | null): void {
    if (!this.#toAnnounce || selected === null) return;
    const shape = this.answers.shapeOf(selected);
    if (shape === null) return;
    this.#toAnnounce = false;
    const score = this.answers.scoreOf(selected);
    const said = shape.areaPx === 0 ? "No mask here" : `Mask found, ${this.shareText(shape.areaPx)}`;
    this.#voice.say(score === null ? `${said}.` : `${said}, score ${score.toFixed(2)}.`);
  }

  #changed(): void {
    if (this.#willTell) return;
    this.#willTell = true;
    queueMicrotask(() => {
      this.#willTell = false;
      for (const listener of this.#listeners) listener();
      const waiting = this.#waiting;
      this.#waiting = [];
      for (const resolve of waiting) resolve();
    });
  }
}
