"""Answers: a model's masks for the prompts of a picture, one chosen for each prompt by a protocol's rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.masks import mask_iou, upscale_to_mask
from mobile_sam.core.predictions import Decoded
from mobile_sam.core.prompts import Prompt, PromptBatch
from mobile_sam.evaluate.models import Model
from mobile_sam.evaluate.protocols import TOKENS_OF_RULE
from mobile_sam.evaluate.stopwatch import Stopwatch

MOST_PROMPTS_AT_ONCE = 16
MASK_BYTES_AT_ONCE = 1 << 28


@dataclass(frozen=True, eq=False)
class Answer:
    """The mask that a rule chose.

    Attributes:
        mask: (H, W) bool, of the picture's size.
        mask_token: which of the decoder's four masks it is.
        predicted_iou: what the model says of it.
        low_res_logits: (256, 256) float32.
    """

    mask: NDArray[np.bool_]
    mask_token: int
    predicted_iou: float
    low_res_logits: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Answers:
    """All masks of P prompts, of which rules choose; masks are brought to the picture's size when they are asked for.

    Attributes:
        decoded: P prompts, M masks each.
        tokens: the M mask tokens.
        embedding: what was decoded.
        stopwatch: takes the time of upscaling.
    """

    decoded: Decoded
    tokens: tuple[int, ...]
    embedding: Embedding
    stopwatch: Stopwatch
    _made: dict[tuple[int, int], Answer] = field(default_factory=dict)

    def token(self, prompt: int, token: int) -> Answer:
        """Return the mask of a token for the prompt in row `prompt`; it is kept for other rules that choose it."""
        if (prompt, token) not in self._made:
            column, embedding = self.tokens.index(token), self.embedding
            logits = self.decoded.low_res_logits[prompt, column]
            with self.stopwatch.stage("masks"):
                mask = upscale_to_mask(logits, embedding.input_hw, embedding.image_hw, side=embedding.input_side)
            predicted_iou = float(self.decoded.iou_predictions[prompt, column])
            self._made[prompt, token] = Answer(mask, token, predicted_iou, logits)
        return self._made[prompt, token]

    def predicted_best(self, prompt: int, among: tuple[int, ...]) -> int:
        """Return the token with the highest predicted IoU."""
        columns = [self.tokens.index(token) for token in among]
        return among[int(np.argmax(self.decoded.iou_predictions[prompt, columns]))]

    def choose(self, prompt: int, rule: str, truth: NDArray[np.bool_] | None = None) -> Answer:
        """Choose a mask by a rule of `protocols.MASK_RULES`; the oracle needs the truth, (H, W) bool."""
        among = tokens_of_rules([rule])
        if rule != "oracle":
            return self.token(prompt, self.predicted_best(prompt, among))
        assert truth is not None
        candidates = [self.token(prompt, token) for token in among]
        return max(candidates, key=lambda answer: pair_iou(answer.mask, truth))  # the first of equals


def prompts_at_once(image_hw: tuple[int, int]) -> int:
    """Return how many prompts of a picture to have in work together; each may hold four masks of its size.

    >>> prompts_at_once((480, 640)), prompts_at_once((8000, 10000))
    (16, 1)
    """
    height, width = image_hw
    return max(1, min(MOST_PROMPTS_AT_ONCE, MASK_BYTES_AT_ONCE // (4 * height * width)))


def tokens_of_rules(rules: Sequence[str]) -> tuple[int, ...]:
    """Return the mask tokens that rules choose from, in order.

    >>> tokens_of_rules(["best", "single"])
    (0, 1, 2, 3)
    """
    return tuple(sorted({token for rule in rules for token in TOKENS_OF_RULE[rule]}))


def ask(
    model: Model, embedding: Embedding, prompts: Sequence[Prompt], tokens: tuple[int, ...], stopwatch: Stopwatch
) -> Answers:
    """Decode the prompts of one picture with one model, all in one call.

    Raises:
        ValueError: a prompt outside the picture.
    """
    for prompt in prompts:
        prompt.check_inside(embedding.image_hw)
    with stopwatch.stage("decode"):
        batch = PromptBatch.from_prompts(prompts, embedding.resize)
        decoded = model.engine.decode(embedding, batch, tokens)
    return Answers(decoded, tokens, embedding, stopwatch)


def pair_iou(mask_a: NDArray[np.bool_], mask_b: NDArray[np.bool_]) -> float:
    """Return the intersection over union of two masks (H, W) bool; 0 if both are empty."""
    return float(mask_iou(mask_a[None], mask_b[None])[0, 0])
