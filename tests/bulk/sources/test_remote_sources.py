"""URLs: a store in memory, files of this machine, and a real HTTP server."""

import json
import sys
from typing import ClassVar

import pytest

from mobile_sam.bulk.items import Place
from mobile_sam.bulk.sources import list_sources
from mobile_sam.bulk.sources.reading import SourceReadError, read_place
from mobile_sam.core.errors import MissingDependencyError


def contents(found):
    return [read_place(listed.place) for listed in found.listed]


def test_a_folder_of_a_store_is_listed_as_one_of_this_machine(memory, listing):
    for name in ("b/1.jpg", "b/c/2.PNG", "a.jpg", ".hidden/3.jpg", "z.txt", "b/.4.jpg"):
        memory(f"/data/{name}", name.encode())
    for source in ("memory://data", "memory://data/"):
        found = listing(source)
        assert found.keys == ["a", "b/1", "b/c/2"]
        assert found.file_names == ["a.jpg", "b/1.jpg", "b/c/2.PNG"]
        assert contents(found) == [b"a.jpg", b"b/1.jpg", b"b/c/2.PNG"]
        assert found.identities == found.paths


@pytest.fixture
def bucket():
    """A store that names things as s3fs does: without a first slash, and the folder itself among what is in it."""
    fsspec = pytest.importorskip("fsspec")

    class Bucket(fsspec.AbstractFileSystem):
        protocol = "fakebucket"
        asked: ClassVar[list[str]] = []
        failures: ClassVar[dict[str, list[Exception]]] = {}
        folders: ClassVar[dict[str, dict[str, str]]] = {
            "b": {"b": "file", "b/in": "directory", "b/1.jpg": "file"},
            "b/in": {"b/in/": "file", "b/in/deep": "directory", "b/in/locked": "directory", "b/in/2.jpg": "file"},
            "b/in/deep": {"b/in/deep/3.jpg": "file"},
            "b/in/locked": {},
        }

        def ls(self, path, detail=True, **kwargs):
            path = self._strip_protocol(path)
            self.asked.append(path)
            if self.failures.get(path):
                raise self.failures[path].pop(0)
            return [{"name": name, "type": kind, "size": 0} for name, kind in self.folders[path].items()]

    fsspec.register_implementation("fakebucket", Bucket, clobber=True)
    return Bucket


def test_a_bucket_is_asked_once_for_each_folder(bucket, listing):
    found = listing("fakebucket://b/")
    assert found.keys == ["1", "in/2", "in/deep/3"]
    assert found.paths[2] == "fakebucket://b/in/deep/3.jpg"
    assert sorted(bucket.asked) == ["b", "b/in", "b/in/deep", "b/in/locked"]


def test_a_folder_that_a_bucket_does_not_give_is_a_problem_after_three_tries(bucket, listing, waited_s):
    bucket.failures.update({"b/in/deep": [OSError("reset")], "b/in/locked": [PermissionError("denied")]})
    found = listing("fakebucket://b/")
    assert found.keys == ["1", "in/2", "in/deep/3"]
    assert [(p.kind, p.where) for p in found.problems] == [("unreadable folder", "fakebucket://b/in/locked")]
    assert waited_s == [0.5]
    bucket.failures["b/in/deep"] = [RuntimeError("of the store's own kind")] * 3
    found = listing("fakebucket://b/")
    assert (found.keys, found.kinds) == (["1", "in/2"], ["unreadable folder"])
    bucket.failures["b"] = [PermissionError("denied")]
    with pytest.raises(PermissionError, match=r"fakebucket://b/ may not be read .*check the credentials"):
        listing("fakebucket://b/")


