"""Pictures of any source written as tar shards, in the form in which SA-1B is published."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.errors import MissingDependencyError
from mobile_sam.core.files import atomic_path, lock_file, remove_abandoned
from mobile_sam.core.masks import decode_rle, encode_rle, rle_area
from mobile_sam.data.json_values import parse_json
from mobile_sam.data.picture_set import SampleError
from mobile_sam.data.records import Instance
from mobile_sam.data.sa1b import to_sa1b
from mobile_sam.data.stored_pictures import StoredPictures

MANIFEST = "pack.json"
_FORM = 1  # of the manifest


@dataclass(frozen=True)
class PackOptions:
    """How pictures are packed.

    Attributes:
        shard_size: pictures in a shard, at least 1.
        max_side: longest side in pixels; larger pictures are shrunk and encoded as JPEG anew, quality 95. 0 leaves all
            as they are.
        with_annotations: whether a JSON file is written beside each picture.
    """

    shard_size: int = 1000
    max_side: int = 0
    with_annotations: bool = False

    def __post_init__(self) -> None:
        if self.shard_size < 1 or self.max_side < 0:
            raise ValueError(
                f"shard_size must be at least 1 and max_side at least 0, got {self.shard_size} and {self.max_side}"
            )


@dataclass(frozen=True)
class PackedShard:
    """A shard that is finished.

    Attributes:
        name: of its file.
        size_bytes: of its file.
        num_pictures: in it.
        failures: key, kind and message of each picture that is not in it.
    """

    name: str
    size_bytes: int
    num_pictures: int
    failures: tuple[tuple[str, str, str], ...] = ()


class Packing:
    """The writing of a set of pictures into a folder, which goes on where an earlier one stopped.

    The folder holds `pictures_000000.tar` and so on, and `pack.json`, which says what they were made of. Each appears
    whole or not at all; the same pictures and options give the same bytes.

    Args:
        pictures: what to pack.
        folder: where to; it is made if it is not there.
        options: how.

    Raises:
        ValueError: the folder holds shards of other pictures or options, or what is not ours.
        MissingDependencyError: webdataset is not installed.
    """

    def __init__(self, pictures: StoredPictures, folder: Path, options: PackOptions) -> None:
        self._make_writer = _tar_writer()
        self.pictures = pictures
        self.folder = folder
        self.options = options
        self._description = {"form": _FORM, "pictures_sha256": pictures.fingerprint, **asdict(options)}
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder, ".tar")
        self.finished = {shard.name: shard for shard in self._read_manifest()}

    @property
    def shard_names(self) -> list[str]:
        """Names of all shards, finished or not."""
        num_shards = -(-len(self.pictures) // self.options.shard_size)
        return [f"pictures_{number:06}.tar" for number in range(num_shards)]

    def write(self, number: int, on_picture: Callable[[SampleError | None], None]) -> PackedShard:
        """Write a shard.

        Args:
            number: of the shard, from 0.
            on_picture: is told of each picture, with the error if it cannot be used; may raise to stop.

        Raises:
            OSError: the disk is full, ...; nothing of the shard is left then.
        """
        name = self.shard_names[number]
        first = number * self.options.shard_size
        last = min(first + self.options.shard_size, len(self.pictures))
        failures: list[tuple[str, str, str]] = []
        with atomic_path(self.folder / name) as temporary, open(temporary, "wb") as file:
            lock_file(file)
            with self._make_writer(file) as writer:
                for index in range(first, last):
                    error = self._write_picture(writer, index)
                    if error is not None:
                        failures.append((error.key, error.kind, error.message))
                    on_picture(error)
            size_bytes = file.tell()
        shard = PackedShard(name, size_bytes, last - first - len(failures), tuple(failures))
        self.finished[name] = shard
        self._write_manifest()
        return shard

    def _write_picture(self, writer: Any, index: int) -> SampleError | None:
        try:
            sample = self._sample(index)
        except SampleError as error:
            return error
        writer.write(sample)
        return None

    def _sample(self, index: int) -> dict[str, Any]:
        suffix, content = self.pictures.encoded(index)
        picture = self.pictures.decoded(index, content, self.options.with_annotations)
        image_hw, instances = picture.image.shape[:2], picture.instances
        if 0 < self.options.max_side < max(image_hw):
            image = shrunk(picture.image, self.options.max_side)
            suffix, content = ".jpg", _as_jpeg(image)
            image_hw, instances = image.shape[:2], resized_instances(instances, image.shape[:2])
        sample: dict[str, Any] = {"__key__": picture.key, suffix[1:]: content}
        if self.options.with_annotations:
            record = to_sa1b(index + 1, Path(picture.key).name + suffix, image_hw, instances)
            sample["json"] = json.dumps(record).encode()
        return sample

    def _read_manifest(self) -> list[PackedShard]:
        """Shards that an earlier run finished and that are there as it left them."""
        path = self.folder / MANIFEST
        if not path.exists():
            for name in self.shard_names:
                if (self.folder / name).exists():
                    raise ValueError(f"{self.folder / name} is there and no {MANIFEST} beside it; name another folder")
            return []
        found = parse_json(path.read_bytes(), str(path))
        shards = found.pop("shards", None) if isinstance(found, dict) else None
        if not isinstance(shards, list):
            raise ValueError(f"{path} is not what packing writes; name another folder")
        differences = [
            f"{name} was {found.get(name)}, is {value} now"
            for name, value in self._description.items()
            if found.get(name) != value
        ]
        if differences:
            raise ValueError(
                f"{self.folder} holds shards that were made otherwise: {'; '.join(differences)}; name another folder"
            )
        try:
            listed = [PackedShard(**{**shard, "failures": tuple(map(tuple, shard["failures"]))}) for shard in shards]
        except (LookupError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged ({type(error).__name__}: {error}); name another folder, or delete this one's shards"
            ) from error
        return [shard for shard in listed if _size_bytes(self.folder / shard.name) == shard.size_bytes]

    def _write_manifest(self) -> None:
        shards = [asdict(self.finished[name]) for name in sorted(self.finished)]
        with atomic_path(self.folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps({**self._description, "shards": shards}, indent=1) + "\n", encoding="utf-8")


def shrunk(image: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    """Shrink a picture by averaging, (H, W, 3) uint8, so that its longest side has `max_side` pixels."""
    import cv2

    height, width, _ = image.shape
    scale = max_side / max(height, width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    return np.asarray(cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA), np.uint8)


def resized_instances(instances: Sequence[Instance], image_hw: tuple[int, int]) -> tuple[Instance, ...]:
    """Bring annotated objects to another height and width of their picture; those of which no pixel is left go."""
    import cv2

    resized = []
    for instance in instances:
        height, width = instance.rle["size"]
        scale_x, scale_y = image_hw[1] / width, image_hw[0] / height
        mask = decode_rle(instance.rle).view(np.uint8)
        smaller = cv2.resize(mask, (image_hw[1], image_hw[0]), interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)
        rle = encode_rle(smaller)
        x1, y1, x2, y2 = instance.box_xyxy
        point_xy = instance.point_xy
        if rle_area(rle):
            resized.append(
                replace(
                    instance,
                    rle=rle,
                    box_xyxy=(x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y),
                    area_px=instance.area_px * scale_x * scale_y,
                    point_xy=None if point_xy is None else (point_xy[0] * scale_x, point_xy[1] * scale_y),
                )
            )
    return tuple(resized)


def _tar_writer() -> Callable[[Any], Any]:
    try:
        from webdataset.writer import TarWriter
    except ImportError as error:
        raise MissingDependencyError(
            "packing pictures needs webdataset; run: pip install 'mobile-sam[train]'", name="webdataset"
        ) from error
    return lambda file: TarWriter(file, encoder=False, mtime=0, format="PAX_FORMAT")


def _as_jpeg(image: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
