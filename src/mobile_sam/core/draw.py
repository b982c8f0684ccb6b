"""Masks and prompts drawn on the picture, for people to look at."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mobile_sam.core.masks import mask_windows, require_mask_of

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
_FIRST_HUE = 0.9  # magenta, the rarest in photographs, since most pictures have one mask
_WHITE = (255, 255, 255)
_FOREGROUND = (32, 200, 64)
_BACKGROUND = (230, 40, 40)
_BOX = (255, 200, 0)


def colour(index: int) -> tuple[int, int, int]:
    """Give the index-th thing a colour: always the same, bright, and unlike its neighbours.

    Hues step around the circle by the golden ratio, so that any number of first colours spreads over it; saturation
    alternates to part the hues that come close after many steps.

    Returns:
        Red, green and blue from 0 to 255.

    Raises:
        ValueError: if the index is negative.

    >>> colour(0)
    (255, 25, 163)
    """
    if index < 0:
        raise ValueError(f"index must not be negative, got {index}")
    hue = (_FIRST_HUE + index * _GOLDEN_RATIO) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.9, 0.65, 0.8)[index % 3], (1.0, 1.0, 0.8)[index % 3])
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_overlay(
    image: NDArray[np.uint8],
    masks: NDArray[np.bool_] | Iterable[NDArray[np.bool_] | Mapping[str, Any]],
    *,
    opacity: float = 0.5,
    points_xy: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    boxes_xyxy: ArrayLike | None = None,
) -> NDArray[np.uint8]:
    """Lay masks over a picture, each tinted and outlined in the colour of its index, and the prompts on top.

    Large masks are drawn first, so that what lies inside them stays visible.

    Args:
        image: (H, W, 3) uint8 RGB, not changed.
        masks: (N, H, W) bool, or any iterable of (H, W) bool and run-length codes (`size` [H, W] and `counts`); they
            are taken one at a time and kept at a bit for each pixel of their boxes, so that no stack is ever in memory.
        opacity: of the tint, from 0 (outlines only) to 1.
        points_xy: (N, 2) prompts in picture pixels, as in `draw_prompts`.
        labels: (N,) of 1 and 0, as in `draw_prompts`.
        boxes_xyxy: (4,) or (N, 4) prompts, as in `draw_prompts`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: if a shape, a dtype or a value is not as above.
    """
    _require_image(image)
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be within [0, 1], got {opacity}")
    packed = [_pack(*cut) for cut in mask_windows(masks, image.shape[:2])]
    has_pixels = [index for index, mask in enumerate(packed) if mask.area_px]
    by_size = sorted(has_pixels, key=lambda index: packed[index].area_px, reverse=True)
    canvas: NDArray[np.uint8] = image.copy()
    for index in by_size:
        corner_xy, part = packed[index].corner_xy, _unpack(packed[index])
        _tint(canvas, corner_xy, part, colour(index), opacity)
        _outline(canvas, corner_xy, part, colour(index))
    return draw_prompts(canvas, points_xy, labels, boxes_xyxy)


def draw_prompts(
    image: NDArray[np.uint8],
    points_xy: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    boxes_xyxy: ArrayLike | None = None,
) -> NDArray[np.uint8]:
    """Draw prompts: green discs for foreground, red ones for background, yellow boxes, all with white edges.

    Args:
        image: (H, W, 3) uint8 RGB, not changed.
        points_xy: (N, 2) in picture pixels, or none.
        labels: (N,) with 1 for foreground and 0 for background; without it all points are foreground.
        boxes_xyxy: (4,) or (N, 4) in picture pixels, or none.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: if a shape, a dtype or a value is not as above.
    """
    _require_image(image)
    points = _numbers(points_xy, "points_xy", 2)  # (N, 2)
    boxes = _numbers(boxes_xyxy, "boxes_xyxy", 4)  # (N, 4)
    is_foreground = _foreground(labels, len(points))  # (N,)
    import cv2

    canvas: NDArray[np.uint8] = image.copy()
    height, width = image.shape[:2]
    line_px = max(2, _line_px((height, width)))
    limit_px = 2 * max(height, width) + 100  # keeps what lies outside outside, and within what OpenCV can draw
    for box_xyxy in np.clip(np.rint(boxes), -limit_px, 2 * limit_px).astype(int).tolist():
        for thickness_px, rgb in ((line_px + 2 * max(1, line_px // 4), _WHITE), (line_px, _BOX)):
            cv2.rectangle(canvas, tuple(box_xyxy[:2]), tuple(box_xyxy[2:]), rgb, thickness_px)
    radius_px = max(1, min(max(3, round(math.sqrt(height * width) / 90)), min(height, width) // 6))
    ring_px = max(1 if radius_px < 3 else 2, round(radius_px / 3))
    centres = np.clip(np.rint(points), -limit_px, 2 * limit_px).astype(int).tolist()
    for centre_xy, is_fg in zip(centres, is_foreground, strict=True):
        cv2.circle(canvas, tuple(centre_xy), radius_px + ring_px, _WHITE, cv2.FILLED, cv2.LINE_AA)
        cv2.circle(canvas, tuple(centre_xy), radius_px, _FOREGROUND if is_fg else _BACKGROUND, cv2.FILLED, cv2.LINE_AA)
    return canvas


def cutout(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Cut the masked part of a picture out, on a transparent ground of the picture's size.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool.

    Returns:
        (H, W, 4) uint8 RGB and opacity; all four are 0 outside the mask, so nothing of the background is given away.

    Raises:
        ValueError: if a shape or a dtype is not as above.

    >>> cutout(np.full((1, 2, 3), 9, np.uint8), np.array([[True, False]])).tolist()
    [[[9, 9, 9, 255], [0, 0, 0, 0]]]
    """
    _require_image(image)
    require_mask_of(mask, image.shape[:2])
    import cv2

    opaque = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2RGBA)
    rgba = cv2.bitwise_and(opaque, opaque, mask=np.ascontiguousarray(mask).view(np.uint8))
    return cast("NDArray[np.uint8]", rgba)


