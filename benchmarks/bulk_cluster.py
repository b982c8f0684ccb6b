"""What Ray costs for each picture, against processes of one machine: the same worker, the same number of them.

    work          "sleep": a worker that waits for so many milliseconds, nothing else; "embed": the real one
    executor      "local": processes of LocalExecutor; "ray": a pool of actors on a cluster that is started for it
    start_s       from the call to the first report: processes, imports, the model, and one batch
    rate          pictures per second after the first batch of each worker
    per_picture   milliseconds of a worker's time for each picture, over that of the work itself for "sleep"
    overhead_ms   of "ray": per_picture over that of "local"

Executors take turns. A report comes with each batch of ray, so there must be many batches for each worker.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from report import MachineWatch, facts, publish, summarise

from mobile_sam.bulk.cluster import RayExecutor, RayOptions
from mobile_sam.bulk.executor import Executor, make_worker
from mobile_sam.bulk.items import Batch, Done, Item, Place, Report
from mobile_sam.bulk.local import LocalExecutor
from mobile_sam.bulk.settings import BulkSettings
from mobile_sam.bulk.stopping import Stop


class SleepingWorker:
    """Waits for each picture."""

    def __init__(self, settings: BulkSettings, sleep_s: float = 0) -> None:
        self._sleep_s = sleep_s

    def run(
        self,
        batches: Iterable[Batch],
        tell: Callable[[Report], None],
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wait, and tell of each batch at its end."""
        for batch in batches:
            for _ in batch.items:
                time.sleep(self._sleep_s)
            tell(Report(batch.number, tuple(Done(item.id) for item in batch.items), is_last=True))


def make_batches(num_pictures: int, batch_size: int, pictures: list[Path]) -> Iterator[Batch]:
    """Batches of the pictures, over and over."""
    items = [
        Item(i + 1, f"p{i:08d}", f"p{i:08d}.png", Place(str(pictures[i % len(pictures)]))) for i in range(num_pictures)
    ]
    for number in range(-(-num_pictures // batch_size)):
        yield Batch(number, tuple(items[number * batch_size : (number + 1) * batch_size]))


def measure(executor: Executor, batches: Iterator[Batch], num_warm_up: int) -> tuple[float, float]:
    """Seconds to the first report, and pictures per second when so many are done."""
    started = time.perf_counter()
    first_s = warm_s = last_s = 0.0
    num_done = num_warm = 0
    for report in executor.run(batches, Stop()):
        num_done += len(report.done)
        assert not report.failed, report.failed[0]
        last_s = time.perf_counter() - started
        first_s = first_s or last_s
        if not warm_s and num_done >= num_warm_up:
            warm_s, num_warm = last_s, num_done
    return first_s, (num_done - num_warm) / (last_s - warm_s)


def compare(
    work: str, num_pictures: int, given: argparse.Namespace, make: Callable[[BulkSettings], Any], work_ms: float
) -> list[dict[str, Any]]:
    """Let both do the same, in turns."""
    found: dict[str, list[tuple[float, float]]] = {"local": [], "ray": []}
    for turn in range(given.rounds):
        for name in ("local", "ray") if turn % 2 == 0 else ("ray", "local"):
            with tempfile.TemporaryDirectory(dir=given.work) as out:
                settings = BulkSettings(
                    "embed", out, ("safetensors",), engine="onnxruntime", num_threads=1, batch_size=given.batch_size
                )
                options = RayOptions(min_actors=given.workers, max_actors=given.workers)
                executor: Executor = (
                    LocalExecutor(settings, given.workers, make)
                    if name == "local"
                    else RayExecutor(settings, options, make)
                )
                batches = make_batches(num_pictures, given.batch_size, given.pictures)
                found[name].append(measure(executor, batches, given.workers * given.batch_size))
    rows = []
    for name, values in found.items():
        rate = summarise([rate for _, rate in values]).median
        per_picture_ms = 1000 * given.workers / rate - work_ms
        row = {
            "work": work, "work_ms": work_ms, "pictures": num_pictures, "batch_size": given.batch_size,
            "workers": given.workers, "executor": name, "start_s": summarise([s for s, _ in values]).median,
            "rate": rate, "per_picture_ms": per_picture_ms, "overhead_ms": None, "rounds": given.rounds,
        }  # fmt: skip
        rows.append(row)
    rows[1]["overhead_ms"] = rows[1]["per_picture_ms"] - rows[0]["per_picture_ms"]
    return rows


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--work", type=Path, help="folder for what is written; removed afterwards")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sleep-ms", nargs="*", type=float, default=[0, 50])
    parser.add_argument("--num-sleeps", type=int, default=6400, help="pictures of each wait; a tenth of it above 0")
    parser.add_argument("--num-embed", type=int, default=512, help="pictures to embed; 0 for none")
    parser.add_argument("--name", default="bulk_cluster", help="writes results/NAME.csv")
    given = parser.parse_args()
    given.pictures = sorted(path.resolve() for path in given.pictures.rglob("*.jpg"))
    watch, rows = MachineWatch(), []
    for sleep_ms in given.sleep_ms:
        num_pictures = given.num_sleeps // 10 if sleep_ms else given.num_sleeps
        make = partial(SleepingWorker, sleep_s=sleep_ms / 1000)
        rows += compare("sleep", num_pictures, given, make, sleep_ms)
    if given.num_embed:
        rows += compare("embed", given.num_embed, given, make_worker, 0.0)
    publish(given.name, rows, {**facts(), **watch.facts()})


if __name__ == "__main__":
    main()
