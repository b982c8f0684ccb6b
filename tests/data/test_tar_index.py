"""What is found in a tar, whole or not, and that it is found again."""

import io
import json
import tarfile

import numpy as np
import pytest

from mobile_sam.data import tar_index
from mobile_sam.data.tar_index import index_tar


def kinds_of(index):
    return [(problem.kind, problem.where) for problem in index.problems]


def content_of(path, span):
    start, size_bytes = span.tolist()
    return path.read_bytes()[start : start + size_bytes]


def test_pictures_and_annotations_are_found_where_they_lie(put_tar, make_jpeg, make_json):
    path = put_tar("sa.tar", 1, 2, ("sub/b.PNG", b"png"), ("notes.txt", b"x"), ("README", b"x"), ("._sa_1.jpg", b"x"))
    index = index_tar(path)
    assert (list(index.keys), index.problems) == (["sa_1", "sa_2", "sub/b"], ())
    assert [content_of(path, span) for span in index.picture_spans] == [make_jpeg(1), make_jpeg(2), b"png"]
    assert [content_of(path, span) for span in index.annotation_spans[:2]] == [make_json(1), make_json(2)]
    assert index.annotation_spans[2].tolist() == [-1, -1]
    assert [tar_index.PICTURE_SUFFIXES[number] for number in index.suffix_numbers] == [".jpg", ".jpg", ".png"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_other_alphabets_are_read_in_every_form_of_tar(tmp_path, form):
    name = f"{'folder/' * 12}ünder{'x' * 60}"
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        info = tarfile.TarInfo(f"{name}.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    index = index_tar(tmp_path / "a.tar")
    assert list(index.keys) == [name]
    assert content_of(tmp_path / "a.tar", index.picture_spans[0]) == b"abc"


@pytest.mark.parametrize(
    ("cut_in", "at", "keys", "kind"),
    [
        ("./sa_3.jpg", 700, ["sa_1", "sa_2"], "truncated tar"),
        ("./sa_3.jpg", 512, ["sa_1", "sa_2"], "truncated tar"),
        ("./sa_3.jpg", 100, ["sa_1", "sa_2"], "truncated tar"),
        ("./sa_3.jpg", 0, ["sa_1", "sa_2"], "truncated tar"),
        ("./sa_2.json", 600, ["sa_1"], "truncated tar"),
        ("./sa_1.jpg", 600, [], "truncated tar"),
        ("./sa_1.jpg", 100, [], "unreadable tar"),
        ("./sa_1.jpg", 0, [], "unreadable tar"),
    ],
)
def test_of_a_tar_that_is_cut_all_whole_samples_are_used(put_tar, cut_in, at, keys, kind):
    path = put_tar("sa.tar", 1, 2, 3)
    with tarfile.open(path) as tar:
        offset = tar.getmember(cut_in).offset
    path.write_bytes(path.read_bytes()[: offset + at])
    index = index_tar(path)
    assert list(index.keys) == keys
    assert kinds_of(index) == [(kind, str(path))]
    assert (f"up to {keys[-1]} are used" if keys else "holds no whole sample") in index.problems[0].message


def test_what_comes_before_damage_in_the_middle_is_used(put_tar):
    path = put_tar("sa.tar", 1, 2, 3)
    with tarfile.open(path) as tar:
        offset = tar.getmember("./sa_2.jpg").offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 512] = b"\xaa" * 512
    path.write_bytes(content)
    index = index_tar(path)
    assert list(index.keys) == ["sa_1"]
    assert kinds_of(index) == [("damaged tar", str(path))]
    assert f"byte {offset}" in index.problems[0].message


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_a_file_that_is_no_tar_is_a_problem(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    index = index_tar(tmp_path / "a.tar")
    assert len(index.keys) == 0
    assert kinds_of(index) == [("unreadable tar", str(tmp_path / "a.tar"))]


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_compressed_tar_is_refused_with_advice(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", f"w:{kind}"):
        pass
    with pytest.raises(ValueError, match=r"a\.tar is compressed .*unpack it first"):
        index_tar(tmp_path / "a.tar")


def test_of_a_key_that_comes_twice_the_first_stays(put_tar, make_jpeg):
    path = put_tar("sa.tar", 1, 2, ("sa_1.jpg", make_jpeg(9)), ("sa_1.json", b"{}"), ("sa_2.png", b"png"))
    index = index_tar(path)
    assert list(index.keys) == ["sa_1", "sa_2"]
    assert content_of(path, index.picture_spans[0]) == make_jpeg(1)
    assert kinds_of(index) == [("repeated key", "sa_1"), ("repeated key", "sa_2")]


def test_annotations_without_a_picture_are_a_problem(put_tar, make_json):
    index = index_tar(put_tar("sa.tar", 1, ("sa_2.json", make_json(2))))
    assert list(index.keys) == ["sa_1"]
    assert kinds_of(index) == [("sample without picture", "sa_2")]


def test_a_kept_index_is_used_until_the_tar_changes(put_tar, tmp_path, monkeypatch):
    path = put_tar("sa.tar", 1, 2)
    path.write_bytes(path.read_bytes()[:-9000])  # so that there is a problem to keep too
    first = index_tar(path, tmp_path / "kept")
    with monkeypatch.context() as patched:
        patched.setattr(tar_index, "_read_headers", None)
        again = index_tar(path, tmp_path / "kept")
    assert (list(again.keys), again.problems) == (list(first.keys), first.problems)
    for name in ("picture_spans", "annotation_spans", "suffix_numbers"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
        assert getattr(again, name).dtype == getattr(first, name).dtype
    put_tar("sa.tar", 1, 2, 3)
    assert list(index_tar(path, tmp_path / "kept").keys) == ["sa_1", "sa_2", "sa_3"]
    assert len(list((tmp_path / "kept").iterdir())) == 1


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[: len(content) // 2], lambda _: b"PK"])
def test_a_damaged_index_is_made_anew(put_tar, tmp_path, damage):
    path = put_tar("sa.tar", 1)
    index_tar(path, tmp_path)
    (kept,) = tmp_path.glob("*.npz")
    kept.write_bytes(damage(kept.read_bytes()))
    assert list(index_tar(path, tmp_path).keys) == ["sa_1"]
    with np.load(kept) as arrays:
        assert json.loads(str(arrays["problems"])) == []


def test_where_no_index_can_be_kept_the_tar_is_read_all_the_same(put_tar, tmp_path):
    path = put_tar("sa.tar", 1)
    assert list(index_tar(path, path / "below a file").keys) == ["sa_1"]
