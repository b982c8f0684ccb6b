"""What the modules of masks share: shape and dtype checked, a mask found in its picture, a window put back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def require_mask(mask: NDArray[np.bool_]) -> None:
    """Refuse what is not one binary mask.

    Raises:
        ValueError: if the mask is not (H, W) bool.
    """
    if mask.ndim != 2:
        raise ValueError(f"mask must be (H, W), got {mask.shape}; pass one mask of the stack")
    if mask.dtype != np.bool_:
        raise ValueError(f"mask must be bool, got {mask.dtype}; compare first, as in mask > 0")


def require_masks(masks: NDArray[np.bool_]) -> None:
    """Refuse what is not a stack of binary masks.

    Raises:
        ValueError: if the masks are not (N, H, W) bool.
    """
    if masks.ndim != 3:
        raise ValueError(f"masks must be (N, H, W), got {masks.shape}; use masks[None] for a single mask")
    if masks.dtype != np.bool_:
        raise ValueError(f"masks must be bool, got {masks.dtype}; compare first, as in masks > 0")


def tight_rectangle(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Find where a mask is: (H, W) bool -> x, y, width and height in pixels; zeros if it is empty."""
    import cv2

    if not mask.size:
        return 0, 0, 0, 0
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    return int(x), int(y), int(width), int(height)


def paste_window(window: NDArray[np.bool_], corner_xy: tuple[int, int], image_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Put the pixels of a window (h, w) into an otherwise empty mask (H, W), whose other memory stays untouched."""
    mask = np.zeros(image_hw, np.bool_)
    x, y = corner_xy
    mask[y : y + window.shape[0], x : x + window.shape[1]] = window
    return mask
