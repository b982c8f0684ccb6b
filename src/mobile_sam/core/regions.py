"""Masks cleaned up: small holes filled, small islands removed, ragged edges smoothed.

Both work in the box of the mask and one ring of pixels around it, where the picture goes on that far. The ring is
background, and whatever lies beyond it is background that continues it; so what comes out in the ring holds for all
that lies beyond (`_spread`), and a small mask in a large picture costs little.
"""

from __future__ import annotations

import math
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.masks import mask_window

Region = Literal["holes", "islands"]


def remove_small_regions(mask: NDArray[np.bool_], min_area_px: float, kind: Region) -> tuple[NDArray[np.bool_], bool]:
    """Fill the small holes of a mask or remove its small islands, by the rule of Segment Anything.

    Holes are the 8-connected parts of what is not mask, islands those of the mask. What is open to the picture's border
    is a hole like any other, so that a mask that leaves fewer than `min_area_px` pixels of the picture free fills it.

    Args:
        mask: (H, W) bool, not changed.
        min_area_px: parts of fewer pixels are filled or removed; 0 leaves the mask as it is.
        kind: "holes" to fill, "islands" to remove. If all islands are small, the largest one stays.

    Returns:
        The mask, (H, W) bool, and whether any part was small; if none was, it is the caller's own array.

    Raises:
        ValueError: if the mask is not (H, W) bool, the area is negative or no number, or the kind is unknown.

    >>> mask = np.ones((5, 5), bool)
    >>> mask[2, 2] = False
    >>> filled, has_changed = remove_small_regions(mask, min_area_px=2, kind="holes")
    >>> bool(filled.all()), has_changed
    (True, True)
    """
    (x, y), window = mask_window(mask, margin_px=1)
    if kind not in get_args(Region):
        raise ValueError(f"kind must be 'holes' or 'islands', got {kind!r}")
    if not min_area_px >= 0:
        raise ValueError(f"min_area_px must be a number of pixels from 0 on, got {min_area_px}")
    if window.size == 0:  # a mask without a pixel: no islands, and all of the picture is one hole
        is_filled = kind == "holes" and 0 < mask.size < min_area_px
        return (np.ones_like(mask), True) if is_filled else (mask, False)
    # OpenCV numbers parts by blocks of 2 x 2: from an even corner, the first of equal islands is the whole picture's
    height, width = window.shape[0] + y % 2, window.shape[1] + x % 2
    x, y = x - x % 2, y - y % 2
    window = mask[y : y + height, x : x + width]
    import cv2

    pixels = np.ascontiguousarray(window == (kind == "islands")).view(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pixels, connectivity=8)  # (h, w), (K, 5); 0 is no part
    areas_px = stats[:, cv2.CC_STAT_AREA].astype(np.int64)  # (K,)
    areas_px[labels[0, 0]] += y * mask.shape[1] + x * height
    areas_px[labels[-1, 0]] += (mask.shape[0] - y - height) * mask.shape[1]
    areas_px[labels[0, -1]] += (mask.shape[1] - x - width) * height
    is_small = areas_px < min_area_px
    is_small[0] = False
    if not is_small.any():
        return mask, False
    is_mask = is_small if kind == "holes" else ~is_small
    is_mask[0] = kind == "holes"
    if not is_mask.any():
        is_mask[1 + np.argmax(areas_px[1:])] = True
    return _spread(is_mask[labels], (x, y), mask.shape), True


def remove_small_holes_and_islands(mask: NDArray[np.bool_], min_area_px: float) -> tuple[NDArray[np.bool_], bool]:
    """Fill the small holes of a mask, then remove its small islands: (H, W) bool, and whether there were any.

    Raises:
        ValueError: as `remove_small_regions`.
    """
    filled, had_holes = remove_small_regions(mask, min_area_px, "holes")
    cleaned, had_islands = remove_small_regions(filled, min_area_px, "islands")
    return cleaned, had_holes or had_islands


def smooth_mask(mask: NDArray[np.bool_], radius_px: float) -> NDArray[np.bool_]:
    """Smooth the edges of a mask: blur it with a Gaussian and cut it at one half.

    Straight edges stay where they are, at the picture's border too, where the mask is taken to go on as it meets it.
    Corners are rounded. What is thinner than the radius goes: arms narrower than 1.35 radii and discs less than 2.35
    radii across vanish, and gaps and holes of these sizes close. The mask never grows beyond its box.

    Args:
        mask: (H, W) bool, not changed.
        radius_px: standard deviation of the Gaussian; 0 gives the caller's own array back, and more than the longer
            side of the picture counts as that side. The time grows with it.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: if the mask is not (H, W) bool, or the radius is negative or not finite.

    >>> mask = np.zeros((9, 9), bool)
    >>> mask[:, :5] = True
    >>> ragged = mask.copy()
    >>> ragged[4, 5] = True
    >>> bool((smooth_mask(ragged, radius_px=1.5) == mask).all())
    True
    """
    corner_xy, window = mask_window(mask, margin_px=1)
    if not (math.isfinite(radius_px) and radius_px >= 0):
        raise ValueError(f"radius_px must be finite and not negative, got {radius_px}")
    if radius_px == 0 or window.size == 0:
        return mask
    import cv2

    sigma_px = min(radius_px, float(max(mask.shape)))
    blurred = cv2.GaussianBlur(window.astype(np.float32), (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE)  # (h, w)
    return _spread(blurred > 0.5, corner_xy, mask.shape)


def _spread(window: NDArray[np.bool_], corner_xy: tuple[int, int], image_hw: tuple[int, ...]) -> NDArray[np.bool_]:
    """Put a window back in its picture, (h, w) -> (H, W); each pixel outside takes the value of the nearest inside."""
    (x, y), (height, width) = corner_xy, window.shape
    beyond_px = ((y, image_hw[0] - y - height), (x, image_hw[1] - x - width))
    return cast("NDArray[np.bool_]", np.pad(window, beyond_px, mode="edge"))
