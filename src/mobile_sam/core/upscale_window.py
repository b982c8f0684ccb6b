"""From the decoder's 256 x 256 logits to a mask of the picture's size, with work and memory only where the mask is.

An interpolated value never exceeds those it lies between, so what is far from all logits above a floor needs no work.
`window_above` keeps the part of the logits that matters, `upscale_window` makes the mask of it. Pictures of up to
DIRECT_PX pixels are interpolated by OpenCV at once, larger ones in bands of rows that stay in the processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.mask_checks import tight_rectangle

DIRECT_PX = 1 << 22  # up to here the floats (16 MiB) do not matter
_BAND_PX = 1 << 16  # pixels interpolated at once: 256 KiB of float32, which fits the second-level cache
_CONTEXT = 2  # low-resolution values beyond the last one that counts: an interpolated pixel has inputs up to there


@dataclass(frozen=True, eq=False)
class WindowLogits:
    """The part of one mask's low-resolution logits that matters: elsewhere they are at most `floor`.

    Attributes:
        logits: (h, w) float32.
        corner_xy: column and row of the first of them in the whole.
        whole_side: height and width of the whole.
        floor: see above.
    """

    logits: NDArray[np.float32]
    corner_xy: tuple[int, int]
    whole_side: int
    floor: float


@dataclass(frozen=True, eq=False)
class MaskWindow:
    """A mask of the picture's size, held as the pixels of its tight box.

    Attributes:
        pixels: (h, w) bool; (0, 0) if the mask is empty.
        corner_xy: x and y of the first of them in the picture.
        stability_score: IoU of the masks cut at the threshold plus and minus the offset, over the whole picture; 0 if
            there is nothing at either.
    """

    pixels: NDArray[np.bool_]
    corner_xy: tuple[int, int]
    stability_score: float

    @property
    def box_xyxy(self) -> tuple[int, int, int, int]:
        """Tight box in the picture, both corners inclusive; zeros if the mask is empty."""
        x, y = self.corner_xy
        h, w = self.pixels.shape
        return (x, y, x + w - 1, y + h - 1) if h else (0, 0, 0, 0)


def window_above(low_res_logits: NDArray[np.float32], floor: float) -> WindowLogits:
    """Copy from one mask's logits what `upscale_window` needs where they exceed `floor`: (S/4, S/4) -> (h, w).

    >>> logits = np.full((256, 256), -9, np.float32)
    >>> logits[100, 50:60] = 4
    >>> window = window_above(logits, -1.0)
    >>> window.logits.shape, window.corner_xy
    ((5, 14), (48, 98))
    """
    x, y, w, h = tight_rectangle(low_res_logits > floor)
    left, top = max(x - _CONTEXT, 0), max(y - _CONTEXT, 0)
    part = low_res_logits[top : y + h + _CONTEXT, left : x + w + _CONTEXT] if w else low_res_logits[:0, :0]
    return WindowLogits(part.copy(), (left, top), low_res_logits.shape[0], floor)


def upscale_window(
    window: WindowLogits,
    input_hw: tuple[int, int],
    image_hw: tuple[int, int],
    threshold: float = 0.0,
    offset: float = 0.0,
    side: int = 1024,
) -> MaskWindow:
    """Make the mask of the picture's size, `upscale_logits(...) > threshold`, and its stability score.

    It is the direct result up to float rounding: a pixel may differ where its logit is within 1e-4 of the threshold.

    Args:
        window: `window_above(low_res_logits, floor)` with a floor of at most `threshold - offset`.
        input_hw: height and width of the input frame, `LongSideResize.input_hw`.
        image_hw: height and width of the picture.
        threshold: a pixel belongs to the mask where its logit is greater.
        offset: how far the cut moves to either side for the stability score, not negative.
        side: side of the model's square, a multiple of the low resolution's.
    """
    assert window.floor <= threshold - offset
    factor = side // window.whole_side
    left, top = (factor * start for start in window.corner_xy)  # of the window in the input frame
    h, w = window.logits.shape
    h, w = min(factor * h, input_hw[0] - top), min(factor * w, input_hw[1] - left)
    if h <= 0 or w <= 0:
        return MaskWindow(np.zeros((0, 0), np.bool_), (0, 0), 0.0)
    frame = _scaled(window.logits, factor, factor)[:h, :w]
    (first_x, first_y), size_hw, bands = _upscale(frame, (left, top), input_hw, image_hw, window.floor - 1)
    pixels = np.empty(size_hw, np.bool_)  # (rows, columns)
    num_done = num_above = num_below = 0
    for logits in bands:
        np.greater(logits, threshold, out=pixels[num_done : num_done + len(logits)])
        num_done += len(logits)
        num_above += np.count_nonzero(logits > threshold + offset)
        num_below += np.count_nonzero(logits > threshold - offset)
    x, y, w, h = tight_rectangle(pixels)
    stability = float(num_above / max(num_below, 1))  # NumPy's counts are no plain numbers
    return MaskWindow(pixels[y : y + h, x : x + w], (first_x + x, first_y + y), stability)


def _upscale(
    frame: NDArray[np.float32],
    corner_xy: tuple[int, int],
    input_hw: tuple[int, int],
    image_hw: tuple[int, int],
    floor: float,
) -> tuple[tuple[int, int], tuple[int, int], Iterator[NDArray[np.float32]]]:
    """Interpolate a part of the input frame to the picture's scale.

    OpenCV can only begin where a pixel of the frame and one of the picture begin at the same place. What is added to
    the part to begin there is not above the floor.

    Args:
        frame: (h, w) the part.
        corner_xy: where it begins in the input frame.
        input_hw: of the whole input frame.
        image_hw: of the picture.
        floor: less than what counts, so that no rounding lifts it above; stands for the values outside of the part.

    Returns:
        x and y of the first pixel; the numbers of rows and columns from there on; their logits, in bands of rows.
    """
    (input_h, input_w), (image_h, image_w) = input_hw, image_hw
    fx, fy = image_w / input_w, image_h / input_h
    left, first_x = _common_start(corner_xy[0], input_w, image_w)
    top, first_y = _common_start(corner_xy[1], input_h, image_h)
    if (frame.shape[1] + corner_xy[0] - left) * fx * (frame.shape[0] + corner_xy[1] - top) * fy > DIRECT_PX:
        widened = _scaled(_padded(frame, 0, corner_xy[0] - left, floor), fx, 1)  # (h, columns)
        rows, taps = _reached(corner_xy[1], len(frame), input_h, image_h)
        return (first_x, rows.start), (len(taps.first), widened.shape[1]), _bands(widened, taps)
    padded = _padded(frame, corner_xy[1] - top, corner_xy[0] - left, floor)
    logits = _scaled(padded, fx, fy)
    return (first_x, first_y), (logits.shape[0], logits.shape[1]), iter([logits])


def _scaled(values: NDArray[np.float32], factor_x: float, factor_y: float) -> NDArray[np.float32]:
    """Interpolate bilinearly, beginning where the values begin: (h, w) -> (h * factor_y, w * factor_x), rounded."""
    import cv2

    num_rows, num_columns = round(values.shape[0] * factor_y), round(values.shape[1] * factor_x)
    if not num_rows or not num_columns:  # no pixel of a tiny picture has its centre here, which OpenCV would refuse
        return np.zeros((num_rows, num_columns), np.float32)
    resized = cv2.resize(values, None, fx=factor_x, fy=factor_y, interpolation=cv2.INTER_LINEAR)
    return cast("NDArray[np.float32]", resized)


def _common_start(start: int, num_in: int, num_out: int) -> tuple[int, int]:
    """Find the last position up to `start` at which an input and an output pixel begin together: its index in both."""
    common = math.gcd(num_in, num_out)
    step_in, step_out = num_in // common, num_out // common
    return start // step_in * step_in, start // step_in * step_out


def _padded(frame: NDArray[np.float32], num_rows: int, num_columns: int, value: float) -> NDArray[np.float32]:
    """Put rows above and columns before (h, w)."""
    padded = np.full((len(frame) + num_rows, frame.shape[1] + num_columns), value, np.float32)
    padded[num_rows:, num_columns:] = frame
    return padded


class _Taps(NamedTuple):
    """For each output position along an axis: its two input positions and the weight of the second, each (n,)."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    weight: NDArray[np.float32]


