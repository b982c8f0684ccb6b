import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from mobile_sam.evaluate import machine
from mobile_sam.evaluate.machine import (
    MachineWatch,
    cpu_model,
    machine_facts,
    memory_gb,
    num_cores,
    package_versions,
    peak_rss_mb,
)

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"

INTEL = """\
processor\t: 0
cpu family\t: 6
model\t\t: 106
model name\t: Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz
flags\t\t: fpu sse2 avx2 avx512f rdrand avx512_vnni

processor\t: 1
cpu family\t: 6
model\t\t: 106
model name\t: Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz
flags\t\t: fpu sse2 avx2 avx512f rdrand avx512_vnni
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp bf16\nCPU implementer\t: 0x41\n"


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """A folder that stands for /proc; it has no files at first, as on macOS and Windows."""
    monkeypatch.setattr(machine, "Path", lambda path: tmp_path / Path(path).relative_to("/proc"))
    (tmp_path / "self").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (INTEL, "Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz (family 6 model 106, avx2 avx512f avx512_vnni)"),
        (ARM, "aarch64 (asimddp bf16)"),
    ],
)
def test_a_processor_is_named_with_its_notable_instructions(proc, monkeypatch, cpuinfo, expected):
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    (proc / "cpuinfo").write_text(cpuinfo)
    assert cpu_model() == expected


def test_without_proc_the_platform_names_the_processor(proc, monkeypatch):
    monkeypatch.setattr(machine.platform, "processor", lambda: "arm")
    assert cpu_model() == "arm"


def test_cores_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    assert num_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert num_cores() == 12


def test_memory_is_pages_times_their_size(monkeypatch):
    values = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2_000_000}
    monkeypatch.setattr(os, "sysconf", values.__getitem__, raising=False)
    monkeypatch.setattr(os, "sysconf_names", values, raising=False)
    assert memory_gb() == pytest.approx(8.192)


def test_facts_are_lines_of_text_on_this_machine():
    facts = machine_facts()
    assert list(facts) == ["date", "cpu", "cores", "memory", "load average", "system", "python"]
    assert all(isinstance(value, str) and value and "\n" not in value for value in facts.values())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", facts["date"])
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))


def test_a_system_that_tells_nothing_gives_facts_all_the_same(proc, monkeypatch):
    for name in ("getloadavg", "sched_getaffinity", "sysconf", "sysconf_names"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setitem(sys.modules, "resource", None)  # importing it then fails, as on Windows
    facts = machine_facts()
    assert (facts["memory"], facts["load average"]) == ("unknown", "unknown")
    assert peak_rss_mb() is None
    assert list(MachineWatch().facts()) == ["wall"]


def test_versions_are_those_installed_and_others_are_left_out():
    versions = package_versions(["numpy", "no-such-package-at-all", "pycocotools"])
    assert versions == {"numpy": np.__version__, "pycocotools": metadata.version("pycocotools")}


def test_the_peak_is_read_from_proc_in_mb(proc):
    (proc / "self" / "status").write_text("Name:\tpython\nVmPeak:\t  900000 kB\nVmHWM:\t  250000 kB\nVmRSS:\t 10 kB\n")
    assert peak_rss_mb() == pytest.approx(256.0)  # 250,000 * 1024 / 10^6


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such number here")
def test_the_peak_stays_when_memory_is_given_back():
    code = (
        "from mobile_sam.evaluate.machine import peak_rss_mb\n"
        "before = peak_rss_mb()\n"
        "block = b'x' * 200_000_000\n"
        "del block\n"
        "print(peak_rss_mb() - before)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert 190 < float(ended.stdout) < 260


def test_a_watch_reports_the_share_of_the_cores_that_others_took(proc, monkeypatch):
    clock_s, own_s = [100.0], [50.0]
    monkeypatch.setattr(machine.time, "perf_counter", lambda: clock_s[0])
    monkeypatch.setattr(os, "times", lambda: (own_s[0], 0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sysconf", {"SC_CLK_TCK": 100}.__getitem__, raising=False)
    # user, nice, system, idle, iowait, irq, softirq, steal in hundredths of a second
    (proc / "stat").write_text("cpu  10000 0 5000 99999 7 0 0 0 0 0\n")
    watch = MachineWatch()
    clock_s[0], own_s[0] = 110.0, 62.0  # in 10 s this process took 12 s of CPU time
    (proc / "stat").write_text("cpu  11000 200 5400 99999 9 100 50 250 0 0\n")  # 20 s more than before, 8 s of others
    assert watch.facts() == {"wall": "10 s", "cores busy with other processes": "20%"}  # 8 of 4 * 10 s


@pytest.mark.skipif(not BENCHMARKS.exists(), reason="the benchmarks are not in the source distribution")
def test_benchmarks_know_the_machine_where_our_package_is_not_installed():
    code = (
        "import sys\n"
        "sys.modules['mobile_sam'] = None\n"  # as absent, or the original's
        f"sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "import report\n"
        "facts = report.facts({})\n"
        "print(facts['cores'], '|', facts['cpu'], '|', *report.MachineWatch().facts())\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.startswith(f"{num_cores()} | {cpu_model()} | wall")
