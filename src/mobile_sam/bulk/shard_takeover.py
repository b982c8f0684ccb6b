"""What a shard of embeddings holds already when pictures of its batch are done that were not done before.

To write a shard anew removes its table of contents first and puts the tar in place last, so that one killed in between
leaves a whole tar without a table: the old one or the new one. Its members tell all that the table told.
"""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from mobile_sam.data.embedding_format import OtherTeacherError, ShardRecord, TeacherRecord, record_path, tar_path
from mobile_sam.data.embedding_shards import StoredEmbedding
from mobile_sam.data.records import Problem


class ShardDamagedError(ValueError):
    """A shard, or its table of contents, is not as it was written."""


class EarlierShard:
    """A shard of an earlier run; made by `find`.

    Args:
        path: of the tar.
        record: its table of contents, if it has one.
        teacher: who made the embeddings.

    Attributes:
        skipped: pictures without an embedding, as far as the shard tells.
    """

    def __init__(self, path: Path, record: ShardRecord | None, teacher: TeacherRecord) -> None:
        self._path = path
        self._record = record
        self._teacher = teacher
        self.skipped: tuple[Problem, ...] = record.skipped if record else ()

    @classmethod
    def find(cls, folder: Path, shard: int, teacher: TeacherRecord) -> EarlierShard | None:
        """Find a shard by its number; None if there is none.

        Its table of contents is read here: a writer that begins the same shard removes it.
        """
        path, record = tar_path(folder, shard), None
        if not path.exists():
            return None
        try:
            if record_path(folder, shard).exists():
                record = ShardRecord.read(folder, shard, teacher)
        except OtherTeacherError:
            raise
        except (ValueError, FileNotFoundError):
            record = None  # the tar tells the same
        return cls(path, record, teacher)

    def embeddings(self, leaving_out: Collection[str]) -> Iterator[StoredEmbedding]:
        """Read the embeddings of all pictures but those with these keys, in the order of the shard.

        Raises:
            ShardDamagedError: the shard is damaged.
            OSError: as the disk does.
        """
        return self._by_table(self._record, leaving_out) if self._record else self._by_members(leaving_out)

    def _by_table(self, record: ShardRecord, leaving_out: Collection[str]) -> Iterator[StoredEmbedding]:
        shape = self._teacher.feature_shape
        num_bytes = 2 * int(np.prod(shape))
        with open(self._path, "rb") as file:
            for row, key in enumerate(record.keys):
                if key in leaving_out:
                    continue
                file.seek(int(record.offsets[row]))
                values = file.read(num_bytes)
                if len(values) < num_bytes or zlib.crc32(values) != int(record.crc32[row]):
                    raise ShardDamagedError(f"the checksum of {key} in {self._path} is wrong")
                (image_h, image_w), (input_h, input_w) = record.image_hw[row].tolist(), record.input_hw[row].tolist()
                features = np.frombuffer(values, "<f2").reshape(shape)
                yield StoredEmbedding(key, features, (image_h, image_w), (input_h, input_w))

    def _by_members(self, leaving_out: Collection[str]) -> Iterator[StoredEmbedding]:
        try:
            with tarfile.open(self._path) as tar:
                for member in tar:
                    key, is_array = member.name.removesuffix(".npy"), member.name.endswith(".npy")
                    if not is_array or key in leaving_out:
                        continue
                    array, sizes = tar.extractfile(member), tar.extractfile(f"{key}.json")
                    assert array is not None  # it is a file
                    assert sizes is not None
                    features = np.load(io.BytesIO(array.read()), allow_pickle=False)
                    told = json.loads(sizes.read())
                    (image_h, image_w), (input_h, input_w) = told["image_hw"], told["input_hw"]
                    if features.shape != self._teacher.feature_shape or features.dtype != np.float16:
                        raise ShardDamagedError(f"{member.name} in {self._path} is {features.shape} {features.dtype}")
                    yield StoredEmbedding(key, features, (image_h, image_w), (input_h, input_w))
        except (tarfile.TarError, LookupError, EOFError, TypeError, ValueError) as error:
            if isinstance(error, ShardDamagedError):
                raise
            raise ShardDamagedError(f"{self._path} is damaged ({type(error).__name__}: {error})") from error
