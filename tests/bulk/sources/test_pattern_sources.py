"""Single files and patterns, against the standard library's own glob."""

import glob
import os
import sys

import pytest

from mobile_sam.bulk.sources import local_roots

FILES = (
    "a/1.jpg", "a/2.png", "a/b/3.jpg", "a/b/c/4.JPG", "d/5.jpg", "d/.h.jpg", ".e/6.jpg", "7.jpg", "x[1].jpg", "x1.jpg",
)  # fmt: skip


@pytest.mark.parametrize(
    "pattern",
    ["*.jpg", "*/*.jpg", "a/**/*.jpg", "**/*.jpg", "**/b/*", "?/?.jpg", "[ad]/*.*g", ".e/*.jpg", ".*/*.jpg", "*/.h.jpg",
     "a/b/c/4.*", "*/b/3.jpg", "**/*.JPG"],
)  # fmt: skip
def test_patterns_find_the_pictures_that_glob_finds(pattern, put, listing, tmp_path):
    put(*FILES)
    expected = [path for path in glob.glob(str(tmp_path / pattern), recursive=True) if os.path.isfile(path)]
    found = listing(tmp_path / pattern)
    assert expected
    assert sorted(found.paths) == sorted(expected)
    assert len(set(found.identities)) == len(expected)


def test_keys_begin_where_names_differ(put, listing, tmp_path):
    put(*FILES)
    assert listing(tmp_path / "a" / "*" / "*.jpg").keys == ["b/3"]
    assert listing(tmp_path / "?" / "1.jpg").keys == ["a/1"]
    assert listing(tmp_path / "a" / "1.jpg").keys == ["1"]
    assert listing(tmp_path / "a" / "1.jpg", tmp_path / "d" / "5.jpg").keys == ["1", "5"]


def test_folders_that_fit_are_listed_with_their_sub_folders(put, listing, tmp_path):
    put(*FILES, "notes.txt", "coco.json")
    found = listing(tmp_path / "*")
    assert sorted(found.keys) == ["7", "a/1", "a/2", "a/b/3", "a/b/c/4", "d/5", "x1", "x[1]"]


def test_a_path_that_holds_a_patterns_characters_is_taken_as_it_is(put, listing, tmp_path):
    put(*FILES)
    assert listing(tmp_path / "x[1].jpg").keys == ["x[1]"]


def test_ranges_count_with_as_many_digits_as_their_first_number(put, listing, tmp_path):
    put("in/08.jpg", "in/09.jpg", "in/10.jpg", "in/11.jpg")
    assert listing(tmp_path / "in" / "{08..10}.jpg").keys == ["08", "09", "10"]
    with pytest.raises(FileNotFoundError, match=r"12\.jpg, of .*\{08\.\.12\}"):
        listing(tmp_path / "in" / "{08..12}.jpg")
    assert local_roots([str(tmp_path / "in" / "{08..10}.jpg")]) == (str(tmp_path / "in"),)


def test_a_pattern_that_nothing_fits_is_an_error(put, listing, tmp_path):
    put(*FILES)
    with pytest.raises(FileNotFoundError, match="no file fits the pattern"):
        listing(tmp_path / "*.tif")
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        listing(tmp_path / "nowhere" / "*.jpg")


def test_a_file_of_no_known_form_is_refused_with_what_was_expected(put, listing, tmp_path):
    put("film.mp4")
    for source in ("film.mp4", "*.mp4"):
        with pytest.raises(ValueError, match=r"film\.mp4 is of no known form; expected a folder, a picture"):
            listing(tmp_path / source)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right on Windows")
def test_links_in_circles_end_in_patterns_too(put, listing, tmp_path):
    put("a/1.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    found = listing(tmp_path / "**" / "*.jpg")
    assert set(found.identities) == {str(tmp_path / "a" / "1.jpg")}


def test_roots_are_where_pictures_lie_and_stay_when_these_are_gone(put, tmp_path):
    put("a/1.jpg", "coco/instances.json", "coco/images/1.jpg", "list.txt")
    named = ["a/*.jpg", "a/1.jpg", "coco/instances.json", "sa_1.tar", "list.txt", "gone", "**/*.jpg"]
    sources = [str(tmp_path / name) for name in named] + ["s3://bucket/x", "@list", (tmp_path / "a").as_uri()]
    expected = ["a", "coco/images", "sa_1.tar", "gone", "."]
    assert local_roots(sources) == tuple(str(tmp_path / name) for name in expected)


def test_a_source_must_be_named(listing):
    with pytest.raises(ValueError, match="no source of pictures was named; expected a folder"):
        listing()
