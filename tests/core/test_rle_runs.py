"""Run lengths of windows, with pycocotools as the oracle."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal
from pycocotools import mask as coco_mask

from mobile_sam.core.masks import mask_window
from mobile_sam.core.rle import (
    decode_rle,
    decode_runs,
    encode_rle,
    rle_to_window,
    runs_to_rle,
    runs_to_window,
    window_to_runs,
)


@st.composite
def window_in_a_picture(draw):
    """A window (h, w), its corner (x, y) and the picture's (H, W); every margin may be 0."""
    window = draw(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=8)))
    above, below, left, right = (draw(st.integers(0, 3)) for _ in range(4))
    height, width = window.shape
    return window, (left, above), (max(1, above + height + below), max(1, left + width + right))


def pasted(window, corner_xy, image_hw):
    x, y = corner_xy
    mask = np.zeros(image_hw, bool)
    mask[y : y + window.shape[0], x : x + window.shape[1]] = window
    return mask


def by_walking(mask):
    runs, is_mask = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != is_mask:
            runs.append(0)
            is_mask = pixel
        runs[-1] += 1
    return runs


@given(window_in_a_picture())
def test_runs_of_a_window_are_those_of_its_picture(case):
    window, corner_xy, image_hw = case
    mask = pasted(*case)
    runs = window_to_runs(window, corner_xy, image_hw)
    assert runs.dtype == np.int64
    assert runs.tolist() == by_walking(mask)
    theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert runs_to_rle(runs, image_hw) == {"size": list(image_hw), "counts": theirs["counts"].decode()}
    assert runs_to_rle(runs, image_hw) == encode_rle(mask)


@given(window_in_a_picture())
def test_runs_give_the_tight_window_and_the_mask_back(case):
    mask, image_hw = pasted(*case), case[2]
    runs = by_walking(mask)
    expected_corner_xy, expected = mask_window(mask)
    for corner_xy, window in (runs_to_window(runs, image_hw), rle_to_window(encode_rle(mask))[1:]):
        assert corner_xy == expected_corner_xy
        assert_array_equal(window, expected)
        assert window.dtype == np.bool_
    decoded = decode_runs(runs, image_hw)
    assert_array_equal(decoded, mask)
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable


@given(st.lists(st.integers(0, 6), min_size=1, max_size=20).filter(any), st.data())
def test_runs_of_zero_may_come_anywhere(runs, data):
    num_px = sum(runs)
    height = data.draw(st.sampled_from([side for side in range(1, num_px + 1) if num_px % side == 0]))
    image_hw = (height, num_px // height)
    expected = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(image_hw[::-1]).T
    assert_array_equal(decode_runs(runs, image_hw), expected)
    corner_xy, window = runs_to_window(runs, image_hw)
    assert corner_xy == mask_window(expected)[0]
    assert_array_equal(window, mask_window(expected)[1])
    assert_array_equal(decode_rle({"size": list(image_hw), "counts": runs}), expected)


@pytest.mark.parametrize("image_hw", [(1, 1), (1, 6), (6, 1), (4, 5)])
def test_empty_and_full_masks_of_every_size(image_hw):
    num_px = image_hw[0] * image_hw[1]
    for empty in (np.zeros(image_hw, bool), np.zeros((0, 0), bool), np.zeros((1, 0), bool)):
        assert window_to_runs(empty, (0, 0), image_hw).tolist() == [num_px]
    corner_xy, window = runs_to_window([num_px], image_hw)
    assert corner_xy == (0, 0)
    assert window.shape == (0, 0)
    assert window_to_runs(np.ones(image_hw, bool), (0, 0), image_hw).tolist() == [0, num_px]
    corner_xy, window = runs_to_window([0, num_px], image_hw)
    assert corner_xy == (0, 0)
    assert_array_equal(window, np.ones(image_hw, bool))


def test_runs_go_on_in_the_next_column_only_in_windows_as_high_as_the_picture():
    assert window_to_runs(np.ones((3, 2), bool), (1, 0), (3, 4)).tolist() == [3, 6, 3]
    assert window_to_runs(np.ones((2, 2), bool), (1, 0), (3, 4)).tolist() == [3, 2, 1, 2, 4]
    assert window_to_runs(np.ones((2, 2), bool), (1, 1), (3, 4)).tolist() == [4, 2, 1, 2, 3]


def test_the_window_may_be_any_view():
    mask = np.random.default_rng(0).random((20, 30)) > 0.5
    for view in (mask.T, mask[::-1, ::2], mask[3:9, 4:8]):
        runs = window_to_runs(view, (2, 3), (40, 50))
        assert runs.tolist() == by_walking(pasted(view, (2, 3), (40, 50)))


def test_a_small_mask_in_a_large_picture_takes_the_memory_of_its_window():
    image_hw, window = (20_000, 30_000), np.ones((50, 60), bool)
    tracemalloc.start()
    runs = window_to_runs(window, (17_000, 9_000), image_hw)
    rle = runs_to_rle(runs, image_hw)
    corner_xy, again = runs_to_window(runs, image_hw)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert corner_xy == (17_000, 9_000)
    assert_array_equal(again, window)
    assert rle_to_window(rle)[0] == image_hw
    assert runs.sum() == 600_000_000
    assert peak_bytes < 1_000_000


def test_a_large_mask_of_many_runs_comes_back():
    y, x = np.mgrid[:1500, :2000]
    mask = np.hypot(x - 1000, y - 750) % 50 < 25
    corner_xy, window = mask_window(mask)
    runs = window_to_runs(window, corner_xy, mask.shape)
    decoded = decode_runs(runs, mask.shape)
    assert_array_equal(decoded, mask)


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([3], "fill 2 x 3 pixels, got runs that sum to 3"),
        ([7, -1], "fill"),
        ([2**62, 2**62, 2**62, 2**62, 6], "fill"),
        ([], "whole numbers"),
        ([[6]], r"whole numbers, got \(1, 1\)"),
        ([6.0], "whole numbers, got .* float64"),
        ([True], "whole numbers"),
    ],
)
@pytest.mark.parametrize("function", [runs_to_window, decode_runs, runs_to_rle])
def test_runs_that_are_none_are_refused(function, runs, words):
    with pytest.raises(ValueError, match=words):
        function(runs, (2, 3))


@pytest.mark.parametrize("function", [runs_to_window, decode_runs, runs_to_rle])
@pytest.mark.parametrize("image_hw", [(0, 3), (2, 3, 1), (-2, -3)])
def test_a_size_that_is_none_is_refused(function, image_hw):
    with pytest.raises(ValueError, match="image_hw"):
        function([6], image_hw)
    with pytest.raises(ValueError, match="image_hw"):
        window_to_runs(np.ones((1, 1), bool), (0, 0), image_hw)


@pytest.mark.parametrize("corner_xy", [(-1, 0), (0, -1), (2, 0), (0, 1)])
def test_a_window_that_leaves_the_picture_is_refused(corner_xy):
    with pytest.raises(ValueError, match=r"within the picture of 2 x 3 \(H, W\), got 2 x 2 at"):
        window_to_runs(np.ones((2, 2), bool), corner_xy, (2, 3))


@pytest.mark.parametrize("window", [np.ones((1, 2, 2), bool), np.ones((2, 2), np.uint8)])
def test_a_window_that_is_no_mask_is_refused(window):
    with pytest.raises(ValueError, match="mask must be"):
        window_to_runs(window, (0, 0), (4, 4))
