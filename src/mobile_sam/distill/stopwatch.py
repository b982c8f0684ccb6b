"""Where the time of training goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

NOT_STEPS = ("validate", "save")
"""Parts that do not belong to the steps' own time."""


class StepTimes:
    """Adds up the parts of steps, from one `summary` to the next.

    On a GPU the parts say how long the CPU was busy with them, since it does not wait; their sum is right.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._parts_s: dict[str, float] = defaultdict(float)
        self._num_steps = 0
        self._started = time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block's time as this part's."""
        started = time.perf_counter()
        yield
        self._parts_s[name] += time.perf_counter() - started

    def end_step(self) -> None:
        """Count a step."""
        self._num_steps += 1

    def summary(self, batch_size: int) -> dict[str, float]:
        """Return milliseconds of a step and of its parts, means since the last call, and pictures per second.

        "time/own_ms" is what is in no part: the loop itself.
        """
        num_steps = max(self._num_steps, 1)
        total_s = time.perf_counter() - self._started
        parts_s = {**self._parts_s, "own": total_s - sum(self._parts_s.values())}
        of_steps = {name: seconds for name, seconds in parts_s.items() if name not in NOT_STEPS}
        steps_s = sum(of_steps.values())
        found = {f"time/{name}_ms": 1000 * seconds / num_steps for name, seconds in of_steps.items()}
        self._begin()
        return {**found, "time/step_ms": 1000 * steps_s / num_steps, "pictures_per_s": batch_size * num_steps / steps_s}
