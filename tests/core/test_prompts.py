import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.prompts import Prompt, PromptBatch

HW = (300, 451)  # height, width
RESIZE = LongSideResize(HW)
SCALE_XY = np.array([1024 / 451, 681 / 300])  # 300 * 1024 / 451 = 681.15


@pytest.mark.parametrize(
    ("given_points", "given_labels", "points_xy", "labels"),
    [
        ([3, 4], None, [[3, 4]], [1]),
        ([3, 4], 0, [[3, 4]], [0]),
        ([[3, 4], [5, 6]], None, [[3, 4], [5, 6]], [1, 1]),
        (((3, 4), (5, 6)), (1, 0), [[3, 4], [5, 6]], [1, 0]),
        (np.array([[3, 4]], np.int16), np.array([1.0]), [[3, 4]], [1]),
        (np.array([[3, 4]], np.float64), [True], [[3, 4]], [1]),
        ([[3.5, 4.25], [0, 0], [1, 1]], [2, 3, -1], [[3.5, 4.25], [0, 0], [1, 1]], [2, 3, -1]),
    ],
)
def test_points_and_labels_of_every_form_are_understood(given_points, given_labels, points_xy, labels):
    prompt = Prompt.of(given_points, given_labels)
    assert_array_equal(prompt.points_xy, points_xy)
    assert_array_equal(prompt.labels, labels)
    assert prompt.points_xy.dtype == np.float32
    assert prompt.labels.dtype == np.int64
    assert prompt.box_xyxy is None


@pytest.mark.parametrize("arguments", [{}, {"points": np.zeros((0, 2)), "labels": []}])
def test_a_prompt_without_anything_is_refused(arguments):
    with pytest.raises(ValueError, match="an empty prompt: pass points with labels, a box or a mask"):
        Prompt.of(**arguments)


