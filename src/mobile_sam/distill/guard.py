"""When a run must stop: a loss that is no number, a loss that grows, too many pictures that cannot be used."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mobile_sam.data.picture_set import SampleError
from mobile_sam.distill.run_log import take_back

logger = logging.getLogger(__name__)

SMOOTHING = 0.98  # of the loss whose growth is watched
MIN_STEPS = 100  # before growth is judged
MIN_SKIPPED = 8  # so many unusable pictures never stop a run: at its beginning one is a large share


def are_too_many(num_skipped: int, num_read: int, max_share: float) -> bool:
    """Whether so many of the pictures read cannot be used that it makes no sense to go on."""
    return num_skipped > MIN_SKIPPED and num_skipped > max_share * num_read


class TrainingStoppedError(ValueError):
    """A run cannot go on; the message says why, and what is left of it."""


class LossGuard:
    """Watches the loss.

    Args:
        diverged_factor: the smoothed loss may be so many times its lowest.
    """

    def __init__(self, diverged_factor: float) -> None:
        self.diverged_factor = diverged_factor
        self.smoothed: float | None = None
        self.lowest = math.inf
        self.num_steps = 0

    def check(self, loss: float, grad_norm: float) -> None:
        """Take in a step's loss, and the norm of its gradient before it was clipped.

        Raises:
            TrainingStoppedError: one is not finite, or the loss has grown.
        """
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            raise TrainingStoppedError(
                f"the loss is {loss} and the gradient's norm {grad_norm}; lower lr, lengthen warmup_steps, or use "
                "precision='fp32'"
            )
        self.smoothed = loss if self.smoothed is None else SMOOTHING * self.smoothed + (1 - SMOOTHING) * loss
        self.num_steps += 1
        self.lowest = min(self.lowest, self.smoothed)
        if self.num_steps > MIN_STEPS and self.smoothed > self.diverged_factor * self.lowest:
            raise TrainingStoppedError(
                f"the loss diverges: {self.smoothed:.4g} on average of late, {self.lowest:.4g} at best; lower lr, "
                "lengthen warmup_steps, or set clip_norm"
            )

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"smoothed": self.smoothed, "lowest": self.lowest, "num_steps": self.num_steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.smoothed, self.lowest, self.num_steps = state["smoothed"], state["lowest"], state["num_steps"]


class SkippedPictures:
    """Counts the pictures that could not be used, and writes each with its reason to `skipped.jsonl`.

    Args:
        path: of the file.
        max_share: of all pictures read so far, at which the run stops.
    """

    def __init__(self, path: Path, max_share: float) -> None:
        self.path = path
        self.max_share = max_share
        self.by_kind: Counter[str] = Counter()

    @property
    def num_skipped(self) -> int:
        """How many there were."""
        return sum(self.by_kind.values())

    def restore(self, step: int) -> None:
        """Go on after a step: what was skipped later will be skipped once more."""
        if self.path.exists():
            self.by_kind = Counter(line["kind"] for line in take_back(self.path, step))

    def add(self, errors: Iterable[SampleError], step: int) -> None:
        """Note some that came up in a step, counted from 1."""
        for error in errors:
            if not self.by_kind[error.kind]:
                logger.warning("a picture is skipped: %s (the next of this kind are noted in %s)", error, self.path)
            self.by_kind[error.kind] += 1
            with open(self.path, "a", encoding="utf-8") as file:
                line = {"step": step, "key": error.key, "kind": error.kind, "message": error.message}
                file.write(json.dumps(line) + "\n")

    def check(self, num_used: int, num_skipped: int | None = None) -> None:
        """Compare with the number of pictures that were used.

        Args:
            num_used: pictures.
            num_skipped: by all processes, where `num_used` is that of all, so that all come to the same decision; None
                for those of this process.

        Raises:
            TrainingStoppedError: too many were skipped.
        """
        num_skipped = self.num_skipped if num_skipped is None else num_skipped
        num_read = num_used + num_skipped
        if are_too_many(num_skipped, num_read, self.max_share):
            kinds = ", ".join(f"{count} x {kind}" for kind, count in self.by_kind.most_common())
            raise TrainingStoppedError(
                f"{num_skipped} pictures cannot be used ({kinds or 'in other processes'}), "
                f"{num_skipped / num_read:.1%} of those read, more than max_skipped={self.max_share:g}; see "
                f"{self.path.parent}/skipped-*.jsonl"
            )
