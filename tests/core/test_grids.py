"""Grids of points and layers of crops."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mobile_sam.core.grids import crop_boxes, layer_point_grids, point_grid


@given(st.integers(1, 40))
def test_points_are_the_centres_of_the_cells_row_by_row(num):
    expected = [[float(Fraction(2 * x + 1, 2 * num)), float(Fraction(2 * y + 1, 2 * num))] for y in range(num)
                for x in range(num)]  # fmt: skip
    found = point_grid(num)
    assert found.dtype == np.float64
    assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("num", "layers", "scale", "expected"),
    [
        (32, 0, 1, [32]),
        (32, 2, 1, [32] * 3),
        (32, 2, 2, [32, 16, 8]),
        (32, 3, 3, [32, 10, 3, 1]),
        (10, 1, 1.5, [10, 6]),
    ],
)
def test_each_layer_has_a_coarser_grid(num, layers, scale, expected):
    found = layer_point_grids(num, layers, scale)
    assert len(found) == len(expected)
    for grid, per_side in zip(found, expected, strict=True):
        assert_array_equal(grid, point_grid(per_side))


def test_the_crops_of_a_picture_are_those_computed_by_hand():
    # 640 x 480, a third of 480 = 160 px overlap; crops of (160 + 640) / 2 = 400 by (160 + 480) / 2 = 320
    boxes, layers = crop_boxes((480, 640), 1, 1 / 3)
    assert boxes == [[0, 0, 640, 480], [0, 0, 400, 320], [0, 160, 400, 480], [240, 0, 640, 320], [240, 160, 640, 480]]
    assert layers == [0, 1, 1, 1, 1]
    # 13 x 7 without overlap: crops of 7 by 4 and then 4 by 2, the last of a row or column cut off
    boxes, layers = crop_boxes((7, 13), 2, 0)
    assert boxes[1:5] == [[0, 0, 7, 4], [0, 4, 7, 7], [7, 0, 13, 4], [7, 4, 13, 7]]
    columns, rows = [(0, 4), (4, 8), (8, 12), (12, 13)], [(0, 2), (2, 4), (4, 6), (6, 7)]
    assert boxes[5:] == [[x1, y1, x2, y2] for x1, x2 in columns for y1, y2 in rows]
    assert layers == [0] + [1] * 4 + [2] * 16


@given(image_hw=st.tuples(st.integers(1, 300), st.integers(1, 300)), layers=st.integers(0, 4), overlap=st.floats(0, 1))
def test_the_crops_of_every_layer_cover_the_picture_and_lie_in_it(image_hw, layers, overlap):
    boxes, layer_of_box = crop_boxes(image_hw, layers, overlap)
    assert boxes[0] == [0, 0, image_hw[1], image_hw[0]]
    assert sorted(set(layer_of_box)) == list(range(layers + 1))
    for layer in range(layers + 1):
        is_covered = np.zeros(image_hw, bool)
        of_layer = [box for box, number in zip(boxes, layer_of_box, strict=True) if number == layer]
        for x1, y1, x2, y2 in of_layer:
            assert 0 <= x1 < x2 <= image_hw[1]
            assert 0 <= y1 < y2 <= image_hw[0]
            is_covered[y1:y2, x1:x2] = True
        assert is_covered.all()
        assert len(of_layer) <= 4**layer
        if min(image_hw) >= 4**layer:
            assert len(of_layer) == 4**layer


def test_whole_numbers_of_numpy_will_do():
    assert crop_boxes(np.array([4, 6]), np.int64(1), 0.0) == crop_boxes((4, 6), 1, 0)
    assert all(type(side) is int for box in crop_boxes(np.array([4, 6]), 1, 0)[0] for side in box)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: point_grid(0), "num_per_side must be at least 1, got 0"),
        (lambda: point_grid(2.5), "num_per_side must be a whole number, got 2.5"),
        (lambda: layer_point_grids(8, 4, 2), r"leave none for layer 4 of 4; take fewer layers"),
        (lambda: layer_point_grids(8, 1, 0), "scale_per_layer must be above 0, got 0"),
        (lambda: layer_point_grids(8, -1, 1), "num_layers must be at least 0, got -1"),
        (lambda: crop_boxes((4, 5, 3), 1, 0), r"image_hw must be height and width, got \(4, 5, 3\); pass image.shape"),
        (lambda: crop_boxes((0, 5), 1, 0), "height and width must be at least 1, got 0"),
        (lambda: crop_boxes((4, 5), 1, 1.5), "overlap_ratio must be 0 to 1, .* got 1.5"),
        (lambda: crop_boxes((4, 5), 1, float("nan")), "overlap_ratio must be 0 to 1, .* got nan"),
    ],
)
def test_numbers_out_of_range_are_refused_with_advice(call, message):
    with pytest.raises(ValueError, match=message):
        call()
