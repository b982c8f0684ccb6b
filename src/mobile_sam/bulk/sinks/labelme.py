"""LabelMe: a JSON file for each picture, to be put beside the picture and opened in labelme."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.bulk.results import PictureMasks
from mobile_sam.bulk.sinks.base import PictureSink
from mobile_sam.bulk.sinks.picture_files import place_of, write_json
from mobile_sam.bulk.sinks.polygons import find_outlines
from mobile_sam.core.rle import rle_to_window

LABELME_VERSION = "5.5.0"
"""Whose form it is: the first of them with masks is 5.3."""

HOLE_SHARE = 0.01
"""Of a mask's pixels: with more than that in holes, it is written as a mask, since polygons have none."""


class LabelmeSink(PictureSink):
    """Writes labelme/KEY.json.

    The picture is named without its folder: a file belongs beside its picture, so lay the tree of them over the tree of
    pictures (`cp -r OUT/labelme/. PICTURES/`).

    Masks are polygons, which people can edit; the polygons of one mask share a `group_id`. A mask that is more than
    HOLE_SHARE holes is a "mask" of labelme, exact, whose pixels cannot be edited there. An empty mask is left out.
    """

    def write(self, masks: PictureMasks) -> None:
        """Write one picture's file, see `PictureSink`."""
        height, width = masks.size_hw
        content: dict[str, Any] = {
            "version": LABELME_VERSION,
            "flags": {},
            "shapes": [shape for group, record in enumerate(masks.records) for shape in self._shapes(record, group)],
            "imagePath": PurePosixPath(masks.file_name).name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        write_json(place_of(self.settings.out / "labelme", masks, ".json"), content, masks)

    def _shapes(self, record: Mapping[str, Any], group: int) -> list[dict[str, Any]]:
        """One mask as polygons, or as a mask."""
        _, label = self.settings.category_of(record)
        code = record["segmentation"]
        outlines = find_outlines(code)
        if outlines.hole_area_px > HOLE_SHARE * record["area"]:
            _, (x, y), window = rle_to_window(code)
            height, width = window.shape
            corners = [[float(x), float(y)], [float(x + width - 1), float(y + height - 1)]]  # both inclusive
            return [_shape(label, "mask", corners, mask=_png_base64(window))]
        group_id = group if len(outlines.parts) > 1 else None
        polygons = (part.round(2).tolist() for part in outlines.parts)
        return [_shape(label, "polygon", polygon, group_id=group_id) for polygon in polygons]


def _shape(
    label: str, shape_type: str, points: list[list[float]], *, group_id: int | None = None, mask: str | None = None
) -> dict[str, Any]:
    return {
        "label": label,
        "points": points,
        "group_id": group_id,
        "description": "",
        "shape_type": shape_type,
        "flags": {},
        "mask": mask,
    }


def _png_base64(window: NDArray[np.bool_]) -> str:
    """Put the part of a mask in its box, (h, w) bool, into text: base64 of a PNG of one bit a pixel."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(window).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
