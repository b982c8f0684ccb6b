"""Teacher embeddings from the disk, found by the picture's key, at the speed of the disk."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.weights import sha256_of_file
from mobile_sam.data.embedding_format import (
    EmbeddingPlan,
    OtherTeacherError,
    ShardRecord,
    TeacherRecord,
    tar_path,
)
from mobile_sam.data.embedding_writer import EmbeddingShardWriter
from mobile_sam.data.folders import require_folder
from mobile_sam.data.picture_set import SampleError, without_dots
from mobile_sam.data.records import Problem

__all__ = ["EmbeddingShardWriter", "EmbeddingShards", "StoredEmbedding", "TeacherRecord", "read_finished"]


@dataclass(frozen=True, eq=False)
class StoredEmbedding:
    """What the teacher's encoder said of a picture.

    Attributes:
        key: of the picture.
        features: (256, S/16, S/16) float16.
        image_hw: height and width of the picture in pixels.
        input_hw: height and width of its part of the model frame in pixels.
    """

    key: str
    features: NDArray[np.float16]
    image_hw: tuple[int, int]
    input_hw: tuple[int, int]


class EmbeddingShards:
    """The embeddings in a folder that `mobile-sam distill embed` or `mobile-sam bulk` wrote, as far as they are whole.

    Safe to use from several threads and to send to other processes. In memory an embedding takes some 40 bytes and its
    key; a file is open only while it is read, since shards can be more than the files that a process may open.

    Sets of pictures have underscores in place of the dots of a name, `bulk` leaves the dots: "cat_1" finds the
    embedding of "cat.1", unless there is one of "cat_1" itself or another that could be meant.

    Args:
        folder: with a manifest.

    Attributes:
        teacher: who made them.
        problems: shards that are not finished, missing or damaged.

    Raises:
        FileNotFoundError: there is no such folder, or no manifest in it.
        ValueError: embeddings of several teachers, a damaged manifest, or no whole shard.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        require_folder(self.folder, "folder of embeddings")
        self.plan = EmbeddingPlan.read(self.folder)
        self.teacher = self.plan.teacher
        problems: list[Problem] = []
        records = []
        for shard in range(self.plan.num_shards):
            found = read_finished(self.folder, shard, self.teacher)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                records.append(found)
        self.problems = tuple(problems)
        if not any(record.keys for record in records):
            example = f", such as {problems[0].where}: {problems[0].message}" if problems else ""
            raise ValueError(f"no embedding in {self.folder} can be used{example}; run `mobile-sam distill embed`")
        self._index(records)

    @property
    def keys(self) -> Sequence[str]:
        """Names of the pictures, sorted by their bytes."""
        return _Keys(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) is not None

    def read(self, key: str) -> StoredEmbedding:
        """Read an embedding.

        Raises:
            SampleError: there is none ("missing embedding"), or it is not as it was written ("damaged embedding").
        """
        row = self._find(key)
        if row is None:
            raise SampleError(
                key, "missing embedding", f"no embedding in {self.folder}; run `mobile-sam distill embed`"
            )
        path = tar_path(self.folder, int(self._shards[row]))
        features: NDArray[np.float16] = np.empty(self.teacher.feature_shape, "<f2")
        try:
            with open(path, "rb", buffering=0) as file:
                file.seek(int(self._offsets[row]))
                num_read = _read_all(file.readinto, features)
        except OSError as error:
            raise SampleError(key, "damaged embedding", f"{path} cannot be read: {error}") from error
        if num_read != features.nbytes or zlib.crc32(features.data) != self._crc32[row]:
            raise SampleError(
                key,
                "damaged embedding",
                f"its checksum in {path} is wrong; run `mobile-sam distill embed` again with --verify",
            )
        (image_h, image_w), (input_h, input_w) = self._image_hw[row].tolist(), self._input_hw[row].tolist()
        return StoredEmbedding(key, features, (image_h, image_w), (input_h, input_w))

    def verify(self, tell: Callable[[int, int], None] | None = None) -> list[Problem]:
        """Read every shard to the end and compare its sha256.

        Args:
            tell: is told after each shard how many are done, and how many there are.

        Returns:
            Those that are not as they were written, after `problems`.
        """
        found = list(self.problems)
        shards = np.unique(self._shards).tolist()
        for num_done, shard in enumerate(shards, 1):
            record = read_finished(self.folder, shard, self.teacher, verify=True)
            if isinstance(record, Problem):
                found.append(record)
            if tell is not None:
                tell(num_done, len(shards))
        return found

    def _index(self, records: Sequence[ShardRecord]) -> None:
        """Lay the tables of all shards end to end, sorted by key."""
        keys = np.array([_encoded(key) for record in records for key in record.keys])  # (N,) of bytes
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._dotless, self._rows_of_dotless = _dotless(self._keys)
        self._shards = np.repeat(
            np.array([record.shard for record in records], np.int32), [len(record.keys) for record in records]
        )[order]
        self._offsets = np.concatenate([record.offsets for record in records])[order]
        self._crc32 = np.concatenate([record.crc32 for record in records])[order]
        self._image_hw = np.concatenate([record.image_hw for record in records])[order]
        self._input_hw = np.concatenate([record.input_hw for record in records])[order]

    def _find(self, key: str) -> int | None:
        row = _place_in(self._keys, _encoded(key))
        if row is None and (place := _place_in(self._dotless, _encoded(key))) is not None:
            return int(self._rows_of_dotless[place])
        return row