@pytest.mark.parametrize("box", [[1, 2, 3, 4], ((1, 2, 3, 4),), np.array([1, 2, 3, 4], np.uint8)])
def test_a_box_may_have_one_row(box):
    assert_array_equal(Prompt.of(box=box).box_xyxy, np.array([1, 2, 3, 4], np.float32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": 5}, "points must be (N, 2): one x, y for each point, got shape ()"),
        ({"points": [1, 2, 3]}, "points must be (N, 2): one x, y for each point, got shape (3,)"),
        ({"points": [[1, 2, 3]]}, "got shape (1, 3)"),
        ({"points": [[[1, 2]]]}, "got shape (1, 1, 2)"),
        ({"points": [[1, 2], [3]]}, "points must be numbers in a rectangular array"),
        ({"points": "here"}, "points must be numbers in a rectangular array, got 'here'"),
        ({"points": [[np.nan, 2]]}, "points must be finite, got [nan]"),
        ({"points": [[1, 2], [3, -np.inf]]}, "points must be finite, got [-inf]"),
        ({"labels": [1]}, "labels came without points; pass points=(N, 2) beside them, or drop the labels"),
        ({"points": [[1, 2]], "labels": [1, 0]}, "labels must be (1,), one for each point, got shape (2,)"),
        ({"points": [[1, 2], [3, 4]], "labels": 1}, "labels must be (2,), one for each point, got shape (1,)"),
        ({"points": [[1, 2]], "labels": [[1]]}, "labels must be (1,), one for each point, got shape (1, 1)"),
        ({"points": [[1, 2]], "labels": [4]}, "labels must be 1 (the object) or 0 (not the object), got [4]"),
        ({"points": [[1, 2], [3, 4]], "labels": [0.5, 1]}, "got [0.5]"),
        ({"points": [[1, 2]], "labels": [np.nan]}, "got [nan]"),
        ({"points": [[1, 2]], "labels": [-10]}, "got [-10]"),
        ({"box": [1, 2, 3]}, "box must be (4,): x1, y1, x2, y2, got shape (3,); for several boxes use predict_batch"),
        ({"box": [[1, 2, 3, 4]] * 2}, "got shape (2, 4); for several boxes use predict_batch"),
        ({"box": [1, 2, np.inf, 4]}, "box must be finite, got [inf]"),
        ({"box": [3, 2, 1, 4]}, "box [3, 2, 1, 4] has swapped or equal corners"),
        ({"box": [1, 4, 3, 2]}, "with x1 < x2 and y1 < y2 (not x, y, width, height)"),
        ({"box": [1, 2, 1, 4]}, "swapped or equal"),
        ({"mask": np.zeros(4)}, "a mask prompt must be (H, W) bool or (256, 256) float logits, got shape (4,)"),
        ({"mask": np.zeros((2, 256, 256))}, "got shape (2, 256, 256)"),
        ({"mask": np.zeros((8, 8), np.uint8)}, "a mask prompt of dtype uint8 is ambiguous: pass mask.astype(bool)"),
        ({"mask": np.full((256, 256), np.nan)}, "mask must be finite, got [nan, nan, nan, nan, nan, nan, nan, nan]"),
    ],
)
def test_a_wrong_prompt_is_refused_with_what_came(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Prompt.of(**arguments)


def test_masks_keep_their_kind_and_lose_a_leading_one():
    binary, logits = np.ones((1, *HW), bool), np.full((1, 256, 256), 2.0)
    assert_array_equal(Prompt.of(mask=binary).mask, np.ones(HW, bool), strict=True)
    assert_array_equal(Prompt.of(mask=logits).mask, np.full((256, 256), 2, np.float32), strict=True)


def test_a_prompt_as_json_is_plain():
    prompt = Prompt.of([[1, 2.5]], [0], [1, 2, 3, 4], np.ones(HW, bool))
    expected = {"points": [[1.0, 2.5]], "labels": [0], "box": [1.0, 2.0, 3.0, 4.0], "has_mask": True}
    assert json.loads(json.dumps(prompt.to_json())) == expected
    only_mask = Prompt.of(mask=np.zeros((2, 2), bool))
    assert only_mask.to_json() == {"points": [], "labels": [], "box": None, "has_mask": True}


@pytest.mark.parametrize(
    "arguments",
    [
        {"points": [[0, 0], [451, 300]]},
        {"points": [[450.9, 299.9]]},
        {"points": [[-5, 9999]], "labels": [-1]},  # SAM's padding point has no place
        {"box": [0, 0, 451, 300]},
        {"box": [-22.5, -15, 473.5, 315]},  # 5 % of 451 is 22.55, of 300 is 15
        {"mask": np.zeros(HW, bool)},
        {"mask": np.zeros((256, 256))},
    ],
)
def test_what_lies_in_the_picture_passes(arguments):
    Prompt.of(**arguments).check_inside(HW)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": [[1, 2], [452, 10]]}, "point (452, 10) lies outside the picture of 451 x 300 px (width x height)"),
        ({"points": [[10, 301]]}, "point (10, 301) lies outside"),
        ({"points": [[-0.5, 10]], "labels": [0]}, "point (-0.5, 10) lies outside"),
        ({"box": [-22.6, 0, 100, 100]}, "box [-22.6, 0, 100, 100] lies outside the picture of 451 x 300 px"),
        ({"box": [0, -15.1, 100, 100]}, "lies outside"),
        ({"box": [0, 0, 473.6, 100]}, "lies outside"),
        ({"box": [0, 0, 100, 315.1]}, "boxes are x1, y1, x2, y2 in pixels of the original picture"),
        ({"mask": np.zeros((451, 300), bool)}, "must have the picture's size (300, 451), got (451, 300); resize it"),
    ],
)
def test_what_lies_outside_the_picture_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Prompt.of(**arguments).check_inside(HW)


def batch_of(*prompts):
    return PromptBatch.from_prompts(prompts, RESIZE)


