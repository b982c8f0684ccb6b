"""Workers without a model, for executors; what each item is to suffer is in its key, such as "7-kill".

Processes that are spawned find this module by its name, since they take over sys.path; see the fixture that imports it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

from mobile_sam.bulk.executor import Executor
from mobile_sam.bulk.items import Batch, Done, Failed, Item, Place, Report, RunStoppedError
from mobile_sam.bulk.settings import BulkSettings
from mobile_sam.bulk.stopping import Stop
from mobile_sam.core.errors import MissingDependencyError

if os.environ.get("FAKE_WORKERS_SIGTERM") and multiprocessing.current_process().name != "MainProcess":
    os.kill(os.getpid(), signal.SIGTERM)


def batches_of(keys: Iterable[str], batch_size: int) -> Iterator[Batch]:
    items = [Item(i, key, f"{key}.png", Place(f"/nowhere/{key}.png")) for i, key in enumerate(keys, 1)]
    for number, start in enumerate(range(0, len(items), batch_size)):
        yield Batch(number, tuple(items[start : start + batch_size]))


class FakeWorker:
    """Does what the words in an item's key say, and writes begin and end of each batch to a file in settings.out."""

    def __init__(self, settings: BulkSettings, seconds_per_item: float = 0.0) -> None:
        self.out, self.seconds = Path(settings.out), seconds_per_item
        self.diary = self.out / f"{os.getpid()}.txt"
        self.write("made", "")

    def write(self, what: str, of: object) -> None:
        with self.diary.open("a") as file:
            file.write(f"{time.monotonic():.6f} {os.getpid()} {what} {of}\n")

    def run(
        self, batches: Iterable[Batch], tell: Callable[[Report], None], is_stopping: Callable[[], bool] = lambda: False
    ) -> None:
        for batch in batches:
            self.write("begin", batch.number)
            for item in batch.items:
                if is_stopping():
                    break
                self.do(item, batch.number, tell)
            self.write("end", batch.number)
            tell(Report(batch.number, is_last=True))

    def do(self, item: Item, number: int, tell: Callable[[Report], None]) -> None:
        self.write("item", item.id)
        for word in item.key.split("-")[1:]:
            if word == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif word == "abort":
                os.abort()
            elif word == "exit":
                os._exit(7)
            elif word == "once" and not (seen := self.out / f"seen-{item.id}").exists():
                seen.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            elif word == "full":
                raise RunStoppedError("the disk is full")
            elif word == "odd":
                raise OddError("this", "that")
            elif word == "slow":
                time.sleep(1)
            elif word == "hang":
                time.sleep(1000)
            elif word == "busy":
                while True:
                    sum(range(1000))
            elif word == "broken":
                tell(Report(number, failed=(Failed(item.id, "unreadable picture", "it is broken"),)))
                return
        time.sleep(self.seconds)
        tell(Report(number, done=(Done(item.id),)))


class OddError(Exception):
    """Cannot be unpickled: it takes two arguments and keeps one."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


class SilentWorker:
    """Does nothing but tell of each item: for the executor's own time."""

    def run(
        self, batches: Iterable[Batch], tell: Callable[[Report], None], is_stopping: Callable[[], bool] = lambda: False
    ) -> None:
        for batch in batches:
            for item in batch.items:
                tell(Report(batch.number, done=(Done(item.id),)))
            tell(Report(batch.number, is_last=True))


class ReadAheadWorker(FakeWorker):
    """Reads ahead over the borders of batches, and dies while reading an item that is to kill it."""

    def run(
        self, batches: Iterable[Batch], tell: Callable[[Report], None], is_stopping: Callable[[], bool] = lambda: False
    ) -> None:
        import threading
        from queue import Queue

        read: Queue[Batch | None] = Queue(4)

        def read_all() -> None:
            for batch in batches:
                for item in batch.items:
                    if "kill" in item.key:
                        os.kill(os.getpid(), signal.SIGKILL)
                read.put(batch)
            read.put(None)

        threading.Thread(target=read_all, daemon=True).start()
        super().run(iter(read.get, None), tell, is_stopping)


def make_fake(settings: BulkSettings) -> FakeWorker:
    return FakeWorker(settings)


def make_steady(settings: BulkSettings) -> FakeWorker:
    return FakeWorker(settings, seconds_per_item=0.05)


def make_brisk(settings: BulkSettings) -> FakeWorker:
    return FakeWorker(settings, seconds_per_item=0.01)


def make_silent(settings: BulkSettings) -> SilentWorker:
    return SilentWorker()


def make_read_ahead(settings: BulkSettings) -> ReadAheadWorker:
    return ReadAheadWorker(settings, seconds_per_item=0.05)


def make_without_engine(settings: BulkSettings) -> FakeWorker:
    raise MissingDependencyError("the engine needs a package; run: pip install it", name="a_package")


def make_and_die(settings: BulkSettings) -> FakeWorker:
    os._exit(9)


class LoneWorker(FakeWorker):
    """Does nothing before three others have died."""

    def do(self, item: Item, number: int, tell: Callable[[Report], None]) -> None:
        while len(list(self.out.glob("died-*"))) < 3:
            time.sleep(0.01)
        super().do(item, number, tell)


def make_only_one(settings: BulkSettings) -> FakeWorker:
    out = Path(settings.out)
    try:
        (out / "one").touch(exist_ok=False)
    except FileExistsError:
        while not any("begin" in diary.read_text() for diary in out.glob("*.txt")):
            time.sleep(0.01)
        (out / f"died-{os.getpid()}").touch()
        os._exit(9)
    return LoneWorker(settings, seconds_per_item=0.05)


def make_slowly(settings: BulkSettings) -> FakeWorker:
    (Path(settings.out) / f"starting-{os.getpid()}").touch()
    time.sleep(1000)
    raise AssertionError


def keys(count: int, **special: str) -> list[str]:
    """Keys 1, 2, ...; special: item7="kill" makes the seventh one 7-kill."""
    return [f"{i}-{special[f'item{i}']}" if f"item{i}" in special else f"{i}" for i in range(1, count + 1)]


def do(executor: Executor, batches: Iterator[Batch], stop: Stop | None = None) -> list[Report]:
    """Run to the end, and keep all reports."""
    with closing(executor.run(batches, stop or Stop())) as reports:
        return list(reports)


def outcome(reports: list[Report]) -> tuple[list[int], dict[int, str]]:
    """Ids of done items, sorted, and reasons of failed ones."""
    failed = {one.item_id: f"{one.kind}: {one.reason}" for report in reports for one in report.failed}
    assert len(failed) == sum(len(report.failed) for report in reports)
    return sorted(one.item_id for report in reports for one in report.done), failed


def diary(folder: Path) -> list[list[str]]:
    """What the workers wrote: time, pid, what, of what; in the order of time."""
    lines = [line.split() for file in folder.glob("*.txt") for line in file.read_text().splitlines()]
    return sorted(lines, key=lambda words: float(words[0]))


def pids(folder: Path) -> set[int]:
    return {int(file.stem) for file in folder.glob("*.txt")}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
