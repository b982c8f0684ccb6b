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
from mobile_sam.core.predictions import DecodedAbove
from mobile_sam.core.upscale_window import WindowLogits, window_above
from mobile_sam.everything.config import EverythingConfig

STABILITY_MARGIN = 0.1
"""Masks are dropped at low resolution only if their stability score there is lower than what is asked for by more."""

LEAST_AREA = 100
"""Masks of fewer low-resolution pixels are not dropped so: their score at that size says little."""

MAX_KEPT_BYTES = 1 << 27
"""Logits beyond this are not kept; what is needed of them is decoded once more."""


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
        window: its logits; None where there were too many to keep.
    """

    prompt_row: int
    mask_token: int
    predicted_iou: float
    low_res_stability: float
    inner_box: tuple[float, float, float, float]
    outer_box: tuple[float, float, float, float]
    window: WindowLogits | None


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
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def by_predicted_iou(self) -> Iterator[Candidate]:
        """Yield the candidates, the best first, equals in the order in which they came."""
        yield from sorted(self._entries, key=lambda candidate: -candidate.predicted_iou)

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
        self._entries += [candidate for candidate, _ in added]
        return added

    def _judge(
        self, prompt_row: int, mask_token: int, predicted_iou: float, logits: NDArray[np.float32]
    ) -> Candidate | None:
        """Measure a mask (S/4, S/4) at low resolution; None if it would not pass."""
        visible = logits[: _ceil_div(self.embedding.input_hw[0], 4), : _ceil_div(self.embedding.input_hw[1], 4)]
        offset, least = self.config.stability_score_offset, self.config.stability_score_thresh
        num_below = np.count_nonzero(visible > self.floor)
        if not num_below:
            return None
        stability = np.count_nonzero(visible > self.mask_threshold + offset) / num_below
        if num_below >= LEAST_AREA and stability < least - STABILITY_MARGIN:
            return None
        inner_box, outer_box = box_bounds(visible > self.mask_threshold, self.embedding.resize)
        window = None
        if self._num_bytes < MAX_KEPT_BYTES:
            window = window_above(logits, self.floor)
            self._num_bytes += window.logits.nbytes
        return Candidate(prompt_row, mask_token, predicted_iou, stability, inner_box, outer_box, window)


def box_bounds(
    is_mask: NDArray[np.bool_], resize: LongSideResize
) -> tuple[tuple[float, float, float, float], tuple[float, float, float, float]]:
    """Tell from a low-resolution mask what the box of the mask at the picture's size contains, and what contains it.

    Where a pixel and its eight neighbours are set, all that is interpolated between them is; and where none of the
    three by three is, nothing is. In pictures whose longer side is below 342 px nothing is sure: a pixel there is more
    than three of the model frame.

    Args:
        is_mask: (h, w) bool, the part of the S/4 x S/4 that the picture fills.
        resize: between the picture and the model frame.

    Returns:
        The inner and the outer box, x1, y1, x2, y2 in pixels of the picture, both corners inclusive.
    """
    import cv2

    height, width = resize.image_hw
    pixels = is_mask.view(np.uint8)
    nothing, everything = (math.inf, math.inf, -math.inf, -math.inf), (0.0, 0.0, width - 1.0, height - 1.0)
    x, y, w, h = cv2.boundingRect(pixels)
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
    x, y, w, h = cv2.boundingRect(cv2.erode(pixels, np.ones((3, 3), np.uint8)))
    if not w:
        return nothing, outer
    inner = (
        math.ceil((4 * x + 4) / scale_x),
        math.ceil((4 * y + 4) / scale_y),
        math.floor((4 * (x + w) - 4) / scale_x) - 1,
        math.floor((4 * (y + h) - 4) / scale_y) - 1,
    )
    return inner if inner[0] < inner[2] and inner[1] < inner[3] else nothing, outer


def _ceil_div(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
