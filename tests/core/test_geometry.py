"""The mapping between the picture and the model's frame."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from mobile_sam.core.geometry import LongSideResize, box_xywh_to_xyxy, box_xyxy_to_xywh

sizes_hw = st.tuples(st.integers(1, 6000), st.integers(1, 6000))


@pytest.mark.parametrize(
    ("image_hw", "input_hw"),
    [
        ((1024, 1024), (1024, 1024)),
        ((480, 640), (768, 1024)),
        ((640, 480), (1024, 768)),
        ((1365, 2048), (683, 1024)),  # 682.5 is rounded up
        ((1200, 1800), (683, 1024)),  # 682.67
        ((1, 1), (1024, 1024)),
        ((1, 5000), (1, 1024)),  # 0.2: the original rounds to nothing
        ((5000, 1), (1024, 1)),
        ((2, 1025), (2, 1024)),
    ],
)
def test_the_long_side_becomes_1024_and_the_short_one_at_least_one_pixel(image_hw, input_hw):
    assert LongSideResize(image_hw).input_hw == input_hw


@given(sizes_hw, st.integers(1, 2048))
def test_the_long_side_becomes_the_side_for_every_size(image_hw, side):
    input_hw = LongSideResize(image_hw, side).input_hw
    assert max(input_hw) == side
    assert min(input_hw) >= 1


@given(sizes_hw, st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)), min_size=1, max_size=5))
def test_points_return_unchanged_from_the_model_frame(image_hw, points_xy):
    resize = LongSideResize(image_hw)
    assert_allclose(resize.to_image(resize.to_model(points_xy)), points_xy, rtol=1e-12, atol=1e-9)


@given(sizes_hw)
def test_the_far_corner_of_the_picture_is_the_far_corner_of_the_input_frame(image_hw):
    resize = LongSideResize(image_hw)
    assert_allclose(resize.to_model([image_hw[1], image_hw[0]]), resize.input_hw[::-1], rtol=1e-12)


def test_each_axis_has_its_own_scale():
    resize = LongSideResize((1365, 2048))
    assert_allclose(resize.scale_xy, (0.5, 683 / 1365), rtol=1e-15)
    assert_allclose(resize.boxes_to_model([[2, 0, 2048, 1365]]), [[1, 0, 1024, 683]], rtol=1e-12)


def test_numpy_sizes_become_plain_ones_so_that_equal_mappings_are_equal():
    assert LongSideResize(tuple(np.array([3, 4]))) == LongSideResize((3, 4))  # type: ignore[arg-type]
    assert hash(LongSideResize([3, 4])) == hash(LongSideResize((3, 4)))  # type: ignore[arg-type]


@pytest.mark.parametrize("image_hw", [(0, 4), (4, -1), (4,), (4, 4, 3), (4.5, 4), None, "ab"])
def test_a_size_that_is_not_two_positive_whole_numbers_is_refused(image_hw):
    with pytest.raises(ValueError, match="image_hw"):
        LongSideResize(image_hw)


@pytest.mark.parametrize("points_xy", [[1, 2, 3], 5, [["a", "b"]], [[1, 2], [3]]])
def test_points_that_are_not_pairs_are_refused(points_xy):
    with pytest.raises(ValueError, match="points_xy must be"):
        LongSideResize((4, 4)).to_model(points_xy)


@pytest.mark.parametrize("shape", [(...,), (3,), (2, 5)])
def test_leading_axes_of_points_are_kept(shape):
    leading = () if shape == (...,) else shape
    assert LongSideResize((10, 20)).to_model(np.ones((*leading, 2))).shape == (*leading, 2)


@pytest.mark.parametrize("image_hw", [(37, 50), (1500, 2000), (1, 3000), (1024, 1024)])
def test_pictures_are_resized_as_pillow_does(image_hw):
    image = np.random.default_rng(0).integers(0, 256, (*image_hw, 3), np.uint8)
    resize = LongSideResize(image_hw)
    expected = Image.fromarray(image).resize(resize.input_hw[::-1], Image.Resampling.BILINEAR)
    resized = resize.resize_image(image)
    assert_array_equal(resized, np.asarray(expected))
    assert resized.flags.writeable
    assert resized.flags.c_contiguous


def test_shrinking_averages_all_pixels_instead_of_picking_some():
    stripes = np.zeros((64, 4096, 3), np.uint8)
    stripes[:, ::2] = 200
    interior = LongSideResize((64, 4096)).resize_image(stripes)[:, 4:-4]
    assert_allclose(interior, 100, atol=2)


@pytest.mark.parametrize("image", [np.zeros((4, 5, 3), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_a_picture_of_another_size_or_dtype_is_refused(image):
    with pytest.raises(ValueError, match=r"image must be \(4, 4, 3\) uint8"):
        LongSideResize((4, 4)).resize_image(image)


@given(st.lists(st.tuples(*[st.integers(-5000, 5000)] * 4), max_size=6))
def test_boxes_survive_both_notations(boxes):
    boxes_xyxy = np.array(boxes, float).reshape(-1, 4)
    assert_array_equal(box_xywh_to_xyxy(box_xyxy_to_xywh(boxes_xyxy)), boxes_xyxy)


@pytest.mark.parametrize("convert", [box_xywh_to_xyxy, box_xyxy_to_xywh])
def test_a_box_of_three_numbers_is_refused(convert):
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        convert([1, 2, 3])
