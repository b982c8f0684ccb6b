"""Masks: boxes, areas, overlaps, stability, outlines, run lengths."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from pycocotools import mask as coco_mask

from mobile_sam.core.masks import (
    decode_rle,
    encode_rle,
    mask_areas,
    mask_iou,
    mask_to_polygons,
    mask_window,
    masks_to_boxes,
    rle_area,
    stability_score,
)

one_mask = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))
mask_stack = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9))
two_stacks = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda nmhw: st.tuples(
        hnp.arrays(np.bool_, (nmhw[0], *nmhw[2:])),
        hnp.arrays(np.bool_, (nmhw[1], *nmhw[2:])),
    )
)


def rectangle(image_hw, box_xyxy):
    x1, y1, x2, y2 = box_xyxy
    mask = np.zeros(image_hw, bool)
    mask[y1 : y2 + 1, x1 : x2 + 1] = True
    return mask


@pytest.mark.parametrize("box_xyxy", [(0, 0, 0, 0), (3, 1, 7, 5), (0, 0, 9, 6), (9, 6, 9, 6), (2, 3, 2, 6)])
def test_the_box_of_a_rectangle_is_the_rectangle_with_both_corners(box_xyxy):
    assert_array_equal(masks_to_boxes(rectangle((7, 10), box_xyxy)[None]), [box_xyxy])


def test_empty_masks_have_boxes_of_zeros_and_no_masks_no_boxes():
    assert_array_equal(masks_to_boxes(np.zeros((2, 4, 5), bool)), np.zeros((2, 4)))
    assert masks_to_boxes(np.zeros((0, 4, 5), bool)).shape == (0, 4)
    assert mask_areas(np.zeros((0, 4, 5), bool)).shape == (0,)


@given(mask_stack)
def test_a_box_holds_all_of_its_mask_and_each_side_touches_it(masks):
    for mask, (x1, y1, x2, y2) in zip(masks, masks_to_boxes(masks), strict=True):
        if mask.any():
            assert mask[y1 : y2 + 1, x1 : x2 + 1].sum() == mask.sum()
            assert mask[y1].any()
            assert mask[y2].any()
            assert mask[:, x1].any()
            assert mask[:, x2].any()


@given(mask_stack)
def test_areas_count_pixels(masks):
    assert_array_equal(mask_areas(masks), masks.sum(axis=(1, 2)))


@given(two_stacks)
def test_iou_is_symmetric_bounded_and_what_sets_give(stacks):
    masks_a, masks_b = stacks
    iou = mask_iou(masks_a, masks_b)
    assert_array_equal(iou, mask_iou(masks_b, masks_a).T)
    assert (iou >= 0).all()
    assert (iou <= 1).all()
    for row, a in zip(iou, masks_a, strict=True):
        for value, b in zip(row, masks_b, strict=True):
            set_a, set_b = set(np.flatnonzero(a)), set(np.flatnonzero(b))
            assert value == pytest.approx(len(set_a & set_b) / max(1, len(set_a | set_b)))


@given(mask_stack)
def test_iou_with_itself_is_one_unless_the_mask_is_empty(masks):
    assert_array_equal(np.diag(mask_iou(masks, masks)), masks.any(axis=(1, 2)).astype(float))


def test_iou_counts_large_masks_exactly():
    left, right = np.zeros((1, 1500, 1500), bool), np.zeros((1, 1500, 1500), bool)
    left[:, :, :1000] = True
    right[:, :, 500:] = True
    assert mask_iou(left, right)[0, 0] == 500 / 1500


@pytest.mark.parametrize(("logits", "expected"), [([[5.0, -5.0]], 1.0), ([[0.5, 3.0]], 0.5), ([[-9.0, -9.0]], 0.0)])
def test_stability_is_the_share_of_the_mask_that_no_cut_moves(logits, expected):
    assert stability_score(np.array(logits), 0.0, 1.0) == expected


def test_stability_keeps_leading_axes():
    assert stability_score(np.zeros((2, 3, 4, 4), np.float32), 0.0, 1.0).shape == (2, 3)


def test_polygons_come_largest_first_without_holes_and_specks():
    mask = rectangle((40, 60), (1, 1, 5, 4)) | rectangle((40, 60), (20, 5, 50, 35))
    mask[10:20, 30:40] = False
    mask[39, 59] = True
    polygons = mask_to_polygons(mask)
    assert [{tuple(corner) for corner in polygon.tolist()} for polygon in polygons] == [
        {(20, 5), (50, 5), (50, 35), (20, 35)},
        {(1, 1), (5, 1), (5, 4), (1, 4)},
    ]
    assert {polygon.dtype for polygon in polygons} == {np.dtype(np.float32)}


def test_an_empty_mask_has_no_polygons():
    assert mask_to_polygons(np.zeros((3, 3), bool)) == []


@given(one_mask)
def test_no_tolerance_is_the_default(mask):
    for ours, exact in zip(mask_to_polygons(mask), mask_to_polygons(mask, tolerance_px=0), strict=True):
        assert_array_equal(ours, exact)


@given(one_mask, st.sampled_from([0.5, 1.0, 3.0, 1e9, 1e300]))
def test_simplified_polygons_have_some_of_the_corners_and_at_least_three(mask, tolerance_px):
    simplified = mask_to_polygons(mask, tolerance_px=tolerance_px)
    for few, all_corners in zip(simplified, mask_to_polygons(mask), strict=True):
        assert 3 <= len(few) <= len(all_corners)
        assert few.dtype == np.float32
        assert {tuple(corner) for corner in few.tolist()} <= {tuple(corner) for corner in all_corners.tolist()}


def test_a_round_outline_is_simplified_within_the_tolerance():
    y, x = np.mgrid[:301, :301]
    (exact,) = mask_to_polygons(np.hypot(x - 150, y - 150) <= 120)
    (simple,) = mask_to_polygons(np.hypot(x - 150, y - 150) <= 120, tolerance_px=2)
    assert len(simple) < len(exact) / 5
    starts, sides = simple, np.roll(simple, -1, axis=0) - simple  # (L, 2) each
    offsets = exact[:, None] - starts  # (K, L, 2)
    along = np.clip((offsets * sides).sum(axis=2) / (sides**2).sum(axis=1), 0, 1)  # (K, L)
    distances_px = np.linalg.norm(offsets - along[..., None] * sides, axis=2).min(axis=1)  # (K,)
    assert distances_px.max() <= 2.001


def test_an_outline_that_would_collapse_is_kept():
    mask = rectangle((30, 30), (5, 5, 20, 6))
    assert_array_equal(mask_to_polygons(mask, tolerance_px=5)[0], mask_to_polygons(mask)[0])


@pytest.mark.parametrize("tolerance_px", [-1, np.nan, np.inf])
def test_a_tolerance_that_is_none_is_refused(tolerance_px):
    with pytest.raises(ValueError, match="tolerance_px must be finite and not negative"):
        mask_to_polygons(np.ones((3, 3), bool), tolerance_px=tolerance_px)


@given(one_mask, st.integers(0, 3))
def test_a_window_is_the_box_and_its_margin_as_far_as_the_picture_goes(mask, margin_px):
    (x, y), window = mask_window(mask, margin_px=margin_px)
    if not mask.any():
        assert (x, y) == (0, 0)
        assert window.shape == (0, 0)
        return
    ((x1, y1, x2, y2),) = masks_to_boxes(mask[None])
    assert (x, y) == (max(x1 - margin_px, 0), max(y1 - margin_px, 0))
    assert_array_equal(window, mask[y : y2 + 1 + margin_px, x : x2 + 1 + margin_px])
    assert np.shares_memory(window, mask)


def test_a_window_has_no_negative_margin():
    with pytest.raises(ValueError, match="margin_px"):
        mask_window(np.ones((3, 3), bool), margin_px=-1)


@given(one_mask)
def test_run_lengths_give_the_mask_and_its_area_back(mask):
    rle = json.loads(json.dumps(encode_rle(mask)))
    assert_array_equal(decode_rle(rle), mask)
    assert rle_area(rle) == mask.sum()


@given(one_mask)
def test_our_decoder_agrees_with_pycocotools(mask):
    theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_rle(mask) == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
    assert_array_equal(decode_rle(theirs), coco_mask.decode(theirs).astype(bool))


def test_long_runs_are_decoded_too():
    mask = rectangle((3000, 2000), (700, 1, 1999, 2999))
    assert_array_equal(decode_rle(encode_rle(mask)), mask)


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [2, 2]},
        {"counts": "04"},
        {"size": [2, 2], "counts": "5220003"},  # a code of another size: pycocotools reads past its end
        {"size": [40, 50], "counts": "5220003"},
        {"size": [4, 5], "counts": ""},
        {"size": [4, 5], "counts": "5220003\xff"},
        {"size": [4, 5], "counts": "zz"},
        {"size": [4, 5], "counts": "o" * 40},
        {"size": [4, 5], "counts": [10, -2, 12]},
        {"size": [4, 5], "counts": [10.0, 10.0]},
        {"size": [4, 5], "counts": None},
        {"size": [0, 5], "counts": [0]},
        {"size": [4], "counts": [4]},
    ],
)
def test_a_damaged_run_length_code_is_refused(rle):
    for read in (decode_rle, rle_area):
        with pytest.raises(ValueError, match="rle"):
            read(rle)


@given(st.binary(max_size=30), st.integers(1, 9), st.integers(1, 9))
def test_any_bytes_are_decoded_or_refused(counts, height, width):
    try:
        assert decode_rle({"size": [height, width], "counts": counts}).shape == (height, width)
    except ValueError as error:
        assert "rle" in str(error)  # noqa: PT017


@pytest.mark.parametrize("function", [masks_to_boxes, mask_areas, lambda masks: mask_iou(masks, masks)])
@pytest.mark.parametrize("masks", [np.zeros((3, 3), bool), np.zeros((1, 3, 3), np.uint8), np.zeros((1, 3, 3))])
def test_what_is_no_stack_of_masks_is_refused(function, masks):
    with pytest.raises(ValueError, match="masks must be"):
        function(masks)


@pytest.mark.parametrize("function", [encode_rle, mask_to_polygons, mask_window])
@pytest.mark.parametrize("mask", [np.zeros((1, 3, 3), bool), np.zeros((3, 3), np.uint8)])
def test_what_is_no_mask_is_refused(function, mask):
    with pytest.raises(ValueError, match="mask must be"):
        function(mask)


def test_masks_of_two_sizes_have_no_iou():
    with pytest.raises(ValueError, match="one size"):
        mask_iou(np.zeros((1, 3, 3), bool), np.zeros((1, 3, 4), bool))


def test_a_mask_without_pixels_has_no_code():
    with pytest.raises(ValueError, match="at least one pixel"):
        encode_rle(np.zeros((0, 3), bool))


def test_stability_refuses_a_negative_offset_and_flat_logits():
    with pytest.raises(ValueError, match="offset"):
        stability_score(np.zeros((2, 2)), 0.0, -1.0)
    with pytest.raises(ValueError, match="logits"):
        stability_score(np.zeros(2), 0.0, 1.0)


def test_boxes_of_masks_agree_with_floats_of_the_same_rectangle():
    boxes = masks_to_boxes(np.stack([rectangle((9, 9), (1, 2, 3, 4)), rectangle((9, 9), (0, 0, 8, 8))]))
    assert boxes.dtype == np.int64
    assert_allclose(boxes, [[1, 2, 3, 4], [0, 0, 8, 8]])
