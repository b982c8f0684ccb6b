"""Masks as run lengths, in COCO's form: runs go down the columns and start with background.

The functions on windows go between runs and the part of a mask that its box holds, in memory of the order of that part:
a small mask in a large picture never takes up a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mobile_sam.core.mask_checks import paste_window, require_mask


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
    image_hw, runs = _size_and_runs(rle)
    corner_xy, window = _window(runs, image_hw)
    return paste_window(window, corner_xy, image_hw)


def window_to_runs(
    window: NDArray[np.bool_], corner_xy: tuple[int, int], image_hw: tuple[int, int]
) -> NDArray[np.int64]:
    """Read the runs of a mask off a window of it, outside of which it is empty.

    Args:
        window: (h, w) bool.
        corner_xy: the window's upper left pixel in the picture.
        image_hw: height and width of the picture, at least 1 each.

    Returns:
        (K,) int64 runs down the columns of the picture, background first (0 if the first pixel is mask), then turn by
        turn; all but the first are at least 1, and they sum to H * W.

    Raises:
        ValueError: if the window is not (h, w) bool or does not lie within the picture.

    >>> window_to_runs(np.array([[True, True], [False, True]]), (1, 0), (3, 4)).tolist()
    [3, 1, 2, 2, 4]
    """
    require_mask(window)
    image_height, image_width = _require_size(image_hw)
    (x, y), (height, width) = corner_xy, window.shape
    if x < 0 or y < 0 or x + width > image_width or y + height > image_height:
        raise ValueError(
            f"window must lie within the picture of {image_height} x {image_width} (H, W), got {height} x {width}"
            f" at (x, y) = ({x}, {y})"
        )
    # A row of background below ends each run with its column; in a window as high as the picture runs go on.
    rows = height + (height < image_height)
    columns = np.zeros((width, rows), np.bool_)
    columns[:, :height] = window.T
    padded = np.zeros(columns.size + 2, np.int8)
    padded[1:-1] = columns.ravel()
    edges = np.flatnonzero(padded[1:] != padded[:-1])  # (2 * parts,) starts and ends of mask in the columns
    column, row = edges // rows, edges % rows
    edges_px = (x + column) * image_height + y + row
    runs: NDArray[np.int64] = np.diff(edges_px, prepend=0, append=image_height * image_width)
    return runs[:-1] if edges.size and runs[-1] == 0 else runs


def runs_to_window(runs: ArrayLike, image_hw: tuple[int, int]) -> tuple[tuple[int, int], NDArray[np.bool_]]:
    """Unfold only the box of a mask from its runs.

    Args:
        runs: (K,) whole numbers, background first, that fill the picture; runs of 0 may come anywhere.
        image_hw: height and width of the picture, at least 1 each.

    Returns:
        The upper left pixel (x, y) of the mask's tight box and the mask within that box, (h, w) bool; of an empty mask
        (0, 0) and a window of (0, 0).

    Raises:
        ValueError: if the runs are no whole numbers or do not fill the picture exactly.

    >>> runs_to_window([3, 1, 2, 2, 4], (3, 4))
    ((1, 0), array([[ True,  True],
           [False,  True]]))
    """
    return _window(_checked_runs(runs, image_hw), image_hw)


def rle_to_window(rle: Mapping[str, Any]) -> tuple[tuple[int, int], tuple[int, int], NDArray[np.bool_]]:
    """Unfold only the box of the mask of a run-length code, in any form that `decode_rle` takes.

    Returns:
        Height and width of the picture, and corner (x, y) and window as `runs_to_window`.

    Raises:
        ValueError: as `decode_rle`.

    >>> rle_to_window({"size": [2, 3], "counts": [5, 1]})
    ((2, 3), (2, 1), array([[ True]]))
    """
    image_hw, runs = _size_and_runs(rle)
    return image_hw, *_window(runs, image_hw)


def decode_runs(runs: ArrayLike, image_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Unfold a mask from its runs: (K,) whole numbers -> (H, W) bool.

    Only the box of the mask is written to, so that most memory of a small mask in a large picture stays untouched.

    Raises:
        ValueError: as `runs_to_window`.

    >>> decode_runs([2, 3, 1], (2, 3))
    array([[False,  True,  True],
           [False,  True, False]])
    """
    corner_xy, window = runs_to_window(runs, image_hw)
    return paste_window(window, corner_xy, image_hw)


