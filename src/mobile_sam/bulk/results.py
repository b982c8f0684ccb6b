"""What a task makes of one picture, before any format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class PictureMasks:
    """The masks of one picture.

    Attributes:
        item_id: `Item.id`.
        key: `Item.key`.
        file_name: `Item.file_name`.
        size_hw: height and width in pixels.
        records: as `SamAutomaticMaskGenerator.generate` gives with output_mode "coco_rle", brought to what JSON has
            (`mobile_sam.everything.coco.json_record`): segmentation {"size", "counts" as text}, area, bbox (XYWH),
            predicted_iou, point_coords, stability_score, crop_box; of boxes also box (XYXY), and score and category_id
            where they are known.
        source_id: `Item.source_id`.
    """

    item_id: int
    key: str
    file_name: str
    size_hw: tuple[int, int]
    records: Sequence[Mapping[str, Any]]
    source_id: int | None = None

    def to_line(self) -> bytes:
        """Write as one line of JSON, with its end."""
        content = {
            "item_id": self.item_id,
            "key": self.key,
            "file_name": self.file_name,
            "height": self.size_hw[0],
            "width": self.size_hw[1],
            "source_id": self.source_id,
            "records": self.records,
        }
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> PictureMasks:
        """Read what `to_line` wrote.

        Raises:
            ValueError: it is no such line.
        """
        try:
            content = json.loads(line)
            return cls(
                int(content["item_id"]),
                str(content["key"]),
                str(content["file_name"]),
                (int(content["height"]), int(content["width"])),
                list(content["records"]),
                content["source_id"],
            )
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"no masks of a picture: {line[:80]!r} ({type(error).__name__}: {error})") from error


@dataclass(frozen=True, eq=False)
class PictureEmbedding:
    """The embedding of one picture.

    Attributes:
        item_id: `Item.id`.
        key: `Item.key`.
        features: (256, S/16, S/16) float16.
        image_hw: height and width of the picture in pixels.
        input_hw: height and width of its part of the model frame in pixels.
    """

    item_id: int
    key: str
    features: NDArray[np.float16]
    image_hw: tuple[int, int]
    input_hw: tuple[int, int]
