/** Boxes that suppress each other, in float32 as Python's. */

/** Two corners, both inclusive. */
export type Corners = readonly [x1: number, y1: number, x2: number, y2: number];

/** Width times height, without a pixel for the edges, as SAM has it. */
export function boxArea([x1, y1, x2, y2]: Corners): number {
  return Math.fround((x2 - x1) * (y2 - y1));
}

/** The area that two boxes have in common. */
export function sharedArea(a: Corners, b: Corners): number {
  const width = Math.max(Math.min(a[2], b[2]) - Math.max(a[0], b[0]), 0);
  const height = Math.max(Math.min(a[3], b[3]) - Math.max(a[1], b[1]), 0);
  return Math.fround(width * height);
}

/** Intersection over union; 0 where neither has an area. */
export function boxIou(a: Corners, b: Corners): number {
  const shared = sharedArea(a, b);
  const union = Math.fround(Math.fround(boxArea(a) + boxArea(b)) - shared);
  return Math.fround(shared / (union > 0 ? union : 1));
}

/** Boxes that were kept, none of which overlaps another by more than a threshold. */
export class KeptBoxes {
  readonly #boxes: Corners[] = [];
  readonly #iouThreshold: number;

  constructor(iouThreshold: number) {
    this.#iouThreshold = iouThreshold;
  }

  /** Keep a box if it overlaps none too much, and tell whether it is kept. */
  add(corners: Corners): boolean {
    if (this.#boxes.some((kept) => boxIou(kept, corners) > this.#iouThreshold)) {
      return false;
    }
    this.#boxes.push(corners);
    return true;
  }

  /**
   * Tell whether a box overlaps a kept one too much, whatever it is within its bounds.
   *
   * @param inner what it surely contains; null if nothing is sure
   * @param outer what it surely is within
   */
  surelySuppress(inner: Corners | null, outer: Corners): boolean {
    return (
      inner !== null &&
      this.#boxes.some((kept) => {
        const leastShared = sharedArea(kept, inner);
        const mostUnion = Math.max(boxArea(kept) + boxArea(outer) - leastShared, 1);
        return leastShared / mostUnion > this.#iouThreshold;
      })
    );
  }
}
