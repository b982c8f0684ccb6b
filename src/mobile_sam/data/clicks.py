"""Prompts drawn from masks: where a user would click, first on the object and then on the mask's errors.

Clicks are whole pixels x, y (column, row) of the picture, as users of SAM click them, with label 1 for the object and 0
for the background. Whatever is random comes from a generator that the caller passes; `object_rng` makes one that
depends on the object alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.masks import masks_to_boxes, require_mask

Click = tuple[int, int, int]
"""x, y, label: 1 says that the pixel belongs to the object, 0 that it does not."""


def centre_pixel(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Pixel of the mask that is farthest from its boundary, by the exact Euclidean distance.

    The boundary is the nearest pixel outside of the mask; the picture's border counts as boundary. Of several pixels
    the first in reading order is taken: the topmost row, and there the leftmost.

    Args:
        mask: (H, W) bool.

    Returns:
        x, y.

    Raises:
        ValueError: if the mask is empty, or not (H, W) bool.

    >>> mask = np.zeros((9, 9), bool)
    >>> mask[1:8, 0:7] = True
    >>> centre_pixel(mask)
    (3, 4)
    """
    _require_pixels(mask)
    x, y, _ = _deepest_pixel(mask)
    return x, y


def random_pixel(mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[int, int]:
    """Any pixel of the mask, all alike: (H, W) bool -> x, y.

    Raises:
        ValueError: if the mask is empty, or not (H, W) bool.
    """
    _require_pixels(mask)
    pixels = np.flatnonzero(mask)
    y, x = divmod(int(pixels[rng.integers(len(pixels))]), mask.shape[1])
    return x, y


def next_click(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> Click | None:
    """Click on the largest error: the centre of the largest connected part that is missing or too much.

    Parts are 8-connected, what is missing and what is too much apart, and compared by their numbers of pixels. Of
    parts of one size a missing one goes first, then the one whose first pixel in reading order comes first. The
    click is the part's `centre_pixel`.

    Args:
        truth: (H, W) bool, the true mask.
        predicted: (H, W) bool, the mask to correct.

    Returns:
        x, y, label, the label being 1 where the part is missing and 0 where it is too much; None for equal masks.

    Raises:
        ValueError: if the masks are not (H, W) bool of one size.

    >>> truth, predicted = np.zeros((2, 8, 8), bool)
    >>> truth[1:4, 1:4] = True
    >>> next_click(truth, predicted)
    (2, 2, 1)
    """
    _require_pair(truth, predicted)
    (x1, y1), errors = _cropped_errors(truth, predicted)
    largest, largest_px, largest_label = None, 0, 1
    for label, error in errors:
        part, part_px = _largest_part(error)
        if part_px > largest_px:
            largest, largest_px, largest_label = part, part_px, label
    if largest is None:
        return None
    x, y, _ = _deepest_pixel(largest)
    return x1 + x, y1 + y, largest_label


def next_click_by_distance(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> Click | None:
    """Click on the deepest error, as RITM does: the wrong pixel that is farthest from where its kind of error ends.

    A wide error goes before a long thin one of more pixels. If the deepest missing pixel and the deepest pixel that
    is too much are equally deep, the latter is clicked, as in RITM; within a kind, the first in reading order.

    Args and result are those of `next_click`.

    Raises:
        ValueError: if the masks are not (H, W) bool of one size.
    """
    _require_pair(truth, predicted)
    (x1, y1), errors = _cropped_errors(truth, predicted)
    deepest, deepest_squared = None, 0
    for label, error in errors:
        x, y, squared = _deepest_pixel(error)
        if squared >= max(1, deepest_squared):
            deepest, deepest_squared = (x1 + x, y1 + y, label), squared
    return deepest


def random_error_click(
    truth: NDArray[np.bool_], predicted: NDArray[np.bool_], rng: np.random.Generator
) -> Click | None:
    """Click on any wrong pixel, all alike, whether it is missing or too much.

    Args and result are those of `next_click`; nothing is drawn from `rng` for equal masks.

    Raises:
        ValueError: if the masks are not (H, W) bool of one size.
    """
    _require_pair(truth, predicted)
    error = truth ^ predicted
    if not error.any():
        return None
    x, y = random_pixel(error, rng)
    return x, y, int(truth[y, x])


def object_rng(seed: int, picture_id: str, object_id: str) -> np.random.Generator:
    """Make the random generator of one object: the same in every run, on every machine, in every choice of pictures.

    Args:
        seed: any whole number.
        picture_id: of the picture.
        object_id: of the object, unique within the picture.

    >>> int(object_rng(0, "139", "17").integers(1000)) == int(object_rng(0, "139", "17").integers(1000))
    True
    """
    key = json.dumps([operator.index(seed), picture_id, object_id])  # unambiguous, and ASCII for any string
    digest = hashlib.sha256(key.encode("ascii")).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int.from_bytes(digest, "little"))))


