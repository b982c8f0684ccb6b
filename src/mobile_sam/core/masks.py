"""Masks: boxes, areas, overlaps, stability and outlines, and the door to run lengths and upscaling.

The last two have files of their own, `rle` and `upscale`; their functions are part of this module's list of names, so
that whoever needs something done with a mask looks in one place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.mask_checks import require_mask, require_masks, tight_rectangle
from mobile_sam.core.rle import (
    Rle,
    decode_rle,
    decode_runs,
    encode_rle,
    rle_area,
    rle_to_window,
    runs_to_rle,
    runs_to_window,
    window_to_runs,
)
from mobile_sam.core.upscale import mask_to_logits, upscale_logits, upscale_to_mask

__all__ = [
    "Rle",
    "decode_rle",
    "decode_runs",
    "encode_rle",
    "mask_areas",
    "mask_iou",
    "mask_to_logits",
    "mask_to_polygons",
    "mask_window",
    "mask_windows",
    "masks_to_boxes",
    "require_mask",
    "require_mask_of",
    "require_masks",
    "rle_area",
    "rle_to_window",
    "runs_to_rle",
    "runs_to_window",
    "stability_score",
    "upscale_logits",
    "upscale_to_mask",
    "window_to_runs",
]


def masks_to_boxes(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Tight boxes around masks.

    Args:
        masks: (N, H, W) bool.

    Returns:
        (N, 4) int64 XYXY in mask pixels, both corners inclusive; an empty mask gives zeros.

    Raises:
        ValueError: if the masks are not (N, H, W) bool.

    >>> mask = np.zeros((1, 5, 8), bool)
    >>> mask[0, 1:3, 2:7] = True
    >>> masks_to_boxes(mask)
    array([[2, 1, 6, 2]])
    """
    require_masks(masks)
    boxes = np.zeros((len(masks), 4), np.int64)
    for box_xyxy, mask in zip(boxes, masks, strict=True):
        x, y, width, height = tight_rectangle(mask)
        if width:
            box_xyxy[:] = x, y, x + width - 1, y + height - 1
    return boxes


def mask_window(mask: NDArray[np.bool_], *, margin_px: int = 0) -> tuple[tuple[int, int], NDArray[np.bool_]]:
    """Cut the box of a mask out of it, with a margin where the picture goes on that far.

    Args:
        mask: (H, W) bool.
        margin_px: how far the window goes beyond the box on each side.

    Returns:
        The upper left corner (x, y) of the window in the mask, and the window, (h, w) bool, a view of the mask. An
        empty mask gives (0, 0) and a window of (0, 0).

    Raises:
        ValueError: if the mask is not (H, W) bool, or the margin is negative.

    >>> mask = np.zeros((5, 8), bool)
    >>> mask[1:3, 2:7] = True
    >>> corner_xy, window = mask_window(mask)
    >>> corner_xy, window.shape
    ((2, 1), (2, 5))
    """
    require_mask(mask)
    if margin_px < 0:
        raise ValueError(f"margin_px must not be negative, got {margin_px}")
    left, top, width, height = tight_rectangle(mask)
    if not width:
        return (0, 0), mask[:0, :0]
    x, y = max(left - margin_px, 0), max(top - margin_px, 0)
    return (x, y), mask[y : top + height + margin_px, x : left + width + margin_px]


def mask_windows(
    masks: NDArray[np.bool_] | Iterable[NDArray[np.bool_] | Mapping[str, Any]], image_hw: tuple[int, ...]
) -> Iterator[tuple[tuple[int, int], NDArray[np.bool_]]]:
    """Cut the boxes of masks out of them, one at a time; run-length codes are unfolded only there.

    Args:
        masks: (N, H, W) bool, or any iterable of (H, W) bool and mappings with `size` [H, W] and `counts`.
        image_hw: height and width of the picture that the masks must be of.

    Yields:
        Corner (x, y) and window (h, w) bool of each mask, as `mask_window`.

    Raises:
        ValueError: if the masks are none of these, or one is not of the picture's size.

    >>> list(mask_windows([{"size": [2, 3], "counts": [2, 3, 1]}], (2, 3)))
    [((1, 0), array([[ True,  True],
           [ True, False]]))]
    """
    if isinstance(masks, Mapping):
        raise ValueError(
            "masks must be (N, H, W) or an iterable of masks, got one mapping; use [rle] for a single mask"
        )
    if isinstance(masks, np.ndarray) and masks.ndim != 3:
        raise ValueError(f"masks must be (N, H, W), got {masks.shape}; use masks[None] for a single mask")
    for mask in masks:
        if isinstance(mask, Mapping):
            size_hw, corner_xy, window = rle_to_window(mask)
            if size_hw != tuple(image_hw):
                raise ValueError(f"rle must be of the picture's size {tuple(image_hw)}, got {size_hw} (H, W)")
            yield corner_xy, window
        else:
            require_mask_of(mask, image_hw)
            yield mask_window(mask)


def require_mask_of(mask: NDArray[np.bool_], image_hw: tuple[int, ...]) -> None:
    """Refuse what is not a mask of one picture.

    Raises:
        ValueError: if the mask is not (H, W) bool, or not of the size `image_hw`.
    """
    require_mask(mask)
    if mask.shape != tuple(image_hw):
        raise ValueError(f"mask must be of the picture's size {tuple(image_hw)}, got {mask.shape} (H, W)")