def runs_to_rle(runs: ArrayLike, image_hw: tuple[int, int]) -> Rle:
    """Put runs in COCO's compressed form.

    Args:
        runs: (K,) whole numbers, background first, that fill the picture.
        image_hw: height and width of the picture, at least 1 each.

    Returns:
        {"size": [H, W], "counts": str}; what `encode_rle` gives for the mask if no run but the first is 0.

    Raises:
        ValueError: as `runs_to_window`.

    >>> runs_to_rle([2, 2], (2, 2))
    {'size': [2, 2], 'counts': '22'}
    """
    counts = _checked_runs(runs, image_hw)
    size = [int(length) for length in image_hw]
    from pycocotools import mask as coco_mask

    encoded = coco_mask.frPyObjects({"size": size, "counts": counts.tolist()}, *size)
    return Rle(size=size, counts=encoded["counts"].decode("ascii"))


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
    if not _is_filled((height, width), runs):
        raise ValueError(
            f"rle must have runs that fill {height} x {width} pixels, got runs that sum to {int(runs.sum())};"
            " is 'size' [height, width]?"
        )
    return (height, width), runs


def _is_filled(image_hw: tuple[int, int], runs: NDArray[np.int64]) -> bool:
    num_px = image_hw[0] * image_hw[1]
    return bool(min(image_hw) >= 1 and runs.min() >= 0 and runs.max() <= num_px and runs.sum() == num_px)


def _require_size(image_hw: tuple[int, int]) -> tuple[int, int]:
    if len(image_hw) != 2 or min(image_hw) < 1:
        raise ValueError(f"image_hw must be height and width, at least 1 each, got {image_hw}")
    return int(image_hw[0]), int(image_hw[1])


def _checked_runs(runs: ArrayLike, image_hw: tuple[int, int]) -> NDArray[np.int64]:
    height, width = _require_size(image_hw)
    checked = np.asarray(runs)
    if checked.ndim != 1 or checked.size == 0 or checked.dtype.kind not in "iu":
        raise ValueError(f"runs must be (K,) whole numbers, got {checked.shape} {checked.dtype}")
    checked = checked.astype(np.int64)
    if not _is_filled((height, width), checked):
        raise ValueError(
            f"runs must fill {height} x {width} pixels, got runs that sum to {int(checked.sum())};"
            " is image_hw (height, width)?"
        )
    return checked


def _window(runs: NDArray[np.int64], image_hw: tuple[int, int]) -> tuple[tuple[int, int], NDArray[np.bool_]]:
    """Corner (x, y) and pixels (h, w) of the tight box that checked runs describe; the pixels lie column by column."""
    image_height = image_hw[0]
    ends = np.cumsum(runs)[1::2]  # (P,) one past the last pixel of each part
    starts = ends - runs[1::2]
    is_there = ends > starts
    starts, ends = starts[is_there], ends[is_there]
    if starts.size == 0:
        return (0, 0), np.zeros((0, 0), np.bool_)
    first_column, first_row = starts // image_height, starts % image_height
    last_column, last_row = (ends - 1) // image_height, (ends - 1) % image_height
    x, width = int(first_column[0]), int(last_column[-1] - first_column[0]) + 1
    y, height = 0, image_height
    if (first_column == last_column).all():  # a run that goes on in the next column has the bottom row and the top row
        y = int(first_row.min())
        height = int(last_row.max()) + 1 - y
    window_starts = (first_column - x) * height + first_row - y
    edges = np.stack([window_starts, window_starts + ends - starts], axis=1).ravel()  # (2 * P,)
    lengths = np.diff(edges, prepend=0, append=height * width)
    is_mask = np.arange(lengths.size) % 2 == 1
    return (x, y), np.repeat(is_mask, lengths).reshape(width, height).T


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
