"""Tars: each picture by its place."""

import gzip

import pytest

from mobile_sam.bulk.items import Place
from mobile_sam.bulk.sources.reading import read_place

MEMBERS = (("./sa_1.jpg", b"one"), ("./sa_1.json", b"{}"), ("sub/b.seg.PNG", b"two!"), ("notes.txt", b"x"))


def test_pictures_are_named_as_webdataset_names_them_and_read_back(put_tar, listing):
    path = put_tar("sa.tar", *MEMBERS, ("c.webp", b""))
    found = listing(path)
    # "b.seg.PNG" is key "sub/b" with extension "seg.png", which is no picture's
    assert (found.keys, found.file_names) == (["sa_1", "c"], ["sa_1.jpg", "c.webp"])
    assert [read_place(listed.place) for listed in found.listed] == [b"one", b""]
    assert found.listed[0].place == Place(str(path), 512, 3)  # a header is 512 bytes
    assert len(set(found.identities)) == 2


def test_a_folder_of_tars_is_listed_tar_by_tar(put_tar, listing, tmp_path):
    put_tar("t/b.tar", ("3.jpg", b"3"))
    put_tar("t/a.tar", ("1.jpg", b"1"), ("2.jpg", b"2"))
    put_tar("t/sub/c.tar", ("4.jpg", b"4"))
    assert listing(tmp_path / "t").keys == ["1", "2", "3"]
    assert listing(tmp_path / "t" / "*.tar").keys == ["1", "2", "3"]
    assert listing(tmp_path / "t" / "{a..b}.tar".replace("{a..b}", "a")).keys == ["1", "2"]


def test_a_compressed_tar_is_refused(put_tar, listing, tmp_path):
    path = put_tar("a.tar", *MEMBERS)
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ValueError, match=r"b\.tar\.gz is compressed.*unpack it first"):
        listing(tmp_path / "b.tar.gz")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "c.tar").write_bytes(gzip.compress(path.read_bytes()))
    put_tar("in/d.tar", *MEMBERS)
    found = listing(tmp_path / "in")
    assert (found.keys, found.kinds) == (["sa_1"], ["unreadable tar"])
    assert "compressed" in found.problems[0].message


def test_what_is_whole_in_a_tar_that_is_cut_is_listed(put_tar, listing):
    path = put_tar("a.tar", ("1.jpg", b"x" * 600), ("2.jpg", b"y" * 600))
    path.write_bytes(path.read_bytes()[: 512 + 1024 + 512 + 100])
    found = listing(path)
    assert (found.keys, found.kinds) == (["1"], ["truncated tar"])


def test_a_picture_has_one_identity_through_whatever_link(put_tar, listing, tmp_path):
    path = put_tar("a.tar", *MEMBERS)
    try:
        (tmp_path / "b.tar").symlink_to(path)
    except OSError:
        pytest.skip("no links here")
    assert listing(path).identities == listing(tmp_path / "b.tar").identities
