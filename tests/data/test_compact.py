"""Names and files end to end: they behave as lists, and cost little."""

import pickle
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobile_sam.data.compact import Blobs, Names, repeats_of


@settings(deadline=None)
@given(st.lists(st.binary()))
def test_blobs_are_a_sequence_as_a_list_is(parts):
    blobs = Blobs.of(parts)
    assert list(blobs) == parts
    assert blobs[1:-1] == parts[1:-1]
    assert [blobs[-1 - place] for place in range(len(parts))] == parts[::-1]
    assert list(blobs.take(range(len(parts) - 1, -1, -1))) == parts[::-1]
    with pytest.raises(IndexError):
        blobs[len(parts)]
    with pytest.raises(IndexError):
        blobs[-len(parts) - 1]


def test_names_that_are_no_unicode_come_back_as_the_file_system_gave_them():
    names = ["ünder", b"\xff\xfe".decode("utf-8", "surrogateescape"), ""]
    assert list(pickle.loads(pickle.dumps(Names.of(names)))) == names
    assert Names.of(names)[:2] == names[:2]
    assert Names.of(names) != Names.of(names[:2])


def test_ten_thousand_names_take_little_more_than_their_letters():
    names = Names.of(f"sa_{number:06}" for number in range(10_000))
    assert sys.getsizeof(names.blobs.content) + names.blobs.ends.nbytes < 10_000 * (9 + 8) + 1000


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", "d"])))
def test_each_repeat_is_found_with_the_first_of_its_name(names):
    assert repeats_of(names) == {
        place: names.index(name) for place, name in enumerate(names) if names.index(name) < place
    }


def test_names_of_equal_hashes_are_no_repeats(monkeypatch):
    monkeypatch.setattr("builtins.hash", lambda _: 7)
    assert repeats_of(["a", "b", "a"]) == {2: 0}
