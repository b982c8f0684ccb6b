"""Shards share nothing, leave nothing out, and know nothing of each other."""

import shutil
from itertools import chain

import pytest

from mobile_sam.bulk.sources import list_sources, tars


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shards_of_folders_are_disjoint_and_together_all(put, listing, count):
    folder = put(*(f"{number % 7}/{number}.jpg" for number in range(400)), folder="in")
    other = put("x.jpg", "y.jpg", folder="other")
    everything = listing(folder, other)
    shards = [listing(folder, other, shard=(number, count)).listed for number in range(count)]
    together = [listed for shard in shards for listed in shard]
    assert len(together) == len(everything.listed) == 402
    assert set(together) == set(everything.listed)
    assert all(200 / count < len(shard) < 800 / count for shard in shards)


def test_the_place_of_the_folder_makes_no_difference(put, listing, tmp_path):
    folder = put(*(f"{number}.jpg" for number in range(50)), folder="in")
    before = listing(folder, shard=(1, 3)).keys
    shutil.copytree(folder, tmp_path / "mounted" / "elsewhere")
    assert listing(tmp_path / "mounted" / "elsewhere", shard=(1, 3)).keys == before != []


def test_keys_that_collide_are_in_one_shard_whatever_their_source_and_case(put, listing):
    one = put(*(f"{number}a.jpg" for number in range(30)), *(f"{number}a.png" for number in range(30)), folder="one")
    two = put(*(f"{number}A.jpg" for number in range(30)), folder="two")
    shards = [{key.lower() for key in listing(one, two, shard=(number, 5)).keys} for number in range(5)]
    assert sum(map(len, shards)) == len(set().union(*shards)) == 30


@pytest.mark.parametrize("count", [2, 3, 5])
def test_shards_of_tars_are_whole_tars_and_open_no_others(put_tar, listing, tmp_path, monkeypatch, count):
    for number in range(5):
        put_tar(f"t/{number}.tar", (f"{number}x.jpg", b"1"), (f"{number}y.jpg", b"2"))
    opened = []
    index_tar = tars.index_tar
    monkeypatch.setattr(tars, "index_tar", lambda path: opened.append(path) or index_tar(path))
    shards = [listing(tmp_path / "t", shard=(number, count)).keys for number in range(count)]
    assert len(opened) == 5
    assert sorted(chain(*shards)) == listing(tmp_path / "t").keys
    assert shards[1][:2] == ["1x", "1y"]
    assert max(map(len, shards)) - min(map(len, shards)) <= 2


def test_few_tars_are_shared_by_their_pictures(put_tar, listing, tmp_path):
    put_tar("a.tar", *((f"{number}.jpg", b"1") for number in range(60)))
    shards = [listing(tmp_path / "a.tar", shard=(number, 3)).keys for number in range(3)]
    assert sorted(chain(*shards), key=int) == [str(number) for number in range(60)]
    assert min(map(len, shards)) > 5


def test_a_tar_that_is_named_twice_is_in_one_shard(put_tar, listing, tmp_path):
    for name in "abc":
        put_tar(f"{name}.tar", (f"{name}.jpg", b"1"))
    sources = [tmp_path / "*.tar", tmp_path / "b.tar"]
    assert [listing(*sources, shard=(number, 2)).keys for number in range(2)] == [["a", "c"], ["b"]]


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 0)])
def test_a_shard_that_is_none_is_refused(put, shard):
    with pytest.raises(ValueError, match="shard must be"):
        list_sources([str(put("1.jpg"))], shard=shard, on_problem=lambda problem: None)
