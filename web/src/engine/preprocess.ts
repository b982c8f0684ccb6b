/** From a picture to what the encoder takes. */

import { INPUT_SIDE, inputSize, type Size } from "./geometry.ts";
import { resizeToRgb } from "./resize.ts";

/** Mean and deviation of ImageNet's red, green and blue, 0 to 255: what SAM's encoders were trained with. */
const PIXEL_MEAN = [123.675, 116.28, 103.53] as const;
const PIXEL_STD = [58.395, 57.12, 57.375] as const;

/**
 * Resize, normalise, and pad with zeros at the right and at the bottom.
 *
 * @param rgba four bytes a pixel, row by row
 * @returns (3, 1024, 1024) float32
 */
export function toModelInput(rgba: Uint8ClampedArray | Uint8Array, picture: Size): Float32Array<ArrayBuffer> {
  const frame = inputSize(picture);
  const rgb = resizeToRgb(rgba, picture, frame);
  const input = new Float32Array(3 * INPUT_SIDE * INPUT_SIDE);
  for (let channel = 0; channel < 3; channel++) {
    const normalised = normalisedValues(channel);
    for (let y = 0; y < frame.height; y++) {
      let target = (channel * INPUT_SIDE + y) * INPUT_SIDE;
      let source = y * frame.width * 3 + channel;
      for (let x = 0; x < frame.width; x++, target++, source += 3) {
        input[target] = normalised[rgb[source]!]!;
      }
    }
  }
  return input;
}

/** What each of the 256 values becomes, computed in float32 as Python does. */
function normalisedValues(channel: number): Float32Array {
  const mean = Math.fround(PIXEL_MEAN[channel]!);
  const deviation = Math.fround(PIXEL_STD[channel]!);
  return Float32Array.from({ length: 256 }, (_, value) => Math.fround(value - mean) / deviation);
}
