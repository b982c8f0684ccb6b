"""Masks that may be kept: what the decoder drew of one crop, with all that can be told of them at low resolution."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.mask_checks import tight_rectangle
from mobile_sam.core.predictions import DecodedAbove
from mobile_sam.core.prompts import LOW_RES_STRIDE
from mobile_sam.core.rle import runs_to_window, window_to_runs
from mobile_sam.core.selection import box_areas, shared_areas
from mobile_sam.core.upscale_window import MaskWindow, WindowLogits, upscale_window, window_above
from mobile_sam.everything.config import EverythingConfig

STABILITY_MARGIN = 0.12
"""Masks are dropped at low resolution only if their stability score there is lower than what is asked for by more.

Of 51,000 masks of 30 pictures, none that passes at the picture's size was lower by more than 0.093 (docs/log.md). It is
the only step of exact mode that is right by measurement and not by proof.
"""

LEAST_AREA = 100
"""Masks of fewer pixels, at low resolution or in the picture, are not dropped so: their score says little."""

LEAST_SIDE = 16
"""Nor in pictures that are so few low-resolution pixels high or wide: what lies on their edge is too large a part."""

MAX_KEPT_BYTES = 1 << 27
"""When logits take more than this, masks are made, tested and kept as run lengths, which takes longer."""


@dataclass(frozen=True, eq=False, slots=True)
class Candidate:
    """A mask that the decoder drew and predicted to be good.

    Attributes:
        prompt_row: which of the crop's prompts it answers.
        mask_token: which of the decoder's four masks it is.
        predicted_iou: the model's own guess.
        low_res_stability: stability score at low resolution.
        inner_box: x1, y1, x2, y2 in pixels of the crop that its box surely contains; x1 > x2 if nothing is sure.
        outer_box: what its box surely is within.
    """

    prompt_row: int
    mask_token: int
    predicted_iou: float
    low_res_stability: float
    inner_box: tuple[float, float, float, float]
    outer_box: tuple[float, float, float, float]


DrawnMask: TypeAlias = "tuple[Candidate, NDArray[np.float32]]"
"""A candidate and all of its logits, (S/4, S/4)."""


class Candidates:
    """The candidates of one crop, in the order in which they came.

    Args:
        embedding: of the crop.
        config: thresholds.
        mask_threshold: a pixel belongs to a mask where its logit is greater.
    """

    def __init__(self, embedding: Embedding, config: EverythingConfig, mask_threshold: float) -> None:
        self.embedding, self.config, self.mask_threshold = embedding, config, mask_threshold
        self._entries: list[Candidate] = []
        self._windows: dict[Candidate, WindowLogits] = {}
        self._settled: dict[Candidate, tuple[NDArray[np.int64], float]] = {}  # runs and stability score
        scale_x, scale_y = embedding.resize.scale_xy
        self._least_area = LEAST_AREA * max(1.0, scale_x * scale_y / LOW_RES_STRIDE**2)  # low-resolution pixels

    def __len__(self) -> int:
        return len(self._entries)

    def by_predicted_iou(self) -> Iterator[Candidate]:
        """Yield the candidates, the best first, equals in the order in which they came."""
        yield from sorted(self._entries, key=lambda candidate: -candidate.predicted_iou)

    def mask(self, candidate: Candidate) -> MaskWindow:
        """Make the mask of a candidate at the crop's size."""
        if candidate in self._windows:
            return self._draw(self._windows[candidate])
        runs, stability = self._settled[candidate]
        corner_xy, pixels = runs_to_window(runs, self.embedding.image_hw)
        return MaskWindow(pixels, corner_xy, stability)

    def passes(self, mask: MaskWindow) -> bool:
        """Tell whether a mask has pixels and is stable enough, by the original's own test."""
        return bool(mask.pixels.size) and mask.stability_score >= self.config.stability_score_thresh

    @property
    def floor(self) -> float:
        """The least logit that counts."""
        return self.mask_threshold - self.config.stability_score_offset

    def add(self, decoded: DecodedAbove, rows: NDArray[np.int64]) -> list[DrawnMask]:
        """Take what passes at low resolution, and return it with its logits.

        Args:
            decoded: answers to some prompts.
            rows: (P,) which of the crop's prompts these were.
        """
        added: list[DrawnMask] = []
        tokens, ious = decoded.mask_tokens.tolist(), decoded.iou_predictions.tolist()
        for row, token, predicted_iou, logits in zip(
            rows[decoded.prompt_rows].tolist(), tokens, ious, decoded.low_res_logits, strict=True
        ):
            candidate = self._judge(row, token, predicted_iou, logits)
            if candidate is not None:
                added.append((candidate, logits))
                self._entries.append(candidate)
                self._windows[candidate] = window_above(logits, self.floor)
        if self._num_bytes() > MAX_KEPT_BYTES:
            self._settle()
        return added

    def _judge(
        self, prompt_row: int, mask_token: int, predicted_iou: float, logits: NDArray[np.float32]
    ) -> Candidate | None:
        """Measure a mask (S/4, S/4) at low resolution; None if it would not pass."""
        input_h, input_w = self.embedding.input_hw
        reached = logits[: (input_h + 1) // 4 + 1, : (input_w + 1) // 4 + 1]  # all that the picture's pixels come from
        inside = logits[: -(-input_h // 4), : -(-input_w // 4)]  # those that lie in it
        offset, least = self.config.stability_score_offset, self.config.stability_score_thresh
        num_below = int(np.count_nonzero(inside > self.floor))
        stability = np.count_nonzero(inside > self.mask_threshold + offset) / max(num_below, 1)
        says_much = num_below >= self._least_area and min(inside.shape) >= LEAST_SIDE
        if says_much and stability < least - STABILITY_MARGIN:
            return None
        inner_box, outer_box = box_bounds(reached > self.mask_threshold, self.embedding.resize)
        return Candidate(prompt_row, mask_token, predicted_iou, stability, inner_box, outer_box)

    def _num_bytes(self) -> int:
        return sum(window.logits.nbytes for window in self._windows.values())

    def _settle(self) -> None:
        """Make the masks whose logits are kept, drop those that do not pass, and keep the others as run lengths.

        Also of those that most likely overlap a better one: to decode one of them again takes ten times as long as to
        make its mask (docs/log.md).
        """
        failed = set()
        for candidate, window in self._windows.items():
            mask = self._draw(window)
            if self.passes(mask):
                runs = window_to_runs(mask.pixels, mask.corner_xy, self.embedding.image_hw)
                self._settled[candidate] = (runs, mask.stability_score)
            else:
                failed.add(candidate)
        self._windows.clear()
        self._entries = [candidate for candidate in self._entries if candidate not in failed]

    def _draw(self, logits: WindowLogits) -> MaskWindow:
        embedding, offset = self.embedding, self.config.stability_score_offset
        sizes = (embedding.input_hw, embedding.image_hw)
        return upscale_window(logits, *sizes, self.mask_threshold, offset, embedding.input_side)


def must_overlap(boxes: NDArray[np.float32], candidate: Candidate, iou_threshold: float) -> bool:
    """Tell whether a candidate overlaps one of some boxes (K, 4) too much, whatever its box is within its bounds."""
    least_shared = shared_areas(boxes, np.array(candidate.inner_box, np.float32))  # (K,)
    most_area = box_areas(np.array(candidate.outer_box, np.float32))
    least_iou = least_shared / np.maximum(box_areas(boxes) + most_area - least_shared, 1)
    return bool((least_iou > iou_threshold).any())


def box_bounds(
    is_mask: NDArray[np.bool_], resize: LongSideResize
) -> tuple[tuple[float, float, float, float], tuple[float, float, float, float]]:
    """Tell from a low-resolution mask what the box of the mask at the picture's size contains, and what contains it.

    Where a pixel and its eight neighbours are set, all that is interpolated between them is; and where none of the
    three by three is, nothing is. In pictures whose longer side is below 342 px nothing is sure: a pixel there is more
    than three of the model frame.

    Args:
        is_mask: (h, w) bool, the part of the S/4 x S/4 that the picture's pixels are interpolated from.
        resize: between the picture and the model frame.

    Returns:
        The inner and the outer box, x1, y1, x2, y2 in pixels of the picture, both corners inclusive.
    """
    import cv2

    height, width = resize.image_hw
    nothing, everything = (math.inf, math.inf, -math.inf, -math.inf), (0.0, 0.0, width - 1.0, height - 1.0)
    x, y, w, h = tight_rectangle(is_mask)
    if not w:
        return nothing, everything
    scale_x, scale_y = resize.scale_xy  # model pixels per pixel
    outer = (
        max(math.floor((4 * x - 4) / scale_x) - 1, 0),
        max(math.floor((4 * y - 4) / scale_y) - 1, 0),
        min(math.ceil((4 * (x + w) + 4) / scale_x) + 1, width - 1),
        min(math.ceil((4 * (y + h) + 4) / scale_y) + 1, height - 1),
    )
    if max(scale_x, scale_y) > 3:
        return nothing, outer
    is_deep = cv2.erode(np.ascontiguousarray(is_mask).view(np.uint8), np.ones((3, 3), np.uint8)) > 0
    x, y, w, h = tight_rectangle(is_deep)
    if not w:
        return nothing, outer
    inner = (
        math.ceil((4 * x + 4) / scale_x),
        math.ceil((4 * y + 4) / scale_y),
        min(math.floor((4 * (x + w) - 4) / scale_x), width) - 1,
        min(math.floor((4 * (y + h) - 4) / scale_y), height) - 1,
    )
    return inner if inner[0] < inner[2] and inner[1] < inner[3] else nothing, outer
