"""One mask for each prompt over an embedding, as run lengths: never are they all there at the picture's size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.predictions import MULTI_MASK, SINGLE_MASK
from mobile_sam.core.prompts import Prompt, PromptBatch
from mobile_sam.core.upscale_window import upscale_window, window_above
from mobile_sam.engines import Engine
from mobile_sam.everything.found import FoundMask


def masks_of_prompts(
    engine: Engine,
    embedding: Embedding,
    prompts: Sequence[Prompt],
    *,
    mask_threshold: float = 0.0,
    stability_score_offset: float = 1.0,
    prompts_at_once: int | None = None,
    best_of_three: bool = False,
    tell: Callable[[int], None] | None = None,
) -> list[FoundMask]:
    """Make the mask of each prompt.

    Args:
        engine: that made the embedding, or one with the same encoder.
        embedding: of the picture.
        prompts: which lie in the picture.
        mask_threshold: a pixel belongs to a mask where its logit is greater.
        stability_score_offset: shift of the threshold for the stability score, in logits.
        prompts_at_once: decode fewer at a time than the engine would.
        best_of_three: of the three masks for ambiguous prompts take the one with the greatest predicted IoU, in place
            of the mask for prompts that are not.
        tell: told after each part how many prompts were in it.

    Returns:
        One mask for each prompt, in their order, without a point; it may be empty.

    Raises:
        ValueError: the embedding was made by another encoder.
    """
    image_hw = embedding.image_hw
    floor = mask_threshold - stability_score_offset
    tokens = MULTI_MASK if best_of_three else SINGLE_MASK
    batch = PromptBatch.from_prompts(prompts, embedding.resize)
    found: list[FoundMask] = []
    for part in engine.decode_above(embedding, batch, -np.inf, tokens, prompts_at_once):
        logits = part.low_res_logits.reshape(part.num_prompts, len(tokens), *part.low_res_logits.shape[1:])
        ious = part.iou_predictions.reshape(part.num_prompts, len(tokens))
        for of_prompt, iou in zip(logits, ious, strict=True):
            best = int(np.argmax(iou))
            window = upscale_window(
                window_above(of_prompt[best], floor),
                embedding.input_hw,
                image_hw,
                mask_threshold,
                stability_score_offset,
                embedding.input_side,
            )
            found.append(FoundMask.of(window, float(iou[best]), None, (0, 0, image_hw[1], image_hw[0]), image_hw))
        if tell is not None:
            tell(part.num_prompts)
    return found