def mask_areas(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count the pixels of each mask: (N, H, W) bool -> (N,) int64.

    Raises:
        ValueError: if the masks are not (N, H, W) bool.

    >>> mask_areas(np.ones((2, 3, 4), bool))
    array([12, 12])
    """
    require_masks(masks)
    return np.array([np.count_nonzero(mask) for mask in masks], np.int64)


def mask_iou(masks_a: NDArray[np.bool_], masks_b: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Intersection over union of every mask of one set with every mask of another.

    Args:
        masks_a: (N, H, W) bool.
        masks_b: (M, H, W) bool.

    Returns:
        (N, M) float64 in [0, 1]; two empty masks give 0.

    Raises:
        ValueError: if the masks are not bool of rank 3, or of two sizes.

    >>> left, both = np.array([[[1, 0]]], bool), np.array([[[1, 1]]], bool)
    >>> mask_iou(left, both)
    array([[0.5]])
    """
    require_masks(masks_a)
    require_masks(masks_b)
    if masks_a.shape[1:] != masks_b.shape[1:]:
        raise ValueError(f"masks must have one size, got {masks_a.shape[1:]} and {masks_b.shape[1:]} (H, W)")
    boxes_a, boxes_b = masks_to_boxes(masks_a)[:, None], masks_to_boxes(masks_b)[None]  # (N, 1, 4), (1, M, 4)
    upper_left = np.maximum(boxes_a[..., :2], boxes_b[..., :2])  # (N, M, 2)
    lower_right = np.minimum(boxes_a[..., 2:], boxes_b[..., 2:])  # (N, M, 2)
    intersection = np.zeros((len(masks_a), len(masks_b)), np.int64)
    for a, b in np.argwhere((upper_left <= lower_right).all(axis=2)):
        (x1, y1), (x2, y2) = upper_left[a, b], lower_right[a, b]
        common = np.s_[y1 : y2 + 1, x1 : x2 + 1]  # only where both boxes are
        intersection[a, b] = np.count_nonzero(masks_a[a][common] & masks_b[b][common])
    union = mask_areas(masks_a)[:, None] + mask_areas(masks_b)[None] - intersection
    return np.asarray(intersection / np.maximum(union, 1), np.float64)


def stability_score(logits: NDArray[np.floating], mask_threshold: float, offset: float) -> NDArray[np.float64]:
    """How little a mask changes when its threshold moves: the IoU of the masks at threshold +- offset.

    Args:
        logits: (..., H, W) float.
        mask_threshold: where the mask is cut.
        offset: how far the cut moves to either side, not negative.

    Returns:
        (...) float64 in [0, 1]; 0 where even the lower cut leaves nothing.

    Raises:
        ValueError: if the logits have no two last axes or the offset is negative.

    >>> stability_score(np.array([[-2.0, 0.5, 3.0, 4.0]]), mask_threshold=0.0, offset=1.0)
    array(0.66666667)
    """
    if logits.ndim < 2:
        raise ValueError(f"logits must be (..., H, W), got {logits.shape}")
    if offset < 0:
        raise ValueError(f"offset must not be negative, got {offset}")
    intersection = np.count_nonzero(logits > mask_threshold + offset, axis=(-2, -1))
    union = np.count_nonzero(logits > mask_threshold - offset, axis=(-2, -1))
    return np.asarray(intersection / np.maximum(union, 1), np.float64)


def mask_to_polygons(mask: NDArray[np.bool_], *, tolerance_px: float = 0.0) -> list[NDArray[np.float32]]:
    """Outer outlines of a mask's parts, through the centres of the pixels at its edge, the largest part first.

    Holes are not outlined. A part without three corners (one pixel, or a line one pixel wide) has no polygon: where
    every pixel counts, use `encode_rle`.

    Args:
        mask: (H, W) bool.
        tolerance_px: how far the outline may move for fewer corners (Douglas and Peucker); 0 keeps every corner. An
            outline that would be left with fewer than three corners is kept as it is.

    Returns:
        List of (K, 2) float32 XY in mask pixels, K >= 3, not closed (the first corner is not repeated). The order is
        that of the outlines before simplification.

    Raises:
        ValueError: if the mask is not (H, W) bool, or the tolerance is negative or not finite.

    >>> mask = np.zeros((5, 8), bool)
    >>> mask[1:4, 2:7] = True
    >>> [polygon.tolist() for polygon in mask_to_polygons(mask)]
    [[[2.0, 1.0], [2.0, 3.0], [6.0, 3.0], [6.0, 1.0]]]
    """
    require_mask(mask)
    if not (math.isfinite(tolerance_px) and tolerance_px >= 0):
        raise ValueError(f"tolerance_px must be finite and not negative, got {tolerance_px}")
    import cv2

    pixels = np.ascontiguousarray(mask).view(np.uint8)
    outlines, _ = cv2.findContours(pixels, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = [outline.reshape(-1, 2).astype(np.float32) for outline in outlines if len(outline) >= 3]
    polygons.sort(key=lambda polygon: float(cv2.contourArea(polygon)), reverse=True)
    return [_simplified(polygon, tolerance_px) for polygon in polygons] if tolerance_px > 0 else polygons


def _simplified(polygon: NDArray[np.float32], tolerance_px: float) -> NDArray[np.float32]:
    """Leave out the corners of a closed outline that it can spare: (K, 2) -> (L, 2) float32, 3 <= L <= K."""
    import cv2

    longest_px = float(np.ptp(polygon, axis=0).sum())  # no corner can be farther off, and OpenCV refuses huge numbers
    corners = cv2.approxPolyDP(polygon[:, None], min(tolerance_px, longest_px), True)  # (L, 1, 2)
    return polygon if len(corners) < 3 else cast("NDArray[np.float32]", corners.reshape(-1, 2))
