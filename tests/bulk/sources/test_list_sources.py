"""Lists of pictures in text files, as people and tools write them."""

import os
import sys

import pytest

from mobile_sam.bulk.sources import list_file, list_sources
from mobile_sam.bulk.sources.reading import SourceReadError, read_place


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_lines_are_read_with_either_end_and_with_a_mark(tmp_path, listing, end, start):
    path = tmp_path / "list.txt"
    path.write_bytes(start + end.join([b"a/1.jpg", b"", b"# a comment", b"#2.jpg", b"with space .png", b"z"]))
    found = listing(path)
    assert found.keys == ["a/1", "#2", "with space%20", "z"]
    assert found.paths == [str(tmp_path / name) for name in ("a/1.jpg", "#2.jpg", "with space .png", "z")]
    assert found.problems == []


def test_entries_are_named_by_their_way_from_the_list(tmp_path, listing):
    folder = tmp_path / "lists"
    folder.mkdir()
    outside = tmp_path / "other" / "3.jpg"
    lines = [
        "1.jpg",
        "./sub/../2.jpg",
        "../other/3.jpg",
        str(outside),
        "https://host/a%20b/4.jpg?sign=1",
        "s3://b/c/5.jpg",
    ]
    (folder / "all.lst").write_text("\n".join(lines))
    found = listing(folder / "all.lst")
    way = str(outside.with_suffix("")).lstrip("/")
    if sys.platform != "win32":
        assert found.keys == ["1", "2", way, way, "host/a b/4", "b/c/5"]
    assert found.identities[2] == found.identities[3] == os.path.realpath(outside)
    assert found.paths[4:] == lines[4:]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_a_line_may_be_any_bytes(tmp_path, listing):
    with open(os.path.join(os.fsencode(tmp_path), b"\xe9.jpg"), "wb") as file:
        file.write(b"here")
    (tmp_path / "list.txt").write_bytes(b"\xe9.jpg\n")
    found = listing(tmp_path / "list.txt")
    assert found.keys == ["%E9"]
    assert read_place(found.listed[0].place) == b"here"


def test_a_file_that_is_missing_fails_when_it_is_read_not_before(tmp_path, listing):
    (tmp_path / "list.txt").write_text("nowhere.jpg\n")
    found = listing(tmp_path / "list.txt")
    assert (found.keys, found.problems) == (["nowhere"], [])
    with pytest.raises(SourceReadError, match=r"no file at .*nowhere\.jpg") as raised:
        read_place(found.listed[0].place)
    assert raised.value.kind == "missing picture"


def test_tars_in_a_list_are_listed_as_tars(tmp_path, put_tar, listing):
    put_tar("sa.tar", ("x.jpg", b"1"), ("y.jpg", b"2"))
    (tmp_path / "list.txt").write_text("1.jpg\nsa.tar\ngone.tar\npacked.tar.gz\n2.jpg\n")
    found = listing(tmp_path / "list.txt")
    assert found.keys == ["1", "x", "y", "2"]
    assert found.kinds == ["missing tar", "unusable line"]


def test_any_file_is_a_list_where_it_is_named_as_one(tmp_path, listing):
    (tmp_path / "pictures").write_text("1.jpg\n")
    assert listing(f"@{tmp_path / 'pictures'}").keys == ["1"]
    (tmp_path / "@odd.jpg").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="nothing at nowhere, of @nowhere,"):
        listing("@nowhere")
    with pytest.raises(ValueError, match="is a folder, expected a text file"):
        listing(f"@{tmp_path}")


def test_a_line_that_names_nothing_is_a_problem_of_its_number(tmp_path, listing):
    (tmp_path / "list.txt").write_bytes(b"1.jpg\n\n2\x00.jpg\n3.jpg\n")
    found = listing(tmp_path / "list.txt")
    assert found.keys == ["1", "3"]
    assert [(p.kind, p.where) for p in found.problems] == [("unusable line", f"line 3 of {tmp_path / 'list.txt'}")]


def test_utf16_is_refused_with_what_to_do(tmp_path, listing):
    (tmp_path / "list.txt").write_text("1.jpg\r\n", encoding="utf-16")
    with pytest.raises(ValueError, match="is in UTF-16; save it as UTF-8"):
        listing(tmp_path / "list.txt")


def test_a_list_is_read_while_it_is_asked_for(tmp_path, monkeypatch):
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{number}.jpg\n" for number in range(1000)))
    read = []
    lines = list_file._lines
    monkeypatch.setattr(list_file, "_lines", lambda named: (read.append(line) or line for line in lines(named)))
    pictures = list_sources([str(path)], on_problem=lambda problem: None)
    next(pictures)
    assert len(read) <= 2
    assert sum(1 for _ in pictures) == 999
