"""Several sets of pictures as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mobile_sam.data.compact import Names, repeats_of
from mobile_sam.data.records import Instance, Problem
from mobile_sam.data.stored_pictures import StoredPictures


class JoinedPictures(StoredPictures):
    """The pictures of several sets, one set after another.

    Args:
        name: for people.
        parts: the sets, at least one.
    """

    def __init__(self, name: str, parts: Sequence[StoredPictures]) -> None:
        self.parts = tuple(parts)
        self.part_numbers = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
        self.places = np.concatenate([np.arange(len(part)) for part in parts])  # in their parts
        keys = Names.of(key for part in parts for key in part.keys)
        sizes_bytes = np.concatenate([part.sizes_bytes for part in parts])
        super().__init__(name, keys, sizes_bytes, [problem for part in parts for problem in part.problems])

    def encoded(self, index: int) -> tuple[str, bytes]:
        """As `StoredPictures.encoded`."""
        part, place = self._place(index)
        return part.encoded(place)

    def instances(self, index: int, image_hw: tuple[int, int]) -> tuple[Instance, ...]:
        """As `StoredPictures.instances`."""
        part, place = self._place(index)
        return part.instances(place, image_hw)

    def where(self, index: int) -> str:
        """As `StoredPictures.where`."""
        part, place = self._place(index)
        return part.where(place)

    def subset(self, indices: Sequence[int]) -> JoinedPictures:
        """As `StoredPictures.subset`."""
        chosen = np.asarray(indices, np.int64)
        some = object.__new__(JoinedPictures)
        StoredPictures.__init__(some, self.name, self.keys.take(chosen), self.sizes_bytes[chosen], self.problems)
        some.parts = self.parts
        some.part_numbers, some.places = self.part_numbers[chosen], self.places[chosen]
        return some

    def _place(self, index: int) -> tuple[StoredPictures, int]:
        return self.parts[self.part_numbers[index]], int(self.places[index])


def without_repeats(pictures: StoredPictures) -> StoredPictures:
    """Keep the first picture of each key; the others become problems, "repeated key"."""
    repeats = repeats_of(pictures.keys)
    if not repeats:
        return pictures
    problems = [
        Problem(
            "repeated key",
            pictures.keys[place],
            f"{pictures.where(place)} has the key of the picture {pictures.where(first)}, which stays; "
            "name the folder above both, so that keys tell them apart, or rename one",
        )
        for place, first in repeats.items()
    ]
    kept = pictures.subset([place for place in range(len(pictures)) if place not in repeats])
    kept.problems = (*pictures.problems, *problems)
    return kept
