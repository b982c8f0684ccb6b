/**
 * From the picture to the model's square and back.
 *
 * The picture is resized so that its longer side is the square's, and lies in the upper left corner; the part
 * of the square that it fills is the input frame. The two axes have a scale each, as both sides are rounded.
 */

/** Width and height in pixels. */
export interface Size {
  readonly width: number;
  readonly height: number;
}

/** Side of the square that the encoder sees. */
export const INPUT_SIDE = 1024;

/** Side of the decoder's masks, which cover the square. */
export const LOW_RES_SIDE = 256;

/** Size of the input frame of a picture; a side that would be rounded to nothing is kept at one pixel. */
export function inputSize(picture: Size): Size {
  const scale = INPUT_SIDE / Math.max(picture.width, picture.height);
  return {
    width: Math.max(1, Math.floor(picture.width * scale + 0.5)),
    height: Math.max(1, Math.floor(picture.height * scale + 0.5)),
  };
}