@pytest.mark.parametrize(
    ("prompt", "coords_xy", "labels"),
    [
        (Prompt.of([[10, 20]]), [[10, 20], [0, 0]], [1, -1]),
        (Prompt.of([[10, 20], [30, 40]], [1, 0]), [[10, 20], [30, 40], [0, 0]], [1, 0, -1]),
        (Prompt.of(box=[1, 2, 3, 4]), [[1, 2], [3, 4]], [2, 3]),
        (Prompt.of([[10, 20]], [0], [1, 2, 3, 4]), [[10, 20], [1, 2], [3, 4]], [0, 2, 3]),
        (Prompt.of(mask=np.ones(HW, bool)), np.zeros((0, 2)), []),
    ],
)
def test_points_alone_get_a_padding_point_and_boxes_their_corners(prompt, coords_xy, labels):
    batch = batch_of(prompt)
    assert_allclose(batch.coords_xy[0], np.asarray(coords_xy) * SCALE_XY, rtol=1e-6)
    assert_array_equal(batch.labels[0], labels)
    assert batch.coords_xy.dtype == batch.labels.dtype == np.float32


def test_shorter_prompts_are_filled_up_with_absent_points():
    batch = batch_of(Prompt.of([[10, 20]] * 3), Prompt.of(box=[1, 2, 3, 4]), Prompt.of(mask=np.ones(HW, bool)))
    assert_array_equal(batch.labels, [[1, 1, 1, -1], [2, 3, -10, -10], [-10] * 4])
    assert (batch.coords_xy[batch.labels == -10] == 0).all()
    assert_array_equal(batch.has_mask, [False, False, True])


def test_a_batch_of_nothing_is_empty():
    batch = batch_of()
    assert len(batch) == 0
    assert batch.coords_xy.shape == (0, 0, 2)
    assert batch.mask_logits is None


def test_binary_masks_become_logits_and_logits_stay():
    binary, logits = np.zeros(HW, bool), np.linspace(-30, 30, 256 * 256, dtype=np.float32).reshape(256, 256)
    binary[:, :200] = True
    batch = batch_of(Prompt.of(mask=binary), Prompt.of([1, 1]), Prompt.of(mask=logits))
    assert batch.mask_logits.shape == (3, 1, 256, 256)
    last_row = 681 // 4 - 1  # wholly within the picture
    assert (batch.mask_logits[0, 0, :last_row, :112] > 0).all()  # 200 * 1024 / 451 / 4 = 113.5
    assert (batch.mask_logits[0, 0, :, 115:] < 0).all()
    assert (batch.mask_logits[0, 0, 171:] < 0).all()  # padding
    assert (batch.mask_logits[1] == 0).all()
    assert_array_equal(batch.mask_logits[2, 0], logits)


def test_logits_of_another_size_are_refused():
    with pytest.raises(ValueError, match=re.escape("mask logits must be (256, 256), got (128, 128); pass low_res")):
        batch_of(Prompt.of(mask=np.zeros((128, 128))))


points_in_picture = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.just(2)), elements=st.floats(0, 300, width=32)
)


@given(st.lists(st.tuples(points_in_picture, st.booleans()), max_size=5))
def test_each_row_of_a_batch_is_the_prompt_alone(entries):
    prompts = [Prompt.of(points, box=[1, 2, 3, 4] if has_box else None) for points, has_box in entries]
    together = batch_of(*prompts)
    assert len(together) == len(prompts)
    for row, prompt in enumerate(prompts):
        alone, present = batch_of(prompt), together.labels[row] != -10
        assert_array_equal(together.coords_xy[row, present], alone.coords_xy[0])
        assert_array_equal(together.labels[row, present], alone.labels[0])
        assert present.sum() == len(prompt.points_xy) + (1 if prompt.box_xyxy is None else 2)


@given(st.lists(points_in_picture, min_size=1, max_size=6), st.integers(0, 6), st.integers(0, 6))
def test_a_slice_of_a_batch_is_the_batch_of_a_slice(points, start, stop):
    prompts = [Prompt.of(points_xy, mask=np.full((256, 256), len(points_xy), float)) for points_xy in points]
    part = batch_of(*prompts)[start:stop]
    assert len(part) == len(prompts[start:stop])
    for row, prompt in enumerate(prompts[start:stop]):
        assert_array_equal(part.coords_xy[row, : len(prompt.points_xy)], batch_of(prompt).coords_xy[0, :-1])
        assert (part.mask_logits[row] == len(prompt.points_xy)).all()
        assert part.has_mask[row]
