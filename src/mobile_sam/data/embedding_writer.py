"""Teacher embeddings onto the disk, a whole shard or none."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.files import atomic_path, lock_file
from mobile_sam.data.embedding_format import (
    EmbeddingPlan,
    ShardRecord,
    TeacherRecord,
    record_path,
    tar_path,
)
from mobile_sam.data.records import Problem

_BLOCK = 512  # bytes, of which tar files consist


class EmbeddingShardWriter:
    """Takes the embeddings of one shard; made by `open`, and finished when its block ends well.

    The same embeddings give the same bytes.
    """

    def __init__(self, tar: tarfile.TarFile, teacher: TeacherRecord) -> None:
        self._tar = tar
        self._teacher = teacher
        self._keys: list[str] = []
        self._offsets: list[int] = []
        self._crc32: list[int] = []
        self._image_hw: list[tuple[int, int]] = []
        self._input_hw: list[tuple[int, int]] = []
        self._skipped: list[Problem] = []

    @classmethod
    @contextmanager
    def open(cls, folder: Path, plan: EmbeddingPlan, shard: int) -> Iterator[EmbeddingShardWriter]:
        """Begin a shard; one of that number that is there goes.

        Args:
            folder: must exist.
            plan: says who makes the embeddings.
            shard: its number.

        Raises:
            OSError: as the disk does, such as when it is full; then nothing of the shard is there.
        """
        record_path(folder, shard).unlink(missing_ok=True)
        with atomic_path(tar_path(folder, shard)) as temporary, open(temporary, "xb", buffering=1 << 20) as file:
            lock_file(file)
            hashing = _Hashing(file)
            with tarfile.open(fileobj=hashing, mode="w", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
                writer = cls(tar, plan.teacher)
                yield writer
            file.flush()
            os.fsync(file.fileno())
        writer._record(shard, hashing).write(folder, plan.teacher)

    def add(
        self, key: str, features: NDArray[np.float16], image_hw: tuple[int, int], input_hw: tuple[int, int]
    ) -> None:
        """Write an embedding.

        Args:
            key: of the picture.
            features: (256, S/16, S/16) float16.
            image_hw: height and width of the picture in pixels.
            input_hw: height and width of its part of the model frame in pixels.

        Raises:
            ValueError: another shape or dtype.
        """
        if features.shape != self._teacher.feature_shape or features.dtype != np.float16:
            raise ValueError(
                f"features must be {self._teacher.feature_shape} float16, got {features.shape} {features.dtype}"
            )
        values = np.ascontiguousarray(features, "<f2")
        npy = io.BytesIO()
        np.lib.format.write_array(npy, values, allow_pickle=False)
        self._put(f"{key}.npy", npy)
        end = self._tar.offset - (-npy.tell() % _BLOCK)  # of the values, behind which the tar is filled up
        self._keys.append(key)
        self._offsets.append(end - values.nbytes)
        self._crc32.append(zlib.crc32(values.data))
        self._image_hw.append(image_hw)
        self._input_hw.append(input_hw)
        sizes = {"image_hw": list(image_hw), "input_hw": list(input_hw)}
        self._put(f"{key}.json", io.BytesIO(json.dumps(sizes).encode()))

    def skip(self, problem: Problem) -> None:
        """Note a picture that could not be used."""
        self._skipped.append(problem)

    def _put(self, name: str, content: io.BytesIO) -> None:
        member = tarfile.TarInfo(name)  # of time 0 and nobody's, so that the bytes are always the same
        member.size = content.seek(0, io.SEEK_END)
        content.seek(0)
        self._tar.addfile(member, content)

    def _record(self, shard: int, hashing: _Hashing) -> ShardRecord:
        return ShardRecord(
            shard,
            hashing.num_bytes,
            hashing.sha256.hexdigest(),
            tuple(self._keys),
            np.array(self._offsets, np.int64),
            np.array(self._crc32, np.uint32),
            np.array(self._image_hw, np.int32).reshape(-1, 2),
            np.array(self._input_hw, np.int32).reshape(-1, 2),
            tuple(self._skipped),
        )


class _Hashing:
    """A file that is hashed while it is written; all that a tar asks of it is to write, and where it is."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.num_bytes = 0

    def tell(self) -> int:
        return self.num_bytes

    def write(self, block: bytes) -> int:
        self.sha256.update(block)
        self.num_bytes += len(block)
        return self._file.write(block)
