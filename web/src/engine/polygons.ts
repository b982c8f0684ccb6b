/** Outlines of masks. */

import type { Mask } from "../types.ts";

/** A closed outline: x, y in pixels of the picture, the last point joined to the first. */
export type Ring = readonly (readonly [x: number, y: number])[];

/** Steps to the right, down, left and up. */
const STEP_X = [1, 0, -1, 0] as const;
const STEP_Y = [0, 1, 0, -1] as const;
const UP = 3;

/**
 * Outlines along the edges of a mask's pixels, outer ones and holes.
 *
 * Without tolerance, filling all rings by the even-odd rule gives exactly the mask. Outer rings run clockwise
 * on the screen, holes the other way; parts that touch only at a corner have rings of their own.
 *
 * @param tolerancePx how far an outline may move for fewer points (Douglas and Peucker); rings that would
 *   be left with fewer than three points stay as they are
 */
export function maskToPolygons(mask: Mask, tolerancePx = 0): Ring[] {
  const { width, height, data } = mask;
  const wasSeen = new Uint8Array((width + 1) * height); // left edges of pixels that a ring went up along
  const rings: Ring[] = [];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const isLeftEdge = data[y * width + x] && (x === 0 || !data[y * width + x - 1]);
      if (isLeftEdge && !wasSeen[y * (width + 1) + x]) {
        const ring = traced(mask, x, y, wasSeen);
        rings.push(tolerancePx > 0 ? simplified(ring, tolerancePx) : ring);
      }
    }
  }
  return rings;
}

/** Area within a ring in square pixels: positive for an outer ring, negative for a hole. */
export function ringArea(ring: Ring): number {
  let doubled = 0;
  ring.forEach(([x, y], i) => {
    const [nextX, nextY] = ring[(i + 1) % ring.length]!;
    doubled += x * nextY - nextX * y;
  });
  return doubled / 2;
}

/**
 * Walk around an object or a hole, the object at the right hand, beginning upwards along a pixel's left edge.
 */
function traced({ width, height, data }: Mask, startX: number, startY: number, wasSeen: Uint8Array): Ring {
  const isSet = (x: number, y: number): boolean =>
    x >= 0 && y >= 0 && x < width && y < height && data[y * width + x] === 1;
  const ring: [number, number][] = [];
  let [x, y, direction] = [startX, startY + 1, UP]; // a corner between pixels
  for (;;) {
    x += STEP_X[direction]!;
    y += STEP_Y[direction]!;
    if (direction === UP) {
      if (wasSeen[y * (width + 1) + x]) {
        return ring;
      }
      wasSeen[y * (width + 1) + x] = 1;
    }
    // The two pixels ahead of the corner: the upper left one of four is at x - 1, y - 1.
    const isRight = isSet(direction === 0 || direction === 3 ? x : x - 1, direction < 2 ? y : y - 1);
    const isLeft = isSet(direction < 2 ? x : x - 1, direction === 0 || direction === 3 ? y - 1 : y);
    const turn = isRight ? (isLeft ? 3 : 0) : 1;
    if (turn) {
      ring.push([x, y]);
      direction = (direction + turn) % 4;
    }
  }
}

function simplified(ring: Ring, tolerancePx: number): Ring {
  const [first] = ring;
  let far = 0; // the point farthest from the first cuts the ring into two open lines
  ring.forEach((point, i) => {
    if (squaredLength(first!, point) > squaredLength(first!, ring[far]!)) {
      far = i;
    }
  });
  const stays = new Uint8Array(ring.length + 1);
  stays[0] = stays[far] = 1;
  const closed = [...ring, first!];
  const lines: [number, number][] = [[0, far], [far, ring.length]];
  for (let line = lines.pop(); line; line = lines.pop()) {
    const middle = farthest(closed, line, tolerancePx);
    if (middle !== null) {
      stays[middle] = 1;
      lines.push([line[0], middle], [middle, line[1]]);
    }
  }
  const kept = ring.filter((_, i) => stays[i]);
  return kept.length < 3 ? ring : kept;
}

/**
 * The point of a line that is farthest from the straight way between its ends, if it is beyond the tolerance.
 */
function farthest(points: Ring, [from, to]: readonly [number, number], tolerancePx: number): number | null {
  let farthestIndex: number | null = null;
  let most = tolerancePx * tolerancePx;
  for (let i = from + 1; i < to; i++) {
    const squared = squaredDistance(points[i]!, points[from]!, points[to]!);
    if (squared > most) {
      [most, farthestIndex] = [squared, i];
    }
  }
  return farthestIndex;
}

type Point = readonly [x: number, y: number];

function squaredLength([x1, y1]: Point, [x2, y2]: Point): number {
  return (x2 - x1) ** 2 + (y2 - y1) ** 2;
}

/** Squared distance of a point from the straight line between two others. */
function squaredDistance(point: Point, from: Point, to: Point): number {
  const squared = squaredLength(from, to);
  if (squared === 0) {
    return squaredLength(point, from);
  }
  const along = (point[0] - from[0]) * (to[0] - from[0]) + (point[1] - from[1]) * (to[1] - from[1]);
  const share = Math.min(Math.max(along / squared, 0), 1);
  return squaredLength(point, [from[0] + share * (to[0] - from[0]), from[1] + share * (to[1] - from[1])]);
}
