"""Shape and dtype of masks, refused with advice when they are wrong."""

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
