import os
from pathlib import Path

import pytest

from mobile_sam.bulk import parallelism
from mobile_sam.bulk.parallelism import (
    choose_workers,
    cpu_quota,
    free_memory_bytes,
    memory_limit_bytes,
    usable_cores,
)
from mobile_sam.bulk.settings import TASKS

GB = 10**9


@pytest.mark.parametrize(
    ("num_cores", "num_workers", "num_threads", "expected"),
    [
        (1, None, None, (1, 1)),
        (2, None, None, (2, 1)),
        (8, None, None, (8, 1)),
        (16, None, None, (8, 2)),
        (96, None, None, (24, 4)),
        (8, 2, None, (2, 4)),
        (2, 8, None, (8, 1)),
        (8, None, 4, (2, 4)),
        (2, None, 16, (1, 16)),
        (4, 3, 5, (3, 5)),
    ],
)
def test_workers_times_threads_are_the_cores_unless_the_user_says_else(num_cores, num_workers, num_threads, expected):
    assert choose_workers(num_cores, num_workers, num_threads, "embed") == expected


def test_no_core_is_left_idle_and_few_threads_are_too_many():
    for num_cores in range(1, 200):
        workers, threads = choose_workers(num_cores, None, None, "boxes")
        assert num_cores <= workers * threads <= num_cores + 3


def test_a_gpu_gets_one_worker():
    assert choose_workers(16, None, None, "embed", device="cuda") == (1, 16)
    assert choose_workers(16, 2, None, "embed", device="cuda:0") == (2, 8)
    assert choose_workers(16, None, 3, "embed", device="CPU") == (6, 3)


@pytest.mark.parametrize("task", TASKS)
def test_chosen_workers_fit_into_memory_and_the_rest_of_the_cores_become_threads(task):
    workers, threads = choose_workers(8, None, None, task, memory_bytes=3 * GB)
    assert workers * parallelism.WORKER_BYTES[task] <= 3 * GB < 8 * parallelism.WORKER_BYTES[task]
    assert threads == 8 // workers
    assert choose_workers(8, None, None, task, memory_bytes=1) == (1, 8)
    assert choose_workers(8, 8, None, task, memory_bytes=1) == (8, 1)  # as the user says


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((0, None, None, "embed"), "num_cores"),
        ((2, 0, None, "embed"), "num_workers must be at least 1, got 0"),
        ((2, None, -1, "embed"), "num_threads must be at least 1, got -1"),
        ((2, None, None, "paint"), "unknown task 'paint'; expected one of embed"),
    ],
)
def test_bad_numbers_are_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        choose_workers(*arguments)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_quota_of_version_2_is_the_smallest_on_the_way_up(tmp_path):
    own = write(tmp_path / "own", "0::/jobs/mine\n")
    write(tmp_path / "cpu.max", "max 100000\n")
    write(tmp_path / "jobs" / "cpu.max", "150000 100000\n")
    write(tmp_path / "jobs" / "mine" / "cpu.max", "max 100000\n")
    write(tmp_path / "jobs" / "memory.max", "2000000\n")
    write(tmp_path / "jobs" / "mine" / "memory.max", "max\n")
    assert cpu_quota(tmp_path, own) == 1.5
    assert memory_limit_bytes(tmp_path, own) == 2_000_000


def test_quota_of_version_1_is_found_under_both_names_of_its_folder(tmp_path):
    own = write(tmp_path / "own", "4:memory:/job\n3:cpu,cpuacct:/job\n2:cpuset:/\n0::/\n")
    for folder in (tmp_path / "a" / "cpu", tmp_path / "b" / "cpu,cpuacct"):
        write(folder / "job" / "cpu.cfs_quota_us", "300000\n")
        write(folder / "job" / "cpu.cfs_period_us", "100000\n")
        write(folder / "cpu.cfs_quota_us", "-1\n")
        write(folder / "cpu.cfs_period_us", "100000\n")
        assert cpu_quota(folder.parent, own) == 3.0
    write(tmp_path / "a" / "memory" / "job" / "memory.limit_in_bytes", "5000\n")
    assert memory_limit_bytes(tmp_path / "a", own) == 5000


def test_no_control_groups_are_no_bound(tmp_path):
    assert cpu_quota(tmp_path, tmp_path / "missing") is None
    assert memory_limit_bytes(tmp_path, write(tmp_path / "own", "0::/../elsewhere\n")) is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 64), (1.5, 2), (0.1, 1), (200.0, 64)])
def test_usable_cores_are_the_fewer_of_affinity_and_quota(monkeypatch, quota, expected):
    monkeypatch.setattr("mobile_sam.evaluate.machine.num_cores", lambda: 64)
    monkeypatch.setattr(parallelism, "cpu_quota", lambda: quota)
    assert usable_cores() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_a_process_held_to_one_core_may_use_one():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [min(before)])
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_free_memory_is_what_the_system_calls_available(monkeypatch, tmp_path):
    meminfo = write(tmp_path / "meminfo", "MemTotal: 900 kB\nMemFree: 10 kB\nMemAvailable:     300 kB\n")
    monkeypatch.setattr(parallelism, "memory_limit_bytes", lambda: None)
    assert free_memory_bytes(meminfo) == 300 * 1024
    monkeypatch.setattr(parallelism, "memory_limit_bytes", lambda: 1000)
    assert free_memory_bytes(meminfo) == 1000
    monkeypatch.setattr("mobile_sam.evaluate.machine.memory_gb", lambda: None)
    monkeypatch.setattr(parallelism, "memory_limit_bytes", lambda: None)
    assert free_memory_bytes(tmp_path / "missing") is None
