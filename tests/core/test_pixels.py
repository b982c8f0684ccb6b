"""Arrays as 8-bit RGB."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from mobile_sam.core.images import read_image


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((2, 3), 7, np.uint8), 7),
        (np.full((2, 3, 1), 7, np.uint8), 7),
        (np.full((2, 3, 3), 7, np.uint8), 7),
        (np.full((2, 3), True), 255),
        (np.full((2, 3, 3), 65535, np.uint16), 255),
        (np.full((2, 3, 3), 65535, ">u2"), 255),
        (np.full((2, 3), 0.2), 51),
        (np.full((2, 3, 3), 0.2, np.float16), 51),
        (np.full((2, 3, 3), 200.4, np.float32), 200),  # colours within 0 to 255
        (np.full((2, 3), 200.4, np.float32), 0),  # grey values of an unknown range, all the same
        (np.full((2, 3, 4), 255, np.uint8), 255),
        (np.dstack([np.zeros((2, 3, 3)), np.full((2, 3), 0.4)]), 153),
    ],
)
def test_arrays_follow_the_same_rules(array, expected):
    image = read_image(array)
    assert_array_equal(image, np.full((2, 3, 3), expected))
    assert image.dtype == np.uint8


def test_an_rgb_array_is_returned_itself_and_a_view_as_a_contiguous_copy(rgb):
    assert read_image(rgb) is rgb
    flipped = read_image(rgb[..., ::-1])
    assert flipped.flags.c_contiguous
    assert_array_equal(flipped, rgb[..., ::-1])


@given(st.integers(0, 65535))
def test_16_bits_are_rounded_to_the_nearest_of_8(value):
    assert read_image(np.full((1, 1), value, np.uint16))[0, 0, 0] == round(value * 255 / 65535)


@given(st.integers(0, 255), st.integers(0, 255))
def test_opacity_blends_to_the_nearest_value(value, opacity):
    pixel = np.array([[[value, value, value, opacity]]], np.uint8)
    assert read_image(pixel)[0, 0, 0] == pytest.approx(value * opacity / 255 + 255 - opacity, abs=0.51)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(5, np.uint8),
        np.zeros((1, 2, 3, 3), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((3, 4, 5), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0), np.uint8),
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4), object),
        np.zeros((4, 4), complex),
        np.full((4, 4), np.inf),
        np.full((4, 4, 4), -1.0),
    ],
)
def test_an_array_without_a_rule_is_refused_with_its_shape_or_values(array):
    with pytest.raises(ValueError, match=r"image (must|with opacity must)"):
        read_image(array)


def test_channels_first_is_named_as_the_mistake():
    with pytest.raises(ValueError, match=r"transpose\(1, 2, 0\)"):
        read_image(np.zeros((3, 40, 50), np.uint8))
