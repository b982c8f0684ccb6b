"""What one caller asks about one picture: prompts, which masks each shall have, and the answers as they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.predictions import MULTI_MASK, SINGLE_MASK, Prediction
from mobile_sam.core.prompts import Prompt, PromptBatch
from mobile_sam.core.upscale import upscale_to_mask
from mobile_sam.serve.work_queue import Promise

Candidates = Literal["auto", "single", "three", "all"]
"""Which masks a prompt gets: "single" token 0, "three" tokens 1 to 3, "all" tokens 0 to 3, "auto" one mask: the best of
the three for a lone click, which is ambiguous, and token 0 for all else."""

TOKENS: dict[str, tuple[int, ...]] = {"single": SINGLE_MASK, "three": MULTI_MASK, "all": (0, 1, 2, 3)}


@dataclass(frozen=True, eq=False)
class TokenPrediction(Prediction):
    """The masks of one prompt, and which of the decoder's four they are.

    Attributes:
        mask_tokens: (M,) 0 for the single mask, 1 to 3 for those of ambiguous prompts.
    """

    mask_tokens: tuple[int, ...] = ()


class PromptCall:
    """Prompts of one caller; rows are answered in any order and by any thread.

    Args:
        embedding: of the picture.
        prompts: at least one, all inside the picture.
        candidates: which masks each gets.
        answer: makes of a row and its masks what the caller gets.

    Attributes:
        promise: of the list of answers, in the order of the prompts.
        tokens: for each prompt, the mask tokens to decode.
        next_row: the first prompt that no thread has taken yet.
        asked_at: when it was made, by `time.perf_counter`.

    Raises:
        ValueError: unknown candidates, a prompt outside the picture, or a mask prompt of another size.
    """

    def __init__(
        self,
        embedding: Embedding,
        prompts: Sequence[Prompt],
        candidates: Candidates,
        answer: Callable[[int, TokenPrediction], Any],
    ) -> None:
        if candidates != "auto" and candidates not in TOKENS:
            raise ValueError(f"candidates must be one of auto, {', '.join(TOKENS)}, got {candidates!r}")
        for prompt in prompts:
            prompt.check_inside(embedding.image_hw)
        PromptBatch.from_prompts([one for one in prompts if one.mask is not None], embedding.resize)  # checks sizes
        self.embedding, self.prompts = embedding, list(prompts)
        self.promise: Promise[list[Any]] = Promise()
        self.asked_at = time.perf_counter()
        self.next_row = 0
        self._wants_best = [candidates == "auto" and prompt.is_lone_click for prompt in prompts]
        self.tokens = [
            (MULTI_MASK if wants_best else SINGLE_MASK) if candidates == "auto" else TOKENS[candidates]
            for wants_best in self._wants_best
        ]
        self._answer = answer
        self._answers: list[Any] = [None] * len(prompts)
        self._num_left = len(prompts)
        self._lock = threading.Lock()

    @property
    def num_masks(self) -> int:
        """Masks of the picture's size that the answers are made of."""
        pairs = zip(self.tokens, self._wants_best, strict=True)
        return sum(1 if wants_best else len(tokens) for tokens, wants_best in pairs)

    def take_rows(self, num_most: int) -> range:
        """Take the next prompts, at most so many; they are the taker's to decode."""
        start = self.next_row
        self.next_row = min(start + num_most, len(self.prompts))
        return range(start, self.next_row)

    def draw(
        self, row: int, low_res_logits: NDArray[np.float32], iou: NDArray[np.float32], mask_threshold: float
    ) -> None:
        """Bring a prompt's masks to the picture's size and answer it; the last one answers the caller.

        Args:
            row: of the prompt.
            low_res_logits: (M, S/4, S/4) of its tokens.
            iou: (M,) predicted.
            mask_threshold: logits above it are mask.
        """
        tokens = self.tokens[row]
        if self._wants_best[row]:
            best = int(np.argmax(iou))
            low_res_logits, iou, tokens = low_res_logits[[best]], iou[[best]], (tokens[best],)
        embedding = self.embedding
        masks = np.empty((len(tokens), *embedding.image_hw), np.bool_)
        for mask, logits in zip(masks, low_res_logits, strict=True):
            mask[:] = upscale_to_mask(
                logits, embedding.input_hw, embedding.image_hw, mask_threshold, embedding.input_side
            )
        answer = self._answer(row, TokenPrediction(masks, iou, low_res_logits, tokens))
        with self._lock:
            self._answers[row] = answer
            self._num_left -= 1
            is_last = not self._num_left
        if is_last:
            self.promise.answer(self._answers)
