"""Where "segment everything" asks: grids of points, and the layers of crops that a picture is cut into."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray


def point_grid(num_per_side: int) -> NDArray[np.float64]:
    """Points at the centres of the cells of a square grid.

    Args:
        num_per_side: points along each side, at least 1.

    Returns:
        (num_per_side ** 2, 2) float64 x, y as shares of width and height, inside (0, 1); row by row, x runs fastest.

    Raises:
        ValueError: if num_per_side is not a whole number of at least 1.

    >>> point_grid(2).tolist()
    [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    """
    num_per_side = _whole_number("num_per_side", num_per_side, least=1)
    half_step = 1 / (2 * num_per_side)
    positions = np.linspace(half_step, 1 - half_step, num_per_side)  # (n,); linspace for the same last bit as SAM's
    x, y = np.meshgrid(positions, positions)  # each (n, n)
    return np.stack([x.ravel(), y.ravel()], axis=1)  # (n * n, 2)


def layer_point_grids(num_per_side: int, num_layers: int, scale_per_layer: float) -> list[NDArray[np.float64]]:
    """One grid for the whole picture and one for each layer of crops, coarser from layer to layer.

    Args:
        num_per_side: points along each side of the whole picture.
        num_layers: layers of crops, without the whole picture.
        scale_per_layer: layer i has int(num_per_side / scale_per_layer ** i) points per side; above 0.

    Returns:
        num_layers + 1 grids as `point_grid` makes them.

    Raises:
        ValueError: if a number is out of its range, or a layer would be left without points.

    >>> [len(grid) for grid in layer_point_grids(32, num_layers=2, scale_per_layer=2)]
    [1024, 256, 64]
    """
    num_per_side = _whole_number("num_per_side", num_per_side, least=1)
    num_layers = _whole_number("num_layers", num_layers, least=0)
    if not 0 < scale_per_layer < math.inf:
        raise ValueError(f"scale_per_layer must be above 0, got {scale_per_layer!r}; 1 keeps the number of points")
    nums_per_side = [int(num_per_side / scale_per_layer**layer) for layer in range(num_layers + 1)]
    if 0 in nums_per_side:
        raise ValueError(
            f"{num_per_side} points per side divided by {scale_per_layer} once a layer leave none for layer"
            f" {nums_per_side.index(0)} of {num_layers}; take fewer layers, more points or a smaller scale"
        )
    return [point_grid(num) for num in nums_per_side]


def crop_boxes(image_hw: Sequence[int], num_layers: int, overlap_ratio: float) -> tuple[list[list[int]], list[int]]:
    """Cut a picture into layers of overlapping crops: layer 0 is the picture, layer i has 2 ** i crops per side.

    Args:
        image_hw: height and width of the picture in pixels.
        num_layers: layers of crops, without the whole picture.
        overlap_ratio: overlap of the first layer's crops as a share of the picture's shorter side, 0 to 1; it halves
            from layer to layer.

    Returns:
        Boxes [x1, y1, x2, y2] in pixels, x2 and y2 exclusive, column by column; and the layer of each. A crop that
        would lie outside a picture too small for so many is left out.

    Raises:
        ValueError: if a number is out of its range.

    >>> boxes, layers = crop_boxes((100, 200), num_layers=1, overlap_ratio=0.2)
    >>> boxes
    [[0, 0, 200, 100], [0, 0, 110, 60], [0, 40, 110, 100], [90, 0, 200, 60], [90, 40, 200, 100]]
    >>> layers
    [0, 1, 1, 1, 1]
    """
    if len(image_hw) != 2:
        raise ValueError(f"image_hw must be height and width, got {tuple(image_hw)}; pass image.shape[:2]")
    height, width = (_whole_number("height and width", length, least=1) for length in image_hw)
    num_layers = _whole_number("num_layers", num_layers, least=0)
    if not 0 <= overlap_ratio <= 1:
        raise ValueError(f"overlap_ratio must be 0 to 1, a share of the shorter side, got {overlap_ratio!r}")
    boxes_xyxy, layers = [[0, 0, width, height]], [0]
    for layer in range(1, num_layers + 1):
        num_per_side = 2**layer
        overlap_px = int(overlap_ratio * min(height, width) * (2 / num_per_side))
        columns, rows = (_spans(length, num_per_side, overlap_px) for length in (width, height))
        inside = [[x1, y1, x2, y2] for (x1, x2), (y1, y2) in product(columns, rows)]
        boxes_xyxy += inside
        layers += [layer] * len(inside)
    return boxes_xyxy, layers


def are_near_crop_edge(
    boxes_xyxy: NDArray[np.floating], crop_box: Sequence[float], image_box: Sequence[float], atol_px: float = 20.0
) -> NDArray[np.bool_]:
    """Tell which boxes a crop may have cut off: those near an edge of it that is not near the picture's own edge.

    Args:
        boxes_xyxy: (N, 4) in pixels of the picture.
        crop_box: x1, y1, x2, y2 of the crop in the picture.
        image_box: 0, 0, width, height.
        atol_px: how far from an edge is still near.

    Returns:
        (N,) bool.

    >>> are_near_crop_edge(np.array([[0, 50, 195, 90], [0, 50, 150, 90]]), (0, 0, 200, 200), (0, 0, 400, 200))
    array([ True, False])
    """
    is_near_crop = np.abs(boxes_xyxy - np.asarray(crop_box, np.float64)) <= atol_px  # (N, 4), an edge each
    is_near_image = np.abs(boxes_xyxy - np.asarray(image_box, np.float64)) <= atol_px  # (N, 4)
    return np.asarray(np.any(is_near_crop & ~is_near_image, axis=1))


def _spans(length: int, num_spans: int, overlap: int) -> list[tuple[int, int]]:
    """Cover a length with equal spans that overlap by so much, the last one cut off; without empty ones."""
    span = math.ceil((overlap * (num_spans - 1) + length) / num_spans)
    starts = [(span - overlap) * i for i in range(num_spans)]
    return [(start, min(start + span, length)) for start in starts if start < length]


def _whole_number(name: str, value: int, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from error
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number
