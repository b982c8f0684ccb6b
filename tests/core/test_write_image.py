"""Writing pictures."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from mobile_sam.core.images import read_image, write_image

HEIGHT, WIDTH = 24, 32


@pytest.fixture
def rgb():
    """(24, 32, 3) uint8 with smooth colours, so that lossy formats come close."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 8, y * 10, 255 - x * 4 - y * 4], axis=2).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".PNG"])
@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (HEIGHT, WIDTH, 3), (1, 1, 3)])
def test_what_is_written_exactly_is_read_back_exactly(tmp_path, suffix, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    write_image(tmp_path / f"a{suffix}", array)
    assert_array_equal(np.asarray(Image.open(tmp_path / f"a{suffix}")), array)
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_come_close(tmp_path, rgb, suffix):
    write_image(tmp_path / f"a{suffix}", rgb)
    assert_allclose(read_image(tmp_path / f"a{suffix}").astype(int), rgb, atol=25)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tif"])
def test_a_mask_is_written_as_0_and_255(tmp_path, suffix):
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.5
    write_image(tmp_path / f"a{suffix}", mask)
    assert_array_equal(read_image(tmp_path / f"a{suffix}"), np.repeat(mask[..., None], 3, axis=2) * 255)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_opacity_is_kept_with_the_colours_under_it(tmp_path, suffix):
    rgba = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
    write_image(tmp_path / f"a{suffix}", rgba)
    assert_array_equal(np.asarray(Image.open(tmp_path / f"a{suffix}")), rgba)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "words"),
    [
        ("a.xyz", (2, 2, 3), np.uint8, r"'\.xyz' names no known format; use one of \.png"),
        ("a", (2, 2, 3), np.uint8, "names no known format"),
        ("a.jpg", (2, 2, 4), np.uint8, "JPEG holds no opacity"),
        ("a.bmp", (2, 2, 4), np.uint8, "BMP holds no opacity"),
        ("a.png", (2, 2, 2), np.uint8, "array must be"),
        ("a.png", (2, 2, 3), np.float32, "array must be"),
        ("a.png", (2, 2, 3), bool, "array must be"),
        ("a.png", (0, 2, 3), np.uint8, "array must be"),
        ("a.webp", (1, 16_384, 3), np.uint8, "WEBP holds at most 16383"),
        ("a.jpg", (65_501, 1, 3), np.uint8, "JPEG holds at most 65500"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_no_file(tmp_path, name, shape, dtype, words):
    with pytest.raises(ValueError, match=words):
        write_image(tmp_path / name, np.zeros(shape, dtype))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "shape"), [("a.webp", (1, 16_383, 3)), ("a.jpg", (65_500, 1, 3))])
def test_the_largest_sides_are_written(tmp_path, name, shape):
    write_image(tmp_path / name, np.zeros(shape, np.uint8))
    assert read_image(tmp_path / name).shape == shape


def test_a_missing_folder_is_named(tmp_path, rgb):
    with pytest.raises(FileNotFoundError, match="create it first"):
        write_image(tmp_path / "missing" / "a.png", rgb)