def grid_points(size_hw: tuple[int, int], num_per_side: int) -> NDArray[np.float64]:
    """Centres of the cells of an even grid over the picture, in reading order.

    Args:
        size_hw: height and width of the picture in pixels.
        num_per_side: cells along each side, n.

    Returns:
        (n * n, 2) float64 XY, with x = (column + 0.5) * width / n.

    Raises:
        ValueError: if a number is below 1.

    >>> grid_points((10, 20), 2).tolist()
    [[5.0, 2.5], [15.0, 2.5], [5.0, 7.5], [15.0, 7.5]]
    """
    height, width = _require_size(size_hw)
    if num_per_side < 1:
        raise ValueError(f"num_per_side must be at least 1, got {num_per_side}")
    centres = (np.arange(num_per_side) + 0.5) / num_per_side  # (n,)
    x, y = np.meshgrid(centres * width, centres * height)  # each (n, n)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def point_pair(
    size_hw: tuple[int, int], distance_px: float, rng: np.random.Generator, num_tries: int = 10_000
) -> NDArray[np.float64] | None:
    """Draw a point of the foreground and one of the background at a given distance, both inside the picture.

    A place for the first and a direction to the second are drawn evenly until both points are inside, so all pairs
    that fit are alike: given the first point every direction that fits, and given the direction every place.

    Args:
        size_hw: height and width of the picture in pixels.
        distance_px: between the two points.
        rng: where the randomness comes from; one call draws 3 * num_tries numbers, or none where no pair can fit.
        num_tries: draws before giving up.

    Returns:
        (2, 2) float64 XY, foreground first, with 0 <= x <= width - 1 and 0 <= y <= height - 1; None if the picture's
        diagonal is too short, or so hardly long enough that no try fits.

    Raises:
        ValueError: if the distance is not positive, or a number is below 1.
    """
    height, width = _require_size(size_hw)
    if not 0 < distance_px < math.inf:
        raise ValueError(f"distance_px must be positive and finite, got {distance_px}")
    if num_tries < 1:
        raise ValueError(f"num_tries must be at least 1, got {num_tries}")
    far_corner_xy = np.array([width - 1, height - 1], np.float64)
    if math.hypot(*far_corner_xy) < distance_px:
        return None
    foreground_xy = rng.random((num_tries, 2)) * far_corner_xy
    angles = rng.random(num_tries) * 2 * math.pi
    background_xy = foreground_xy + distance_px * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    fits = ((background_xy >= 0) & (background_xy <= far_corner_xy)).all(axis=1)
    if not fits.any():
        return None
    first = int(fits.argmax())
    return np.stack([foreground_xy[first], background_xy[first]])


def _require_pair(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> None:
    require_mask(truth)
    require_mask(predicted)
    if truth.shape != predicted.shape:
        raise ValueError(f"masks must have one size, got {truth.shape} and {predicted.shape} (H, W)")


def _require_pixels(mask: NDArray[np.bool_]) -> None:
    require_mask(mask)
    if not mask.any():
        raise ValueError(f"mask of {mask.shape} (H, W) is empty: it has no pixel to click on; leave it out")


def _require_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    height, width = size_hw
    if height < 1 or width < 1:
        raise ValueError(f"size_hw must be at least 1 x 1, got {size_hw}")
    return height, width


def _cropped_errors(
    truth: NDArray[np.bool_], predicted: NDArray[np.bool_]
) -> tuple[tuple[int, int], list[tuple[int, NDArray[np.bool_]]]]:
    """Crop to the errors: the crop's corner x, y, and each kind of error that is there, labelled, the missing first."""
    x1, y1, x2, y2 = masks_to_boxes((truth ^ predicted)[None])[0].tolist()
    true_part, predicted_part = truth[y1 : y2 + 1, x1 : x2 + 1], predicted[y1 : y2 + 1, x1 : x2 + 1]
    errors = [(1, true_part & ~predicted_part), (0, predicted_part & ~true_part)]
    return (x1, y1), [(label, error) for label, error in errors if error.any()]


def _largest_part(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """Largest 8-connected part of a mask that is not empty, (H, W) bool, and its number of pixels."""
    import cv2

    pixels = np.ascontiguousarray(mask).view(np.uint8)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(pixels, connectivity=8)
    areas_px = stats[:, cv2.CC_STAT_AREA].copy()
    areas_px[0] = 0  # what is outside of the mask
    is_largest = areas_px == areas_px.max()
    first = parts.ravel()[is_largest[parts].argmax()]  # OpenCV's numbering need not follow the reading order
    return parts == first, int(areas_px[first])


def _deepest_pixel(mask: NDArray[np.bool_]) -> tuple[int, int, int]:
    """X and y of the pixel farthest from the boundary of a mask that is not empty, and its squared distance."""
    import cv2

    x1, y1, x2, y2 = masks_to_boxes(mask[None])[0].tolist()
    inside = np.pad(mask[y1 : y2 + 1, x1 : x2 + 1].view(np.uint8), 1)
    distances = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    squared = np.rint(np.square(distances, dtype=np.float64))  # whole numbers by nature: rounding makes ties ties
    y, x = divmod(int(squared.argmax()), squared.shape[1])
    return x1 + x, y1 + y, int(squared[y, x])
