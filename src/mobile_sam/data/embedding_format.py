"""What a folder of teacher embeddings consists of: one manifest, and for each shard a tar and its table of contents.

    manifest.json              who made the embeddings, of which pictures, and how these are cut into shards
    embeddings-000000.tar      KEY.npy (256, S/16, S/16) float16 and KEY.json for each picture, readable by webdataset
    embeddings-000000.json     where each array lies in the tar, checksums, and which pictures were skipped

A shard is finished when its .json is there, which is written last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import EMBEDDING_CHANNELS, EMBEDDING_STRIDE
from mobile_sam.core.files import atomic_path
from mobile_sam.core.geometry import PIXEL_MEAN, PIXEL_STD
from mobile_sam.data.json_values import read_json, shortened
from mobile_sam.data.records import Problem

FORMAT = "mobile-sam embeddings"
VERSION = 1
MANIFEST_JSON = "manifest.json"


@dataclass(frozen=True)
class TeacherRecord:
    """Who made embeddings, and all that their values depend on beside the pictures.

    Attributes:
        name: in `sam_model_registry`: "vit_h", ...
        weights_sha256: of the checkpoint file, hexadecimal.
        model_id: fingerprint of the encoder, as in `Embedding.model_id`.
        input_side: of the model frame in pixels.
        precision: of the encoder's run: fp32, bf16 or fp16.
    """

    name: str
    weights_sha256: str
    model_id: str
    input_side: int
    precision: str

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        """Shape of an embedding: (256, S/16, S/16)."""
        map_side = self.input_side // EMBEDDING_STRIDE
        return (EMBEDDING_CHANNELS, map_side, map_side)

    def differences(self, other: TeacherRecord) -> list[str]:
        """Say what differs, as in "precision is fp32 here, bf16 there"."""
        pairs = [(known.name, getattr(self, known.name), getattr(other, known.name)) for known in fields(self)]
        return [f"{name} is {mine} here, {theirs} there" for name, mine, theirs in pairs if mine != theirs]

    @classmethod
    def from_json(cls, values: Any) -> TeacherRecord:
        """Read what `asdict` gives.

        Raises:
            ValueError: a value is missing or of another type.
        """
        texts = ("name", "weights_sha256", "model_id", "precision")
        is_record = isinstance(values, dict) and all(isinstance(values.get(name), str) for name in texts)
        if not is_record or not isinstance(values.get("input_side"), int) or values["input_side"] < EMBEDDING_STRIDE:
            raise ValueError(f"no teacher is described by {shortened(values)}")
        return cls(**{known.name: values[known.name] for known in fields(cls)})


@dataclass(frozen=True)
class EmbeddingPlan:
    """Which pictures' embeddings a folder shall hold, and how they are cut into shards: the manifest.

    Attributes:
        teacher: who makes them.
        source_name: of the pictures, for people.
        source_fingerprint: of the pictures, see `PictureSet.fingerprint`.
        num_pictures: in all.
        shard_size: pictures in each shard but the last.
    """

    teacher: TeacherRecord
    source_name: str
    source_fingerprint: str
    num_pictures: int
    shard_size: int

    def __post_init__(self) -> None:
        if self.num_pictures < 1 or self.shard_size < 1:
            raise ValueError(
                "embeddings are made of at least 1 picture, in shards of at least 1, "
                f"got {self.num_pictures} pictures and shard_size {self.shard_size}"
            )

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.num_pictures // self.shard_size)

    def pictures_of(self, shard: int) -> range:
        """Give the numbers of a shard's pictures in their set."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.num_pictures))

    def differences(self, other: EmbeddingPlan) -> list[str]:
        """Say what differs, so that shards of both cannot lie in one folder."""
        changes = [f"teacher's {change}" for change in self.teacher.differences(other.teacher)]
        if self.source_fingerprint != other.source_fingerprint:
            mine, theirs = (f"{plan.num_pictures} pictures of {plan.source_name}" for plan in (self, other))
            changes.append(f"other pictures: {mine} here, {theirs} there (fraction and seed count)")
        if self.shard_size != other.shard_size:
            changes.append(f"shard size is {self.shard_size} here, {other.shard_size} there")
        return changes

    def write(self, folder: Path) -> None:
        """Write the manifest."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "teacher": asdict(self.teacher),
            "preprocessing": _preprocessing(self.teacher),
            "features": {"dtype": "float16", "shape": list(self.teacher.feature_shape)},
            "source": {"name": self.source_name, "fingerprint": self.source_fingerprint},
            "num_pictures": self.num_pictures,
            "shard_size": self.shard_size,
            "shards": {"num": self.num_shards, "first": shard_name(0), "last": shard_name(self.num_shards - 1)},
        }
        _write_json(folder / MANIFEST_JSON, content, indent=2)

    @classmethod
    def read(cls, folder: Path) -> EmbeddingPlan:
        """Read the manifest of a folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, of another format, or of other preprocessing.
        """
        path = folder / MANIFEST_JSON
        if not path.is_file():
            raise FileNotFoundError(
                f"no embeddings in {folder}: there is no {MANIFEST_JSON}; write some with `mobile-sam distill embed`"
            )
        content, _ = read_json(path)
        _check_format(path, content)
        try:
            teacher = TeacherRecord.from_json(content["teacher"])
            source = content["source"]
            numbers = (int(content["num_pictures"]), int(content["shard_size"]))
            plan = cls(teacher, str(source["name"]), str(source["fingerprint"]), *numbers)
            preprocessing = content["preprocessing"]
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); write it anew") from error
        if preprocessing != _preprocessing(teacher):
            raise ValueError(
                f"{path} describes other preprocessing: {preprocessing}, expected {_preprocessing(teacher)}"
            )
        return plan


@dataclass(frozen=True, eq=False)
class ShardRecord:
    """Table of contents of a shard with N embeddings.

    Attributes:
        shard: its number.
        tar_bytes: size of the tar.
        tar_sha256: of the tar, hexadecimal.
        keys: the pictures' names, N of them.
        offsets: (N,) int64, where in the tar the values of each array begin, in bytes.
        crc32: (N,) uint32, of the values of each array.
        image_hw: (N, 2) int32, height and width of each picture in pixels.
        input_hw: (N, 2) int32, height and width of its part of the model frame in pixels.
        skipped: pictures of the shard that could not be used; `where` is the key.
    """

    shard: int
    tar_bytes: int
    tar_sha256: str
    keys: tuple[str, ...]
    offsets: NDArray[np.int64]
    crc32: NDArray[np.uint32]
    image_hw: NDArray[np.int32]
    input_hw: NDArray[np.int32]
    skipped: tuple[Problem, ...]

    def write(self, folder: Path, teacher: TeacherRecord) -> None:
        """Write the shard's .json, which makes it a finished one."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "shard": self.shard,
            "teacher": asdict(teacher),
            "tar_bytes": self.tar_bytes,
            "tar_sha256": self.tar_sha256,
            "keys": self.keys,
            "offsets": self.offsets.tolist(),
            "crc32": self.crc32.tolist(),
            "image_hw": self.image_hw.tolist(),
            "input_hw": self.input_hw.tolist(),
            "skipped": [
                {"key": problem.where, "kind": problem.kind, "message": problem.message} for problem in self.skipped
            ],
        }
        _write_json(record_path(folder, self.shard), content)

    @classmethod
    def read(cls, folder: Path, shard: int, teacher: TeacherRecord) -> ShardRecord:
        """Read the .json of a shard.

        Raises:
            FileNotFoundError: there is none: the shard is not finished.
            OtherTeacherError: the shard was made by another teacher.
            ValueError: it is damaged.
        """
        path = record_path(folder, shard)
        content, _ = read_json(path)
        _check_format(path, content)
        try:
            changes = teacher.differences(TeacherRecord.from_json(content["teacher"]))
            if not changes:
                return cls._from_json(content, shard, teacher)
        except (LookupError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({type(error).__name__}: {error})") from error
        raise OtherTeacherError(
            f"{folder} mixes embeddings of two teachers: {MANIFEST_JSON} (here) and {path.name} (there): "
            f"{'; '.join(changes)}; keep each in a folder of its own"
        )

    @classmethod
    def _from_json(cls, content: Mapping[str, Any], shard: int, teacher: TeacherRecord) -> ShardRecord:
        keys = tuple(map(str, content["keys"]))
        record = cls(
            shard,
            int(content["tar_bytes"]),
            str(content["tar_sha256"]),
            keys,
            np.array(content["offsets"], np.int64).reshape(len(keys)),
            np.array(content["crc32"], np.uint32).reshape(len(keys)),
            np.array(content["image_hw"], np.int32).reshape(len(keys), 2),
            np.array(content["input_hw"], np.int32).reshape(len(keys), 2),
            tuple(Problem(str(one["kind"]), str(one["key"]), str(one["message"])) for one in content["skipped"]),
        )
        num_bytes = 2 * int(np.prod(teacher.feature_shape))
        if content["shard"] != shard or ((record.offsets < 0) | (record.offsets > record.tar_bytes - num_bytes)).any():
            raise ValueError(f"it is of shard {content['shard']}, or its offsets do not lie within the tar")
        return record


class OtherTeacherError(ValueError):
    """A shard lies in a folder of another teacher's embeddings."""


def shard_name(shard: int) -> str:
    """Name of a shard's files without their suffixes.

    >>> shard_name(12)
    'embeddings-000012'
    """
    return f"embeddings-{shard:06d}"


def tar_path(folder: Path, shard: int) -> Path:
    """Where the embeddings of a shard are."""
    return folder / f"{shard_name(shard)}.tar"


def record_path(folder: Path, shard: int) -> Path:
    """Where the table of contents of a shard is."""
    return folder / f"{shard_name(shard)}.json"


def _preprocessing(teacher: TeacherRecord) -> dict[str, Any]:
    """Describe how pixels become the encoder's input: `LongSideResize` and `Sam.preprocess`."""
    return {
        "input_side": teacher.input_side,
        "resize": "long side to input_side, PIL bilinear with antialiasing",
        "channels": "RGB",
        "pixel_mean": list(PIXEL_MEAN),
        "pixel_std": list(PIXEL_STD),
        "padding": "zeros below and to the right, after normalising",
    }


def _check_format(path: Path, content: Any) -> None:
    found = (content.get("format"), content.get("version")) if isinstance(content, dict) else (None, None)
    if found != (FORMAT, VERSION):
        raise ValueError(f"{path} is of format {found[0]!r}, version {found[1]!r}; expected {FORMAT!r}, {VERSION}")


def _write_json(path: Path, content: Any, indent: int | None = None) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")
