/**
 * Where the picture lies on the canvas. View: CSS px from the canvas's upper left corner. Picture: its
 * pixels.
 */

/** view = picture * scale + offset. */
export interface View {
  readonly scale: number;
  readonly x: number;
  readonly y: number;
}

/** Width and height, in the frame that the name says. */
export interface Size {
  readonly width: number;
  readonly height: number;
}

/** A place, in the frame that the name says. */
export interface Point {
  readonly x: number;
  readonly y: number;
}

const MAX_SCALE = 40;
const MARGIN_PX = 16;
/** So much of the picture stays in sight, however far it is dragged. */
const KEPT_PX = 48;

/** The whole picture, centred, with a margin; small pictures are enlarged up to four times. */
export function fitView(picture: Size, canvas: Size): View {
  const width = Math.max(1, canvas.width - 2 * MARGIN_PX);
  const height = Math.max(1, canvas.height - 2 * MARGIN_PX);
  const scale = Math.min(width / picture.width, height / picture.height, 4);
  return {
    scale,
    x: (canvas.width - picture.width * scale) / 2,
    y: (canvas.height - picture.height * scale) / 2,
  };
}

/** From the canvas to the picture. */
export function toPicture(view: View, point: Point): Point {
  return { x: (point.x - view.x) / view.scale, y: (point.y - view.y) / view.scale };
}

/** From the picture to the canvas. */
export function toView(view: View, point: Point): Point {
  return { x: point.x * view.scale + view.x, y: point.y * view.scale + view.y };
}

/** Zoom by a factor so that what is under `centre` (canvas) stays there. */
export function zoomAt(view: View, factor: number, centre: Point, picture: Size, canvas: Size): View {
  const smallest = Math.min(fitView(picture, canvas).scale / 2, 1);
  const scale = Math.min(MAX_SCALE, Math.max(smallest, view.scale * factor));
  const fixed = toPicture(view, centre);
  return keepInSight(
    { scale, x: centre.x - fixed.x * scale, y: centre.y - fixed.y * scale },
    picture,
    canvas,
  );
}

/** Move the picture by CSS px. */
export function panBy(view: View, dx: number, dy: number, picture: Size, canvas: Size): View {
  return keepInSight({ ...view, x: view.x + dx, y: view.y + dy }, picture, canvas);
}

/** Move the picture so that a point of it is on the canvas, with some room around; as little as will do. */
export function reveal(view: View, point: Point, canvas: Size): View {
  const at = toView(view, point);
  return {
    ...view,
    x: view.x + clamp(at.x, KEPT_PX, canvas.width - KEPT_PX) - at.x,
    y: view.y + clamp(at.y, KEPT_PX, canvas.height - KEPT_PX) - at.y,
  };
}

/** A point moved into the picture. */
export function clampToPicture(point: Point, picture: Size): Point {
  return { x: clamp(point.x, 0, picture.width), y: clamp(point.y, 0, picture.height) };
}

/** Whether the point lies in the picture. */
export function isInside(point: Point, picture: Size): boolean {
  return point.x >= 0 && point.y >= 0 && point.x < picture.width && point.y < picture.height;
}

function keepInSight(view: View, picture: Size, canvas: Size): View {
  return {
    ...view,
    x: clamp(view.x, KEPT_PX - picture.width * view.scale, canvas.width - KEPT_PX),
    y: clamp(view.y, KEPT_PX - picture.height * view.scale, canvas.height - KEPT_PX),
  };
}

function clamp(value: number, low: number, high: number): number {
  return Math.min(Math.max(value, low), Math.max(low, high));
}
