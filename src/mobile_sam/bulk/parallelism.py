"""How many workers of how many threads a machine is worth: from the cores and the memory that this process may use."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

WORKER_BYTES = {"embed": 700_000_000, "boxes": 900_000_000, "points": 900_000_000, "everything": 1_200_000_000}
"""Memory to allow for each worker by task.

Measured (peak resident set of a process with the engine alone, bundled weights, fp32, one thread, Python 3.11, Linux),
with ONNX Runtime and OpenVINO: encoding a picture of 400 x 600, 0.39 and 0.47 GB; of 3000 x 4000, 0.53 and 0.57 GB;
segmenting everything in one of 400 x 600, 0.80 and 0.98 GB. Pictures that are read ahead come on top; boxes and points
lie between.
"""
MEMORY_SHARE = 0.8
"""Of the memory that is free, what workers may take."""
MAX_CORES_BY_THREADS = {1: 8, 2: 32}
"""Up to how many cores workers have so many threads each; 4 on machines with more."""


def choose_workers(
    num_cores: int,
    num_workers: int | None,
    num_threads: int | None,
    task: str,
    *,
    device: str | None = None,
    memory_bytes: int | None = None,
) -> tuple[int, int]:
    """Choose how many workers there are, and with how many threads each.

    Many workers of few threads: on two cores of an AMD EPYC, two workers of one thread encoded 3.47 pictures a second
    with ONNX Runtime, one worker of two threads 3.36, at 0.57 s of CPU for each picture either way. On the same cores
    shared with other programs, threads that wait for each other cost more: 0.53 s of CPU with one thread and 0.59 with
    two on OpenVINO, 0.57 and 0.69 on ONNX Runtime. Where there are many cores, workers get more threads, which was not
    measured: each worker has its own copy of the weights and its own pictures in memory.

    Args:
        num_cores: that this process may use, see `usable_cores`.
        num_workers: as the user wants; None to choose.
        num_threads: of each worker, as the user wants; None to choose.
        task: of `mobile_sam.bulk.settings.TASKS`.
        device: of the engine: None or "cpu" for the processor; others get one worker, which keeps them busy.
        memory_bytes: that are free, see `free_memory_bytes`: it must hold the chosen workers; None if unknown.

    Returns:
        Workers and threads of each, at least 1.

    Raises:
        ValueError: a number below 1, or an unknown task.

    >>> choose_workers(2, None, None, "embed")
    (2, 1)
    >>> choose_workers(64, None, None, "embed")
    (16, 4)
    """
    for name, number in (("num_cores", num_cores), ("num_workers", num_workers), ("num_threads", num_threads)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}; leave it out to have it chosen")
    if task not in WORKER_BYTES:
        raise ValueError(f"unknown task {task!r}; expected one of {', '.join(WORKER_BYTES)}")
    if num_workers is not None:
        return num_workers, num_threads or max(1, num_cores // num_workers)
    if (device or "cpu").lower() != "cpu":
        return 1, num_threads or num_cores
    threads = num_threads or _threads_on(num_cores)
    wanted = math.ceil(num_cores / threads)
    if memory_bytes is None:
        return wanted, threads
    workers = max(1, min(wanted, int(memory_bytes * MEMORY_SHARE) // WORKER_BYTES[task]))
    return workers, threads if num_threads or workers == wanted else max(threads, num_cores // workers)


def _threads_on(num_cores: int) -> int:
    return next((threads for threads, most in MAX_CORES_BY_THREADS.items() if num_cores <= most), 4)


def usable_cores() -> int:
    """Return how many cores this process may use: by its affinity, and by the CPU quota of its container or job."""
    from mobile_sam.evaluate.machine import num_cores

    quota = cpu_quota()
    return max(1, min(num_cores(), math.ceil(quota))) if quota else num_cores()


def free_memory_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return how much memory is free for this process, or None where nothing tells.

    The smaller of what the system says and of the limit of the container or job, whose use so far is not known well, as
    it counts cached files. Where the system does not say what is free, all that it has.
    """
    from mobile_sam.evaluate.machine import memory_gb

    free = _available_bytes(meminfo)
    if free is None and (total_gb := memory_gb()) is not None:
        free = int(total_gb * 1e9)
    known = [number for number in (free, memory_limit_bytes()) if number is not None]
    return min(known, default=None)


def _available_bytes(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    fields = next((line.split() for line in lines if line.startswith("MemAvailable:")), None)
    return int(fields[1]) * 1024 if fields else None


def cpu_quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Return how many cores' worth of time the control groups of Linux allow, or None for no bound.

    Args:
        root: where control groups are mounted.
        own: the file that names those of this process.
    """
    quotas = []
    for folder in _groups(root, own, "cpu"):
        fields = _words(folder / "cpu.max")  # version 2: "max 100000" or "150000 100000"
        if not fields:
            fields = _words(folder / "cpu.cfs_quota_us") + _words(
                folder / "cpu.cfs_period_us"
            )  # version 1; -1: no bound
        if len(fields) == 2 and fields[0] not in ("max", "-1") and int(fields[1]) > 0:
            quotas.append(int(fields[0]) / int(fields[1]))
    return min(quotas, default=None)


def memory_limit_bytes(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return how much memory the control groups of Linux allow, or None for no bound; arguments as of `cpu_quota`."""
    limits = []
    for folder in _groups(root, own, "memory"):
        fields = _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes")
        if fields and fields[0] != "max":
            limits.append(int(fields[0]))  # version 1 writes a number beyond any memory for no bound
    return min(limits, default=None)


def _groups(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control groups and of those above, whose bounds hold too; of both versions."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controllers if (root / controllers).is_dir() else root / controller
        inner = top.joinpath(*[part for part in path.split("/") if part not in ("", "..")])
        while True:  # in a container the path may be the host's; what is not there has no files to read
            yield inner
            if inner == top:
                break
            inner = inner.parent


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []
