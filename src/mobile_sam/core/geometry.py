"""From the picture's pixels to the model's frame and back.

The model sees a square, of 1024 x 1024 unless it was made for another. SAM resizes a picture so that its long side is
that of the square and pads the rest at the bottom and the right; the part of the square that the picture fills is the
*input frame*. Coordinates are x, y with the origin at the upper left corner of the picture.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

PIXEL_MEAN = (123.675, 116.28, 103.53)  # of ImageNet, R, G, B, 0 to 255: what SAM's encoders were trained with
PIXEL_STD = (58.395, 57.12, 57.375)

INPUT_SIDE = 1024
"""Side of the model's square in pixels, unless a model was made for another."""


@dataclass(frozen=True)
class LongSideResize:
    """The one mapping between a picture and the model's frame.

    The two axes have a scale each, since both sides of the input frame are rounded to whole pixels. A side that would
    be rounded to nothing (a picture of 1 x 5000) is kept at one pixel.

    Args:
        image_hw: height and width of the picture in pixels, both at least 1.
        side: side of the model's square in pixels.

    Raises:
        ValueError: if a side is not a whole number of at least 1.

    >>> resize = LongSideResize((480, 640))
    >>> resize.input_hw
    (768, 1024)
    >>> resize.to_model([[320, 240]])
    array([[512., 384.]])
    """

    image_hw: tuple[int, int]
    side: int = INPUT_SIDE

    def __post_init__(self) -> None:
        try:
            height, width = (operator.index(length) for length in self.image_hw)
            side = operator.index(self.side)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"image_hw must be two whole numbers and side one, got {self.image_hw!r} and {self.side!r};"
                " pass image.shape[:2]"
            ) from error
        if min(height, width, side) < 1:
            raise ValueError(f"image_hw and side must be at least 1, got {self.image_hw!r} and {self.side!r}")
        object.__setattr__(self, "image_hw", (height, width))
        object.__setattr__(self, "side", side)

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width of the input frame; the longer one is `side`."""
        height, width = self.image_hw
        scale = self.side / max(height, width)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Model pixels per picture pixel, along x and along y."""
        input_height, input_width = self.input_hw
        height, width = self.image_hw
        return input_width / width, input_height / height

    def to_model(self, points_xy: ArrayLike) -> NDArray[np.float64]:
        """Points of the picture in the model's frame: (..., 2) -> (..., 2) float64.

        Raises:
            ValueError: if the last axis is not x, y.
        """
        return _coordinates(points_xy, "points_xy", 2) * self.scale_xy

    def to_image(self, points_xy: ArrayLike) -> NDArray[np.float64]:
        """Points of the model's frame in the picture, undoing `to_model`: (..., 2) -> (..., 2) float64.

        Raises:
            ValueError: if the last axis is not x, y.
        """
        return _coordinates(points_xy, "points_xy", 2) / self.scale_xy

    def boxes_to_model(self, boxes_xyxy: ArrayLike) -> NDArray[np.float64]:
        """Boxes of the picture in the model's frame: (..., 4) XYXY -> (..., 4) XYXY float64.

        Raises:
            ValueError: if the last axis is not x1, y1, x2, y2.
        """
        return _coordinates(boxes_xyxy, "boxes_xyxy", 4) * (self.scale_xy * 2)

    def resize_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize the picture to the input frame, by Pillow's antialiased bilinear filter as the original does.

        Args:
            image: (H, W, 3) uint8 of this object's `image_hw`.

        Returns:
            (h, w, 3) uint8 with (h, w) = `input_hw`, without padding.

        Raises:
            ValueError: if the picture has another shape or dtype.
        """
        if image.shape != (*self.image_hw, 3) or image.dtype != np.uint8:
            raise ValueError(
                f"image must be {(*self.image_hw, 3)} uint8, got {image.shape} {image.dtype}; use read_image"
            )
        from PIL import Image

        height, width = self.input_hw
        return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def box_xyxy_to_xywh(boxes_xyxy: ArrayLike) -> NDArray[np.float64]:
    """Boxes by two corners as corner and size: (..., 4) -> (..., 4) float64, with width = x2 - x1.

    Raises:
        ValueError: if the last axis is not of length 4.

    >>> box_xyxy_to_xywh([10, 20, 40, 25])
    array([10., 20., 30.,  5.])
    """
    boxes = _coordinates(boxes_xyxy, "boxes_xyxy", 4)
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def box_xywh_to_xyxy(boxes_xywh: ArrayLike) -> NDArray[np.float64]:
    """Boxes by corner and size as two corners: (..., 4) -> (..., 4) float64, undoing `box_xyxy_to_xywh`.

    Raises:
        ValueError: if the last axis is not of length 4.

    >>> box_xywh_to_xyxy([10, 20, 30, 5])
    array([10., 20., 40., 25.])
    """
    boxes = _coordinates(boxes_xywh, "boxes_xywh", 4)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def _coordinates(values: ArrayLike, name: str, num_values: int) -> NDArray[np.float64]:
    try:
        coordinates = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers of shape (..., {num_values}), got {values!r}") from error
    if coordinates.ndim == 0 or coordinates.shape[-1] != num_values:
        raise ValueError(f"{name} must be (..., {num_values}), got {coordinates.shape}")
    return coordinates
