"""What all formats with files for each picture promise."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from mobile_sam.bulk.results import PictureMasks
from mobile_sam.bulk.sinks import FORMATS, make_sink
from mobile_sam.bulk.sinks.base import SinkSettings

PICTURE_FORMATS = [name for name, known in FORMATS.items() if not known.is_collected]
FOLDERS = {"sa1b": "sa1b", "yolo": "yolo/labels", "labelme": "labelme", "png": "masks"}
ENDS = {"sa1b": ".json", "yolo": ".txt", "labelme": ".json", "png": "/metadata.csv"}


def file_of(name, key):
    return f"{FOLDERS[name]}/{key}{ENDS[name]}"


pytestmark = pytest.mark.parametrize("name", PICTURE_FORMATS)


@pytest.fixture
def sink(name, tmp_path):
    return make_sink(name, SinkSettings(tmp_path, {3: "cat", 7: "dog"}))


def test_these_are_the_four(name):
    assert name in FOLDERS


def test_a_file_lies_where_its_key_says_whatever_letters_are_in_it(name, sink, two_pictures, tmp_path):
    for picture in two_pictures:
        sink.write(picture)
        assert (tmp_path / file_of(name, picture.key)).is_file()


@pytest.mark.parametrize("key", ["a/b/c/d/e/f/g/h", "a.b.json", "1.5", ".hidden", "a b'\"", "🙂/é"])
def test_keys_are_taken_as_they_are(name, sink, two_pictures, tmp_path, key):
    sink.write(replace(two_pictures[0], key=key))
    assert (tmp_path / file_of(name, key)).is_file()


def test_the_same_masks_give_the_same_bytes(name, two_pictures, tmp_path, files_in):
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        for picture in two_pictures:
            make_sink(name, SinkSettings(folder)).write(PictureMasks.from_line(picture.to_line()))
    assert files_in(tmp_path / "first") == files_in(tmp_path / "second") != {}


def test_writing_again_changes_nothing(name, sink, two_pictures, tmp_path, files_in):
    sink.write(two_pictures[0])
    before = files_in(tmp_path)
    sink.write(two_pictures[0])
    assert files_in(tmp_path) == before


def test_fewer_masks_replace_more(name, sink, two_pictures, tmp_path, files_in):
    fewer = replace(two_pictures[0], records=two_pictures[0].records[:1])
    sink.write(fewer)
    expected = files_in(tmp_path)
    sink.write(two_pictures[0])
    assert files_in(tmp_path) != expected
    sink.write(fewer)
    assert files_in(tmp_path) == expected


def test_a_picture_may_be_named_like_the_folder_of_another(name, sink, two_pictures, tmp_path, files_in):
    first, second = replace(two_pictures[0], key="a"), replace(two_pictures[1], key="a/0")
    for order in ([first, second], [second, first], [first, second]):
        for picture in order:
            sink.write(picture)
    alone = tmp_path / "alone"
    for picture, other in ((first, alone / "first"), (second, alone / "second")):
        make_sink(name, SinkSettings(other, sink.settings.categories)).write(picture)
    both = {**files_in(alone / "first" / FOLDERS[name]), **files_in(alone / "second" / FOLDERS[name])}
    assert files_in(tmp_path / FOLDERS[name]) == both


def test_a_picture_without_masks_has_its_file(name, sink, two_pictures, tmp_path):
    sink.write(replace(two_pictures[1], records=[]))
    assert (tmp_path / file_of(name, "b")).is_file()


@pytest.mark.parametrize("is_new", [True, False])
def test_a_full_disk_leaves_nothing_and_nothing_half(name, sink, two_pictures, tmp_path, files_in, monkeypatch, is_new):
    if not is_new:
        sink.write(replace(two_pictures[0], records=two_pictures[0].records[:2]))
    before = files_in(tmp_path)

    def write_half(path, encoded):
        with open(path, "wb") as stream:
            stream.write(bytes(encoded)[: len(encoded) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as failure:
        sink.write(two_pictures[0])
    assert failure.value.errno == errno.ENOSPC  # so that the run ends, not the picture
    assert files_in(tmp_path) == before


def test_a_file_in_place_of_a_folder_costs_that_picture(name, sink, two_pictures, tmp_path):
    (tmp_path / FOLDERS[name]).mkdir(parents=True)
    (tmp_path / FOLDERS[name] / "x").write_text("")
    with pytest.raises(ValueError, match=r"b\.JPG: the file of another picture is where a folder must be"):
        sink.write(replace(two_pictures[1], key="x/c"))


def test_a_folder_in_place_of_a_file_costs_that_picture(name, sink, two_pictures, tmp_path):
    place = file_of(name, "b").replace("metadata.csv", "0.png")
    (tmp_path / place).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"b\.JPG: .*its folder where a file must be"):
        sink.write(two_pictures[1])


def test_workers_may_make_the_same_folders_at_once(name, sink, two_pictures, tmp_path):
    keys = [f"new/folder/{number}" if number % 2 else f"new/folder/{number - 1}/{number}" for number in range(1, 17)]
    with ThreadPoolExecutor(len(keys)) as pool:
        list(pool.map(lambda key: sink.write(replace(two_pictures[1], key=key)), keys))
    assert all((tmp_path / file_of(name, key)).is_file() for key in keys)
    assert not list(tmp_path.rglob(".mobile-sam-*"))