class _Packed(NamedTuple):
    """A mask's box in an eighth of its memory."""

    corner_xy: tuple[int, int]
    size_hw: tuple[int, ...]
    area_px: int
    bits: NDArray[np.uint8]


def _pack(corner_xy: tuple[int, int], window: NDArray[np.bool_]) -> _Packed:
    return _Packed(corner_xy, window.shape, int(np.count_nonzero(window)), np.packbits(window))


def _unpack(packed: _Packed) -> NDArray[np.bool_]:
    """Pixels of a mask's box, (h, w) bool, contiguous."""
    height, width = packed.size_hw
    return np.unpackbits(packed.bits, count=height * width).reshape(height, width).view(np.bool_)


def _tint(
    canvas: NDArray[np.uint8],
    corner_xy: tuple[int, int],
    part: NDArray[np.bool_],
    rgb: tuple[int, int, int],
    opacity: float,
) -> None:
    """Blend a colour into the canvas where the mask is, in place."""
    import cv2

    x, y = corner_xy
    region = canvas[y : y + part.shape[0], x : x + part.shape[1]]
    blend = np.rint(np.arange(256)[:, None] * (1 - opacity) + np.array(rgb) * opacity)  # (256, 3)
    blended = cv2.LUT(region, blend.astype(np.uint8)[None])  # (h, w, 3)
    np.copyto(region, blended, where=part[..., None])


def _outline(
    canvas: NDArray[np.uint8], corner_xy: tuple[int, int], part: NDArray[np.bool_], rgb: tuple[int, int, int]
) -> None:
    """Draw the outlines of a mask, those of its holes too, on the canvas, in place."""
    import cv2

    outlines, _ = cv2.findContours(part.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=corner_xy)
    cv2.drawContours(canvas, outlines, -1, rgb, _line_px(canvas.shape[:2]), cv2.LINE_AA)


def _line_px(image_hw: tuple[int, ...]) -> int:
    return max(1, round(math.sqrt(image_hw[0] * image_hw[1]) / 320))


def _numbers(values: ArrayLike | None, name: str, num_columns: int) -> NDArray[np.float64]:
    if values is None:
        return np.zeros((0, num_columns))
    numbers = np.asarray(values, np.float64)
    if numbers.shape == (num_columns,) or numbers.size == 0:
        numbers = numbers.reshape(-1, num_columns)
    if numbers.ndim != 2 or numbers.shape[1] != num_columns or not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be finite and (N, {num_columns}), got {numbers.shape}")
    return numbers


def _foreground(labels: ArrayLike | None, num_points: int) -> list[bool]:
    if labels is None:
        return [True] * num_points
    values = np.atleast_1d(np.asarray(labels))
    if values.shape != (num_points,) or not np.isin(values, (0, 1)).all():
        raise ValueError(f"labels must be ({num_points},) of 0 and 1, one for each point, got {values.tolist()}")
    return cast("list[bool]", (values == 1).tolist())


def _require_image(image: NDArray[np.uint8]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}; use read_image")
