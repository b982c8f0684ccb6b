"""Between the decoder's logits and masks of the picture's size."""

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mobile_sam.core import upscale, upscale_window
from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.masks import (
    mask_iou,
    mask_to_logits,
    masks_to_boxes,
    stability_score,
    upscale_logits,
    upscale_to_mask,
)

SIZES_HW = [(1, 1), (480, 640), (1365, 2048), (333, 50), (1, 3000), (3000, 1), (1025, 1024), (50, 2000)]


def smooth_logits(seed, cells=9, side=256):
    coarse = np.random.default_rng(seed).normal(0, 6, (cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def interpolation_matrix(num_in, num_out):
    """(num_out, num_in): the bilinear rule written out row by row, in double precision."""
    matrix = np.zeros((num_out, num_in))
    for position in range(num_out):
        centre = min(max((position + 0.5) * num_in / num_out - 0.5, 0), num_in - 1)
        first = int(centre)
        second = min(first + 1, num_in - 1)
        matrix[position, first] += 1 - (centre - first)
        matrix[position, second] += centre - first
    return matrix


@pytest.mark.parametrize("image_hw", SIZES_HW)
def test_logits_follow_sams_rule_in_double_precision(image_hw):
    input_hw = LongSideResize(image_hw).input_hw
    to_square = interpolation_matrix(256, 1024)
    rows = interpolation_matrix(input_hw[0], image_hw[0]) @ to_square[: input_hw[0]]
    columns = interpolation_matrix(input_hw[1], image_hw[1]) @ to_square[: input_hw[1]]
    low_res = smooth_logits(0)
    assert_allclose(upscale_logits(low_res, input_hw, image_hw), rows @ low_res @ columns.T, atol=2e-3)


@pytest.mark.parametrize("image_hw", SIZES_HW)
def test_logits_agree_with_torch(image_hw):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    low_res = smooth_logits(1)
    input_hw = LongSideResize(image_hw).input_hw
    square = functional.interpolate(torch.from_numpy(low_res)[None, None], (1024, 1024), mode="bilinear")
    cut = square[..., : input_hw[0], : input_hw[1]]
    expected = functional.interpolate(cut, image_hw, mode="bilinear")[0, 0].numpy()
    # torch computes positions in float32 (1e-4 px at 1,000); the slope here is up to 10 per pixel of the picture
    assert_allclose(upscale_logits(low_res, input_hw, image_hw), expected, atol=5e-3)


@pytest.fixture(params=["in bands", "at once"])
def always_in_windows(monkeypatch, request):
    monkeypatch.setattr(upscale, "DIRECT_PX", 0)
    monkeypatch.setattr(upscale_window, "DIRECT_PX", 0 if request.param == "in bands" else 1 << 40)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(st.integers(1, 1500), st.integers(1, 1500)),
    st.integers(0, 10_000),
    st.floats(-8, 8),
    st.sampled_from([(1024, 256), (512, 128), (256, 256), (100, 30)]),
)
@example((1, 685), 1, 7.140625, (1024, 256))  # what stood for values outside was rounded up above the threshold
def test_the_mask_in_windows_is_the_direct_one_up_to_rounding(always_in_windows, image_hw, seed, threshold, sides):
    side, low_res_side = sides
    low_res = smooth_logits(seed, side=low_res_side)
    input_hw = LongSideResize(image_hw, side).input_hw
    direct = upscale_logits(low_res, input_hw, image_hw, side)
    differs = upscale_to_mask(low_res, input_hw, image_hw, threshold, side) != (direct > threshold)
    assert not (differs & (np.abs(direct - threshold) > 1e-4)).any()


@pytest.mark.parametrize("centre_yx", [(0, 0), (128, 128), (191, 255), (100, 255)])
def test_a_small_object_is_found_wherever_it_lies(always_in_windows, centre_yx):
    low_res = np.full((256, 256), -9, np.float32)
    low_res[centre_yx] = 9
    direct = upscale_logits(low_res, (768, 1024), (1200, 1600)) > 0
    assert direct.any()
    assert_array_equal(upscale_to_mask(low_res, (768, 1024), (1200, 1600)), direct)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(st.integers(1, 1500), st.integers(1, 1500)),
    st.integers(0, 10_000),
    st.sampled_from([3, 9, 40]),
    st.sampled_from([0.0, 2.5, -4.0]),
    st.sampled_from([0.0, 1.0]),
)
def test_a_window_has_the_box_and_the_stability_of_the_direct_mask(
    always_in_windows, image_hw, seed, cells, threshold, offset
):
    low_res = smooth_logits(seed, cells)
    input_hw = LongSideResize(image_hw).input_hw
    direct = upscale_logits(low_res, input_hw, image_hw)
    assume(np.abs(np.subtract.outer(direct, threshold + np.array([-offset, 0, offset]))).min() > 1e-5)
    logits = upscale_window.window_above(low_res, threshold - offset)
    window = upscale_window.upscale_window(logits, input_hw, image_hw, threshold, offset)
    assert window.box_xyxy == tuple(masks_to_boxes(direct[None] > threshold)[0])
    assert window.stability_score == stability_score(direct, threshold, offset)
    assert np.count_nonzero(window.pixels) == np.count_nonzero(direct > threshold)


