import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image, ImageDraw

from mobile_sam.bulk.sinks import polygons
from mobile_sam.bulk.sinks.polygons import find_outlines, join_parts
from mobile_sam.core.masks import encode_rle


def drawn(polygon, size_hw):
    """Pillow cuts corners to whole pixels and fills, with the outline."""
    image = Image.new("1", size_hw[::-1])
    ImageDraw.Draw(image).polygon([tuple(corner) for corner in np.asarray(polygon).tolist()], fill=1, outline=1)
    return np.asarray(image)


def drawn_rounded(polygon, size_hw):
    """OpenCV, given corners rounded to whole pixels."""
    canvas = np.zeros(size_hw, np.uint8)
    cv2.fillPoly(canvas, [np.round(polygon).astype(np.int32)], 1)
    return canvas.astype(bool)


def without_holes(mask):
    """All that background cannot reach from outside, going up, down, left and right."""
    background = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, labels = cv2.connectedComponents(background, connectivity=4)
    return (labels != labels[0, 0])[1:-1, 1:-1]


def iou(mask, other):
    return (mask & other).sum() / (mask | other).sum()


def noise(seed, share, size_hw=(12, 17)):
    return np.random.default_rng(seed).random(size_hw) < share


@pytest.mark.parametrize("draw", [drawn, drawn_rounded])
def test_without_tolerance_outlines_are_exact_for_readers_that_cut_and_that_round(monkeypatch, draw):
    monkeypatch.setattr(polygons, "TOLERANCE_PX", 0.0)
    y, x = np.mgrid[:60, :80]
    disc = np.hypot(x - 30, y - 25) <= 18
    (part,) = find_outlines(encode_rle(disc)).parts
    assert_array_equal(draw(part, disc.shape), disc)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.8])
@pytest.mark.parametrize("seed", range(10))
def test_every_pixel_of_noise_is_in_an_outline_and_nothing_but_holes_beside(monkeypatch, seed, share):
    monkeypatch.setattr(polygons, "TOLERANCE_PX", 0.0)
    mask = noise(seed, share)
    outlines = find_outlines(encode_rle(mask))
    all_drawn = np.any([drawn(part, mask.shape) for part in outlines.parts], axis=0)
    assert_array_equal(all_drawn, without_holes(mask))
    joined = join_parts(outlines.parts)
    assert len(joined) == sum(map(len, outlines.parts)) + 2 * (len(outlines.parts) - 1)
    assert not (all_drawn & ~drawn(joined, mask.shape)).any()


@pytest.mark.parametrize(
    ("radius_px", "hole_px", "num_corners"), [(150, 0, 60), (150, 20, 60), (40, 0, 40), (12, 0, 40), (4, 0, 20)]
)
def test_a_disc_of_any_size_keeps_its_form_with_few_corners(radius_px, hole_px, num_corners):
    y, x = np.mgrid[:400, :400]
    away_px = np.hypot(x - 200, y - 190)
    outlines = find_outlines(encode_rle((away_px <= radius_px) & (away_px > hole_px - 1)))
    (part,) = outlines.parts
    assert iou(drawn(part, (400, 400)), away_px <= radius_px) >= 0.98
    assert 8 <= len(part) <= num_corners
    assert outlines.hole_area_px == (away_px <= hole_px - 1).sum()


def test_the_frame_begins_at_the_corner_of_the_picture():
    mask = np.zeros((10, 20), bool)
    mask[2:5, 6:12] = True
    (part,) = find_outlines(encode_rle(mask)).parts
    # through the centres of the first and the last pixels: 6.5 and 11.5, 2.5 and 4.5
    assert_allclose([part.min(axis=0), part.max(axis=0)], [[6.5, 2.5], [11.5, 4.5]], atol=0.011)


@pytest.mark.parametrize("pixels_yx", [[(3, 5)], [(3, 5), (3, 6), (3, 7)], [(3, 5), (4, 6)], [(3, 5), (3, 6), (4, 6)]])
def test_what_is_thin_has_an_outline_with_an_area_within_its_pixels(pixels_yx):
    mask = np.zeros((8, 9), bool)
    mask[tuple(np.transpose(pixels_yx))] = True
    (part,) = find_outlines(encode_rle(mask)).parts
    assert_array_equal(drawn(part, mask.shape), mask)
    assert cv2.contourArea(part.astype(np.float32)) >= 0.4
    assert {(int(y), int(x)) for x, y in part.tolist()} <= set(pixels_yx)


def test_a_part_in_a_hole_is_left_out_since_the_polygon_around_covers_it():
    y, x = np.mgrid[:41, :41]
    away_px = np.hypot(x - 20, y - 20)
    target = ((away_px <= 18) & (away_px > 12)) | (away_px <= 4)
    outlines = find_outlines(encode_rle(target))
    assert len(outlines.parts) == 1
    assert outlines.hole_area_px == (away_px <= 12).sum()


def test_an_empty_mask_has_no_parts():
    outlines = find_outlines({"size": [4, 5], "counts": [20]})
    assert (outlines.parts, outlines.hole_area_px) == ([], 0)


def test_no_run_lengths_are_refused():
    with pytest.raises(ValueError, match="runs that sum to 19"):
        find_outlines({"size": [4, 5], "counts": [19]})


def test_parts_are_joined_at_their_nearest_corners_and_the_way_has_no_area():
    left = np.array([[0.0, 0], [0, 4], [4, 4], [4, 0]])
    right = left + np.array([6, 0])
    far = left + np.array([16, 0])
    joined = join_parts([left, far, right])
    assert len(joined) == 12 + 4
    assert cv2.contourArea(joined.astype(np.float32)) == 3 * 16
    steps = np.abs(np.diff(joined, axis=0, append=joined[:1])).max(axis=1)
    assert sorted(steps.tolist()) == sorted([4.0] * 12 + [2.0, 2.0] + [6.0, 6.0])  # the far one hangs on the right one


def test_distances_of_many_corners_are_taken_in_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    first, second = rng.random((50, 2)), rng.random((30, 2)) + np.array([3, 0])
    expected = join_parts([first, second])
    monkeypatch.setattr(polygons, "_CHUNK_PAIRS", 64)
    assert_array_equal(join_parts([first, second]), expected)


def test_many_parts_are_joined_without_losing_any(monkeypatch):
    monkeypatch.setattr(polygons, "TOLERANCE_PX", 0.0)
    mask = noise(0, 0.1, (80, 90))
    parts = find_outlines(encode_rle(mask)).parts
    assert len(parts) > polygons.MANY_PARTS
    joined = join_parts(parts)
    assert len(joined) == sum(map(len, parts)) + 2 * (len(parts) - 1)
    assert not (mask & ~drawn(joined, mask.shape)).any()
