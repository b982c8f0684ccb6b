"""Datasets as values: counts, choices of pictures, and what an instance tells of its mask."""

import hashlib
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mobile_sam.core.masks import encode_rle
from mobile_sam.data.folders import sha256_of_listing
from mobile_sam.data.records import Dataset, Instance, Picture, Problem

L_SHAPE = np.array([[1, 0, 0], [1, 1, 0]], bool)


def instance(name: str) -> Instance:
    return Instance(name, encode_rle(L_SHAPE), (0.0, 0.0, 2.0, 2.0), 3.5)


def dataset(num_pictures: int, **fields) -> Dataset:
    """Picture k has k objects."""
    pictures = (
        Picture(f"p{k}", Path(f"p{k}.png"), tuple(instance(f"{k}/{i}") for i in range(k))) for k in range(num_pictures)
    )
    return Dataset("set", "coco", "0" * 64, tuple(pictures), **fields)


def test_an_instance_decodes_its_mask_and_counts_its_pixels_whatever_area_was_annotated():
    assert_array_equal(instance("a").mask, L_SHAPE)
    assert instance("a").mask.dtype == bool
    assert instance("a").mask_px == 3
    assert instance("a").area_px == 3.5


def test_writing_on_a_decoded_mask_does_not_change_the_instance():
    one = instance("a")
    one.mask[:] = False
    assert one.mask_px == one.mask.sum() == 3
    with pytest.raises(FrozenInstanceError):
        one.area_px = 1.0


def test_objects_are_counted_over_all_pictures():
    assert dataset(4).num_instances == 0 + 1 + 2 + 3
    assert dataset(0).num_instances == 0


def test_the_hash_of_the_pictures_follows_their_ids_and_the_sizes_of_their_files(tmp_path):
    def hash_of(*pictures):
        return Dataset("set", "coco", "0" * 64, tuple(Picture(name, tmp_path / file) for name, file in pictures))

    (tmp_path / "a.png").write_bytes(b"four")
    (tmp_path / "b.png").write_bytes(b"seven..")
    both = hash_of(("1", "a.png"), ("2", "b.png"))
    assert both.pictures_sha256 == hashlib.sha256(b"1 4\n2 7\n").hexdigest()
    assert both.some(1).pictures_sha256 == hashlib.sha256(b"1 4\n").hexdigest()
    assert hash_of(("2", "b.png"), ("1", "a.png")).pictures_sha256 == both.pictures_sha256  # in any order
    (tmp_path / "b.png").write_bytes(b"longer than it was")
    assert both.pictures_sha256 == hashlib.sha256(b"1 4\n2 18\n").hexdigest()
    (tmp_path / "b.png").unlink()
    assert both.pictures_sha256 == hashlib.sha256(b"1 4\n2 -1\n").hexdigest()


def test_ids_that_are_no_unicode_have_a_hash_too():
    hashes = {sha256_of_listing([(name, Path("gone.png"))]) for name in ("\ud800", "\udc80", "a")}
    assert len(hashes) == 3


def test_problems_are_counted_by_kind_the_most_frequent_first():
    problems = [Problem(kind, f"annotation {index}", "...") for index, kind in enumerate("abcbcb")]
    assert list(dataset(1, problems=tuple(problems)).count_problems().items()) == [("b", 3), ("c", 2), ("a", 1)]
    assert dataset(1).count_problems() == {}


def test_the_first_pictures_are_kept_with_what_was_wrong_and_the_choice_in_words():
    problem = Problem("crowd mask", "annotation 17", "...")
    some = dataset(5, problems=(problem,)).some(2)
    assert [picture.id for picture in some.pictures] == ["p0", "p1"]
    assert some.selection == "the first 2 pictures"
    assert some.problems == (problem,)
    assert (some.name, some.kind, some.sha256) == ("set", "coco", "0" * 64)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pictures_chosen_with_a_seed_are_distinct_in_order_and_the_same_again(seed):
    ids = [picture.id for picture in dataset(9).some(4, seed).pictures]
    assert len(set(ids)) == 4
    assert ids == sorted(ids)
    assert ids == [picture.id for picture in dataset(9).some(4, seed).pictures]
    assert dataset(9).some(4, seed).selection == f"4 pictures chosen with seed {seed}"


def test_other_seeds_choose_other_pictures_and_each_picture_has_its_turn():
    choices = {tuple(picture.id for picture in dataset(9).some(3, seed).pictures) for seed in range(40)}
    assert len(choices) > 20
    assert {picture_id for choice in choices for picture_id in choice} == {f"p{k}" for k in range(9)}


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("num_pictures", [3, 4, 1000])
def test_as_many_pictures_as_there_are_or_more_is_all_of_them(num_pictures, seed):
    some = dataset(3).some(num_pictures, seed)
    assert some.pictures == dataset(3).pictures
    assert some.selection == "all pictures"


@pytest.mark.parametrize("seed", [None, 3])
def test_pictures_that_were_passed_over_are_known_by_their_ids(seed):
    once = dataset(6).some(4, seed)
    twice = once.some(2, seed)
    for some in (once, twice):
        assert some.passed_over == {f"p{k}" for k in range(6)} - {picture.id for picture in some.pictures}
    assert dataset(6).some(6, seed).passed_over == frozenset()


@pytest.mark.parametrize("num_pictures", [0, -1])
def test_less_than_one_picture_is_refused(num_pictures):
    with pytest.raises(ValueError, match=f"at least 1, got {num_pictures}"):
        dataset(3).some(num_pictures)
