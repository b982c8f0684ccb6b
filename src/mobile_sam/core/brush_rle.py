"""Masks as Label Studio's brush has them: runs of RGBA bytes, packed bit by bit. It is not COCO's run-length code.

The code is that of the JavaScript package @thi.ng/rle-pack, high bits first: 32 bits that count the values, 5 bits for
the bits of a value less 1, four times 4 bits for the bits of a length less 1, and then blocks. A block begins with 1
for a run or 0 for single values, 2 bits that choose one of the four widths, and its length less 1 in that width. A run
goes on with one value, single values with as many as the length says. Label Studio packs a picture of four channels,
row by row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.masks import require_mask

CHANNELS = 4
VALUE_BITS = 8
LENGTH_BITS = (3, 4, 8, 16)
"""Widths to choose from, as Label Studio's own tools have them."""
MAX_RUN = 1 << LENGTH_BITS[-1]
MAX_PIXELS = (1 << 32) // CHANNELS - 1


def mask_to_brush(mask: NDArray[np.bool_]) -> list[int]:
    """Pack a mask as the `rle` of a brush region: 255 in all four channels where it is, 0 elsewhere.

    Args:
        mask: (H, W) bool.

    Returns:
        Bytes, 0 to 255 each.

    Raises:
        ValueError: if the mask is not (H, W) bool, has no pixels, or more than 2^30 - 1.
    """
    require_mask(mask)
    if not 0 < mask.size <= MAX_PIXELS:
        raise ValueError(f"mask must have 1 to {MAX_PIXELS} pixels, got {mask.shape}")
    lengths, is_mask = _value_runs(mask)
    width_index = np.searchsorted(1 << np.array(LENGTH_BITS), lengths)
    width_bits = np.array(LENGTH_BITS)[width_index]
    # A block as a number: 1, two bits, the length less 1, the value.
    blocks = ((4 + width_index) << width_bits | (lengths - 1)) << VALUE_BITS | np.where(is_mask, 255, 0)
    numbers = np.concatenate([_header(mask.size * CHANNELS), blocks])
    num_bits = np.concatenate([[32, 5, 4, 4, 4, 4], 3 + width_bits + VALUE_BITS])
    packed: list[int] = np.packbits(_bits(numbers, num_bits)).tolist()
    return packed


def _header(num_values: int) -> NDArray[np.int64]:
    return np.array([num_values, VALUE_BITS - 1, *(bits - 1 for bits in LENGTH_BITS)], np.int64)


def _value_runs(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Lengths of the runs of equal values, 1 to MAX_RUN, and whether each is mask: (K,) int64, (K,) bool."""
    pixels = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(pixels[1:] != pixels[:-1]) + 1])
    lengths = np.diff(starts, append=pixels.size) * CHANNELS
    num_parts = -(-lengths // MAX_RUN)
    parts = np.full(int(num_parts.sum()), MAX_RUN, np.int64)
    parts[np.cumsum(num_parts) - 1] = lengths - (num_parts - 1) * MAX_RUN  # the last of each run has what is left
    return parts, np.repeat(pixels[starts], num_parts)


def _bits(numbers: NDArray[np.int64], num_bits: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Write numbers one after the other, each in its own number of bits, high ones first: (K,), (K,) -> (L,) 0 or 1."""
    ends = np.cumsum(num_bits)
    shift = np.repeat(ends, num_bits) - 1 - np.arange(ends[-1])
    return (np.repeat(numbers, num_bits) >> shift & 1).astype(np.uint8)
