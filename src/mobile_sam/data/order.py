"""In which order a run goes through its pictures: epoch after epoch, each shuffled anew, to be entered anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class EpochOrder:
    """An endless sequence of pictures, made of the seed alone.

    The n-th sample of a run is of epoch n // num_pictures, in which each picture comes once. Which process or worker
    asks for it makes no difference.

    Args:
        num_pictures: at least 1.
        seed: at least 0.

    >>> order = EpochOrder(3, seed=0)
    >>> sorted(order.index(n) for n in range(3, 6))
    [0, 1, 2]
    """

    def __init__(self, num_pictures: int, seed: int) -> None:
        if num_pictures < 1 or seed < 0:
            raise ValueError(f"num_pictures must be at least 1 and seed at least 0, got {num_pictures} and {seed}")
        self.num_pictures = num_pictures
        self.seed = seed
        self._epochs: dict[int, NDArray[np.integer[Any]]] = {}  # the latest two, since a batch may belong to both

    def index(self, number: int) -> int:
        """Tell which picture is the sample of this number, counted from 0 at the start of the run."""
        epoch, place = divmod(number, self.num_pictures)
        return int(self._permutation(epoch)[place])

    def batch(self, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[int]:
        """Number the samples of one process in one step: its share of the batch, those of the others left out.

        Args:
            step: from 0.
            batch_size: over all processes.
            rank: of the process.
            world_size: number of processes.

        Raises:
            ValueError: the batch cannot be shared evenly.
        """
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"batch_size must be a multiple of the number of processes, {world_size}, so that each gets as many "
                f"pictures; got {batch_size}"
            )
        share = batch_size // world_size
        first = step * batch_size + rank * share
        return list(range(first, first + share))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_epochs": {}}

    def _permutation(self, epoch: int) -> NDArray[np.integer[Any]]:
        if epoch not in self._epochs:
            while len(self._epochs) > 1:
                del self._epochs[next(iter(self._epochs))]
            generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch])))
            numbers = np.arange(self.num_pictures, dtype=np.int32 if self.num_pictures < 2**31 else np.int64)
            self._epochs[epoch] = generator.permutation(numbers)
        return self._epochs[epoch]