@pytest.mark.parametrize("image_hw", [(1000, 6000), (5000, 1500)])
def test_large_pictures_get_the_direct_mask_too(image_hw):
    low_res = smooth_logits(5)
    input_hw = LongSideResize(image_hw).input_hw
    direct = upscale_logits(low_res, input_hw, image_hw)
    differs = upscale_to_mask(low_res, input_hw, image_hw) != (direct > 0)
    assert not (differs & (np.abs(direct) > 1e-4)).any()


@pytest.mark.parametrize(("logit", "expected"), [(3.0, True), (-3.0, False), (0.0, False)])
@pytest.mark.parametrize("image_hw", [(300, 200), (3000, 2000)])
def test_a_uniform_answer_fills_the_picture_or_leaves_it_empty(image_hw, logit, expected):
    mask = upscale_to_mask(np.full((256, 256), logit, np.float32), (1024, 683), image_hw)
    assert_array_equal(mask, np.full(image_hw, expected))


def test_what_lies_in_the_padding_does_not_count():
    low_res = np.full((256, 256), -5, np.float32)
    low_res[200:] = 5  # rows 800 and below of the square; the picture ends at 512
    assert not upscale_to_mask(low_res, (512, 1024), (100, 200)).any()


def test_a_large_mask_takes_memory_for_little_more_than_itself():
    image_hw = (5000, 8000)
    low_res = smooth_logits(3)
    tracemalloc.start()
    mask = upscale_to_mask(low_res, LongSideResize(image_hw).input_hw, image_hw)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mask.shape == image_hw
    assert peak_bytes < mask.nbytes + 60e6  # floats of this size would take 160 MB


@pytest.mark.parametrize("image_hw", [(480, 640), (640, 480), (1500, 2000), (100, 70), (3000, 400)])
def test_a_mask_prompt_gives_the_mask_back(image_hw):
    height, width = image_hw
    mask = np.zeros(image_hw, np.uint8)
    cv2.ellipse(mask, (width // 2, height // 3), (width // 3, height // 4), 20, 0, 360, 1, cv2.FILLED)
    mask = mask.astype(bool)
    input_hw = LongSideResize(image_hw).input_hw
    logits = mask_to_logits(mask, input_hw)
    assert logits.shape == (256, 256)
    assert logits.dtype == np.float32
    assert np.abs(logits).max() <= 10
    assert mask_iou(upscale_to_mask(logits, input_hw, image_hw)[None], mask[None])[0, 0] > 0.97


def test_a_full_mask_is_foreground_in_the_picture_and_background_in_the_padding():
    logits = mask_to_logits(np.ones((300, 600), bool), (512, 1024))
    assert_allclose(logits[:128], 10, atol=1e-5)
    assert_allclose(logits[128:], -10, atol=1e-5)


def test_a_pixel_cut_in_half_is_undecided():
    mask = np.zeros((1024, 1024), bool)
    mask[:, :514] = True  # low-resolution column 128 covers 512 to 515
    logits = mask_to_logits(mask, (1024, 1024))
    assert_allclose(logits[:, 128], 0, atol=0.01)
    assert (logits[:, 127] > 9).all()
    assert (logits[:, 129] < -9).all()


@pytest.mark.parametrize(
    ("shape", "input_hw", "image_hw"),
    [
        ((1, 256, 256), (768, 1024), (3, 4)),
        ((256, 256), (768, 1025), (3, 4)),
        ((256, 256), (0, 1024), (3, 4)),
        ((256, 256), (768, 1024), (0, 4)),
    ],
)
@pytest.mark.parametrize("function", [upscale_logits, upscale_to_mask])
def test_sizes_that_do_not_fit_are_refused(function, shape, input_hw, image_hw):
    with pytest.raises(ValueError, match="must be"):
        function(np.zeros(shape, np.float32), input_hw, image_hw)


@pytest.mark.parametrize("mask", [np.zeros((0, 4), bool), np.zeros((4, 4)), np.zeros((1, 4, 4), bool)])
def test_what_is_no_mask_is_no_prompt(mask):
    with pytest.raises(ValueError, match="must be"):
        mask_to_logits(mask, (1024, 1024))
