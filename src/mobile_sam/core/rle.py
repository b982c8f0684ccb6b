"""Masks as run lengths, in COCO's form: runs go down the columns and start with background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.mask_checks import require_mask


class Rle(TypedDict):
    """A mask in COCO's compressed form, ready for JSON: `size` is [height, width]."""

    size: list[int]
    counts: str


def encode_rle(mask: NDArray[np.bool_]) -> Rle:
    """Put a mask in COCO's compressed form.

    Args:
        mask: (H, W) bool, both sides at least 1.

    Returns:
        {"size": [H, W], "counts": str}.

    Raises:
        ValueError: if the mask is not (H, W) bool, or has no pixels.

    >>> encode_rle(np.array([[False, True], [False, True]]))
    {'size': [2, 2], 'counts': '22'}
    """
    require_mask(mask)
    if mask.size == 0:
        raise ValueError(f"mask must have at least one pixel, got {mask.shape}")
    from pycocotools import mask as coco_mask

    encoded = coco_mask.encode(np.asfortranarray(mask).view(np.uint8))
    return Rle(size=[int(length) for length in encoded["size"]], counts=encoded["counts"].decode("ascii"))


def decode_rle(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Unfold the mask of a run-length code, compressed (str or bytes) or plain (list of runs).

    Unlike pycocotools, which reads past the mask when the runs do not fill it, this checks the runs first.

    Args:
        rle: mapping with `size` [H, W] and `counts`.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: if `size` or `counts` is missing or malformed, or the runs do not fill the mask exactly.

    >>> decode_rle({"size": [2, 3], "counts": [2, 3, 1]})
    array([[False,  True,  True],
           [False,  True, False]])
    """
    (height, width), runs = _size_and_runs(rle)
    is_mask = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(is_mask, runs).reshape(width, height).T)


def rle_area(rle: Mapping[str, Any]) -> int:
    """Count the mask pixels of a run-length code, without decoding the mask.

    Raises:
        ValueError: as `decode_rle`.

    >>> rle_area({"size": [2, 3], "counts": [2, 3, 1]})
    3
    """
    _, runs = _size_and_runs(rle)
    return int(runs[1::2].sum())


def _size_and_runs(rle: Mapping[str, Any]) -> tuple[tuple[int, int], NDArray[np.int64]]:
    """Height and width, and the checked runs (K,): background first, then turn by turn."""
    try:
        height, width = (int(length) for length in rle["size"])
        counts = rle["counts"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"rle must have 'size' [H, W] and 'counts', got {_shortened(rle)}") from error
    if isinstance(counts, str):
        counts = counts.encode("ascii", errors="replace")
    runs = _decompressed(counts) if isinstance(counts, bytes) else _plain(counts)
    num_px = height * width
    if min(height, width) < 1 or runs.min() < 0 or runs.max() > num_px or runs.sum() != num_px:
        raise ValueError(
            f"rle must have runs that fill {height} x {width} pixels, got runs that sum to {int(runs.sum())};"
            " is 'size' [height, width]?"
        )
    return (height, width), runs


def _plain(counts: Sequence[int]) -> NDArray[np.int64]:
    runs = np.asarray(counts)
    if runs.ndim != 1 or runs.size == 0 or runs.dtype.kind not in "iu":
        raise ValueError(f"rle counts must be str, bytes or a list of whole numbers, got {_shortened(counts)}")
    return runs.astype(np.int64)


def _decompressed(counts: bytes) -> NDArray[np.int64]:
    """Read the runs off COCO's string.

    Five bits a character, low bits first; the sixth marks that more follow, and the highest bit of a number is its
    sign. From the fourth number on, each is the difference to the one two before.
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError(f"rle counts are no COCO run-length string: {_shortened(counts)}")
    is_last = (codes & 32) == 0
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 12:
        raise ValueError(f"rle counts hold a number of more than 60 bits: {_shortened(counts)}")
    shift = 5 * (np.arange(codes.size) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((codes & 31) << shift, starts)
    numbers -= np.where(codes[ends] & 16, np.int64(1) << (5 * lengths), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
