"""Many masks of one picture as one map of labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.masks import mask_windows

Owner = Literal["smallest", "first"]


def label_map(
    masks: NDArray[np.bool_] | Iterable[NDArray[np.bool_] | Mapping[str, Any]],
    image_hw: tuple[int, int],
    *,
    owner: Owner = "smallest",
) -> NDArray[np.int32]:
    """Give each pixel the number of one of the masks that hold it.

    Args:
        masks: (N, H, W) bool, or any iterable of (H, W) bool and run-length codes (`size` [H, W] and `counts`). They
            are taken one at a time, and codes are unfolded only where the mask is, so that no stack is ever in memory.
        image_hw: height and width of the picture.
        owner: who gets a pixel of several masks: "smallest", the mask of the fewest pixels (in all, not only of those
            it gets; of equal ones the first), so that what lies inside a larger mask keeps its place; or "first", the
            first in order.

    Returns:
        (H, W) int32: i + 1 where mask i (counted from 0) owns the pixel, 0 where there is no mask.

    Raises:
        ValueError: if a mask is not (H, W) bool or a run-length code of the picture's size, or the owner is unknown.

    >>> whole, left = np.ones((2, 3), bool), np.array([[1, 0, 0], [1, 1, 0]], bool)
    >>> label_map([whole, left], (2, 3))
    array([[2, 1, 1],
           [2, 2, 1]], dtype=int32)
    """
    if owner not in get_args(Owner):
        raise ValueError(f"owner must be 'smallest' or 'first', got {owner!r}")
    if len(image_hw) != 2 or min(image_hw) < 0:
        raise ValueError(f"image_hw must be height and width, got {image_hw}")
    labels = np.zeros(image_hw, np.int32)
    areas_px: list[int] = []
    for label, ((x, y), window) in enumerate(mask_windows(masks, image_hw), start=1):
        owned = labels[y : y + window.shape[0], x : x + window.shape[1]]  # (h, w), a view
        area_px = int(np.count_nonzero(window))
        gives_way = np.array([True, *(owner == "smallest" and other_px > area_px for other_px in areas_px)])  # (label,)
        owned[window & gives_way[owned]] = label
        areas_px.append(area_px)
    return labels
