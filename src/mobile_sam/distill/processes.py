"""One process or many: those that `torchrun` started and what they tell each other, and those that read pictures."""

from __future__ import annotations

import datetime
import os
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

BATCHES_AHEAD = 2  # of each process that reads
TIMEOUT = datetime.timedelta(minutes=60)  # the others wait while the first one validates


@dataclass(frozen=True)
class Processes:
    """One process among those of the run.

    Attributes:
        rank: number of this one; the first one, 0, writes all files.
        count: how many there are.
        device: where this one computes.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def mean(self, values: list[float]) -> list[float]:
        """Average numbers over all processes, so that all come to the same decisions."""
        if self.count == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [float(value) for value in (tensor / self.count).tolist()]

    def wait(self) -> None:
        """Wait for the others."""
        if self.count > 1:
            dist.barrier()


def leave_signals_to_the_parent(worker: int) -> None:
    """Let a loader's process outlive Ctrl-C, which reaches all processes of a terminal: its parent ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def start_readers(
    dataset: Dataset[Any],
    batches: Iterable[Sequence[int]],
    num_workers: int,
    collate: Callable[[Any], Any],
    **options: Any,
) -> Iterator[Any]:
    """Start processes that read batches of a dataset, each a few ahead.

    torch's warning of too many of them is left out: it counts each of ours twice.

    Args:
        dataset: of items by their number.
        batches: numbers of the items of each.
        num_workers: how many processes; 0 reads when a batch is asked for.
        collate: makes a batch of a list of items.
        options: others of torch's `DataLoader`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        return iter(
            DataLoader(
                dataset,
                batch_sampler=batches,  # type: ignore[arg-type]  # any iterable of sequences will do
                num_workers=num_workers,
                collate_fn=collate,
                prefetch_factor=BATCHES_AHEAD if num_workers else None,
                worker_init_fn=leave_signals_to_the_parent,
                **options,
            )
        )


@contextmanager
def told_of_dead_readers(advice: str) -> Iterator[None]:
    """Say that a loader's process was killed, and what to do; what such a process raised itself passes as it is.

    It belongs around all that goes on while there are such processes, not only around reading: torch raises the error
    wherever the main thread is when the system tells of the death.

    Args:
        advice: what to do.

    Raises:
        OSError: one of the processes was killed.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise OSError(
            f"a process that reads pictures has died ({str(error).partition('.')[0]}); was memory or shared memory "
            f"full? {advice}"
        ) from error


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Join the processes that `torchrun` started, if it did, until the block ends.

    Args:
        device: torch device; "" for CUDA where there is one, a GPU for each process of a machine, else the CPU.

    Raises:
        ValueError: a device that is not here.
    """
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    here = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if count == 1:
        yield Processes(0, 1, here)
        return
    dist.init_process_group("nccl" if here.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Processes(rank, count, here)
    finally:
        dist.destroy_process_group()


def gpu_of(local_rank: int) -> torch.device:
    """Give each process of a machine a GPU of its own; where there are fewer, they share."""
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def _device(name: str, local_rank: int) -> torch.device:
    if name in ("", "cuda") and torch.cuda.is_available():
        device = gpu_of(local_rank)
        torch.cuda.set_device(device)
        return device
    try:
        device = torch.device(name or "cpu")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"torch has no device {name!r} here ({reason}); leave it out for the best one") from error
    return device
