"""Masks that were found in a picture, as run lengths, and the records that SAM's users know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.rle import decode_runs, runs_to_rle, window_to_runs
from mobile_sam.core.upscale_window import MaskWindow

Record = dict[str, Any]
Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class FoundMask:
    """A mask of a picture, small enough to keep thousands of.

    Attributes:
        runs: (K,) lengths of runs down the columns, of background and mask by turns, as COCO has them.
        image_hw: height and width of the picture.
        box_xyxy: tight box, both corners inclusive; zeros if the mask is empty.
        predicted_iou: the model's own guess.
        stability_score: IoU of the masks cut at a higher and at a lower threshold.
        point_xy: the prompt in pixels of the picture; None if it was a box.
        crop_box: x1, y1, x2, y2 of the part of the picture that it was found in.
    """

    runs: NDArray[np.int64]
    image_hw: tuple[int, int]
    box_xyxy: Box
    predicted_iou: float
    stability_score: float
    point_xy: tuple[float, float] | None
    crop_box: Box

    @classmethod
    def of(
        cls,
        window: MaskWindow,
        predicted_iou: float,
        point_xy: tuple[float, float] | None,
        crop_box: Box,
        image_hw: tuple[int, int],
    ) -> FoundMask:
        """Move a mask of a crop, and its point, into the picture."""
        left, top = crop_box[:2]
        x1, y1, x2, y2 = window.box_xyxy
        is_empty = not window.pixels.size
        return cls(
            window_to_runs(window.pixels, (left + window.corner_xy[0], top + window.corner_xy[1]), image_hw),
            image_hw,
            (0, 0, 0, 0) if is_empty else (x1 + left, y1 + top, x2 + left, y2 + top),
            predicted_iou,
            window.stability_score,
            None if point_xy is None else (point_xy[0] + left, point_xy[1] + top),
            crop_box,
        )

    @property
    def area_px(self) -> int:
        """Number of pixels."""
        return int(self.runs[1::2].sum())

    def mask(self) -> NDArray[np.bool_]:
        """(H, W) bool."""
        return decode_runs(self.runs, self.image_hw)

    def to_record(self, output_mode: str) -> Record:
        """Describe the mask by SAM's keys, see `SamAutomaticMaskGenerator.generate`."""
        segmentation: Any
        if output_mode == "binary_mask":
            segmentation = self.mask()
        elif output_mode == "uncompressed_rle":
            segmentation = {"size": list(self.image_hw), "counts": self.runs.tolist()}
        else:
            segmentation = dict(runs_to_rle(self.runs, self.image_hw))
        return {
            "segmentation": segmentation,
            "area": self.area_px,
            "bbox": _xywh(self.box_xyxy),
            "predicted_iou": self.predicted_iou,
            "point_coords": [] if self.point_xy is None else [list(self.point_xy)],
            "stability_score": self.stability_score,
            "crop_box": _xywh(self.crop_box),
        }


def _xywh(box: Box) -> list[int]:
    """SAM's corner and size: width is x2 - x1, also where both corners are inclusive."""
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]
