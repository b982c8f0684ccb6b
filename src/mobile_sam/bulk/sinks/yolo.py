"""YOLO segmentation: a text file for each picture, with a class and a polygon on each line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.bulk.results import PictureMasks
from mobile_sam.bulk.sinks.base import PictureSink, SinkSettings
from mobile_sam.bulk.sinks.picture_files import place_of, write_text
from mobile_sam.bulk.sinks.polygons import find_outlines, join_parts
from mobile_sam.core.files import atomic_path
from mobile_sam.everything.coco import CATEGORY_NAME


class YoloSink(PictureSink):
    """Writes yolo/labels/KEY.txt, lines of "class x1 y1 x2 y2 ..." in parts of width and height, and yolo/data.yaml.

    The pictures are expected in yolo/images, at the same paths as their labels.

    A line is one polygon, so that holes are lost, and the parts of a mask are joined by ways without area. Of what is
    too thin for a polygon, such as one pixel, it is the outline of the pixels, a sixth of one inside. An empty mask is
    left out. A picture without masks gets an empty file: YOLO learns from it that there is nothing.

    Classes are numbered from 0 in the order of the category ids that the run knows; each worker knows them beforehand.
    Masks of no category, or of one whose name is not known, are of the class "object", which comes last unless a known
    category has that name; where none is known it is the only one.
    """

    def __init__(self, settings: SinkSettings) -> None:
        super().__init__(settings)
        known = sorted(settings.categories)
        self.class_by_category: dict[int | None, int] = {category: number for number, category in enumerate(known)}
        self.names = [settings.categories[category] for category in known]
        if CATEGORY_NAME not in self.names:
            self.names.append(CATEGORY_NAME)

    def begin(self) -> None:
        """Write data.yaml, see `PictureSink`."""
        folder = self.settings.out / "yolo"
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / "data.yaml") as temporary:
            temporary.write_bytes(self.data_yaml().encode("utf-8"))

    def data_yaml(self) -> str:
        """Describe the dataset: where its pictures are, and the names of the classes."""
        return "".join([_HEAD, *(f"  {number}: {_quoted(name)}\n" for number, name in enumerate(self.names))])

    def write(self, masks: PictureMasks) -> None:
        """Write one picture's file, see `PictureSink`."""
        lines = (self._line(record, masks.size_hw) for record in masks.records)
        write_text(place_of(self.settings.out / "yolo" / "labels", masks, ".txt"), "".join(lines), masks)

    def _line(self, record: Mapping[str, Any], size_hw: tuple[int, int]) -> str:
        """One mask with the end of its line; nothing if it is empty."""
        parts = find_outlines(record["segmentation"]).parts
        if not parts:
            return ""
        number = self.class_by_category.get(record.get("category_id"), self.names.index(CATEGORY_NAME))
        height, width = size_hw
        shares: NDArray[np.float64] = join_parts(parts) / (width, height)  # (K, 2)
        return " ".join([str(number), *(f"{share:.6f}" for share in shares.ravel().tolist())]) + "\n"


_HEAD = f"""\
# Masks of `mobile-sam bulk`, for YOLO segmentation.
# Put the pictures into the folder images beside labels, or link to it, with the paths of the labels:
# images/KEY.jpg for labels/KEY.txt. Then name those to train on and those to validate on.
# Masks of no category, or of one without a known name, are of the class "{CATEGORY_NAME}".
train: images
val: images
names:
"""


def _quoted(name: str) -> str:
    """Quote text for YAML: as JSON, which YAML includes, but in UTF-8 and with what does not print written out."""
    text = json.dumps(name, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08X}" for char in text)
