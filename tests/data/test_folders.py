"""What a folder tells without reading its pictures: sizes from headers, hashes from listings."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from mobile_sam.core.images import read_image
from mobile_sam.data.folders import picture_size_hw, sha256_of_listing

HEIGHT, WIDTH = 5, 9
EXIF_HEADER = b"Exif\0\0"


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_picture_has_the_size_that_it_is_read_with(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(path, exif=exif)
    assert picture_size_hw(path) == read_image(path).shape[:2]
    assert picture_size_hw(path) == ((WIDTH, HEIGHT) if orientation in (5, 6, 7, 8) else (HEIGHT, WIDTH))


def test_damaged_metadata_leaves_the_size_as_stored(tmp_path):
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png", exif=EXIF_HEADER + b"nonsense")
    assert picture_size_hw(tmp_path / "a.png") == (HEIGHT, WIDTH)


def test_a_listing_is_hashed_by_names_and_sizes_in_any_order(tmp_path):
    (tmp_path / "a").write_bytes(b"xyz")
    files = [("second", tmp_path / "a"), ("first", tmp_path / "gone"), ("third", tmp_path / "a" / "below a file")]
    expected = hashlib.sha256(b"first -1\nsecond 3\nthird -1\n").hexdigest()
    assert sha256_of_listing(files) == sha256_of_listing(files[::-1]) == expected
