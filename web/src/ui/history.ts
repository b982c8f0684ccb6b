/** Undo and redo over values that never change. */

const MAX_STEPS = 200;

/** A present value with what was before it and, after an undo, what came after. */
export class History<T> {
  #past: T[] = [];
  #present: T;
  #future: T[] = [];

  constructor(present: T) {
    this.#present = present;
  }

  get present(): T {
    return this.#present;
  }

  get canUndo(): boolean {
    return this.#past.length > 0;
  }

  get canRedo(): boolean {
    return this.#future.length > 0;
  }

  /** Make a step that can be undone; the same value again is none. */
  commit(next: T): void {
    if (next === this.#present) return;
    this.#past.push(this.#present);
    if (this.#past.length > MAX_STEPS) this.#past.shift();
    this.#present = next;
    this.#future = [];
  }

  /** Change the present without a step of its own, such as which object is selected. */
  amend(next: T): void {
    this.#present = next;
  }

  /** Go one step back; false if there is none. */
  undo(): boolean {
    const before = this.#past.pop();
    if (before === undefined) return false;
    this.#future.push(this.#present);
    this.#present = before;
    return true;
  }

  /** Go one step forward again; false if there is none. */
  redo(): boolean {
    const after = this.#future.pop();
    if (after === undefined) return false;
    this.#past.push(this.#present);
    this.#present = after;
    return true;
  }

  /** Begin anew, with nothing to undo. */
  reset(present: T): void {
    this.#past = [];
    this.#future = [];
    this.#present = present;
  }
}
