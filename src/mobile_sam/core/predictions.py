"""What a decoder answers: low-resolution logits for a batch of prompts, full-size masks for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SINGLE_MASK = (0,)
"""The mask token for unambiguous prompts (multimask_output=False)."""
MULTI_MASK = (1, 2, 3)
"""The three mask tokens for ambiguous prompts, such as one click: whole, part and subpart."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a decoder says of P prompts, M masks each.

    Attributes:
        low_res_logits: (P, M, S/4, S/4) float32 mask logits over the whole model frame, padding included.
        iou_predictions: (P, M) float32, the model's own guess of each mask's IoU; about 0 to 1, unbounded.
    """

    low_res_logits: NDArray[np.float32]
    iou_predictions: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class DecodedAbove:
    """What a decoder says of P prompts, with those K masks drawn whose predicted IoU is above a limit.

    Attributes:
        num_prompts: P.
        prompt_rows: (K,) int64, which prompt each mask answers, counted from the first of the whole batch; rising.
        mask_tokens: (K,) int64, which of the four masks each is.
        low_res_logits: (K, S/4, S/4) float32, as in `Decoded`.
        iou_predictions: (K,) float32.
    """

    num_prompts: int
    prompt_rows: NDArray[np.int64]
    mask_tokens: NDArray[np.int64]
    low_res_logits: NDArray[np.float32]
    iou_predictions: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Prediction:
    """The masks of one prompt.

    Attributes:
        masks: (M, H, W) bool of the picture's size, or float32 logits when logits were asked for.
        iou_predictions: (M,) float32.
        low_res_logits: (M, 256, 256) float32; one of them may be the mask prompt of a next call.
    """

    masks: NDArray[Any]
    iou_predictions: NDArray[np.float32]
    low_res_logits: NDArray[np.float32]

    @property
    def best(self) -> int:
        """Index of the mask with the highest predicted IoU."""
        return int(np.argmax(self.iou_predictions))

    def only(self, index: int) -> Prediction:
        """Return a prediction with just the mask at `index`."""
        one = [index]  # a list copies, so that the other masks can go
        return Prediction(self.masks[one], self.iou_predictions[one], self.low_res_logits[one])
