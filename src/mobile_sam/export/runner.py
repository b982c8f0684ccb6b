"""Runners: how exported files are run for the parity report, by an engine or in the way of the tool they are for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.masks import upscale_to_mask
from mobile_sam.core.prompts import Prompt, PromptBatch
from mobile_sam.engines.base import Engine
from mobile_sam.engines.exported import ExportedEngine

ALL_TOKENS = (0, 1, 2, 3)


@dataclass(frozen=True, eq=False)
class Answer:
    """What a runner answers to one prompt.

    Attributes:
        masks: (M, ...) whatever the runner can draw masks of.
        iou_predictions: (M,) float32.
        tokens: which of SAM's four masks each is; None where the graph chose one and does not tell which.
    """

    masks: NDArray[np.float32]
    iou_predictions: NDArray[np.float32]
    tokens: tuple[int, ...] | None


class Runner(Protocol):
    """Runs an export on one picture at a time."""

    def encode(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode a picture (H, W, 3), which the prompts that follow are about; return features (1, 256, s, s).

        Features that are not to be compared with those of PyTorch, since the tool makes other pixels, are empty: (0,).
        """

    def decode(self, prompt: Prompt) -> Answer:
        """Answer a prompt of points or a box, in pixels of the picture."""

    def draw(self, answer: Answer) -> NDArray[np.bool_]:
        """Draw the masks of an answer at the picture's size: (M, H, W). Not part of what is timed."""


class EngineRunner:
    """Any engine as a runner."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._embedding: Embedding | None = None

    @property
    def embedding(self) -> Embedding:
        """The picture that was encoded last."""
        assert self._embedding is not None, "encode a picture first"
        return self._embedding

    def encode(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Runner.encode`."""
        (self._embedding,) = self.engine.encode([image])
        return self._embedding.features

    def decode(self, prompt: Prompt) -> Answer:
        """See `Runner.decode`."""
        batch = PromptBatch.from_prompts([prompt], self.embedding.resize)
        decoded = self.engine.decode(self.embedding, batch, ALL_TOKENS)
        return Answer(decoded.low_res_logits[0], decoded.iou_predictions[0], ALL_TOKENS)

    def draw(self, answer: Answer) -> NDArray[np.bool_]:
        """See `Runner.draw`."""
        embedding = self.embedding
        sizes = (embedding.input_hw, embedding.image_hw)
        return np.stack([upscale_to_mask(logits, *sizes, 0.0, embedding.input_side) for logits in answer.masks])


def open_exported(folder: Path, num_threads: int = 0) -> EngineRunner:
    """What most targets' `open_runner` is: the engine over the exported graphs."""
    return EngineRunner(ExportedEngine(folder, num_threads=num_threads))
