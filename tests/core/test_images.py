"""Reading pictures."""

import io
import os
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image, ImageOps

from mobile_sam.core.errors import ImageReadError, ImageTooLargeError
from mobile_sam.core.images import read_image

HEIGHT, WIDTH = 24, 32


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.png", {}, 0),
        ("a.bmp", {}, 0),
        ("a.tif", {}, 0),
        ("a.tiff", {"compression": "tiff_lzw"}, 0),
        ("a.webp", {"lossless": True}, 0),
        ("a.webp", {"quality": 95}, 20),
        ("a.jpg", {"quality": 98, "subsampling": 0}, 8),
        ("a.jpg", {"quality": 98, "progressive": True}, 20),
        ("a.gif", {}, 40),
        ("wrong-suffix.txt", {"format": "PNG"}, 0),
    ],
)
def test_every_format_is_read_as_rgb(tmp_path, rgb, name, options, tolerance):
    Image.fromarray(rgb).save(tmp_path / name, **options)
    image = read_image(tmp_path / name)
    assert_allclose(image.astype(int), rgb, atol=tolerance)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable


@pytest.mark.parametrize("as_source", [str, os.fspath, lambda path: path, lambda path: path.read_bytes(), Image.open])
def test_every_kind_of_source_is_read(tmp_path, rgb, as_source):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    assert_array_equal(read_image(as_source(tmp_path / "a.png")), rgb)


def test_an_open_file_is_read_and_stays_open(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    with open(tmp_path / "a.png", "rb") as stream:
        assert_array_equal(read_image(stream), rgb)
        assert not stream.closed


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 255), (77, 77, 77)),
        ("LA", (77, 0), (255, 255, 255)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBA", (1, 2, 3, 255), (1, 2, 3)),
        ("RGBA", (1, 2, 3, 0), (255, 255, 255)),
        ("RGBA", (0, 100, 200, 51), (204, 224, 244)),  # a fifth of the colour, four fifths of white
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("YCbCr", (128, 128, 128), (128, 128, 128)),
        ("HSV", (0, 255, 255), (255, 0, 0)),
        ("I;16", 257 * 100, (100, 100, 100)),
        ("I;16", 257 * 100 + 129, (101, 101, 101)),  # rounded, not cut
        ("I;16B", 65535, (255, 255, 255)),
        ("I", 257 * 100, (100, 100, 100)),
        ("F", 0.2, (51, 51, 51)),
    ],
)
def test_every_mode_becomes_rgb_by_its_rule(mode, pixel, expected):
    image = Image.new(mode, (3, 2), pixel)
    assert_array_equal(read_image(image), np.full((2, 3, 3), expected))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_of_png_is_read_from_a_file(tmp_path, mode):
    image = Image.new(mode, (4, 2), 65535) if mode == "I;16" else Image.new("L", (4, 2), 255).convert(mode)
    image.save(tmp_path / "a.png")
    assert_array_equal(read_image(tmp_path / "a.png"), np.full((2, 4, 3), 255))


def test_a_palette_gives_its_colours_and_its_transparent_entry_is_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "transparent.png", transparency=0)
    assert read_image(tmp_path / "opaque.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert read_image(tmp_path / "transparent.png").tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_a_transparent_colour_of_an_rgb_png_is_white(tmp_path, rgb):
    rgb[0, 0] = (9, 8, 7)
    Image.fromarray(rgb).save(tmp_path / "a.png", transparency=(9, 8, 7))
    image = read_image(tmp_path / "a.png")
    assert image[0, 0].tolist() == [255, 255, 255]
    assert_array_equal(image[1:], rgb[1:])


def test_a_cmyk_jpeg_has_the_colours_that_pillow_gives_it(tmp_path, rgb):
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "a.jpg", quality=100, subsampling=0)
    assert_allclose(read_image(tmp_path / "a.jpg").astype(int), rgb, atol=6)


def test_16_bit_tiff_uses_the_full_range_and_float_tiff_is_stretched(tmp_path):
    Image.fromarray(np.array([[0, 257, 65535]], np.uint16)).save(tmp_path / "deep.tif")
    Image.fromarray(np.array([[-5.0, 0.0, 5.0]], np.float32)).save(tmp_path / "float.tif")
    assert read_image(tmp_path / "deep.tif")[0, :, 0].tolist() == [0, 1, 255]
    assert read_image(tmp_path / "float.tif")[0, :, 0].tolist() == [0, 128, 255]


