"""Bytes of pictures, from files, parts of files and URLs, and what is said when there are none."""

import os
import pickle
import sys

import pytest

from mobile_sam.bulk.items import Place
from mobile_sam.bulk.sources import reading
from mobile_sam.bulk.sources.reading import SourceReadError, read_place


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"0123456789")
    return str(tmp_path / "a.jpg")


def failure(place):
    with pytest.raises(SourceReadError) as raised:
        read_place(place)
    return raised.value.kind, str(raised.value)


@pytest.mark.parametrize(
    ("start", "size_bytes", "content"),
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (3, 4, b"3456"),
        (0, 10, b"0123456789"),
        (10, 0, b""),
        (4, 0, b""),
    ],
)
def test_files_are_read_whole_or_in_parts(path, memory, start, size_bytes, content):
    assert read_place(Place(path, start, size_bytes)) == content
    memory("/a.jpg", b"0123456789")
    assert read_place(Place("memory://a.jpg", start, size_bytes)) == content


def test_what_is_not_there_is_missing(tmp_path, path, memory):
    assert failure(Place(str(tmp_path / "b.jpg")))[0] == "missing picture"
    assert failure(Place(os.path.join(path, "b.jpg")))[0] == "missing picture"
    assert failure(Place("memory://b.jpg"))[0] == "missing picture"
    assert failure(Place("a\0.jpg"))[0] == "missing picture"


def test_a_file_that_ends_before_is_unreadable(path, memory):
    assert failure(Place(path, 8, 5)) == ("unreadable picture", f"{path} ends after 2 of its 5 bytes; was it changed?")
    memory("/a.jpg", b"0123456789")
    kind, message = failure(Place("memory://a.jpg", 8, 5))
    assert (kind, "ends after 2 of the picture's 5 bytes" in message) == ("unreadable picture", True)


def test_what_is_no_file_is_unreadable_and_never_waited_for(tmp_path):
    assert failure(Place(str(tmp_path)))[0] == "unreadable picture"
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe.jpg")
        assert failure(Place(str(tmp_path / "pipe.jpg")))[0] == "unreadable picture"


@pytest.mark.skipif(sys.platform == "win32" or os.getuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_unreadable(path):
    os.chmod(path, 0)
    assert failure(Place(path))[0] == "unreadable picture"


def test_local_errors_are_told_apart_from_missing_files(path, monkeypatch):
    def broken(*args, **kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("mobile_sam.data.stored_pictures.open", broken, raising=False)
    kind, message = failure(Place(path))
    assert (kind, "Input/output error" in message) == ("unreadable picture", True)


@pytest.mark.parametrize(
    ("errors", "num_tries", "waited"),
    [
        ([], 1, []),
        ([OSError("reset")], 2, [0.5]),
        ([TimeoutError(), OSError("reset")], 3, [0.5, 2.0]),
        ([OSError("reset")] * 3, 3, [0.5, 2.0]),
        ([FileNotFoundError("x")], 1, []),
        ([PermissionError("x")], 1, []),
    ],
)
def test_urls_are_tried_three_times_where_time_may_help(monkeypatch, waited_s, errors, num_tries, waited):
    tries = []
    left = list(errors)

    def cat(*args):
        tries.append(args)
        if left:
            raise left.pop(0)
        return b"content"

    monkeypatch.setattr(reading, "cat_remote", cat)
    if num_tries == len(errors):  # none was left
        with pytest.raises(SourceReadError) as raised:
            read_place(Place("s3://bucket/a.jpg"))
        is_missing = isinstance(errors[0], FileNotFoundError)
        assert raised.value.kind == ("missing picture" if is_missing else "unreadable picture")
    else:
        assert read_place(Place("s3://bucket/a.jpg")) == b"content"
    assert (len(tries), waited_s) == (num_tries, waited)


def test_the_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(SourceReadError("missing picture", "no file")))
    assert (error.kind, str(error)) == ("missing picture", "no file")
