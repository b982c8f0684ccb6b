"""COCO JSON: all pictures in one file, written mask by mask."""

from __future__ import annotations

import json
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from mobile_sam.bulk.results import PictureMasks
from mobile_sam.bulk.sinks.base import CollectedSink, SinkSettings
from mobile_sam.core.files import atomic_path
from mobile_sam.everything.coco import CATEGORY_ID, CATEGORY_NAME, coco_annotation, coco_image, number_in_name

Numbering = Callable[[SinkSettings, PictureMasks], int | None]

NUMBERINGS: tuple[Numbering, ...] = (
    lambda _, picture: picture.source_id,
    lambda _, picture: number_in_name(picture.file_name),
    SinkSettings.item_number,
)
"""Ways to number pictures, best first; one is taken if it gives every picture a number of its own."""

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class CocoSink(CollectedSink):
    """Writes coco.json, as `mobile_sam.everything.coco.coco_json` describes it.

    Pictures have the numbers of the annotation file that listed them, if all have one; else those in their file names,
    if all are called by different numbers (000000397133.jpg is 397133); else the numbers of the items. The file is
    begun with the best way, and begun again with the next one where a picture shows that it will not do: nearly always
    the first picture. So nothing has to be known of all pictures beforehand; 8 bytes of each stay in memory, 30 while
    they are compared.
    """

    def write(self, pictures: Iterable[PictureMasks]) -> list[Path]:
        """Write the file; `pictures` must give all pictures each time that it is iterated, up to three times.

        The entries of pictures lie in a file of their own, without name, until those of masks are complete, so that a
        disk must have room for the result and a few hundred bytes a picture.

        Raises:
            ValueError: `pictures` can be iterated only once, or a number is not finite.
            OSError: as the disk does.
        """
        if iter(pictures) is pictures:
            raise ValueError("pictures must be iterable more than once, got an iterator; pass what makes the iterators")
        path = self.settings.out / self.settings.name("coco", ".json")
        with atomic_path(path) as temporary:
            is_written = any(self._write_numbered(temporary, pictures, numbering) for numbering in NUMBERINGS)
            assert is_written, "two items have one number"
        return [path]

    def _write_numbered(self, path: Path, pictures: Iterable[PictureMasks], numbering: Numbering) -> bool:
        """Write the file with one way to number pictures; whether each has a number of its own."""
        image_ids = array("q")
        used: dict[int, str] = {}
        num_annotations = 0
        with open(path, "wb") as file, tempfile.TemporaryFile(dir=path.parent) as images:
            file.write(b'{"info":' + _json({"description": "Masks by mobile-sam", **self.settings.info}))
            file.write(b',\n"annotations":[')
            for picture in pictures:
                image_id = numbering(self.settings, picture)
                if image_id is None:
                    return False
                image_ids.append(image_id)
                if _is_power_of_2(len(image_ids)) and _has_duplicates(image_ids):  # found late, but not at the end
                    return False
                _append(images, coco_image(image_id, picture.file_name, picture.size_hw), len(image_ids) == 1)
                for record in picture.records:
                    num_annotations += 1
                    category_id, name = self.settings.category_of(record)
                    used[category_id] = name
                    annotation = {**coco_annotation(num_annotations, image_id, record), "category_id": category_id}
                    _append(file, annotation, num_annotations == 1)
            if _has_duplicates(image_ids):
                return False
            file.write(b'\n],\n"images":[')
            images.seek(0)
            shutil.copyfileobj(images, file)
            file.write(b'\n],\n"categories":' + _json(_categories(used)) + b"}\n")
        return True


def _categories(used: dict[int, str]) -> list[dict[str, Any]]:
    named = sorted(used.items()) or [(CATEGORY_ID, CATEGORY_NAME)]
    return [{"id": number, "name": name} for number, name in named]


def _append(file: IO[bytes], entry: dict[str, Any], is_first: bool) -> None:
    file.write((b"\n" if is_first else b",\n") + _json(entry))


def _json(content: Any) -> bytes:
    return _encode(content).encode("ascii")


def _is_power_of_2(number: int) -> bool:
    return number & (number - 1) == 0


def _has_duplicates(numbers: array[int]) -> bool:
    return len(np.unique(np.array(numbers, np.int64))) < len(numbers)
