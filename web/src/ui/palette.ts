/** Colours of objects: easy to tell apart, also with the common kinds of colour blindness. */

/** Red, green and blue, 0 to 255. */
export type Rgb = readonly [red: number, green: number, blue: number];

/** Neighbours differ in lightness as well as in hue. */
const COLOURS: readonly Rgb[] = [
  [230, 159, 0],
  [0, 114, 178],
  [240, 228, 66],
  [0, 158, 115],
  [204, 121, 167],
  [86, 180, 233],
  [213, 94, 0],
  [153, 79, 186],
  [160, 214, 84],
  [136, 34, 85],
  [120, 224, 208],
  [255, 170, 160],
];

/** The colour with this index; they repeat. */
export function colourOf(index: number): Rgb {
  return COLOURS[index % COLOURS.length] ?? [230, 159, 0];
}

/** As canvas and CSS take it. */
export function cssColour([red, green, blue]: Rgb, alpha = 1): string {
  return `rgb(${red} ${green} ${blue} / ${alpha})`;
}

/** As SVG files take it: #rrggbb. */
export function hexColour(colour: Rgb): string {
  return `#${colour.map((part) => part.toString(16).padStart(2, "0")).join("")}`;
}

/** The colour as one little-endian RGBA pixel. */
export function pixelColour([red, green, blue]: Rgb, alpha: number): number {
  return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}
