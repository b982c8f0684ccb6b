"""The pictures an export is checked with: those in the wheel, and what users name."""

import shutil

import pytest

from mobile_sam.core.images import read_image
from mobile_sam.export.pictures import default_pictures, find_pictures


def test_the_built_in_pictures_are_the_four_that_notice_credits(examples):
    found = {path.stem: path for path in default_pictures()}
    assert sorted(found) == ["astronaut", "chelsea", "coffee", "rocket"]
    for original in [*examples.glob("*.png"), *examples.glob("*.jpg")]:
        picture, copy = read_image(original), read_image(found[original.stem])
        assert copy.shape == picture.shape
        assert abs(copy.astype(int) - picture).mean() < 4  # of 255: JPEG


def test_no_source_means_the_built_in_pictures():
    assert find_pictures([]) == default_pictures()


def test_files_and_folders_are_listed_in_a_stable_order_and_once(examples, tmp_path):
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    for name in ("z.png", "y.png"):
        shutil.copy(examples / "chelsea.png", below / name)
    shutil.copy(examples / "rocket.jpg", tmp_path / "a" / "x.JPG")
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    found = find_pictures([examples / "rocket.jpg", tmp_path / "a", below / "y.png"])
    names = [str(path.relative_to(tmp_path.resolve())) for path in found[1:]]
    assert found[0] == (examples / "rocket.jpg").resolve()
    assert names == ["a/b/y.png", "a/b/z.png", "a/x.JPG"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "has no pictures, in it or below it; name one with .bmp"),
        ("nowhere", "there is no picture or folder of pictures at .*nowhere; check the spelling"),
        ("notes.txt", "is no picture; expected a folder or a file ending in"),
    ],
)
def test_a_source_without_pictures_is_refused(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match=message):
        find_pictures([tmp_path / name])
