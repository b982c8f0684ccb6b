"""Which pictures a run takes that does one of N shards: N runs know nothing of each other and together do all."""

from __future__ import annotations

import os
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain

from mobile_sam.bulk.items import Listed
from mobile_sam.bulk.sources.parts import Part
from mobile_sam.data.records import OnProblem


def list_shard(parts: Iterator[Part], shard: tuple[int, int], on_problem: OnProblem) -> Iterator[Listed]:
    """List the pictures of one shard.

    If all sources are tars, at least as many as there are shards, a shard takes whole tars, in turns by name, and opens
    no others. Else it takes the pictures whose keys hash to it: what has the same key, which the run then tells apart,
    is in one shard, whatever the source. Where the sources are mounted makes no difference.

    Args:
        parts: of all sources.
        shard: (number from 0, count).
        on_problem: is told of each problem; one that is met before it is known whose it is, by each shard.
    """
    number, count = shard
    met: list[Part] = []
    for part in parts if count > 1 else ():
        met.append(part)
        if part.tar is None and not part.is_problem:
            break
    else:
        tars = _in_order(part for part in met if part.tar is not None)
        if len(tars) >= count > 1:
            met = [*(part for part in met if part.is_problem), *tars[number::count]]
            count = 1
    for part in chain(met, parts):
        for picture in part.list_pictures(on_problem):
            if count == 1 or shard_of(picture.key, count) == number:
                yield picture


def shard_of(key: str, count: int) -> int:
    """Tell which shard has a key, from 0: the same for keys that differ only in upper and lower case.

    >>> shard_of("A/1", 8) == shard_of("a/1", 8), {shard_of(str(number), 3) for number in range(20)}
    (True, {0, 1, 2})
    """
    return zlib.crc32(unicodedata.normalize("NFC", key).casefold().encode()) % count


def _in_order(tars: Iterable[Part]) -> list[Part]:
    """Each tar once, by name and only then by folder."""
    by_place = {str(part.tar): part for part in tars}
    return [by_place[place] for place in sorted(by_place, key=lambda place: (_file_name(place), place))]


def _file_name(place: str) -> str:
    return place.replace(os.sep, "/").rpartition("/")[2]
