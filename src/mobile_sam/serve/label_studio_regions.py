"""Masks as Label Studio's regions: brush, polygons or a rectangle."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.brush_rle import mask_to_brush
from mobile_sam.core.label_studio import label_studio_region
from mobile_sam.core.masks import mask_to_polygons, masks_to_boxes
from mobile_sam.serve.label_studio_config import Output

Region = dict[str, Any]

TOLERANCE_SHARE = 0.001  # of the picture's longer side, by which a polygon may leave the mask's edge
LEAST_PART_SHARE = 0.01  # of the largest part's area; smaller ones get no polygon of their own


def mask_regions(mask: NDArray[np.bool_], score: float, output: Output, label: str | None) -> list[Region]:
    """Describe a mask.

    Args:
        mask: (H, W) bool of the picture's size.
        score: predicted IoU.
        output: where the answer goes.
        label: of the prompt, see `Output.label_for`.

    Returns:
        One region; several if the mask has several parts and the answer is polygons; none for an empty mask.
    """
    if not mask.any():
        return []
    kind = output.kind.removesuffix("labels")
    values: list[Region]
    if kind == "brush":
        values = [{"format": "rle", "rle": mask_to_brush(mask)}]
    elif kind == "polygon":
        values = [{"points": points, "closed": True} for points in _polygons(mask)]
    else:
        values = [_rectangle(mask)]
    names, image_hw = (output.from_name, output.to_name), (mask.shape[0], mask.shape[1])
    chosen = output.label_for(label)
    return [
        label_studio_region(uuid.uuid4().hex[:10], names, output.kind, image_hw, score, value, chosen)
        for value in values
    ]


def _polygons(mask: NDArray[np.bool_]) -> list[list[list[float]]]:
    """Outlines in percent of the picture, from its edge to its edge: of the largest part and of those not much less."""
    import cv2

    height, width = mask.shape
    outlines = mask_to_polygons(mask, tolerance_px=TOLERANCE_SHARE * max(height, width))
    areas = [cv2.contourArea(outline) for outline in outlines]
    least = LEAST_PART_SHARE * max(areas, default=0.0)
    percent_xy = np.array([100 / width, 100 / height])
    # The centre of the first pixel, 0 in the mask, is half a pixel from the edge.
    return [
        ((outline + 0.5) * percent_xy).tolist() for outline, area in zip(outlines, areas, strict=True) if area >= least
    ]


def _rectangle(mask: NDArray[np.bool_]) -> Region:
    height, width = mask.shape
    ((x1, y1, x2, y2),) = masks_to_boxes(mask[None]).tolist()  # inclusive corners
    return {
        "x": 100 * x1 / width,
        "y": 100 * y1 / height,
        "width": 100 * (x2 - x1 + 1) / width,
        "height": 100 * (y2 - y1 + 1) / height,
        "rotation": 0,
    }