def test_a_pattern_of_a_store(memory, listing):
    for name in ("x/1.jpg", "x/2.jpg", "y/3.jpg", "x/4.txt"):
        memory(f"/data/{name}", name.encode())
    found = listing("memory://data/*/*.jpg")
    assert (found.keys, contents(found)) == (["x/1", "x/2", "y/3"], [b"x/1.jpg", b"x/2.jpg", b"y/3.jpg"])
    assert listing("memory://data/x/{1..2}.jpg").keys == ["1", "2"]
    assert listing("memory://data/*").keys == ["x/1", "x/2", "y/3"]
    with pytest.raises(FileNotFoundError, match="nothing fits the pattern"):
        listing("memory://data/*.png")


def test_what_a_store_does_not_have_is_an_error(memory, listing):
    memory("/data/1.jpg")
    for source in ("memory://nowhere/", "memory://nowhere", "memory://data/2.jpg", "memory://data/2.tar"):
        with pytest.raises(FileNotFoundError, match="nothing at memory://"):
            listing(source)


def test_a_tar_of_a_store_is_read_by_its_headers(memory, listing, make_tar):
    memory("/t/a.tar", make_tar(("1.jpg", b"one"), ("1.json", b"{}"), ("s/2.png", b"two"), ("1.jpg", b"again")))
    memory("/t/b.tar", make_tar(("3.jpg", b"three")))
    found = listing("memory://t/a.tar")
    assert (found.keys, contents(found), found.kinds) == (["1", "s/2"], [b"one", b"two"], ["repeated key"])
    assert found.listed[0].place == Place("memory://t/a.tar", 512, 3)
    assert listing("memory://t").keys == ["1", "s/2", "3"]
    assert listing("memory://t", shard=(1, 2)).keys == ["3"]


def test_damage_in_a_tar_of_a_store_is_told(memory, listing, make_tar):
    whole = make_tar(("1.jpg", b"x" * 600), ("2.jpg", b"y" * 600))
    memory("/t/cut.tar", whole[: 512 + 1024 + 512 + 100])
    memory("/t/gz.tar", b"\x1f\x8b" + bytes(600))
    memory("/t/none.tar", b"no tar" * 200)
    found = listing("memory://t")
    assert found.keys == ["1"]
    assert found.kinds == ["truncated tar", "unreadable tar", "unreadable tar"]
    assert ["before that" in p.message or "compressed" in p.message for p in found.problems] == [True] * 3


def test_lists_and_coco_files_of_a_store_name_what_lies_beside_them(memory, listing):
    memory("/bucket/d/list.txt", b"\xef\xbb\xbfa/1.jpg\r\n../e/2.jpg\r\nmemory://f/3.jpg\r\n")
    found = listing("memory://bucket/d/list.txt")
    assert found.paths == ["memory://bucket/d/a/1.jpg", "memory://bucket/e/2.jpg", "memory://f/3.jpg"]
    assert found.keys == ["a/1", "bucket/e/2", "f/3"]
    assert listing("@memory://bucket/d/list.txt").paths == found.paths
    memory("/d/coco.json", json.dumps({"images": [{"id": 4, "file_name": "s/x.jpg"}]}).encode())
    assert listing("memory://d/coco.json").paths == ["memory://d/x.jpg"]
    memory("/d/images/s/x.jpg", b"x")
    found = listing("memory://d/coco.json")
    assert (found.paths, found.listed[0].source_id) == (["memory://d/images/s/x.jpg"], 4)
    assert contents(found) == [b"x"]


def test_urls_of_this_machine_are_its_paths(put, listing):
    folder = put("a/1.jpg", "2.jpg", folder="in")
    assert listing(folder.as_uri()).listed == listing(folder).listed
    assert listing(folder.as_uri() + "/*.jpg").keys == ["2"]


def test_chained_urls_reach_into_archives(tmp_path, listing):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("s/1.jpg", b"one")
        archive.writestr("2.jpg", b"two")
    found = listing(f"zip://::{(tmp_path / 'a.zip').as_uri()}")
    assert (found.keys, contents(found)) == (["2", "s/1"], [b"two", b"one"])


