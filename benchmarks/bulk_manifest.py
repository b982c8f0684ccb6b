"""What the manifest of a bulk run costs, with pictures that take no time: a row for each number of items.

    list_us               microseconds per item to list
    run_us                microseconds per item to take batches and commit reports as a run does, without a model: every
                          half second or --commit-items items; first half of the batches, and after a restart the rest
    overhead_ms           both together, in milliseconds per item: what the manifest adds to each picture
    resume_s              from opening a run of which half the batches, spread at random, are done, to its tenth batch
    resume_last_s         the same of a run of which all but the last batch are done, to that batch
    commit_ms_max         the longest commit
    bytes_per_item        of the file, each item done, with a line in the spool
    peak_rss_MB           largest resident memory of the process, which does nothing else; one process for each row
    baseline_rss_MB       the same with the first item listed

Paths are 60 bytes long. The disk is that of --work.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from report import MACHINE, RESULTS, MachineWatch, facts, publish

from mobile_sam.bulk.items import Batch, Done, Listed, Place, Report
from mobile_sam.bulk.manifest import Manifest

SIZES = (10_000, 100_000, 1_000_000)
DESCRIPTION = {"task": "everything", "model": {"checkpoint": "vit_t", "sha256": "0" * 64}}
COMMIT_S = 0.5
LINE_BYTES = 20_000  # of everything mode's masks of a picture


def pictures(num_items: int) -> Iterator[Listed]:
    """Pictures that are nowhere, at paths of 60 bytes."""
    for i in range(num_items):
        key = f"session_{i // 1000:05d}/camera_{i % 7}/IMG_{i:09d}"
        path = f"/data/collection/{key}.jpg"
        yield Listed(key, f"{key}.jpg", Place(path), path)


def simulated(batches: Iterable[Batch]) -> Iterator[Report]:
    """Report each batch as done at once."""
    for batch in batches:
        part = f"masks-worker-{batch.number % 16:02d}.jsonl"
        done = tuple(Done(item.id, 40, part, item.id * LINE_BYTES, LINE_BYTES) for item in batch.items)
        yield Report(batch.number, done, is_last=True)


def run(manifest: Manifest, batches: Iterable[Batch], commit_items: int) -> float:
    """Commit the reports of all batches as `mobile-sam bulk` does; the longest commit in milliseconds."""
    waiting: list[Report] = []
    longest_s, committed_at = 0.0, time.perf_counter()

    def commit() -> None:
        nonlocal longest_s, committed_at
        started = time.perf_counter()
        manifest.commit(waiting)
        waiting.clear()
        committed_at = time.perf_counter()
        longest_s = max(longest_s, committed_at - started)

    num_waiting = 0
    for report in simulated(batches):
        waiting.append(report)
        num_waiting += len(report.done)
        if num_waiting >= commit_items or time.perf_counter() - committed_at > COMMIT_S:
            commit()
            num_waiting = 0
    commit()
    return 1000 * longest_s


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds a call takes, and its result."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def resume_s(path: Path, batch_size: int, num_batches: int) -> float:
    """Seconds from opening a run to a number of batches, with its counts; asked once."""

    def resume() -> None:
        with Manifest.open(path, DESCRIPTION) as manifest:
            assert manifest.counts().num_pending > 0
            for _, _batch in zip(range(num_batches), manifest.pending_batches(batch_size), strict=False):
                pass

    return seconds(resume)[0]


def measure(num_items: int, batch_size: int, commit_items: int, work: Path) -> dict[str, Any]:
    """One row, in this process."""
    path = work / "manifest.sqlite"
    last_number = (num_items - 1) // batch_size
    chance = random.Random(0)
    with Manifest.open(work / "one.sqlite", DESCRIPTION) as manifest:
        manifest.list_items(pictures(1))
    baseline_mb = MACHINE.peak_rss_mb()
    with Manifest.open(path, DESCRIPTION) as manifest:
        list_s, _ = seconds(lambda: manifest.list_items(pictures(num_items)))
        batches = (batch for batch in manifest.pending_batches(batch_size) if batch.number < last_number)
        half = (batch for batch in batches if chance.random() < 0.5)
        first_s, first_ms = seconds(lambda: run(manifest, half, commit_items))
        num_first = manifest.counts().num_done
    half_s = resume_s(path, batch_size, 10)
    with Manifest.open(path, DESCRIPTION) as manifest:
        rest = (batch for batch in manifest.pending_batches(batch_size) if batch.number < last_number)
        rest_s, rest_ms = seconds(lambda: run(manifest, rest, commit_items))
    last_s = resume_s(path, batch_size, 1)
    with Manifest.open(path, DESCRIPTION) as manifest:
        run(manifest, manifest.pending_batches(batch_size), commit_items)
        assert manifest.counts().num_pending == 0
        assert 0 < num_first < num_items
    return {
        "items": num_items, "batch_size": batch_size, "list_us": 1e6 * list_s / num_items,
        "run_us": 1e6 * (first_s + rest_s) / num_items, "overhead_ms": 1e3 * (list_s + first_s + rest_s) / num_items,
        "resume_s": half_s, "resume_last_s": last_s, "commit_ms_max": max(first_ms, rest_ms),
        "bytes_per_item": path.stat().st_size / num_items, "peak_rss_MB": MACHINE.peak_rss_mb(),
        "baseline_rss_MB": baseline_mb,
    }  # fmt: skip


def main() -> None:
    """Measure each size in a process of its own, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=SIZES, help="numbers of items, one row each")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--commit-items", type=int, default=1000)
    parser.add_argument("--work", type=Path, help="a folder on the disk to measure (default: that of temporary files)")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "bulk_manifest.csv")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # one row, printed as JSON
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.items[0], given.batch_size, given.commit_items, given.work)))
        return
    header, watch, rows = facts(), MachineWatch(), []
    for num_items in given.items:
        with tempfile.TemporaryDirectory(dir=given.work) as work:
            command = [sys.executable, __file__, "--one", "--items", num_items, "--batch-size", given.batch_size]
            command += ["--commit-items", given.commit_items, "--work", work]
            finished = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(finished.stdout))
    publish(given.output.stem, rows, {**header, **watch.facts()}, given.output.parent)


if __name__ == "__main__":
    main()
