"""Items as rows of the manifest, without what two columns have in common."""

from __future__ import annotations

import os
from typing import Any

from mobile_sam.bulk.items import Item, Place

COLUMNS = "id, key, packing, file_name, path, start, size_bytes, source_id"
NUM_COLUMNS = 8
_AFTER_KEY, _BEFORE_NAME = 1, 2  # file_name is what follows the key; path is what comes before the file name
_INT64 = range(-(2**63), 2**63)


def pack(item: Item) -> tuple[Any, ...]:
    """Make a row of COLUMNS of an item, without its prompts.

    Most pictures are at FOLDER/KEY.jpg, and called KEY.jpg: three columns that would hold the key. Paths are bytes,
    since they may be no UTF-8.
    """
    packing, file_name, path = 0, item.file_name, item.place.path
    if path.endswith(file_name):
        packing, path = packing | _BEFORE_NAME, path[: len(path) - len(file_name)]
    if file_name.startswith(item.key):
        packing, file_name = packing | _AFTER_KEY, file_name[len(item.key) :]
    source_id = item.source_id if item.source_id is None or item.source_id in _INT64 else str(item.source_id)
    return (
        item.id, item.key, packing, file_name, os.fsencode(path), item.place.start, item.place.size_bytes, source_id
    )  # fmt: skip


def unpack(row: tuple[Any, ...], prompts: str | None = None) -> Item:
    """Make an item of a row of COLUMNS; what follows them is left alone."""
    item_id, key, packing, file_name, path_bytes, start, size_bytes, source_id = row[:NUM_COLUMNS]
    path = os.fsdecode(path_bytes)
    if packing & _AFTER_KEY:
        file_name = key + file_name
    if packing & _BEFORE_NAME:
        path += file_name
    place = Place(path, start, size_bytes)
    return Item(item_id, key, file_name, place, None if source_id is None else int(source_id), prompts)