def _reached(start: int, num_part: int, num_in: int, num_out: int) -> tuple[slice, _Taps]:
    """Find the output positions that a part of an axis has to do with, and from where in the part they come.

    Args:
        start: where the part begins.
        num_part: its length.
        num_in: the length of the whole axis.
        num_out: the number of output positions for the whole.
    """
    centre = np.clip((np.arange(num_out) + 0.5) * (num_in / num_out) - 0.5, 0, num_in - 1)
    first = centre.astype(np.intp)
    weight = (centre - first).astype(np.float32)
    first, second = first - start, np.minimum(first + 1, num_in - 1) - start
    positions = np.flatnonzero((second >= 0) & (first < num_part))
    rows = slice(int(positions[0]), int(positions[-1]) + 1) if positions.size else slice(0, 0)
    first, second = (np.clip(taps[rows], 0, num_part - 1) for taps in (first, second))
    return rows, _Taps(first, second, weight[rows])


def _bands(widened: NDArray[np.float32], taps: _Taps) -> Iterator[NDArray[np.float32]]:
    """Interpolate the rows of (h, columns), some at a time."""
    num_rows = max(1, _BAND_PX // max(widened.shape[1], 1))
    for start in range(0, len(taps.first), num_rows):
        band = slice(start, start + num_rows)
        upper, lower = widened[taps.first[band]], widened[taps.second[band]]  # each (rows, columns)
        lower -= upper
        lower *= taps.weight[band, None]
        lower += upper
        yield lower
