import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobile_sam.bulk.items import Listed, Place
from mobile_sam.bulk.manifest import Manifest
from mobile_sam.bulk.manifest_names import Names, fold

KEYS = st.lists(st.text(alphabet=["a", "A", "é", "e", "\u0301", "~", "2", "3"], min_size=1, max_size=4), max_size=12)


def given_names(keys: list[str]) -> list[str]:
    """What keys become, as `Manifest.list_items` names them."""
    names = Names()
    for number, key in enumerate(keys):
        names.claim(number + 1, key)
    found = list(keys)
    for item_id in list(names.late()):
        found[item_id - 1] = names.rename(keys[item_id - 1])
    names.close()
    return found


def test_keys_that_are_the_same_are_numbered_in_their_order() -> None:
    assert given_names(["a", "b", "a", "A", "a"]) == ["a", "b", "a~2", "A~3", "a~4"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["a", "a", "a~2"], ["a", "a~3", "a~2"]),  # the real a~2 keeps its name though it comes later
        (["a~2", "a", "a"], ["a~2", "a", "a~3"]),
        (["a", "a", "A~2", "a~2"], ["a", "a~3", "A~2", "a~2~2"]),
        (["a~2", "a~2"], ["a~2", "a~2~2"]),
    ],
)
def test_a_key_that_looks_numbered_is_a_key_like_others(keys: list[str], expected: list[str]) -> None:
    assert given_names(keys) == expected


def test_one_name_in_two_forms_of_unicode_is_the_same() -> None:
    assert given_names(["caf\u00e9", "cafe\u0301", "CAF\u00c9"]) == ["caf\u00e9", "cafe\u0301~2", "CAF\u00c9~3"]
    assert fold("straße") == fold("STRASSE")
    assert fold("cafe") != fold("café")


@given(keys=KEYS)
@settings(max_examples=200, deadline=None)
def test_names_are_unique_everywhere_and_only_late_ones_change(keys: list[str]) -> None:
    found = given_names(keys)
    # the two questions that file systems ask, each alone and both at once
    assert len({name.casefold() for name in found}) == len(keys)
    assert len({unicodedata.normalize("NFC", name).casefold() for name in found}) == len(keys)
    assert given_names(keys) == found
    firsts = set()
    for key, name in zip(keys, found, strict=True):
        folded = fold(key)
        assert name == key if folded not in firsts else name.startswith(f"{key}~")
        firsts.add(folded)


def test_very_many_pictures_of_one_name_are_numbered_with_one_try_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    take = Names._take
    monkeypatch.setattr(Names, "_take", lambda names, key: tried.append(key) or take(names, key))
    listed = [Listed("image", "image.jpg", Place(f"/{i}/image.jpg"), f"{i}") for i in range(5000)]
    with Manifest.open(tmp_path / "m", {}) as manifest:
        summary = manifest.list_items(listed)
        items = list(manifest.items())
    assert (summary.num_items, summary.num_renamed) == (5000, 4999)
    assert summary.renamed == tuple(("image.jpg", f"image~{number}") for number in range(2, 12))
    assert [item.key for item in items] == ["image", *(f"image~{number}" for number in range(2, 5001))]
    assert [item.place.path for item in items] == [f"/{i}/image.jpg" for i in range(5000)]
    assert {item.file_name for item in items} == {"image.jpg"}
    assert len(tried) == 5000 + 4999  # each was claimed, and all but the first renamed


def test_a_picture_is_new_once_whatever_its_name() -> None:
    names = Names()
    identities = ["/a.jpg", "/A.jpg", "/\udcff.jpg", "/\ud800.jpg", ""]  # any text, also what no UTF-8 has
    assert [names.is_new(identity) for identity in identities] == [True] * 5
    assert [names.is_new(identity) for identity in identities] == [False] * 5
    names.close()
