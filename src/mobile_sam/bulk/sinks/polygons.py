"""Masks as polygons, for formats that have nothing else: outlines, how much in them is holes, and parts made one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.rle import rle_to_window

TOLERANCE_PX = 1.0
"""How far an outline may move for fewer corners, at most.

With MOVED_SHARE, of the 93 masks that everything mode found in three pictures at 512 to 2000 pixels, drawn back without
holes, the IoU was 0.986 at least and 0.996 on average, with a fifth to two fifths of the corners.
"""

MOVED_SHARE = 0.05
"""Of a part's area: what its outline would sweep over if all of it moved that far; small parts move less for that."""

CENTRE_PX = 0.49
"""From a pixel's corner to its centre, and a hair less: readers that cut to whole pixels and those that round agree."""

FINER = 3
"""What is thin is outlined on a grid so many times finer, where it has an area."""

MANY_PARTS = 200
"""With more than that, parts are joined at the first corner of each, whose distances take less time."""

_CHUNK_PAIRS = 1 << 20  # of corners whose distances are in memory at once


@dataclass(frozen=True, eq=False)
class Outlines:
    """The outlines of a mask.

    Attributes:
        parts: a polygon, (K, 2) float64 XY, K >= 3, for each part that lies in no hole of another, the largest first,
            in the frame whose (0, 0) is the upper left corner of the picture's first pixel; not closed.
        hole_area_px: pixels within holes, which polygons do not show.
    """

    parts: list[NDArray[np.float64]]
    hole_area_px: int


def find_outlines(rle: Mapping[str, Any]) -> Outlines:
    """Outline a mask through the centres of the pixels at its edge, moved by TOLERANCE_PX at most.

    Unlike `core.masks.mask_to_polygons` this finds holes, and gives thin parts (a pixel, a line) an outline, too: one
    within their pixels.

    Args:
        rle: mapping with `size` [H, W] and `counts`; an empty mask has no parts.

    Raises:
        ValueError: it is no run-length code of a mask.
    """
    import cv2

    _, corner_xy, window = rle_to_window(rle)
    if not window.size:
        return Outlines([], 0)
    pixels = np.ascontiguousarray(window).view(np.uint8)
    found, hierarchy = cv2.findContours(pixels, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    contours = [contour.reshape(-1, 2).astype(np.int32, copy=False) for contour in found]
    parents: list[int] = hierarchy[0, :, 3].tolist()  # -1 of what lies in nothing
    outer = {index: contours[index] for index, parent in enumerate(parents) if parent < 0}
    hole_area_px = sum(_pixels_within(contours[index]) for index, parent in enumerate(parents) if parent in outer)
    largest_first = sorted(outer.values(), key=cv2.contourArea, reverse=True)
    parts = [_polygon(contour) + corner_xy for contour in largest_first]
    return Outlines(parts, hole_area_px)


def join_parts(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Make one polygon of several: each next part, the nearest, is walked to and back over the same two corners.

    The way there has no area, so that the polygon covers what the parts do.

    Args:
        parts: (K, 2) each, at least one, none within another.

    Returns:
        (L, 2) float64, L = sum of all K, and 2 for each part but the first.
    """
    ends = [part[:1] for part in parts] if len(parts) > MANY_PARTS else parts
    corners = np.concatenate(ends)  # (N, 2)
    part_of = np.repeat(np.arange(len(ends)), [len(end) for end in ends])  # (N,)
    nearest_sq, nearest_xy = np.full(len(corners), np.inf), np.zeros_like(corners)  # to and in what is joined
    joined, newest = parts[0], ends[0]
    nearest_sq[part_of == 0] = np.nan  # done
    for _ in range(len(parts) - 1):
        left = np.flatnonzero(~np.isnan(nearest_sq))
        squared, at_xy = _nearest(corners[left], newest)
        is_nearer = squared < nearest_sq[left]
        nearest_sq[left[is_nearer]], nearest_xy[left[is_nearer]] = squared[is_nearer], at_xy[is_nearer]
        start = left[nearest_sq[left].argmin()]
        is_newest = part_of == part_of[start]
        part = np.roll(parts[part_of[start]], int(is_newest.argmax() - start), axis=0)  # begins with `start`
        position = int((joined == nearest_xy[start]).all(axis=1).argmax())
        joined = np.concatenate([joined[: position + 1], part, part[:1], joined[position:]])
        newest = ends[part_of[start]]
        nearest_sq[is_newest] = np.nan
    return joined


def _nearest(
    from_xy: NDArray[np.float64], to_xy: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each corner of (N, 2) the nearest of (K, 2): distances squared (N,) and those corners (N, 2)."""
    squared, nearest = np.empty(len(from_xy)), np.empty(len(from_xy), np.int64)
    step = max(_CHUNK_PAIRS // len(to_xy), 1)
    for begin in range(0, len(from_xy), step):
        chunk = slice(begin, begin + step)
        apart = from_xy[chunk, None] - to_xy[None]  # (n, K, 2)
        pairs = np.einsum("nkx,nkx->nk", apart, apart)
        nearest[chunk] = pairs.argmin(axis=1)
        squared[chunk] = pairs[np.arange(len(pairs)), nearest[chunk]]
    return squared, to_xy[nearest]


def _polygon(contour: NDArray[np.int32]) -> NDArray[np.float64]:
    """Simplify an outline through pixels, (K, 2) with (0, 0) the first one's centre, and move (0, 0) to its corner."""
    import cv2

    area_px = cv2.contourArea(contour)
    if area_px == 0:
        return _thin_polygon(contour)
    tolerance_px = min(TOLERANCE_PX, MOVED_SHARE * area_px / cv2.arcLength(contour, True))
    corners = cv2.approxPolyDP(contour, tolerance_px, True).reshape(-1, 2)  # (L, 2)
    return np.asarray(corners if cv2.contourArea(corners) > 0 else contour, np.float64) + CENTRE_PX


def _thin_polygon(contour: NDArray[np.int32]) -> NDArray[np.float64]:
    """Outline pixels that enclose nothing on a finer grid, in which each is a square of its own."""
    import cv2

    corner_xy = contour.min(axis=0)
    width, height = contour.max(axis=0) - corner_xy + 1
    pixels = np.zeros((height, width), np.uint8)
    cv2.polylines(pixels, [contour - corner_xy], True, 1)
    finer = pixels.repeat(FINER, axis=0).repeat(FINER, axis=1)
    (outline,), _ = cv2.findContours(finer, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return np.asarray((outline.reshape(-1, 2) + 0.5) / FINER + corner_xy, np.float64)


def _pixels_within(contour: NDArray[np.int32]) -> int:
    """Count the pixels that a closed walk from pixel to pixel, (K, 2), encloses, without its own (Pick's theorem)."""
    import cv2

    steps = np.abs(np.diff(contour, axis=0, append=contour[:1])).max(axis=1)
    return round(cv2.contourArea(contour) - int(steps.sum()) / 2 + 1)
