"""Many masks as one map of labels."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal

from mobile_sam.core.label_map import label_map
from mobile_sam.core.masks import encode_rle

mask_stack = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9))


def pixel_by_pixel(masks, owner):
    labels = np.zeros(masks.shape[1:], np.int32)
    areas_px = masks.sum(axis=(1, 2))
    for y, x in np.ndindex(*labels.shape):
        holders = np.flatnonzero(masks[:, y, x]).tolist()
        if holders:
            labels[y, x] = 1 + (min(holders, key=lambda index: areas_px[index]) if owner == "smallest" else holders[0])
    return labels


@given(mask_stack, st.sampled_from(["smallest", "first"]))
def test_each_pixel_has_the_owner_that_the_rule_names(masks, owner):
    labels = label_map(masks, masks.shape[1:], owner=owner)
    assert labels.dtype == np.int32
    assert_array_equal(labels, pixel_by_pixel(masks, owner))


@given(mask_stack, st.sampled_from(["smallest", "first"]))
def test_run_length_codes_one_by_one_give_the_same_map(masks, owner):
    mixed = (encode_rle(mask) if index % 2 else mask for index, mask in enumerate(masks))
    assert_array_equal(label_map(mixed, masks.shape[1:], owner=owner), label_map(masks, masks.shape[1:], owner=owner))


def test_of_equal_masks_the_first_owns_the_pixels():
    masks = np.ones((3, 2, 2), bool)
    assert_array_equal(label_map(masks, (2, 2)), np.ones((2, 2)))
    assert_array_equal(label_map(masks, (2, 2), owner="first"), np.ones((2, 2)))


def test_a_mask_inside_another_keeps_its_place_only_as_the_smaller_one():
    outer, inner = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    inner[1:3, 1:3] = True
    assert_array_equal(label_map([outer, inner], (4, 4)) == 2, inner)
    assert not (label_map([outer, inner], (4, 4), owner="first") == 2).any()


def test_no_masks_and_empty_masks_own_nothing_and_still_count():
    assert_array_equal(label_map([], (3, 4)), np.zeros((3, 4)))
    assert_array_equal(label_map([np.zeros((1, 1), bool), np.ones((1, 1), bool)], (1, 1)), [[2]])


def test_many_codes_of_a_large_picture_take_no_stack():
    image_hw = (2000, 3000)

    def codes():
        for index in range(200):
            mask = np.zeros(image_hw, bool)
            mask[8 * index : 8 * index + 40, 10 * index : 10 * index + 60] = True
            yield encode_rle(mask)

    rles = list(codes())
    tracemalloc.start()
    labels = label_map(iter(rles), image_hw)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert labels.max() == 200
    assert peak_bytes < labels.nbytes + 2_000_000  # one mask of the picture's size would be 6,000,000


@pytest.mark.parametrize(
    ("masks", "image_hw", "words"),
    [
        (np.ones((2, 2), bool), (2, 2), r"got \(2, 2\); use masks\[None\]"),
        ({"size": [2, 2], "counts": [4]}, (2, 2), r"use \[rle\]"),
        ([np.ones((2, 3), bool)], (2, 2), r"size \(2, 2\), got \(2, 3\)"),
        ([{"size": [2, 3], "counts": [6]}], (2, 2), r"rle must be of the picture's size \(2, 2\), got \(2, 3\)"),
        ([{"size": [2, 2], "counts": [3]}], (2, 2), "rle must have runs that fill"),
        ([np.ones((2, 2), np.uint8)], (2, 2), "mask must be bool, got uint8"),
        ([np.ones(2, bool)], (2, 2), r"mask must be \(H, W\)"),
        ([], (2, -1), "image_hw"),
        ([], (2, 2, 3), "image_hw"),
    ],
)
def test_what_does_not_fit_is_refused(masks, image_hw, words):
    with pytest.raises(ValueError, match=words):
        label_map(masks, image_hw)


def test_an_unknown_owner_is_refused():
    with pytest.raises(ValueError, match="owner must be 'smallest' or 'first', got 'last'"):
        label_map([], (2, 2), owner="last")
