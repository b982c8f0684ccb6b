"""Small regions of masks, and ragged edges."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal

from mobile_sam.core.regions import remove_small_regions, smooth_mask

one_mask = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14))


@st.composite
def mask_in_a_picture(draw):
    """A random patch anywhere in an empty or a full picture, so that boxes and borders meet in every way."""
    patch = draw(one_mask)
    above, below, left, right = (draw(st.integers(0, 5)) for _ in range(4))
    return np.pad(patch, ((above, below), (left, right)), constant_values=draw(st.sampled_from([False, False, True])))


def by_the_rule_of_segment_anything(mask, min_area_px, kind):
    """The rule in full frame, written out anew."""
    num_labels, labels, stats, _ = cv2.connectedComponentsWithStats(((kind == "holes") ^ mask).astype(np.uint8), 8)
    sizes = stats[1:, -1]
    small = [label for label in range(1, num_labels) if sizes[label - 1] < min_area_px]
    if not small:
        return mask, False
    if kind == "holes":
        return np.isin(labels, [0, *small]), True
    kept = [label for label in range(1, num_labels) if label not in small]
    return np.isin(labels, kept or [int(np.argmax(sizes)) + 1]), True


@given(mask_in_a_picture(), st.one_of(st.integers(0, 12), st.integers(0, 400)), st.sampled_from(["holes", "islands"]))
def test_the_rule_is_that_of_segment_anything(mask, min_area_px, kind):
    before = mask.copy()
    cleaned, has_changed = remove_small_regions(mask, min_area_px, kind)
    expected, should_change = by_the_rule_of_segment_anything(mask, min_area_px, kind)
    assert_array_equal(cleaned, expected)
    assert cleaned.dtype == np.bool_
    assert has_changed is should_change
    assert_array_equal(mask, before)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12), st.integers(0, 3))
def test_of_islands_of_one_size_the_same_one_stays_as_in_full_frame(corners_xy, offset):
    mask = np.zeros((50, 50), bool)
    for x, y in corners_xy:
        mask[offset + 3 * y : offset + 3 * y + 2, offset + 4 * x] = True
    cleaned, _ = remove_small_regions(mask, 100, "islands")
    assert_array_equal(cleaned, by_the_rule_of_segment_anything(mask, 100, "islands")[0])


def test_a_hole_is_filled_and_an_island_removed():
    mask = np.zeros((40, 60), bool)
    mask[5:25, 10:30] = True
    blob = mask.copy()
    mask[10:12, 15:18] = False
    assert_array_equal(remove_small_regions(mask, 7, "holes")[0], blob)
    assert remove_small_regions(mask, 6, "holes")[0] is mask  # 6 pixels are not fewer than 6
    blob[30:32, 40:43] = True
    assert remove_small_regions(blob, 7, "islands")[0].sum() == 400


@pytest.mark.parametrize("kind", ["holes", "islands"])
def test_where_nothing_is_small_the_mask_itself_comes_back(kind):
    mask = np.pad(np.ones((5, 5), bool), 20)
    cleaned, has_changed = remove_small_regions(mask, 10, kind)
    assert cleaned is mask
    assert not has_changed


def test_corners_join_pixels_to_one_part():
    diagonal = np.eye(6, dtype=bool)
    assert remove_small_regions(diagonal, 6, "islands")[1] is False
    assert remove_small_regions(~diagonal, 6, "holes")[1] is False


def test_the_open_background_counts_with_all_its_pixels():
    mask = np.zeros((10, 10), bool)
    mask[4:6] = True  # 40 pixels above and 40 below, of which the window sees 10 each
    assert remove_small_regions(mask, 40, "holes")[1] is False
    assert remove_small_regions(mask, 40.5, "holes")[0].all()
    mask[7] = True  # now 10 between and 20 below
    assert_array_equal(remove_small_regions(mask, 30, "holes")[0].all(axis=1), np.arange(10) >= 4)


@pytest.mark.parametrize("image_hw", [(1, 1), (1, 9), (9, 1), (6, 7)])
@pytest.mark.parametrize("value", [True, False])
def test_empty_and_full_masks_of_every_size(image_hw, value):
    mask = np.full(image_hw, value)
    for kind in ("holes", "islands"):
        for min_area_px in (0, 1, mask.size, mask.size + 1, np.inf):
            cleaned, has_changed = remove_small_regions(mask, min_area_px, kind)
            expected, should_change = by_the_rule_of_segment_anything(mask, min_area_px, kind)
            assert_array_equal(cleaned, expected)
            assert has_changed is should_change
    assert_array_equal(smooth_mask(mask, 2), mask)


def test_a_picture_without_pixels_has_no_regions():
    assert remove_small_regions(np.zeros((0, 4), bool), 9, "holes")[1] is False
    assert smooth_mask(np.zeros((0, 4), bool), 1).shape == (0, 4)


def test_of_a_large_picture_only_the_part_with_the_mask_is_looked_at(monkeypatch):
    mask, seen = np.zeros((4000, 6000), bool), []
    for name in ("connectedComponentsWithStats", "GaussianBlur"):
        used = getattr(cv2, name)
        monkeypatch.setattr(
            cv2,
            name,
            lambda window, *more, used=used, **named: (seen.append(window.shape), used(window, *more, **named))[1],
        )
    mask[1000:1300, 2000:2300] = np.random.default_rng(0).random((300, 300)) > 0.4
    for kind in ("holes", "islands"):
        remove_small_regions(mask, 20, kind)
    smooth_mask(mask, 3)
    assert len(seen) == 3
    assert np.max(seen) <= 304


@given(st.integers(1, 12), st.integers(0, 12), st.sampled_from([0.3, 1, 2.5, 7]), st.booleans(), st.booleans())
def test_a_half_plane_stays_up_to_the_borders(width, cut, radius_px, is_transposed, is_inverted):
    mask = np.zeros((9, width), bool)
    mask[:, :cut] = True
    mask = (mask.T if is_transposed else mask) ^ is_inverted
    assert_array_equal(smooth_mask(mask, radius_px), mask)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (1, -2), (3, 1)])
def test_a_slanted_edge_stays_away_from_the_borders(a, b):
    y, x = np.mgrid[:80, :80]
    mask = a * (x - 40) + b * (y - 40) <= 0
    inner = np.s_[20:60, 20:60]
    assert_array_equal(smooth_mask(mask, 4)[inner], mask[inner])


@given(mask_in_a_picture(), st.sampled_from([0.4, 0.9, 1.7, 4.0]))
def test_smoothing_in_the_box_is_smoothing_in_full_frame(mask, radius_px):
    blurred = cv2.GaussianBlur(mask.astype(np.float64), (0, 0), radius_px, borderType=cv2.BORDER_REPLICATE)
    smooth = smooth_mask(mask, radius_px)
    is_clear = np.abs(blurred - 0.5) > 1e-5
    assert_array_equal(smooth[is_clear], (blurred > 0.5)[is_clear])
    assert smooth.dtype == np.bool_


@given(mask_in_a_picture(), st.sampled_from([0.4, 1.3, 3.0]))
def test_smoothing_turns_and_mirrors_with_the_mask(mask, radius_px):
    smooth = smooth_mask(mask, radius_px)
    blurred = cv2.GaussianBlur(mask.astype(np.float64), (0, 0), radius_px, borderType=cv2.BORDER_REPLICATE)
    is_clear = np.abs(blurred - 0.5) > 1e-5  # ties may fall to either side
    for turn in (np.rot90, np.fliplr, np.transpose):
        assert_array_equal(turn(smooth)[turn(is_clear)], smooth_mask(turn(mask), radius_px)[turn(is_clear)])


def test_thin_parts_go_and_thick_ones_stay():
    radius_px = 6.0
    for width_px, stays in ((6, False), (7, False), (10, True)):
        strip = np.zeros((100, 100), bool)
        strip[:, 50 : 50 + width_px] = True
        assert smooth_mask(strip, radius_px).any() == stays
        assert smooth_mask(~strip, radius_px).all() == (not stays)
    y, x = np.mgrid[-50:51, -50:51]
    assert not smooth_mask(np.hypot(x, y) <= 6.5, radius_px).any()
    assert smooth_mask(np.hypot(x, y) <= 8.5, radius_px).any()


def test_a_ragged_edge_becomes_straight():
    mask = np.zeros((60, 60), bool)
    mask[:30] = True
    mask[30, ::4] = True
    mask[29, 2::4] = False
    smooth = smooth_mask(mask, 3)
    assert smooth[:29].all()
    assert not smooth[31:].any()
    assert np.count_nonzero(smooth[:, 1:] != smooth[:, :-1]) < 5


def test_no_radius_gives_the_mask_itself_and_a_huge_one_is_no_error():
    mask = np.eye(5, dtype=bool)
    assert smooth_mask(mask, 0) is mask
    assert smooth_mask(mask, 1e12).shape == (5, 5)


@pytest.mark.parametrize("mask", [np.zeros((1, 3, 3), bool), np.zeros((3, 3), np.uint8), np.zeros(3, bool)])
def test_what_is_no_mask_is_refused(mask):
    for clean in (lambda: remove_small_regions(mask, 1, "holes"), lambda: smooth_mask(mask, 1)):
        with pytest.raises(ValueError, match="mask must be"):
            clean()


def test_unknown_kinds_and_numbers_that_are_none_are_refused():
    mask = np.ones((3, 3), bool)
    with pytest.raises(ValueError, match="kind must be 'holes' or 'islands', got 'specks'"):
        remove_small_regions(mask, 1, "specks")
    for min_area_px in (-1, np.nan):
        with pytest.raises(ValueError, match="min_area_px"):
            remove_small_regions(mask, min_area_px, "holes")
    for radius_px in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match="radius_px"):
            smooth_mask(mask, radius_px)
