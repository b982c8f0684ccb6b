"""Folders with sub-folders: what is listed, in which order, at which cost, and what links do."""

import os
import sys

import pytest

from mobile_sam.bulk.sources import folders, list_sources, local_roots

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need a right on Windows")


def test_pictures_below_are_listed_by_name_before_those_of_sub_folders(put, listing):
    folder = put("b/2.PNG", "b/1.jpg", "a.jpg", "c/d/e.webp", "notes.txt", ".hidden.jpg", ".cache/x.jpg", "z.tiff")
    found = listing(folder)
    assert found.keys == ["a", "z", "b/1", "b/2", "c/d/e"]
    assert found.file_names == ["a.jpg", "z.tiff", "b/1.jpg", "b/2.PNG", "c/d/e.webp"]
    assert found.paths == [os.path.join(folder, name) for name in found.file_names]
    assert found.identities == [os.path.realpath(path) for path in found.paths]
    assert found.problems == []


def test_a_relative_folder_gives_absolute_places(put, listing, tmp_path, monkeypatch):
    put("in/1.jpg")
    monkeypatch.chdir(tmp_path)
    assert listing("in").paths == [str(tmp_path / "in" / "1.jpg")]
    assert local_roots(["in", "in"]) == (str(tmp_path / "in"),)


@needs_links
def test_links_in_circles_end(put, listing):
    folder = put("a/1.jpg", "b/2.jpg")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "a" / "self").symlink_to("self")
    (folder / "b" / "across").symlink_to(folder / "a")
    found = listing(folder)
    assert found.keys == ["a/1", "b/2"]
    assert [(p.kind, p.where, p.is_left_out) for p in found.problems] == [
        ("repeated folder", str(folder / "a" / "up"), False),
        ("repeated folder", str(folder / "b" / "across"), False),
    ]


@needs_links
def test_what_lies_behind_links_is_identified_by_its_real_path(put, listing, tmp_path):
    put("real/sub/1.jpg", "real/2.jpg", folder="elsewhere")
    folder = put("3.jpg", folder="in")
    (folder / "linked").symlink_to(tmp_path / "elsewhere" / "real")
    (folder / "again.jpg").symlink_to(folder / "3.jpg")
    found = listing(folder)
    assert found.keys == ["3", "again", "linked/2", "linked/sub/1"]
    real = str(tmp_path / "elsewhere" / "real")
    assert found.identities == [
        str(folder / "3.jpg"), str(folder / "3.jpg"), os.path.join(real, "2.jpg"), os.path.join(real, "sub", "1.jpg")
    ]  # fmt: skip
    assert found.paths[2] == str(folder / "linked" / "2.jpg")


@needs_links
def test_a_source_that_is_a_link_has_the_identities_of_what_it_leads_to(put, listing, tmp_path):
    folder = put("1.jpg", "a/2.jpg", folder="in")
    (tmp_path / "link").symlink_to(folder)
    assert listing(tmp_path / "link").identities == listing(folder).identities


@needs_links
def test_a_broken_link_and_a_named_pipe_are_no_pictures(put, listing):
    folder = put("1.jpg")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")
    found = listing(folder)
    assert (found.keys, found.kinds) == (["1"], ["missing picture"])


def test_an_unreadable_folder_is_a_problem_and_the_rest_goes_on(put, listing, monkeypatch):
    folder = put("a/1.jpg", "b/2.jpg", "c/3.jpg")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(folders.os, "scandir", refuse)
    found = listing(folder)
    assert found.keys == ["a/1", "c/3"]
    assert [(p.kind, p.where) for p in found.problems] == [("unreadable folder", str(folder / "b"))]
    with pytest.raises(PermissionError, match=r"b cannot be listed.*check who may read it"):
        listing(folder / "b")


def test_a_source_that_is_not_there_is_an_error_before_anything_is_listed(put, tmp_path):
    folder = put("1.jpg")
    with pytest.raises(FileNotFoundError, match=r"nothing at .*nowhere.*check the spelling"):
        list_sources([str(folder), str(tmp_path / "nowhere")], on_problem=lambda problem: None)


def test_a_folder_without_pictures_lists_nothing(put, listing):
    found = listing(put("notes.txt"))
    assert (found.keys, found.problems) == ([], [])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_names_that_are_no_utf8_are_listed_and_can_be_read(tmp_path, listing):
    from mobile_sam.bulk.sources.reading import read_place

    (tmp_path / "in").mkdir()
    for name in (b"caf\xe9.jpg", b"d\xff/x.jpg", b"a<b>?.jpg"):
        path = os.path.join(os.fsencode(tmp_path / "in"), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(name)
    found = listing(tmp_path / "in")
    assert found.keys == ["a%3Cb%3E%3F", "caf%E9", "d%FF/x"]
    assert found.file_names == ["a<b>?.jpg", "caf%E9.jpg", "d%FF/x.jpg"]
    assert [read_place(listed.place) for listed in found.listed] == [b"a<b>?.jpg", b"caf\xe9.jpg", b"d\xff/x.jpg"]
    for listed in found.listed:
        (listed.key + listed.file_name).encode()


def test_tars_among_pictures_are_told_not_read(put, listing):
    folder = put("1.jpg", "x.tar", "sub/y.tar", "sub/z.tar")
    found = listing(folder)
    assert found.keys == ["1"]
    assert [(p.kind, p.where) for p in found.problems] == [
        ("tars among pictures", str(folder)), ("tars among pictures", str(folder / "sub"))
    ]  # fmt: skip


def test_two_thousand_files_are_listed_lazily_and_without_asking_about_each(tmp_path, monkeypatch):
    for number in range(20):
        (tmp_path / f"{number:02}").mkdir()
        for name in range(100):
            os.close(os.open(tmp_path / f"{number:02}" / f"{name:04}.jpg", os.O_CREAT | os.O_WRONLY))
    asked: list[str] = []
    scanned: list[str] = []
    for name in ("stat", "lstat"):
        ask = getattr(os, name)
        monkeypatch.setattr(os, name, lambda path, *a, ask=ask, **k: asked.append(str(path)) or ask(path, *a, **k))
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(str(path)) or scandir(path))
    pictures = list_sources([str(tmp_path)], on_problem=lambda problem: None)
    first = next(pictures)
    assert first.key == "00/0000"
    assert len(set(scanned)) == 2  # the top, and the first folder
    assert sum(1 for _ in pictures) == 1_999
    assert not [path for path in asked if path.endswith(".jpg")]
    assert len(asked) < 100
