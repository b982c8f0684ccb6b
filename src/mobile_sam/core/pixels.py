"""Any array of pixels as 8-bit RGB: the rules for depth, channels and transparency in one place.

- bool: 0 and 255.
- uint8: as it is.
- uint16: the full range, divided by 257 and rounded, whatever part of it the picture uses.
- float: within [0, 1] times 255; a picture with colour channels within [0, 255] as it is; other grey values (depths,
  temperatures) are stretched from their least to their greatest. NaN and infinity are refused.
- one channel is repeated three times; of four, the fourth is how opaque the pixel is.

A pixel that is not opaque is laid over white. What colour is stored under transparency is arbitrary (often black, or
left over from an edit) and no viewer shows it; white is the page that people see. Opaque pixels keep their exact
values, so a picture without real transparency comes out as `PIL.Image.convert("RGB")` gives it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BAND_VALUES = 1 << 22  # values converted at once, which bounds the memory for intermediate arrays


def to_rgb_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Pixels as 8-bit RGB by the rules of this module.

    Args:
        array: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of bool, uint8, uint16 or float.

    Returns:
        (H, W, 3) uint8, C-contiguous; the array itself if it is so already.

    Raises:
        ValueError: if the shape, the dtype or the values have no rule.

    >>> to_rgb_uint8(np.array([[0, 65535]], np.uint16)).tolist()
    [[[0, 0, 0], [255, 255, 255]]]
    """
    pixels = _with_channels(array)  # (H, W, C)
    height, width, num_channels = pixels.shape
    if pixels.dtype == np.uint8 and num_channels == 3:
        return np.ascontiguousarray(pixels)
    to_uint8 = _depth_rule(pixels)
    rgb = np.empty((height, width, 3), np.uint8)
    for band in bands_of_rows(height, width * num_channels):
        block = to_uint8(pixels[band])  # (rows, W, C)
        rgb[band] = over_white(block) if num_channels == 4 else block
    return rgb


def over_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay pixels with opacity over white: (H, W, 4) uint8 -> (H, W, 3) uint8; opaque pixels keep their values.

    >>> over_white(np.array([[[0, 100, 200, 255], [0, 100, 200, 0], [0, 100, 200, 51]]], np.uint8)).tolist()
    [[[0, 100, 200], [255, 255, 255], [204, 224, 244]]]
    """
    rgb, opacity = rgba[..., :3], rgba[..., 3:]
    if (opacity == 255).all():
        return rgb
    wide = opacity.astype(np.uint16)
    return ((rgb * wide + 255 * (255 - wide) + 127) // 255).astype(np.uint8)  # at most 65,152: no overflow


def bands_of_rows(height: int, values_per_row: int) -> Iterator[slice]:
    """Cut a picture into bands of rows that bound the memory of what is computed from one."""
    num_rows = max(1, _BAND_VALUES // max(1, values_per_row))
    for top in range(0, height, num_rows):
        yield slice(top, min(top + num_rows, height))


def _with_channels(array: NDArray[Any]) -> NDArray[Any]:
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if not is_image:
        is_channels_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        advice = "use array.transpose(1, 2, 0)" if is_channels_first else "pass one picture, channels last"
        raise ValueError(
            f"image must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {array.shape} {array.dtype}; {advice}"
        )
    if 0 in array.shape:
        raise ValueError(f"image must have at least one pixel, got {array.shape} {array.dtype}")
    return array[..., None] if array.ndim == 2 else array


def _depth_rule(pixels: NDArray[Any]) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    """Choose the function that brings blocks of these pixels to uint8."""
    kind, itemsize = pixels.dtype.kind, pixels.dtype.itemsize
    if kind == "b":
        return lambda block: block.astype(np.uint8) * np.uint8(255)
    if kind == "u" and itemsize == 1:
        return lambda block: block
    if kind == "u" and itemsize == 2:
        return lambda block: ((block.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if kind == "f":
        low, high = _float_range(pixels)
        return lambda block: np.rint((block.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)
    raise ValueError(
        f"image must be bool, uint8, uint16 or float, got {pixels.shape} {pixels.dtype};"
        " convert it, as in image.astype(np.uint8)"
    )


def _float_range(pixels: NDArray[Any]) -> tuple[float, float]:
    """Find the values that become 0 and 255."""
    low, high = float(pixels.min()), float(pixels.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"image must be finite, got NaN or infinity in {pixels.shape} {pixels.dtype}")
    num_channels = pixels.shape[2]
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    if num_channels > 1 and low >= 0 and high <= 255:
        return 0.0, 255.0
    if num_channels == 4:
        raise ValueError(f"float image with opacity must be within [0, 1] or [0, 255], got values {low} to {high}")
    return (low, high) if high > low else (low, low + 1)
