"""The points of a crop are put to the decoder; what it thinks good becomes candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.prompts import PromptBatch
from mobile_sam.engines import Engine
from mobile_sam.everything.candidates import Candidates, DrawnMask

Tell = Callable[[int], None]
"""Told how many more points are done with."""


class PointDecoder:
    """Points of one crop in, candidates out.

    Args:
        engine: runs the decoder.
        points_xy: (P, 2) all points that may be asked for, in pixels of the crop.
        candidates: of the crop; take what comes.

    Attributes:
        num_decoded: points so far.
    """

    def __init__(self, engine: Engine, points_xy: NDArray[np.float64], candidates: Candidates) -> None:
        self.engine, self.candidates = engine, candidates
        self.prompts = PromptBatch.of_points(points_xy, candidates.embedding.resize)
        self.num_decoded = 0

    def decode(self, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], list[DrawnMask]]]:
        """Decode some of the points, a few at a time.

        Args:
            rows: (R,) which of the points.

        Yields:
            The rows that were decoded together, and what they gave.
        """
        config = self.candidates.config
        min_iou = config.pred_iou_thresh if config.pred_iou_thresh > 0 else -np.inf  # SAM's rule: 0 is no limit
        num_before = 0
        for part in self.engine.decode_above(
            self.candidates.embedding, self.prompts[rows], min_iou, prompts_at_once=config.points_per_batch
        ):
            decoded_rows = rows[num_before : num_before + part.num_prompts]
            num_before += part.num_prompts
            self.num_decoded += part.num_prompts
            yield decoded_rows, self.candidates.add(part, rows)


def propose_everywhere(decoder: PointDecoder, tell: Tell) -> None:
    """Decode all points, as the original does."""
    for rows, _ in decoder.decode(np.arange(len(decoder.prompts))):
        tell(len(rows))
