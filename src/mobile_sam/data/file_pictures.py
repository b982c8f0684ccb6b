"""Pictures in files of their own: folders with their sub-folders, SA-1B as unpacked, annotated datasets."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobile_sam.data.compact import Blobs, Names
from mobile_sam.data.folders import require_folder
from mobile_sam.data.picture_set import SampleError, other_size_error, without_dots
from mobile_sam.data.picture_walk import walk_pictures
from mobile_sam.data.records import Dataset, Instance, Problem
from mobile_sam.data.sa1b import read_sample_annotations
from mobile_sam.data.stored_pictures import StoredPictures, read_span


class FilePictures(StoredPictures):
    """Picture files; their annotations lie in JSON files of SA-1B's form beside them, or were read before.

    Args:
        name: for people.
        keys: (N,) of the pictures.
        paths: (N,) of their files.
        sizes_bytes: (N,) int64, of their files.
        problems: what was wrong with the source.
        instances: (N,) pickled tuples of instances; None if JSON files beside the pictures have them.
    """

    def __init__(
        self,
        name: str,
        keys: Names,
        paths: Names,
        sizes_bytes: NDArray[np.int64],
        problems: Sequence[Problem] = (),
        instances: Blobs | None = None,
    ) -> None:
        super().__init__(name, keys, sizes_bytes, problems)
        self.paths = paths
        self._instances = instances

    def encoded(self, index: int) -> tuple[str, bytes]:
        """As `StoredPictures.encoded`."""
        path = self.paths[index]
        return Path(path).suffix.lower(), self._read(index, path, "unreadable picture")

    def instances(self, index: int, image_hw: tuple[int, int]) -> tuple[Instance, ...]:
        """As `StoredPictures.instances`."""
        key, where = self.keys[index], self.where(index)
        if self._instances is None:
            beside = Path(self.paths[index]).with_suffix(".json")
            text = self._read(index, str(beside), "missing annotation") if beside.exists() else None
            return read_sample_annotations(text, key, image_hw, where)
        found: tuple[Instance, ...] = pickle.loads(self._instances[index])  # which this process, or its parent, made
        for instance in found:
            height, width = instance.rle["size"]
            if (height, width) != image_hw:
                raise other_size_error(key, (height, width), image_hw, where)
        return found

    def where(self, index: int) -> str:
        """As `StoredPictures.where`."""
        return self.paths[index]

    def subset(self, indices: Sequence[int]) -> FilePictures:
        """As `StoredPictures.subset`."""
        chosen = np.asarray(indices, np.int64)
        instances = None if self._instances is None else self._instances.take(chosen)
        sizes_bytes = self.sizes_bytes[chosen]
        return FilePictures(
            self.name, self.keys.take(chosen), self.paths.take(chosen), sizes_bytes, self.problems, instances
        )

    def _read(self, index: int, path: str, kind: str) -> bytes:
        try:
            size_bytes = os.path.getsize(path)
        except OSError as error:
            raise SampleError(self.keys[index], kind, f"cannot be read: {error}") from error
        return read_span(path, 0, size_bytes, self.keys[index], kind)


def list_pictures_below(folder: Path) -> FilePictures:
    """List the pictures of a folder and its sub-folders, by their keys; hidden ones are passed over.

    A folder that is reached twice, through links, is listed where it is met first, so that links in circles end.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is a file.
    """
    require_folder(folder, "folder of pictures")
    problems: list[Problem] = []
    folder = Path(os.path.abspath(folder))
    listed: list[tuple[str, bool, str, int]] = []
    for found in walk_pictures(str(folder), problems.append):
        try:
            listed.append((*_rank(found.path, folder), os.path.getsize(found.path)))
        except OSError as error:
            problems.append(Problem("missing picture", found.path, f"was there a moment ago: {error}"))
    listed.sort()
    sizes_bytes = np.array([size for *_, size in listed], np.int64)
    keys, paths = Names.of(key for key, *_ in listed), Names.of(path for _, _, path, _ in listed)
    return FilePictures(folder.name, keys, paths, sizes_bytes, problems)


def from_files(files: Iterable[Path]) -> FilePictures:
    """Take picture files by themselves, their keys being their names without suffix.

    Raises:
        OSError: one is not there.
    """
    listed = [Path(os.path.abspath(file)) for file in files]
    keys = Names.of(key_of(str(file), file.parent) for file in listed)
    sizes_bytes = np.array([file.stat().st_size for file in listed], np.int64)
    return FilePictures(listed[0].name, keys, Names.of(map(str, listed)), sizes_bytes)


def from_dataset(dataset: Dataset, folder: Path) -> FilePictures:
    """Take the pictures of annotations that were read, with their instances, by their keys within a folder."""
    folder = Path(os.path.abspath(folder))
    listed = sorted((*_rank(os.path.abspath(p.path), folder), p) for p in dataset.pictures)
    return FilePictures(
        dataset.name,
        Names.of(key for key, *_ in listed),
        Names.of(path for _, _, path, _ in listed),
        np.array([os.path.getsize(path) for _, _, path, _ in listed], np.int64),
        dataset.problems,
        Blobs.of(pickle.dumps(picture.instances, pickle.HIGHEST_PROTOCOL) for *_, picture in listed),
    )


def key_of(path: str, folder: Path) -> str:
    """Name a picture by its way from a folder, without suffix, dots in its own name being underscores.

    >>> key_of("/data/2024.05/cat.1.jpg", Path("/data"))
    '2024.05/cat_1'
    """
    return without_dots(Path(os.path.relpath(path, folder)).with_suffix("").as_posix())


def _rank(path: str, folder: Path) -> tuple[str, bool, str]:
    """Order files by their keys, those first whose own name it is: of a key that comes twice the first one stays."""
    return key_of(path, folder), "." in Path(path).stem, path