class _Keys(Sequence[str]):
    """Keys as text, of an array of bytes."""

    def __init__(self, encoded: NDArray[np.bytes_]) -> None:
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._encoded)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return _Keys(self._encoded[index])
        return _decoded(self._encoded[index])

    def __iter__(self) -> Iterator[str]:
        return map(_decoded, self._encoded)


def read_finished(folder: Path, shard: int, teacher: TeacherRecord, *, verify: bool = False) -> ShardRecord | Problem:
    """Read the table of contents of a shard, if the shard is finished and whole.

    Args:
        folder: of the embeddings.
        shard: its number.
        teacher: who the manifest says made it.
        verify: whether to read the tar and compare its sha256, not only its size.

    Raises:
        OtherTeacherError: another one made it.
    """
    path = tar_path(folder, shard)
    again = "run `mobile-sam distill embed` again"
    try:
        record = ShardRecord.read(folder, shard, teacher)
        found_bytes = os.path.getsize(path) if path.exists() else None
        is_whole = found_bytes == record.tar_bytes and (not verify or sha256_of_file(path) == record.tar_sha256)
    except FileNotFoundError:
        return Problem("unfinished shard", path.name, f"it is not finished; {again}")
    except OtherTeacherError:
        raise
    except (ValueError, OSError) as error:
        return Problem("damaged shard", path.name, f"{error}; {again}")
    if found_bytes is None:
        return Problem("missing shard", path.name, f"the tar is missing, its .json is there; copy it or {again}")
    if found_bytes != record.tar_bytes:
        message = f"it has {found_bytes} bytes, expected {record.tar_bytes}; copy it again or {again}"
        return Problem("damaged shard", path.name, message)
    if not is_whole:
        return Problem("damaged shard", path.name, f"its sha256 is not {record.tar_sha256}; {again} with --verify")
    return record


def _dotless(keys: NDArray[np.bytes_]) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
    """Keys with dots in their last part as sets of pictures have them, sorted, and their places in `keys`."""
    rows, renamed = [], []
    for row in np.flatnonzero(np.char.find(keys, b".") >= 0).tolist():
        key = _decoded(keys[row])
        if without_dots(key) != key:
            rows.append(row)
            renamed.append(_encoded(without_dots(key)))
    if not rows:
        return np.array([], "S1"), np.array([], np.int64)
    found, first, counts = np.unique(np.array(renamed), return_index=True, return_counts=True)
    return found[counts == 1], np.array(rows, np.int64)[first[counts == 1]]


def _place_in(keys: NDArray[np.bytes_], key: bytes) -> int | None:
    """Where a key is in a sorted array of keys."""
    if len(key) > keys.itemsize:
        return None
    place = int(np.searchsorted(keys, np.array(key, keys.dtype)))
    return place if place < len(keys) and keys[place] == key else None


def _encoded(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def _decoded(key: bytes) -> str:
    return bytes(key).decode("utf-8", "surrogateescape")


def _read_all(readinto: Callable[[memoryview], int | None], array: NDArray[np.float16]) -> int:
    """Fill an array from a file, which may give less than it is asked for; the number of bytes there were."""
    wanted = array.data.cast("B")
    num_read = 0
    while num_read < len(wanted):
        num_more = readinto(wanted[num_read:])
        if not num_more:
            break
        num_read += num_more
    return num_read
