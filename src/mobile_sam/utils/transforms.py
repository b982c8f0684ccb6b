"""ResizeLongestSide: pictures, points and boxes from the picture's frame to the model's, as arrays or tensors.

SAM's class over `mobile_sam.core.geometry.LongSideResize`, which the rest of this package uses. torch is imported only
by the methods that take tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.geometry import LongSideResize

if TYPE_CHECKING:
    import torch


class ResizeLongestSide:
    """Resize so that the longer side has `target_length` pixels.

    Args:
        target_length: in pixels; 1024 for SAM.
    """

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    def apply_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize (H, W, 3) uint8 with PIL's antialiased bilinear filter, as SAM does."""
        return LongSideResize((image.shape[0], image.shape[1]), self.target_length).resize_image(image)

    def apply_coords(self, coords: NDArray[Any], original_size: tuple[int, int]) -> NDArray[np.float64]:
        """Move points (..., 2) of a picture of (height, width) `original_size` to the model frame."""
        return LongSideResize(original_size, self.target_length).to_model(np.asarray(coords))

    def apply_boxes(self, boxes: NDArray[Any], original_size: tuple[int, int]) -> NDArray[np.float64]:
        """Move boxes (..., 4) XYXY to the model frame, as (-1, 4)."""
        return self.apply_coords(np.asarray(boxes).reshape(-1, 2, 2), original_size).reshape(-1, 4)

    def apply_image_torch(self, image: torch.Tensor) -> torch.Tensor:
        """Resize (B, C, H, W) with torch's antialiased bilinear filter; close to `apply_image` but not equal."""
        from torch.nn import functional as F

        target_hw = self.get_preprocess_shape(image.shape[2], image.shape[3], self.target_length)
        return F.interpolate(image, target_hw, mode="bilinear", align_corners=False, antialias=True)

    def apply_coords_torch(self, coords: torch.Tensor, original_size: tuple[int, int]) -> torch.Tensor:
        """Move points (..., 2) to the model frame, as float32 on their device."""
        import torch

        scale_xy = torch.tensor(
            LongSideResize(original_size, self.target_length).scale_xy, dtype=torch.float32, device=coords.device
        )
        return coords.to(torch.float32) * scale_xy

    def apply_boxes_torch(self, boxes: torch.Tensor, original_size: tuple[int, int]) -> torch.Tensor:
        """Move boxes (..., 4) XYXY to the model frame, as (-1, 4)."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """Return the (height, width) that a picture gets."""
        return LongSideResize((oldh, oldw), long_side_length).input_hw
