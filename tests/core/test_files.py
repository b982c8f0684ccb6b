"""Files that appear whole or not at all."""

import os
import stat

import pytest

from mobile_sam.core.files import atomic_folder, atomic_path


def write_text_atomic(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_the_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "result.json"
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
        assert temporary.suffix == ".json"
        assert temporary.parent == tmp_path
    assert target.read_text() == "new"
    assert names(tmp_path) == ["result.json"]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "result.json"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert names(tmp_path) == ["result.json"]


def test_an_existing_file_is_replaced(tmp_path):
    target = tmp_path / "notes.txt"
    target.write_text("old and longer")
    write_text_atomic(target, "new")
    assert target.read_text() == "new"


def test_text_is_utf_8_with_the_line_ends_it_has(tmp_path):
    target = tmp_path / "notes.txt"
    write_text_atomic(target, "é\nß\r\n")
    assert target.read_bytes() == b"\xc3\xa9\n\xc3\x9f\r\n"


@pytest.mark.skipif(os.name == "nt", reason="permissions are POSIX")
def test_the_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_text_atomic(tmp_path / "atomic", "")
    assert stat.S_IMODE((tmp_path / "atomic").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_is_followed_and_stays_a_link(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_text_atomic(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_a_long_name_is_no_obstacle(tmp_path):
    target = tmp_path / ("n" * 250 + ".txt")
    write_text_atomic(target, "x")
    assert target.read_text() == "x"


def test_a_relative_path_is_written_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text_atomic("here.txt", "x")
    assert names(tmp_path) == ["here.txt"]


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("missing/a.txt", FileNotFoundError, "does not exist; create it first"),
        ("file/a.txt", NotADirectoryError, "is a file, not a folder"),
        ("folder", IsADirectoryError, "it is a folder"),
    ],
)
def test_a_place_where_no_file_can_be_is_refused_by_name(tmp_path, name, error, words):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(error, match=words) as caught:
        write_text_atomic(tmp_path / name, "x")
    assert str(tmp_path / name) in str(caught.value)
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are POSIX")
def test_a_pipe_or_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        write_text_atomic(tmp_path / "pipe", "x")
    assert names(tmp_path) == ["pipe"]


@pytest.mark.parametrize("is_there", [False, True])
def test_an_error_leaves_the_folder_as_it_was(tmp_path, is_there):
    target = tmp_path / "out" / "cat"
    if is_there:
        target.mkdir(parents=True)
        (target / "old").touch()

    def fill():
        with atomic_folder(target, replaces=is_there) as folder:
            (folder / "new").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert os.listdir(tmp_path / "out") == ["cat"] * is_there
    assert not is_there or os.listdir(target) == ["old"]


def test_a_folder_that_cannot_take_its_place_gives_the_old_one_back(tmp_path, monkeypatch):
    target = tmp_path / "cat"
    target.mkdir()
    (target / "old").touch()
    rename, calls = os.rename, []

    def fail_once(source, destination):
        calls.append(destination)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, destination)

    monkeypatch.setattr(os, "rename", fail_once)
    with pytest.raises(KeyboardInterrupt), atomic_folder(target, replaces=True):
        pass
    assert os.listdir(tmp_path) == ["cat"]
    assert os.listdir(target) == ["old"]
