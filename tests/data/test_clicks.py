"""Clicks drawn from masks with known answers, and against distances computed pixel by pixel."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

from mobile_sam.data.clicks import (
    centre_pixel,
    grid_points,
    next_click,
    next_click_by_distance,
    object_rng,
    point_pair,
    random_error_click,
    random_pixel,
)

one_mask = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14))
two_masks = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda size_hw: st.tuples(hnp.arrays(np.bool_, size_hw), hnp.arrays(np.bool_, size_hw))
)
NEXT_CLICKS = [next_click, next_click_by_distance, lambda *masks: random_error_click(*masks, np.random.default_rng(0))]


def rectangles(size_hw, *boxes_xyxy):
    """Mask of rectangles, corners inclusive."""
    mask = np.zeros(size_hw, bool)
    for x1, y1, x2, y2 in boxes_xyxy:
        mask[y1 : y2 + 1, x1 : x2 + 1] = True
    return mask


def discs(size_hw, *discs_xyr):
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    return np.any([np.hypot(x - centre_x, y - centre_y) <= radius for centre_x, centre_y, radius in discs_xyr], axis=0)


def squared_depths(mask):
    """Squared distance from every pixel to the nearest one outside, all pairs compared; 0 outside."""
    padded = np.pad(mask, 1)
    inside, outside = np.argwhere(mask) + 1, np.argwhere(~padded)
    squared = ((inside[:, None] - outside[None]) ** 2).sum(axis=2).min(axis=1)
    depths = np.zeros(mask.shape, int)
    depths[mask] = squared
    return depths


def parts(mask):
    """8-connected parts as sets of (y, x), by flooding, in reading order of their first pixels."""
    left = {(int(y), int(x)): None for y, x in np.argwhere(mask)}
    found = []
    while left:
        part, front = set(), [next(iter(left))]
        while front:
            y, x = front.pop()
            if (y, x) in left:
                del left[y, x]
                part.add((y, x))
                front += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        found.append(part)
    return found


ANNULUS = discs((41, 41), (20, 20, 18)) & ~discs((41, 41), (20, 20, 9))
CENTRES = {
    "a square of odd side": (rectangles((20, 20), (5, 7, 11, 13)), (8, 10)),
    "a square of even side, the upper left of four": (rectangles((20, 20), (5, 7, 10, 12)), (7, 9)),
    "one pixel": (rectangles((6, 9), (7, 2, 7, 2)), (7, 2)),
    "the whole picture": (np.ones((7, 7), bool), (3, 3)),
    "a picture of one pixel": (np.ones((1, 1), bool), (0, 0)),
    "a wide bar, its first deepest pixel": (rectangles((20, 40), (4, 6, 30, 10)), (6, 8)),
    "an L: its foot of 7 x 7, not its leg of 3": (rectangles((30, 30), (2, 2, 4, 25), (2, 19, 8, 25)), (5, 22)),
    "touching the upper border, which bounds it": (rectangles((20, 20), (4, 0, 10, 6)), (7, 3)),
    "touching the lower right corner": (rectangles((12, 15), (8, 5, 14, 11)), (11, 8)),
    "of two parts the wider one": (rectangles((20, 40), (1, 1, 3, 3), (20, 5, 28, 13)), (24, 9)),
}


@pytest.mark.parametrize(("mask", "expected_xy"), CENTRES.values(), ids=CENTRES.keys())
def test_the_centre_of(mask, expected_xy):
    assert centre_pixel(mask) == expected_xy


def test_the_centre_of_a_ring_is_on_the_ring_half_way_between_its_edges():
    x, y = centre_pixel(ANNULUS)
    assert ANNULUS[y, x]
    assert math.hypot(x - 20, y - 20) == pytest.approx((18 + 9) / 2, abs=1)


@given(one_mask)
def test_no_pixel_is_deeper_than_the_centre_and_none_as_deep_comes_first(mask):
    if mask.any():
        depths = squared_depths(mask)
        y, x = np.argwhere(depths == depths.max())[0]
        assert centre_pixel(mask) == (x, y)


@pytest.mark.parametrize(("x", "y", "radius"), [(800, 750, 700.4), (720, 710, 699.9), (40, 60, 35.5)])
def test_the_centre_of_a_disc_is_its_centre_at_any_size(x, y, radius):
    assert centre_pixel(discs((1501, 1601), (x, y, radius))) == (x, y)


@pytest.mark.parametrize("draw", [centre_pixel, lambda mask: random_pixel(mask, np.random.default_rng(0))])
def test_an_empty_mask_and_what_is_no_mask_are_refused(draw):
    with pytest.raises(ValueError, match=r"mask of \(4, 5\) .* is empty"):
        draw(np.zeros((4, 5), bool))
    with pytest.raises(ValueError, match="mask must be bool"):
        draw(np.ones((4, 5), np.uint8))


def test_random_pixels_are_of_the_mask_and_all_alike():
    mask, rng = rectangles((9, 7), (2, 1, 3, 2), (6, 8, 6, 8)), np.random.default_rng(1)
    drawn = [random_pixel(mask, rng) for _ in range(5000)]
    counts = {pixel_xy: drawn.count(pixel_xy) for pixel_xy in set(drawn)}
    assert set(counts) == {(2, 1), (3, 1), (2, 2), (3, 2), (6, 8)}
    assert min(counts.values()) > 850  # 1000 each, a standard deviation of 28
    assert all(type(number) is int for number in drawn[0])


TRUTH = rectangles((40, 60), (10, 10, 29, 29))  # a square of 20
NEXT = {
    "nothing predicted: its centre": (TRUTH, np.zeros_like(TRUTH), (19, 19, 1)),
    "a strip missing at the right": (TRUTH, rectangles(TRUTH.shape, (10, 10, 24, 29)), (27, 12, 1)),
    "a strip too much at the right": (TRUTH, rectangles(TRUTH.shape, (10, 10, 34, 29)), (32, 12, 0)),
    "a shift by 5: both strips alike, the missing one first": (
        TRUTH,
        rectangles(TRUTH.shape, (15, 10, 34, 29)),
        (12, 12, 1),
    ),
    "a blob elsewhere, larger than what is missing": (
        TRUTH,
        rectangles(TRUTH.shape, (10, 10, 29, 28), (40, 2, 48, 10)),
        (44, 6, 0),
    ),
    "two equal parts: the first in reading order": (
        rectangles((30, 30), (20, 3, 22, 5), (2, 4, 4, 6)),
        np.zeros((30, 30), bool),
        (21, 4, 1),
    ),
    "at the picture's corner": (
        rectangles((20, 20), (17, 17, 19, 19)),
        np.zeros((20, 20), bool),
        (18, 18, 1),
    ),
}


@pytest.mark.parametrize(("truth", "predicted", "expected"), NEXT.values(), ids=NEXT.keys())
def test_the_next_click_for(truth, predicted, expected):
    assert next_click(truth, predicted) == expected


def test_parts_that_touch_at_a_corner_are_one():
    """Two squares of 9 pixels that meet at a corner beat one of 16."""
    truth = rectangles((30, 30), (1, 1, 3, 3), (4, 4, 6, 6), (20, 20, 23, 23))
    assert next_click(truth, np.zeros_like(truth)) == (2, 2, 1)


def test_what_is_missing_and_what_is_too_much_never_make_one_part():
    """A strip of 12 missing and one of 12 too much side by side; 15 missing elsewhere is the largest."""
    truth = rectangles((30, 30), (2, 2, 13, 2), (20, 20, 24, 22))
    predicted = rectangles((30, 30), (2, 3, 13, 3))
    assert next_click(truth, predicted) == (21, 21, 1)


def test_the_largest_error_and_the_deepest_error_can_be_two():
    truth = rectangles((40, 100), (2, 5, 91, 6), (10, 20, 14, 24))  # missing: a line of 180 pixels
    predicted = rectangles((40, 100), (10, 20, 14, 24), (50, 20, 56, 26))  # too much: a square of 49
    assert next_click(truth, predicted) == (2, 5, 1)
    assert next_click_by_distance(truth, predicted) == (53, 23, 0)


def test_of_equally_deep_errors_the_one_too_much_is_clicked_as_in_ritm():
    truth, predicted = rectangles((20, 40), (2, 2, 6, 6)), rectangles((20, 40), (20, 8, 24, 12))
    assert next_click_by_distance(truth, predicted) == (22, 10, 0)
    assert next_click_by_distance(predicted, truth) == (4, 4, 0)


@given(two_masks)
def test_the_next_click_is_the_centre_of_a_largest_part(masks):
    truth, predicted = masks
    candidates = [(len(part), 1, part) for part in parts(truth & ~predicted)]
    candidates += [(len(part), 0, part) for part in parts(predicted & ~truth)]
    if candidates:
        _, label, largest = max(candidates, key=lambda candidate: candidate[0])  # the first of equals
        mask = np.zeros(truth.shape, bool)
        mask[tuple(np.array(sorted(largest)).T)] = True
        y, x = np.argwhere(squared_depths(mask) == squared_depths(mask).max())[0]
        assert next_click(truth, predicted) == (x, y, label)
    else:
        assert next_click(truth, predicted) is None


@given(two_masks)
def test_the_deepest_click_is_as_deep_as_any(masks):
    truth, predicted = masks
    clicked = next_click_by_distance(truth, predicted)
    assert (clicked is None) == np.array_equal(truth, predicted)
    if clicked is not None:
        missing, too_much = squared_depths(truth & ~predicted), squared_depths(predicted & ~truth)
        x, y, label = clicked
        assert (missing if label else too_much)[y, x] == max(missing.max(), too_much.max())


def test_random_error_clicks_are_all_alike_and_labelled_by_what_is_true():
    truth, predicted = rectangles((9, 9), (1, 1, 3, 1)), rectangles((9, 9), (3, 1, 5, 1))
    rng = np.random.default_rng(2)
    drawn = [random_error_click(truth, predicted, rng) for _ in range(4000)]
    counts = {click: drawn.count(click) for click in set(drawn)}
    assert set(counts) == {(1, 1, 1), (2, 1, 1), (4, 1, 0), (5, 1, 0)}
    assert min(counts.values()) > 850  # 1000 each, a standard deviation of 27


@pytest.mark.parametrize("choose", NEXT_CLICKS)
@pytest.mark.parametrize("mask", [np.zeros((4, 5), bool), TRUTH, np.ones((3, 3), bool)])
def test_equal_masks_need_no_click(choose, mask):
    assert choose(mask, mask.copy()) is None


@pytest.mark.parametrize("choose", NEXT_CLICKS)
def test_masks_that_cannot_be_compared_are_refused(choose):
    with pytest.raises(ValueError, match="one size"):
        choose(np.ones((4, 5), bool), np.ones((5, 4), bool))
    with pytest.raises(ValueError, match="mask must be"):
        choose(np.ones((4, 5), bool), np.ones((4, 5), np.float32))


def test_an_object_has_the_same_random_numbers_in_another_process():
    code = (
        "from mobile_sam.data.clicks import object_rng\n"
        "print(object_rng(7, 'p\\u00e9', '12').integers(2**62, size=4).tolist())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "123"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert ended.stdout.strip() == str(object_rng(7, "pé", "12").integers(2**62, size=4).tolist()), ended.stderr


def test_objects_pictures_and_seeds_have_random_numbers_of_their_own():
    keys = [
        (seed, picture, item) for seed in (0, 1, -1) for picture in ("1", "11", "") for item in ("1", "11", "", "é")
    ]
    keys += [(0, '1", "1', "1"), (0, "1", '1", "1'), (0, "\udcff", "1"), (2**70, "1", "1")]
    first = {object_rng(*key).integers(2**62) for key in keys}
    assert len(first) == len(keys)


def test_an_object_draws_the_same_whatever_was_drawn_for_others():
    alone = object_rng(3, "p", "b").random(5)
    object_rng(3, "p", "a").random(1000)
    assert_array_equal(object_rng(np.int64(3), "p", "b").random(5), alone)


@pytest.mark.parametrize(("size_hw", "num"), [((480, 640), 32), ((10, 333), 5), ((3, 2), 1)])
def test_a_grid_is_even_in_reading_order_and_half_a_step_from_the_edges(size_hw, num):
    points_xy = grid_points(size_hw, num)
    assert points_xy.shape == (num * num, 2)
    grid = points_xy.reshape(num, num, 2)
    step_xy = np.array([size_hw[1] / num, size_hw[0] / num])
    assert_allclose(grid[0, 0], step_xy / 2)
    assert_allclose(size_hw[::-1] - grid[-1, -1], step_xy / 2)
    assert_allclose(np.diff(grid[:, :, 0], axis=1), step_xy[0])
    assert_allclose(np.diff(grid[:, :, 1], axis=0), step_xy[1])
    assert_array_equal(grid[0, :, 0], grid[-1, :, 0])


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0.5, 600), st.integers(0, 2**32))
def test_a_pair_is_inside_at_its_distance_or_there_is_none(height, width, distance_px, seed):
    pair = point_pair((height, width), distance_px, np.random.default_rng(seed), num_tries=500)
    if pair is None:
        assert distance_px > 0.5 * (min(height, width) - 1)  # else at least a quarter of the draws fit
    else:
        assert math.dist(*pair) == pytest.approx(distance_px, abs=1e-9)
        assert (pair >= 0).all()
        assert (pair <= [width - 1, height - 1]).all()


def test_pairs_are_spread_evenly_over_places_and_directions():
    """Where the distance is short against the picture: thirds of the picture and eighths of the circle alike."""
    rng = np.random.default_rng(5)
    pairs = np.stack([point_pair((3001, 3001), 1, rng, num_tries=20) for _ in range(4000)])
    thirds = np.floor(pairs[:, 0] / 1000).clip(0, 2) @ [1, 3]
    dx, dy = (pairs[:, 1] - pairs[:, 0]).T
    eighths = np.floor((np.arctan2(dy, dx) + np.pi) / (np.pi / 4)).clip(0, 7)
    assert np.bincount(thirds.astype(int), minlength=9).min() > 340  # 444 each, a standard deviation of 20
    assert np.bincount(eighths.astype(int), minlength=8).min() > 400  # 500 each, a standard deviation of 21


def test_a_long_pair_in_a_narrow_picture_lies_along_it():
    pair = point_pair((11, 1001), 900, np.random.default_rng(6))
    assert abs(pair[0, 0] - pair[1, 0]) > 899
    assert point_pair((11, 1001), 1000.5, np.random.default_rng(6)) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: point_pair((10, 10), 0, np.random.default_rng(0)), "distance_px"),
        (lambda: point_pair((10, 10), math.nan, np.random.default_rng(0)), "distance_px"),
        (lambda: point_pair((0, 10), 1, np.random.default_rng(0)), "size_hw"),
        (lambda: point_pair((10, 10), 1, np.random.default_rng(0), num_tries=0), "num_tries"),
        (lambda: grid_points((10, 10), 0), "num_per_side"),
        (lambda: grid_points((10, 0), 3), "size_hw"),
    ],
)
def test_sizes_and_distances_that_make_no_sense_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
