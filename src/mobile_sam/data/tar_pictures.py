"""Pictures in tar shards, SA-1B's as published or others', each read by its place in the file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobile_sam.data.compact import Names
from mobile_sam.data.folders import PICTURE_SUFFIXES
from mobile_sam.data.records import Instance, Problem
from mobile_sam.data.sa1b import read_sample_annotations
from mobile_sam.data.stored_pictures import StoredPictures, read_span
from mobile_sam.data.tar_index import TarIndex


class TarPictures(StoredPictures):
    """The pictures of tars, in the order of the tars; about 55 bytes of memory for each.

    Args:
        paths: of the tars.
        indices: of each.
        name: for people.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], indices: Sequence[TarIndex], name: str = "") -> None:
        keys = Names.of(key for index in indices for key in index.keys)
        self.paths = tuple(os.path.abspath(path) for path in paths)
        self.tar_numbers = np.repeat(np.arange(len(indices), dtype=np.int32), [len(index.keys) for index in indices])
        self.picture_spans = _joined([index.picture_spans for index in indices])  # (N, 2)
        self.annotation_spans = _joined([index.annotation_spans for index in indices])  # (N, 2)
        self.suffix_numbers = np.concatenate([np.zeros(0, np.uint8), *(index.suffix_numbers for index in indices)])
        problems: list[Problem] = [problem for index in indices for problem in index.problems]
        super().__init__(name or Path(self.paths[0]).name, keys, self.picture_spans[:, 1], problems)

    def encoded(self, index: int) -> tuple[str, bytes]:
        """As `StoredPictures.encoded`."""
        content = self._read(index, self.picture_spans, "unreadable picture")
        return PICTURE_SUFFIXES[int(self.suffix_numbers[index])], content

    def instances(self, index: int, image_hw: tuple[int, int]) -> tuple[Instance, ...]:
        """As `StoredPictures.instances`, of the JSON file beside the picture, in SA-1B's form."""
        is_there = self.annotation_spans[index, 0] >= 0
        text = self._read(index, self.annotation_spans, "missing annotation") if is_there else None
        return read_sample_annotations(text, self.keys[index], image_hw, self.where(index))

    def where(self, index: int) -> str:
        """As `StoredPictures.where`."""
        return f"in {self._path(index)} at byte {self.picture_spans[index, 0]}"

    def subset(self, indices: Sequence[int]) -> TarPictures:
        """As `StoredPictures.subset`."""
        chosen = np.asarray(indices, np.int64)
        some = object.__new__(TarPictures)
        StoredPictures.__init__(some, self.name, self.keys.take(chosen), self.sizes_bytes[chosen], self.problems)
        some.paths = self.paths
        some.tar_numbers, some.suffix_numbers = self.tar_numbers[chosen], self.suffix_numbers[chosen]
        some.picture_spans, some.annotation_spans = self.picture_spans[chosen], self.annotation_spans[chosen]
        return some

    def _path(self, index: int) -> str:
        return self.paths[int(self.tar_numbers[index])]

    def _read(self, index: int, spans: NDArray[np.int64], kind: str) -> bytes:
        start, size_bytes = spans[index].tolist()
        return read_span(self._path(index), start, size_bytes, self.keys[index], kind)


def _joined(spans: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros((0, 2), np.int64), *spans])
