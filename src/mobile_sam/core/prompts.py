"""Prompts: what the caller says of an object, checked, and moved to the model frame in batches.

Frames: "image" is the caller's picture, in pixels, x to the right and y down; "model" is the padded square that the
encoder sees (S x S, S = 1024 unless a model was made for another), into which the picture is resized by its longer side
and placed in the upper left corner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.masks import mask_to_logits

LOW_RES_STRIDE = 4  # model pixels per pixel of a low-resolution mask

LABEL_BACKGROUND, LABEL_FOREGROUND, LABEL_BOX_UPPER_LEFT, LABEL_BOX_LOWER_RIGHT = 0, 1, 2, 3
LABEL_PADDING = -1
"""SAM's own padding point: it stands in for the missing box when points come alone, and does take part in attention."""
LABEL_ABSENT = -10
"""Fills up prompts with fewer points than others of the same batch; hidden from attention, so it changes nothing."""

BOX_OVERSHOOT = 0.05
"""Share of the picture's side by which a box may stick out, as detectors' boxes do."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """What the caller says of one object, in the image frame; make one with `Prompt.of`.

    Attributes:
        points_xy: (N, 2) float32, N may be 0.
        labels: (N,) int64: 1 the object, 0 not the object (SAM's 2 and 3, corners of a box, and -1 are understood).
        box_xyxy: (4,) float32 or None.
        mask: (256, 256) float32 logits (S/4 x S/4), (H, W) bool of the picture's size, or None.
    """

    points_xy: NDArray[np.float32]
    labels: NDArray[np.int64]
    box_xyxy: NDArray[np.float32] | None = None
    mask: NDArray[Any] | None = None

    @classmethod
    def of(
        cls,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> Prompt:
        """Check and convert what a caller gives.

        Args:
            points: (N, 2) or one (2,): x, y in pixels of the picture.
            labels: (N,) 1 or 0; all 1 when left out.
            box: (4,) or (1, 4): x1, y1, x2, y2.
            mask: (256, 256) or (1, 256, 256) logits (a float dtype), or (H, W) bool of the picture's size.

        Raises:
            ValueError: nothing given, wrong ranks, counts that differ, NaN or infinite values, unknown labels, swapped
                corners.
        """
        if points is None and labels is not None:
            raise ValueError("labels came without points; pass points=(N, 2) beside them, or drop the labels")
        points_xy = _check_points(points)
        if not len(points_xy) and box is None and mask is None:
            raise ValueError("an empty prompt: pass points with labels, a box or a mask")
        return cls(points_xy, _check_labels(labels, len(points_xy)), _check_box(box), _check_mask(mask))

    @property
    def is_lone_click(self) -> bool:
        """Whether it is one point without a box, of which nobody knows how much of the object it means."""
        return len(self.labels) == 1 and self.box_xyxy is None

    def to_json(self) -> dict[str, Any]:
        """Return points, labels and box as plain lists, and whether there was a mask."""
        return {
            "points": self.points_xy.tolist(),
            "labels": self.labels.tolist(),
            "box": None if self.box_xyxy is None else self.box_xyxy.tolist(),
            "has_mask": self.mask is not None,
        }

    def check_inside(self, image_hw: tuple[int, int]) -> None:
        """Check that the prompt lies in the picture.

        Raises:
            ValueError: a point outside, a box that sticks out by more than 5 % of the side, a mask of another size.
        """
        height, width = image_hw
        bounds_xy = np.array([width, height], np.float32)
        outside = (self.labels != LABEL_PADDING) & ((self.points_xy < 0) | (self.points_xy > bounds_xy)).any(axis=1)
        if outside.any():
            x, y = self.points_xy[outside][0]
            raise ValueError(
                f"point ({x:g}, {y:g}) lies outside the picture of {width} x {height} px (width x height); "
                "points are x, y in pixels of the original picture"
            )
        if self.box_xyxy is not None:
            corners_xy, slack_xy = self.box_xyxy.reshape(2, 2), BOX_OVERSHOOT * bounds_xy
            if (corners_xy < -slack_xy).any() or (corners_xy > bounds_xy + slack_xy).any():
                raise ValueError(
                    f"box {_numbers(self.box_xyxy)} lies outside the picture of {width} x {height} px "
                    "(width x height); boxes are x1, y1, x2, y2 in pixels of the original picture"
                )
        if self.mask is not None and self.mask.dtype == np.bool_ and self.mask.shape != (height, width):
            raise ValueError(
                f"a binary mask prompt must have the picture's size {(height, width)}, got {self.mask.shape}; "
                "resize it, or pass the float logits of an earlier prediction, 256 x 256 for an input of 1024"
            )


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """P prompts in the model frame, stacked for a decoder.

    Attributes:
        coords_xy: (P, N, 2) float32, model pixels (before SAM's shift of half a pixel).
        labels: (P, N) float32: 1, 0, 2, 3, -1 as in SAM and -10 for places that hold nothing.
        mask_logits: (P, 1, S/4, S/4) float32, or None when no prompt of the batch has a mask.
        has_mask: (P,) bool.
    """

    coords_xy: NDArray[np.float32]
    labels: NDArray[np.float32]
    mask_logits: NDArray[np.float32] | None
    has_mask: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> PromptBatch:
        """Return the prompts `rows`, a slice or indices, as a batch of their own."""
        logits = None if self.mask_logits is None else self.mask_logits[rows]
        return PromptBatch(self.coords_xy[rows], self.labels[rows], logits, self.has_mask[rows])

    @classmethod
    def from_prompts(cls, prompts: Sequence[Prompt], resize: LongSideResize) -> PromptBatch:
        """Move prompts to the model frame and stack them, shorter ones filled up with absent points.

        SAM's rule is kept: points without a box get one padding point (label -1), a box becomes its two corners.
        """
        rows = [_prompt_tokens(prompt, resize) for prompt in prompts]
        num_points = max((len(labels) for _, labels in rows), default=0)
        coords_xy = np.zeros((len(rows), num_points, 2), np.float32)
        labels = np.full((len(rows), num_points), LABEL_ABSENT, np.float32)
        for row, (row_xy, row_labels) in enumerate(rows):
            coords_xy[row, : len(row_labels)] = row_xy
            labels[row, : len(row_labels)] = row_labels
        has_mask = np.array([prompt.mask is not None for prompt in prompts], bool)
        mask_logits = None
        if has_mask.any():
            side = resize.side // LOW_RES_STRIDE
            mask_logits = np.zeros((len(rows), 1, side, side), np.float32)
            for row in np.flatnonzero(has_mask).tolist():
                mask_logits[row, 0] = _low_res_logits(prompts[row].mask, resize, side)
        return cls(coords_xy, labels, mask_logits, has_mask)

    @classmethod
    def of_points(cls, points_xy: NDArray[np.floating], resize: LongSideResize) -> PromptBatch:
        """Make P prompts of one foreground point each: (P, 2) x, y in pixels of the picture."""
        coords_xy = np.zeros((len(points_xy), 2, 2), np.float32)  # the second is SAM's padding point
        coords_xy[:, 0] = resize.to_model(points_xy)
        labels = np.tile(np.array([LABEL_FOREGROUND, LABEL_PADDING], np.float32), (len(points_xy), 1))
        return cls(coords_xy, labels, None, np.zeros(len(points_xy), bool))


def _check_points(points: ArrayLike | None) -> NDArray[np.float32]:
    if points is None:
        return np.zeros((0, 2), np.float32)
    points_xy = _as_floats(points, "points")
    if points_xy.ndim == 1 and points_xy.shape[0] == 2:
        points_xy = points_xy[None]
    if points_xy.ndim != 2 or points_xy.shape[1] != 2:
        raise ValueError(f"points must be (N, 2): one x, y for each point, got shape {points_xy.shape}")
    _check_finite(points_xy, "points")
    return points_xy


def _check_labels(labels: ArrayLike | None, num_points: int) -> NDArray[np.int64]:
    if labels is None:
        return np.ones(num_points, np.int64)
    values = np.atleast_1d(_as_floats(labels, "labels"))
    if values.shape != (num_points,):
        raise ValueError(f"labels must be ({num_points},), one for each point, got shape {values.shape}")
    known = np.isin(
        values, (LABEL_PADDING, LABEL_BACKGROUND, LABEL_FOREGROUND, LABEL_BOX_UPPER_LEFT, LABEL_BOX_LOWER_RIGHT)
    )
    if not known.all():
        raise ValueError(f"labels must be 1 (the object) or 0 (not the object), got {_numbers(values[~known])}")
    return values.astype(np.int64)


def _check_box(box: ArrayLike | None) -> NDArray[np.float32] | None:
    if box is None:
        return None
    box_xyxy = _as_floats(box, "box")
    if box_xyxy.shape == (1, 4):
        box_xyxy = box_xyxy[0]
    if box_xyxy.shape != (4,):
        raise ValueError(
            f"box must be (4,): x1, y1, x2, y2, got shape {box_xyxy.shape}; for several boxes use predict_batch, "
            "one prompt for each"
        )
    _check_finite(box_xyxy, "box")
    x1, y1, x2, y2 = box_xyxy
    if x1 >= x2 or y1 >= y2:
        raise ValueError(
            f"box {_numbers(box_xyxy)} has swapped or equal corners; expected x1, y1, x2, y2 with x1 < x2 and y1 < y2 "
            "(not x, y, width, height)"
        )
    return box_xyxy


def _check_mask(mask: ArrayLike | None) -> NDArray[Any] | None:
    if mask is None:
        return None
    values = np.asarray(mask)
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2:
        raise ValueError(f"a mask prompt must be (H, W) bool or (256, 256) float logits, got shape {values.shape}")
    if values.dtype == np.bool_:
        return values
    if np.issubdtype(values.dtype, np.integer):
        raise ValueError(
            f"a mask prompt of dtype {values.dtype} is ambiguous: pass mask.astype(bool) for a binary mask of the "
            "picture's size, or float logits of an earlier prediction"
        )
    logits = _as_floats(values, "mask")
    _check_finite(logits, "mask")
    return logits


def _prompt_tokens(prompt: Prompt, resize: LongSideResize) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return one prompt as decoder tokens: coordinates (N, 2) in the model frame and labels (N,)."""
    coords_xy, labels = resize.to_model(prompt.points_xy).astype(np.float32), prompt.labels.astype(np.float32)
    if prompt.box_xyxy is not None:
        corners_xy = resize.boxes_to_model(prompt.box_xyxy).reshape(2, 2).astype(np.float32)
        corner_labels = np.array([LABEL_BOX_UPPER_LEFT, LABEL_BOX_LOWER_RIGHT], np.float32)
        return np.concatenate([coords_xy, corners_xy]), np.concatenate([labels, corner_labels])
    if len(labels):
        coords_xy = np.concatenate([coords_xy, np.zeros((1, 2), np.float32)])
        labels = np.append(labels, np.float32(LABEL_PADDING))
    return coords_xy, labels


def _low_res_logits(mask: NDArray[Any] | None, resize: LongSideResize, side: int) -> NDArray[np.float32]:
    assert mask is not None
    if mask.dtype == np.bool_:
        return mask_to_logits(mask, resize.input_hw, resize.side, side)
    if mask.shape != (side, side):
        raise ValueError(
            f"mask logits must be ({side}, {side}), got {mask.shape}; pass low_res_logits of an earlier prediction, "
            "or a bool mask of the picture's size"
        )
    return mask.astype(np.float32)


def _as_floats(values: ArrayLike, name: str) -> NDArray[np.float32]:
    try:
        return np.asarray(values, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers in a rectangular array, got {values!r}") from error


def _check_finite(values: NDArray[np.float32], name: str) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got {_numbers(values[~np.isfinite(values)])}")


def _numbers(values: NDArray[Any]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in np.ravel(values)[:8]) + "]"
