"""The machine a report was made on, and how busy others kept it: without both no time and no memory can be compared.

Only the standard library is imported: the benchmarks load this file where the package is not installed.
"""

from __future__ import annotations

import datetime
import os
import platform
import sys
import time
from collections.abc import Iterable
from pathlib import Path

NOTABLE_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimddp", "bf16")


def cpu_model() -> str:
    """Return the processor's name and the vector instructions that matter here."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    pairs = (line.partition(":") for line in cpuinfo.read_text(encoding="utf-8").splitlines())
    fields = {key.strip(): value.strip() for key, _, value in pairs}
    name = fields.get("model name", platform.machine())
    flags = set((fields.get("flags") or fields.get("Features", "")).split())
    notable = [flag for flag in NOTABLE_CPU_FLAGS if flag in flags]
    family = f"family {fields['cpu family']} model {fields['model']}, " if "cpu family" in fields else ""
    return f"{name} ({family}{' '.join(notable)})"


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gb() -> float | None:
    """Return the machine's memory in GB (10^9 bytes), or None where it cannot be asked, as on Windows."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def machine_facts() -> dict[str, str]:
    """Return what a reader needs to know of the machine beside any number measured on it, as lines for a header."""
    memory = memory_gb()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu_model(),
        "cores": str(num_cores()),
        "memory": f"{memory:.0f} GB" if memory else "unknown",
        "load average": " ".join(f"{load:.1f}" for load in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of installed packages, by their names on PyPI; those that are not installed are left out."""
    from importlib import metadata  # 20 ms, which a timed start should not pay

    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_rss_mb() -> float | None:
    """Return the largest resident memory of this process so far in MB (10^6 bytes), or None where nothing tells.

    Linux's ru_maxrss survives exec and so starts at the parent's peak; VmHWM belongs to this program alone.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        peak = next((line for line in lines if line.startswith("VmHWM")), None)
        return int(peak.split()[1]) * 1024 / 1e6 if peak else None
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


class MachineWatch:
    """Watches, from its making on, how busy other processes keep the machine: beside them no timing means much."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.busy_at_start_s = self.busy_by_others_s()

    @staticmethod
    def busy_by_others_s() -> float | None:
        """Return the machine's CPU seconds so far, less this process's and its finished children's (Linux only)."""
        stat = Path("/proc/stat")
        if not stat.exists():
            return None
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.read_text().split()[1:9])
        busy_s = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return busy_s - sum(os.times()[:4])

    def facts(self) -> dict[str, str]:
        """Return wall seconds and the share of the cores that others took; call it when all children have ended."""
        wall_s = time.perf_counter() - self.started
        busy_s = self.busy_by_others_s()
        lines = {"wall": f"{wall_s:.0f} s"}
        if busy_s is not None and self.busy_at_start_s is not None:
            share = (busy_s - self.busy_at_start_s) / (wall_s * (os.cpu_count() or 1))
            lines["cores busy with other processes"] = f"{max(share, 0):.0%}"
        return lines