def test_a_picture_and_a_tar_are_read_over_http_in_parts(server, listing, put, put_tar):
    put("a b/1.jpg", folder="www")
    put_tar("www/t.tar", ("x.jpg", b"x" * 3000), ("y.jpg", b"y" * 700_000), ("z.jpg", b"z" * 10))
    found = listing(f"{server.url}/a%20b/1.jpg", f"{server.url}/t.tar")
    assert found.keys == ["1", "x", "y", "z"]
    assert contents(found) == [b"a b/1.jpg", b"x" * 3000, b"y" * 700_000, b"z" * 10]
    ranges = [line for line in server.handler.asked if line.startswith("/t.tar bytes=")]
    assert f"/t.tar bytes=512-{512 + 2999}" in ranges


def test_ranges_lists_and_pages_of_links_work_over_http(server, listing, put):
    put("in/1.jpg", "in/2.jpg", "in/sub/3.jpg", folder="www")
    (put(folder="www") / "list.txt").write_text("in/1.jpg\n")
    assert listing(f"{server.url}/in/{{1..2}}.jpg").keys == ["1", "2"]
    assert listing(f"{server.url}/list.txt").keys == ["in/1"]
    assert listing(f"{server.url}/in/*.jpg").keys == ["1", "2"]
    found = listing(f"{server.url}/in/")
    assert (found.keys, contents(found)) == (["1", "2", "sub/3"], [b"in/1.jpg", b"in/2.jpg", b"in/sub/3.jpg"])


def test_http_answers_are_told_apart(server, put):
    put("1.jpg", folder="www")
    place = Place(f"{server.url}/1.jpg")

    def kind_of(*statuses):
        server.handler.statuses[:] = statuses
        server.handler.asked.clear()
        try:
            return read_place(place), len(server.handler.asked)
        except SourceReadError as error:
            return error.kind, len(server.handler.asked)

    assert kind_of() == (b"1.jpg", 1)
    assert kind_of(503, 500) == (b"1.jpg", 3)
    assert kind_of(503, 503, 503) == ("unreadable picture", 3)
    assert kind_of(404) == ("missing picture", 1)
    assert kind_of(403) == ("unreadable picture", 1)


def test_a_server_that_cannot_give_parts_is_named(server, put_tar, listing):
    path = put_tar("www/t.tar", *((f"{number}.jpg", bytes(300_000)) for number in range(4)))
    server.handler.answers_ranges = False
    found = listing(f"{server.url}/t.tar")
    assert (found.keys, found.kinds) == ([], ["unreadable tar"])
    with pytest.raises(SourceReadError, match=r"came whole where a part was asked for.*download it first"):
        read_place(Place(f"{server.url}/{path.name}", 512, 300_000))


def test_a_server_that_is_not_there_cannot_be_reached(server, listing):
    server.close()
    for name in ("1.jpg", "t.tar", "folder/", "list.txt"):
        with pytest.raises(OSError, match="cannot be reached") as raised:
            listing(f"{server.url}/{name}")
        assert not isinstance(raised.value, FileNotFoundError)
    with pytest.raises(SourceReadError, match="cannot be reached") as unread:
        read_place(Place(f"{server.url}/1.jpg"))
    assert unread.value.kind == "unreadable picture"


@pytest.mark.parametrize(("url", "package"), [("s3://bucket/x/", "s3fs"), ("gs://bucket/x/", "gcsfs")])
def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch, url, package):
    pytest.importorskip("fsspec")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"pip install {package}") as raised:
        list_sources([url], on_problem=lambda problem: None)
    assert raised.value.name == package


def test_without_fsspec_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'mobile-sam\[bulk\]'"):
        list_sources(["memory://x/"], on_problem=lambda problem: None)


def test_kinds_of_urls_that_do_not_exist_are_refused(listing):
    with pytest.raises(ValueError, match="of no known kind"):
        listing("nonsense://x/1.jpg")
    with pytest.raises(ValueError, match="is a stream"):
        listing("pipe:cat x.tar")
