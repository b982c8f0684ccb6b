"""What int8 is calibrated with: inputs of the encoder, of the user's pictures or of views of the built-in ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mobile_sam.core.errors import ImageReadError
from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.images import read_image
from mobile_sam.export.pictures import find_pictures
from mobile_sam.modeling.sam import Sam

MAX_VIEWS = 64
"""Pictures that are used at most: the ranges of activations hardly change beyond some tens."""

MIN_VIEWS = 24
"""Views that fewer pictures are turned into."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class View:
    """A part of a picture.

    Attributes:
        part_ltrb: left, top, right and bottom of the part, as shares of the picture's width and height.
        is_flipped: whether left and right are exchanged.
        brightness: factor on the pixels, which saturate at 255.
    """

    part_ltrb: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    is_flipped: bool = False
    brightness: float = 1.0

    def of(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Take this view of a picture: (H, W, 3) -> (h, w, 3), at least one pixel."""
        height, width, _ = image.shape
        left, top, right, bottom = self.part_ltrb
        rows = slice(int(top * height), max(int(bottom * height), int(top * height) + 1))
        columns = slice(int(left * width), max(int(right * width), int(left * width) + 1))
        part = image[rows, columns]
        part = part[:, ::-1] if self.is_flipped else part
        lit: NDArray[np.uint8] = np.clip(np.rint(part * np.float32(self.brightness)), 0, 255).astype(np.uint8)
        return lit


VIEWS = (
    View(),
    View((0.3, 0.0, 0.8, 1.0), is_flipped=True, brightness=0.6),  # upright
    View((0.0, 0.25, 1.0, 0.75), brightness=1.4),  # wide
    View((0.4, 0.35, 0.9, 0.85)),  # twice as large
    View((0.0, 0.0, 0.65, 0.65), is_flipped=True),
    View((0.3, 0.3, 0.6, 0.6), brightness=0.8),  # blurred, as far more than three times as large
)
"""Views that a few pictures are spread to: several scales and aspect ratios, dark and bright."""


def calibration_pixels(
    sam: Sam, sources: Sequence[Path] = (), input_hw: tuple[int, int] | None = None, max_views: int = MAX_VIEWS
) -> list[NDArray[np.uint8]]:
    """Read pictures and bring them to the size that the encoder takes.

    Args:
        sam: the model.
        sources: pictures and folders of pictures; none for the built-in ones.
        input_hw: height and width that the encoder takes; None for its square. What is beyond them is cut off.
        max_views: return no more; of more pictures those are taken that are evenly spread over the list.

    Returns:
        Pictures, each (h, w, 3) uint8 in the channel order of the model; views of them if they are few.

    Raises:
        ValueError: there is no picture, or none can be read.
    """
    if max_views < 1:
        raise ValueError(f"max_views must be at least 1, got {max_views}")
    side = sam.image_encoder.img_size
    h, w = input_hw or (side, side)
    found = find_pictures(sources)
    paths = [found[index] for index in np.unique(np.linspace(0, len(found) - 1, max_views).round().astype(int))]
    views = VIEWS[: -(-MIN_VIEWS // len(paths))]
    by_picture = [[_resized(view.of(image), sam)[:h, :w] for view in views] for image in _readable(paths)]
    if not by_picture:
        raise ValueError(f"none of the {len(paths)} calibration pictures can be read, such as {paths[0]}; name others")
    by_view = zip(*by_picture, strict=True)  # so that a smaller number of views is of all pictures
    return [np.ascontiguousarray(pixels) for views_of_all in by_view for pixels in views_of_all][:max_views]


def _resized(image: NDArray[np.uint8], sam: Sam) -> NDArray[np.uint8]:
    small = LongSideResize((image.shape[0], image.shape[1]), sam.image_encoder.img_size).resize_image(image)
    return small[:, :, ::-1] if sam.image_format == "BGR" else small


def _readable(paths: Sequence[Path]) -> Iterator[NDArray[np.uint8]]:
    for path in paths:
        try:
            yield read_image(path)
        except (ImageReadError, OSError) as error:
            _log.warning("left out of the calibration: %s", error)


def calibration_inputs(
    sam: Sam, sources: Sequence[Path] = (), input_hw: tuple[int, int] | None = None, max_views: int = MAX_VIEWS
) -> list[NDArray[np.float32]]:
    """Make inputs of the encoder, normalised and padded as `Engine.normalise_and_pad` does: each (3, h, w) float32.

    Args and raises as `calibration_pixels`.
    """
    side = sam.image_encoder.img_size
    h, w = input_hw or (side, side)
    pixels = calibration_pixels(sam, sources, input_hw, max_views)
    return [normalised(sam, one)[:, :h, :w] for one in pixels]


def normalised(sam: Sam, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Normalise and pad to the square: (h, w, 3) uint8 in the model frame -> (3, S, S) float32."""
    with torch.no_grad():
        inputs: NDArray[np.float32] = sam.preprocess(torch.from_numpy(pixels).permute(2, 0, 1)).cpu().numpy()
    return inputs


def encoder_feeds(
    sam: Sam,
    sources: Sequence[Path] = (),
    input_hw: tuple[int, int] | None = None,
    has_preprocessing: bool = False,
    max_views: int = MAX_VIEWS,
) -> list[tuple[NDArray[Any], ...]]:
    """Make all inputs of an exported encoder, in the order and shapes of `mobile_sam.export.modules`.

    Args:
        sam: the model.
        sources: see `calibration_pixels`.
        input_hw: see `calibration_pixels`.
        has_preprocessing: whether the encoder takes pixels.
        max_views: see `calibration_pixels`.

    Returns:
        For each view the image, (1, 3, h, w) float32; or (h, w, 3) uint8 with valid_hw (2,) float32.
    """
    if not has_preprocessing:
        return [(one[None],) for one in calibration_inputs(sam, sources, input_hw, max_views)]
    side = sam.image_encoder.img_size
    h, w = input_hw or (side, side)
    feeds: list[tuple[NDArray[Any], ...]] = []
    for one in calibration_pixels(sam, sources, input_hw, max_views):
        valid_h, valid_w, _ = one.shape
        padded = np.pad(one, ((0, h - valid_h), (0, w - valid_w), (0, 0)))
        feeds.append((padded, np.array([valid_h, valid_w], np.float32)))
    return feeds
