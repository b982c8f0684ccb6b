"""One process or many: what `torchrun` set up, and the few words that processes exchange."""

from __future__ import annotations

import datetime
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

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


def _device(name: str, local_rank: int) -> torch.device:
    if name in ("", "cuda") and torch.cuda.is_available():
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device
    try:
        device = torch.device(name or "cpu")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"torch has no device {name!r} here ({reason}); leave it out for the best one") from error
    return device
