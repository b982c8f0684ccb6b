"""Between the decoder's logits (256 x 256 for a square of 1024) and masks of the picture's size.

SAM's rule has two bilinear steps (pixel centres at halves, no antialiasing): from there to the model's square, cut to
the input frame, then to the picture. `upscale_logits` follows it to the letter. `upscale_to_mask` gives the same mask
of a large picture for less, see `core.upscale_window`: without work where the mask cannot be, and without an array of
floats of the picture's size.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.mask_checks import paste_window, require_mask
from mobile_sam.core.upscale_window import DIRECT_PX, upscale_window, window_above

_MAX_LOGIT = 10.0  # see mask_to_logits


def upscale_logits(
    low_res_logits: NDArray[np.float32], input_hw: tuple[int, int], image_hw: tuple[int, int], side: int = 1024
) -> NDArray[np.float32]:
    """Bring the decoder's logits to the picture's size, by SAM's rule.

    Args:
        low_res_logits: (h, w) float, the decoder's output for one mask, covering the padded square.
        input_hw: height and width of the input frame, `LongSideResize.input_hw`.
        image_hw: height and width of the picture.
        side: side of the model's square.

    Returns:
        (H, W) float32.

    Raises:
        ValueError: if the logits are not of rank 2, or the frame does not fit the square.
    """
    frame = _input_frame(low_res_logits, input_hw, image_hw, side)  # (h, w)
    return _resize(frame, image_hw)


def upscale_to_mask(
    low_res_logits: NDArray[np.float32],
    input_hw: tuple[int, int],
    image_hw: tuple[int, int],
    threshold: float = 0.0,
    side: int = 1024,
) -> NDArray[np.bool_]:
    """Make the mask of the picture's size, `upscale_logits(...) > threshold`, in bounded memory.

    It is the direct result up to float rounding: a pixel may differ where its logit is within 1e-4 of the threshold.

    Args:
        low_res_logits: (h, w) float, the decoder's output for one mask, covering the padded square.
        input_hw: height and width of the input frame, `LongSideResize.input_hw`.
        image_hw: height and width of the picture.
        threshold: a pixel belongs to the mask where its logit is greater.
        side: side of the model's square.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: if the logits are not of rank 2, or the frame does not fit the square.

    >>> upscale_to_mask(np.full((256, 256), 3.0, np.float32), input_hw=(683, 1024), image_hw=(2, 3))
    array([[ True,  True,  True],
           [ True,  True,  True]])
    """
    has_windows = low_res_logits.ndim == 2 and low_res_logits.size and side % len(low_res_logits) == 0
    if image_hw[0] * image_hw[1] <= DIRECT_PX or not has_windows:
        return upscale_logits(low_res_logits, input_hw, image_hw, side) > threshold
    _require_logits(low_res_logits, input_hw, image_hw, side)
    window = upscale_window(window_above(low_res_logits, threshold), input_hw, image_hw, threshold, side=side)
    return paste_window(window.pixels, window.corner_xy, image_hw)


def mask_to_logits(
    mask: NDArray[np.bool_], input_hw: tuple[int, int], side: int = 1024, low_res_side: int = 256
) -> NDArray[np.float32]:
    """Turn a mask of the picture into a mask prompt, the shape in which the decoder's own logits are fed back.

    The mask is averaged over the area of each low-resolution pixel, background filling the padding, and the share p of
    foreground becomes the logit log(p / (1 - p)): 0 where the outline cuts a pixel in half, so that upscaling gives the
    mask back. Logits stop at -10 and +10, the middle of what the decoder itself returns (medians of +3 to +8 inside and
    -7 to -12 outside on the parity pictures), since the prompt encoder has seen nothing else.

    Args:
        mask: (H, W) bool at the picture's size.
        input_hw: height and width of the input frame, `LongSideResize.input_hw`.
        side: side of the model's square.
        low_res_side: side of the prompt.

    Returns:
        (low_res_side, low_res_side) float32 in [-10, 10].

    Raises:
        ValueError: if the mask is not (H, W) bool with at least one pixel, or the frame does not fit the square.
    """
    require_mask(mask)
    _require_sizes(input_hw, mask.shape, side)
    import cv2

    height, width = input_hw
    shrinks = height <= mask.shape[0] and width <= mask.shape[1]
    bytes_0_255 = np.where(mask, np.uint8(255), np.uint8(0))  # (H, W)
    resized = cv2.resize(bytes_0_255, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    square = np.zeros((side, side), np.float32)
    square[:height, :width] = resized / np.float32(255)
    low_res = cv2.resize(square, (low_res_side, low_res_side), interpolation=cv2.INTER_AREA)
    edge = 1 / (1 + np.exp(_MAX_LOGIT))
    share = np.clip(low_res.astype(np.float64), edge, 1 - edge)
    return np.log(share / (1 - share)).astype(np.float32)


def _input_frame(
    low_res_logits: NDArray[np.float32], input_hw: tuple[int, int], image_hw: tuple[int, int], side: int
) -> NDArray[np.float32]:
    """Bring the logits to the model's scale, cut to the part that the picture fills: (h, w) float32."""
    _require_logits(low_res_logits, input_hw, image_hw, side)
    square = _resize(low_res_logits.astype(np.float32, copy=False), (side, side))
    return square[: input_hw[0], : input_hw[1]]


def _resize(values: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.float32]:
    import cv2

    resized = cv2.resize(values, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_LINEAR)
    return cast("NDArray[np.float32]", resized)


def _require_logits(
    low_res_logits: NDArray[np.float32], input_hw: tuple[int, int], image_hw: tuple[int, int], side: int
) -> None:
    if low_res_logits.ndim != 2 or low_res_logits.size == 0:
        raise ValueError(f"low_res_logits must be (h, w), got {low_res_logits.shape}; pass one mask at a time")
    _require_sizes(input_hw, image_hw, side)


def _require_sizes(input_hw: tuple[int, int], image_hw: tuple[int, ...], side: int) -> None:
    if min(*input_hw, *image_hw) < 1 or max(input_hw) > side:
        raise ValueError(
            f"input_hw must be 1 to {side} and image_hw at least 1 on both sides, got {input_hw} and {image_hw};"
            " take input_hw from LongSideResize(image_hw)"
        )
