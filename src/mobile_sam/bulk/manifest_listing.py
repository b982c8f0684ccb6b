"""Listed pictures as the manifest's items: each once, with a key of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice

from mobile_sam.bulk.items import Item, Listed, Place
from mobile_sam.bulk.manifest_names import Names
from mobile_sam.bulk.manifest_rows import COLUMNS, NUM_COLUMNS, pack, unpack

_NUM_EXAMPLES = 10
_CHUNK_ITEMS = 1000
_INSERT = f"INSERT INTO items VALUES ({', '.join('?' * NUM_COLUMNS)})"


@dataclass(frozen=True)
class ListingSummary:
    """What was listed.

    Attributes:
        num_items: pictures of the run.
        num_repeated: how many were left out, because the same picture was listed before.
        repeated: file names of the first ten of them.
        num_renamed: how many have another key than they were listed with, because an earlier picture has that.
        renamed: file name and new key of the first ten of them.
    """

    num_items: int
    num_repeated: int = 0
    repeated: tuple[str, ...] = ()
    num_renamed: int = 0
    renamed: tuple[tuple[str, str], ...] = ()


@dataclass
class _Tally:
    """A number, and the first that were counted."""

    num: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    def add(self, file_name: str, key: str) -> None:
        self.num += 1
        if self.num <= _NUM_EXAMPLES:
            self.examples.append((file_name, key))


def write_items(database: sqlite3.Connection, listed: Iterable[Listed], known: Iterable[Item] = ()) -> ListingSummary:
    """Write rows of items, as part of a transaction of the caller's; see `Manifest.list_items`.

    Args:
        database: with the table of items.
        listed: pictures, those that are known among them.
        known: the items that are there, whose ids begin at 1.
    """
    with closing(Names()) as names:
        repeated, renamed = _Tally(), _Tally()
        num_items = 0
        for item in known:
            names.is_new(_place_name(item.place))
            names.claim(item.id, item.key)
            num_items = item.id
        items = _number(listed, names, repeated, num_items)
        while chunk := list(islice(items, _CHUNK_ITEMS)):
            database.executemany(_INSERT, map(pack, chunk))
            num_items += len(chunk)
        for item_id in names.late():
            row = database.execute(f"SELECT {COLUMNS} FROM items WHERE id = ?", (item_id,)).fetchone()
            item = unpack(row)
            item = replace(item, key=names.rename(item.key))
            database.execute(_INSERT.replace("INSERT", "REPLACE", 1), pack(item))
            renamed.add(item.file_name, item.key)
    left_out = tuple(file_name for file_name, _ in repeated.examples)
    return ListingSummary(num_items, repeated.num, left_out, renamed.num, tuple(renamed.examples))


def _number(listed: Iterable[Listed], names: Names, repeated: _Tally, num_known: int) -> Iterator[Item]:
    """Make items of pictures that were not there before, and claim their keys.

    Known items have no identity any more, so that they are recognised by their places.
    """
    item_id = num_known
    for picture in listed:
        is_known = num_known > 0 and not names.is_new(_place_name(picture.place))
        if is_known or not names.is_new(picture.identity):
            repeated.add(picture.file_name, picture.key)
            continue
        item_id += 1
        names.claim(item_id, picture.key)
        yield Item(item_id, picture.key, picture.file_name, picture.place, picture.source_id)


def _place_name(place: Place) -> str:
    return f"place {place.start} {place.path}"
