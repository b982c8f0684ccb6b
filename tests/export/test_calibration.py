"""Calibration: which pictures, which views of them, and that they are what the engines feed the encoder."""

import logging

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from mobile_sam import read_image
from mobile_sam.build_sam import build_sam_vit_t_1m
from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.images import write_image
from mobile_sam.engines.pytorch import TorchEngine
from mobile_sam.export.calibration import MIN_VIEWS, VIEWS, View, calibration_inputs, calibration_pixels, encoder_feeds
from mobile_sam.export.modules import EncoderGraph

SIDE = 256


@pytest.fixture(scope="module")
def small_sam():
    torch.manual_seed(0)
    return build_sam_vit_t_1m(input_side=SIDE).eval()


@pytest.fixture
def grey_pictures(tmp_path):
    """Thirty pictures, the shade of each its number, named in that order."""
    for shade in range(30):
        write_image(tmp_path / f"{shade:02}.png", np.full((20, 30, 3), shade, np.uint8))
    return tmp_path


def test_an_input_is_what_an_engine_feeds_its_encoder(small_sam, examples):
    path = examples / "chelsea.png"
    image = read_image(path)
    resize = LongSideResize(image.shape[:2], SIDE)
    expected = TorchEngine(small_sam).normalise_and_pad(resize.resize_image(image))
    first = calibration_inputs(small_sam, [path])[0]
    assert first.dtype == np.float32
    assert_allclose(first, expected, atol=1e-6)


def test_the_built_in_pictures_give_views_of_every_aspect_ratio_that_are_all_different(small_sam):
    pixels = calibration_pixels(small_sam)
    assert MIN_VIEWS <= len(pixels) <= 64
    assert len({one.tobytes() for one in pixels}) == len(pixels)
    assert all(max(one.shape[:2]) == SIDE for one in pixels)
    ratios = [one.shape[0] / one.shape[1] for one in pixels]
    assert min(ratios) < 0.6
    assert max(ratios) > 1.2


def test_calibration_is_the_same_each_time(small_sam):
    for one, other in zip(calibration_inputs(small_sam), calibration_inputs(small_sam), strict=True):
        np.testing.assert_array_equal(one, other)


def test_of_many_pictures_a_few_are_taken_evenly_and_whole(small_sam, grey_pictures):
    shades = [int(one[0, 0, 0]) for one in calibration_pixels(small_sam, [grey_pictures], max_views=4)]
    assert shades == [0, 10, 19, 29]
    assert len(calibration_pixels(small_sam, [grey_pictures])) == 30


def test_fewer_views_than_there_are_still_are_of_all_pictures(small_sam, grey_pictures):
    paths = [grey_pictures / f"{shade}.png" for shade in (10, 20, 29)]
    shades = [int(one[0, 0, 0]) for one in calibration_pixels(small_sam, paths, max_views=3)]
    assert shades == [10, 20, 29]


def test_a_picture_that_cannot_be_read_is_left_out_with_a_warning(small_sam, grey_pictures, caplog):
    (grey_pictures / "07.png").write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING):
        pixels = calibration_pixels(small_sam, [grey_pictures])
    assert len(pixels) == 29
    assert "07.png" in caplog.text


def test_pictures_of_which_none_can_be_read_are_refused(small_sam, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"none of the 1 calibration pictures can be read.*a\.png"):
        calibration_pixels(small_sam, [tmp_path])


@pytest.mark.parametrize("max_views", [0, -1])
def test_no_views_at_all_are_refused(small_sam, max_views):
    with pytest.raises(ValueError, match="max_views must be at least 1"):
        calibration_pixels(small_sam, max_views=max_views)


@pytest.mark.parametrize("input_hw", [None, (160, 256), (256, 160)])
def test_feeds_run_through_the_encoder_and_with_pixels_give_the_same_features(small_sam, input_hw):
    features = []
    for has_preprocessing in (False, True):
        encoder = EncoderGraph(small_sam, input_hw, has_preprocessing)
        feeds = encoder_feeds(small_sam, (), input_hw, has_preprocessing, max_views=6)
        assert [[(one.shape, one.dtype) for one in feed] for feed in feeds[:1]] == [
            [(tuple(one.shape), one.numpy().dtype) for one in encoder.example_inputs()]
        ]
        with torch.no_grad():
            features.append([encoder(*map(torch.from_numpy, feed)) for feed in feeds])
    for from_floats, from_pixels in zip(*features, strict=True):
        assert_allclose(from_floats, from_pixels, atol=1e-5)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("image_hw", [(1, 1), (1, 40), (333, 500)])
def test_each_view_of_any_picture_has_pixels_of_it(view, image_hw):
    image = np.full((*image_hw, 3), 100, np.uint8)
    part = view.of(image)
    assert part.size
    assert part.dtype == np.uint8
    assert set(part.ravel()) == {round(100 * view.brightness)}


def test_a_view_is_the_part_it_names_flipped_and_saturated():
    image = np.arange(8, dtype=np.uint8).repeat(3).reshape(2, 4, 3) * 20  # 0 to 60, 80 to 140
    part = View((0.5, 0.0, 1.0, 1.0), is_flipped=True, brightness=2.0).of(image)
    np.testing.assert_array_equal(part[:, :, 0], [[120, 80], [255, 240]])
