"""Masks and prompts drawn on the picture."""

import itertools
import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mobile_sam.core.draw import colour, cutout, draw_overlay, draw_prompts
from mobile_sam.core.masks import encode_rle

GREY = np.full((120, 160, 3), 100, np.uint8)


def square_mask(image_hw=(120, 160), top=40, left=50, side=40):
    mask = np.zeros(image_hw, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_colours_are_stable_and_neighbours_are_far_apart():
    colours = np.array([colour(index) for index in range(200)])
    assert_array_equal(colours, [colour(index) for index in range(200)])
    assert colours.min() >= 0
    assert colours.max() <= 255
    distances = [np.linalg.norm(colours[i] - colours[j]) for i, j in itertools.combinations(range(10), 2)]
    assert min(distances) > 60
    assert len({tuple(rgb) for rgb in colours.tolist()}) > 190


def test_a_mask_is_tinted_inside_and_the_picture_is_kept_outside():
    mask = square_mask()
    overlay = draw_overlay(GREY, mask[None])
    assert_array_equal(overlay[60, 70], np.rint(50 + np.array(colour(0)) / 2))
    assert_array_equal(overlay[:30], GREY[:30])
    assert_array_equal(overlay[:, 110:], GREY[:, 110:])
    assert (GREY == 100).all()  # the caller's picture is not drawn on


def test_the_outline_has_the_full_colour():
    overlay = draw_overlay(GREY, square_mask()[None], opacity=0)
    assert_allclose(overlay[40, 70].astype(int), colour(0), atol=20)
    assert_allclose(overlay[70, 89].astype(int), colour(0), atol=20)
    assert_array_equal(overlay[60, 70], GREY[60, 70])


def test_holes_are_outlined_and_not_tinted():
    mask = square_mask(side=60)
    mask[60:80, 70:90] = False
    overlay = draw_overlay(GREY, mask[None])
    assert_array_equal(overlay[70, 80], GREY[70, 80])
    assert_allclose(overlay[59, 80].astype(int), colour(0), atol=20)


def test_a_small_mask_inside_a_large_one_stays_visible_in_either_order():
    small, large = square_mask(top=50, left=60, side=10), square_mask()
    overlay = draw_overlay(GREY, np.stack([small, large]), opacity=1)
    assert_array_equal(overlay[55, 65], colour(0))
    assert_array_equal(overlay[75, 85], colour(1))


def test_masks_may_come_one_by_one():
    masks = np.stack([square_mask(), square_mask(top=0, left=0, side=20)])
    assert_array_equal(draw_overlay(GREY, (mask for mask in masks)), draw_overlay(GREY, masks))


def test_masks_may_be_run_length_codes():
    masks = np.stack([square_mask(), square_mask(top=0, left=0, side=20), np.zeros((120, 160), bool)])
    mixed = [encode_rle(masks[0]), masks[1], encode_rle(masks[2])]
    assert_array_equal(draw_overlay(GREY, iter(mixed)), draw_overlay(GREY, masks))


def test_an_overlay_of_large_masks_takes_a_fraction_of_their_memory():
    image = np.zeros((1000, 1000, 3), np.uint8)
    whole = encode_rle(np.ones((1000, 1000), bool))
    tracemalloc.start()
    draw_overlay(image, (whole for _ in range(40)))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 20_000_000  # the stack would be 40,000,000, and a bit for each pixel is 5,000,000


def test_no_masks_and_empty_masks_leave_the_picture():
    assert_array_equal(draw_overlay(GREY, []), GREY)
    assert_array_equal(draw_overlay(GREY, np.zeros((2, 120, 160), bool)), GREY)


@pytest.mark.parametrize("image_hw", [(1, 1), (1, 7), (50, 2000), (2000, 50), (333, 500)])
def test_every_size_of_picture_can_be_drawn_on(image_hw):
    image = np.zeros((*image_hw, 3), np.uint8)
    overlay = draw_overlay(
        image, np.ones((1, *image_hw), bool), points_xy=[[0, 0]], labels=[0], boxes_xyxy=[[0, 0, 1, 1]]
    )
    assert overlay.shape == image.shape
    assert overlay.dtype == np.uint8
    assert overlay.any()


def test_the_picture_may_be_a_view_that_is_not_contiguous():
    image = np.full((160, 120, 3), 100, np.uint8).swapaxes(0, 1)
    mask = np.ascontiguousarray(square_mask().T).T
    assert_array_equal(draw_overlay(image, mask[None]), draw_overlay(GREY, square_mask()[None]))
    assert_array_equal(draw_prompts(image, [[5, 5]], [1]), draw_prompts(GREY, [[5, 5]], [1]))


def test_foreground_is_greenish_and_background_reddish_in_white_rings():
    drawn = draw_prompts(GREY, [[30, 30], [100, 80]], [1, 0]).astype(int)
    red, green, blue = drawn[30, 30]
    assert green > red + 50
    assert green > blue + 50
    red, green, blue = drawn[80, 100]
    assert red > green + 50
    assert red > blue + 50
    for x, y in ((30, 30), (100, 80)):
        assert (drawn[y, x - 10 : x + 11] > 220).all(axis=1).any()


def test_points_without_labels_are_foreground():
    assert_array_equal(draw_prompts(GREY, [[30, 30]]), draw_prompts(GREY, [[30, 30]], [1]))


def test_a_box_is_an_outline_that_leaves_its_inside():
    drawn = draw_prompts(GREY, boxes_xyxy=[20, 30, 100, 90])
    assert (drawn[30, 20:101] != GREY[30, 20:101]).any(axis=1).all()
    assert (drawn[30:91, 100] != GREY[30:91, 100]).any(axis=1).all()
    assert_array_equal(drawn[36:85, 26:95], GREY[36:85, 26:95])
    assert_array_equal(draw_prompts(GREY, boxes_xyxy=[[20, 30, 100, 90]]), drawn)


def test_prompts_far_outside_leave_the_picture():
    drawn = draw_prompts(GREY, [[-1e12, 5], [1e12, 1e12]], [0, 1], [[-1e12, -1e12, 1e12, 1e12]])
    assert_array_equal(drawn, GREY)


def test_a_cutout_keeps_the_object_and_gives_nothing_else_away():
    image = np.random.default_rng(0).integers(1, 256, (120, 160, 3), np.uint8)
    mask = square_mask()
    rgba = cutout(image, mask)
    assert rgba.shape == (120, 160, 4)
    assert_array_equal(rgba[mask, :3], image[mask])
    assert_array_equal(rgba[..., 3], mask * 255)
    assert not rgba[~mask].any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"masks": square_mask()}, r"use masks\[None\]"),
        ({"masks": [square_mask((120, 161))]}, r"must be of the picture's size \(120, 160\)"),
        ({"masks": [square_mask().astype(np.uint8)]}, "mask must be bool"),
        ({"masks": encode_rle(square_mask())}, r"use \[rle\] for a single mask"),
        ({"masks": [encode_rle(square_mask((160, 120)))]}, r"rle must be of the picture's size \(120, 160\)"),
        ({"masks": [], "opacity": 1.5}, "opacity"),
        ({"masks": [], "points_xy": [[1, 2, 3]]}, r"points_xy must be finite and \(N, 2\)"),
        ({"masks": [], "points_xy": [[1, np.nan]]}, "points_xy must be finite"),
        ({"masks": [], "points_xy": [[1, 2]], "labels": [1, 0]}, "labels must be"),
        ({"masks": [], "points_xy": [[1, 2]], "labels": [2]}, "labels must be"),
        ({"masks": [], "boxes_xyxy": [1, 2, 3]}, r"boxes_xyxy must be finite and \(N, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        draw_overlay(GREY, **arguments)


@pytest.mark.parametrize("image", [GREY[..., 0], GREY.astype(float), GREY[:0]])
def test_what_is_no_picture_is_refused(image):
    for draw in (lambda: draw_overlay(image, []), lambda: draw_prompts(image), lambda: cutout(image, square_mask())):
        with pytest.raises(ValueError, match="image must be"):
            draw()


def test_a_negative_index_has_no_colour():
    with pytest.raises(ValueError, match="index"):
        colour(-1)
