"""How alike two ways of encoding a picture are: the masks of the same grid of clicks on both embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.grids import point_grid
from mobile_sam.core.prompts import LOW_RES_STRIDE, PromptBatch
from mobile_sam.engines import Engine


@dataclass(frozen=True)
class ClickAnswers:
    """What a grid of clicks gives."""

    masks: NDArray[np.bool_]  # (P, 3, h, w), the picture's part of the low-resolution logits, above 0
    predicted_iou: NDArray[np.float32]  # (P, 3)


def click_on_grid(engine: Engine, embedding: Embedding, clicks_per_side: int) -> ClickAnswers:
    """Answer single clicks on the points of a square grid over the picture, three masks each."""
    height, width = embedding.image_hw
    points_xy = point_grid(clicks_per_side) * (width, height)  # (P, 2) pixels of the picture
    decoded = engine.decode(embedding, PromptBatch.of_points(points_xy, embedding.resize))
    rows, columns = (-(-length // LOW_RES_STRIDE) for length in embedding.input_hw)
    return ClickAnswers(decoded.low_res_logits[:, :, :rows, :columns] > 0, decoded.iou_predictions)


def mask_ious(found: ClickAnswers, expected: ClickAnswers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """IoU of each mask with its counterpart (P, 3), and of those alone whose predicted IoU was best (P,).

    Two empty masks are equal.
    """
    both = np.count_nonzero(found.masks & expected.masks, axis=(2, 3))
    either = np.count_nonzero(found.masks | expected.masks, axis=(2, 3))
    ious = np.where(either == 0, 1.0, both / np.maximum(either, 1))  # (P, 3)
    return ious, ious[np.arange(len(ious)), expected.predicted_iou.argmax(axis=1)]