def test_a_float_picture_with_nan_is_refused_by_name(tmp_path):
    Image.fromarray(np.array([[0.0, np.nan]], np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ImageReadError, match=r"float\.tif.*NaN"):
        read_image(tmp_path / "float.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_the_orientation_of_the_camera_is_applied(tmp_path, rgb, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rgb).save(tmp_path / f"a{suffix}", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / f"a{suffix}")).convert("RGB"))
    assert expected.shape[:2] == ((WIDTH, HEIGHT) if orientation >= 5 else (HEIGHT, WIDTH))
    assert_array_equal(read_image(tmp_path / f"a{suffix}"), expected)


def test_a_callers_pillow_image_is_not_turned_in_place(tmp_path, rgb):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    image = Image.open(tmp_path / "a.png")
    assert read_image(image).shape == (WIDTH, HEIGHT, 3)
    assert image.size == (WIDTH, HEIGHT)
    assert read_image(image).shape == (WIDTH, HEIGHT, 3)


def test_damaged_metadata_does_not_keep_a_whole_picture_from_being_read(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=b"Exif\0\0nonsense")
    assert_array_equal(read_image(tmp_path / "a.png"), rgb)


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".webp", ".png"])
def test_of_several_frames_the_first_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", (5, 4), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    assert_allclose(read_image(tmp_path / f"a{suffix}").astype(int), np.full((4, 5, 3), (250, 0, 0)), atol=8)


def test_a_missing_file_is_refused_with_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no picture at nowhere\.png") as caught:
        read_image("nowhere.png")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is a folder"),
        (b"", r"is empty \(0 bytes\)"),
        (b"just text, no picture", "is no picture"),
        (b"\x89PNG\r\n\x1a\n", "no picture|cannot be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no picture"),
    ],
)
def test_what_is_no_picture_is_refused_by_name_with_the_reason(tmp_path, content, words):
    path = tmp_path / "thing.png"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ImageReadError, match=words) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp", ".gif"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_file_cut_short_is_refused_by_name(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ImageReadError, match=r"cut\."):
        read_image(path)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_a_damaged_file_is_read_or_refused_but_never_ends_otherwise(rgb, file_format):
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, format=file_format)
    rng = np.random.default_rng(0)
    for _ in range(150):
        content = np.frombuffer(buffer.getvalue(), np.uint8).copy()
        content[rng.integers(0, content.size, 4)] = rng.integers(0, 256, 4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                image = read_image(content.tobytes(), max_pixels=1_000_000)
            except ImageReadError:
                continue
        assert image.shape[2] == 3


@pytest.mark.parametrize("url", ["https://example.com/a.jpg", "s3://bucket/a.png", "file:///a.png"])
def test_a_url_is_not_fetched_and_the_message_says_so(url):
    with pytest.raises(ImageReadError, match="not fetched; download it"):
        read_image(url)


@pytest.mark.parametrize("source", [None, 5, ["a.png"]])
def test_a_source_of_another_type_is_refused(source):
    with pytest.raises(ValueError, match="source must be"):
        read_image(source)


def png_header(width, height):
    """The first bytes of a PNG that claims a size and holds nothing."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, format="PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(("width", "height"), [(20_000, 10_000), (13_378, 13_378), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused_by_its_header_without_a_warning(width, height):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageTooLargeError, match=r"too large|more than the"):
            read_image(png_header(width, height))


def test_a_large_picture_within_the_limit_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageReadError, match="damaged, cut short"):  # it holds no pixels, but it got past the size
            read_image(png_header(13_000, 13_000))


def test_the_limit_of_pixels_is_the_callers_choice(rgb):
    assert read_image(Image.fromarray(rgb), max_pixels=HEIGHT * WIDTH).shape == rgb.shape
    with pytest.raises(ImageTooLargeError, match="32 x 24 pixels, more than the 767 allowed"):
        read_image(Image.fromarray(rgb), max_pixels=HEIGHT * WIDTH - 1)


def test_turning_a_picture_takes_no_second_copy(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (3000, 2000), (9, 99, 199)).save(tmp_path / "a.jpg", exif=exif)
    tracemalloc.start()  # sees numpy's memory and the bands, not Pillow's own copy
    image = read_image(tmp_path / "a.jpg")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert image.shape == (3000, 2000, 3)
    assert peak_bytes < 1.9 * image.nbytes
