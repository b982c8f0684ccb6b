"""Boxes of any detector as prompts: arrays, `supervision.Detections`, detections read from a COCO file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.prompts import Prompt
from mobile_sam.data.mask_files import NO_CATEGORY, PictureDetections


@dataclass(frozen=True, eq=False)
class BoxPrompts:
    """Boxes in a picture, with what the detector said of them; make one with `BoxPrompts.of`.

    Attributes:
        prompts: one for each of the N boxes.
        scores: (N,) float64, or None where the detector told none.
        category_ids: (N,) int64, or None.
    """

    prompts: list[Prompt]
    scores: NDArray[np.float64] | None = None
    category_ids: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, boxes: Any, image_hw: tuple[int, int]) -> BoxPrompts:
        """Check and convert what a caller gives.

        Args:
            boxes: (N, 4) x1, y1, x2, y2 in pixels of the picture; or an object that has them as `xyxy` and perhaps
                `confidence` and `class_id` (`supervision.Detections`); or `PictureDetections`.
            image_hw: height and width of the picture.

        Raises:
            ValueError: another shape, swapped or equal corners, numbers that are not finite, a box that sticks out of
                the picture by more than 5 % of its side. The message says which box.
        """
        scores = category_ids = None
        if isinstance(boxes, PictureDetections):
            boxes, scores, category_ids = boxes.boxes_xyxy, boxes.scores, boxes.category_ids
        elif hasattr(boxes, "xyxy"):
            boxes, scores, category_ids = (getattr(boxes, name, None) for name in ("xyxy", "confidence", "class_id"))
        rows = _rows(boxes)
        prompts = []
        for index, row in enumerate(rows):
            try:
                prompt = Prompt.of(box=row)
                prompt.check_inside(image_hw)
            except ValueError as error:
                raise ValueError(f"box {index} of {len(rows)}: {error}") from error
            prompts.append(prompt)
        return cls(
            prompts,
            None if scores is None else _column(scores, "scores", len(rows), np.float64),
            None if category_ids is None else _column(category_ids, "category ids", len(rows), np.int64),
        )

    def facts(self, row: int) -> dict[str, Any]:
        """Return what a record of this box says beside SAM's keys: `box`, and `score` and `category_id` if known."""
        box_xyxy = self.prompts[row].box_xyxy
        assert box_xyxy is not None
        facts: dict[str, Any] = {"box": box_xyxy.tolist()}
        if self.scores is not None and not np.isnan(self.scores[row]):
            facts["score"] = float(self.scores[row])
        if self.category_ids is not None and self.category_ids[row] != NO_CATEGORY:
            facts["category_id"] = int(self.category_ids[row])
        return facts


def _rows(boxes: Any) -> NDArray[np.float32]:
    try:
        rows = np.asarray(boxes, np.float32)
    except (RuntimeError, TypeError, ValueError) as error:  # RuntimeError: a tensor that autograd watches
        raise ValueError(
            f"boxes must be numbers, (N, 4): x1, y1, x2, y2 for each, got {type(boxes).__name__}"
        ) from error
    if rows.size == 0:
        rows = rows.reshape(0, 4)  # no box found is no mistake
    if rows.ndim != 2 or rows.shape[1] != 4:
        advice = "; use boxes[None] for a single box" if rows.shape == (4,) else ""
        raise ValueError(f"boxes must be (N, 4): x1, y1, x2, y2 for each, got shape {rows.shape}{advice}")
    return rows


def _column(values: Any, name: str, num_boxes: int, dtype: type) -> NDArray[Any]:
    try:
        column: NDArray[np.float64] = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers, one for each box, got {values!r}") from error
    if column.shape != (num_boxes,):
        raise ValueError(f"there are {num_boxes} boxes, and {name} of shape {column.shape}; expected ({num_boxes},)")
    if dtype is np.int64 and not (np.isfinite(column) & (column == np.rint(column))).all():
        raise ValueError(f"{name} must be whole numbers, got {column.tolist()[:8]}")
    return column.astype(dtype)
