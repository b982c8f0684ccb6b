import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mobile_sam.bulk.items import Listed, Place
from mobile_sam.bulk.manifest import Manifest
from mobile_sam.bulk.manifest_lock import RunInUseError

BEGIN = """
import sys
from pathlib import Path
from mobile_sam.bulk.items import Done, Failed, Listed, Place, Report
from mobile_sam.bulk.manifest import Manifest

manifest = Manifest.open(Path(sys.argv[1]), {})
"""
LIST_FOREVER = """
def pictures():
    for i in range(10**9):
        yield Listed(f"{i:0200d}", f"{i:0200d}.jpg", Place("/p"), f"{i}")
        if i % 1000 == 0:
            print(i, flush=True)

manifest.list_items(pictures())
"""
COMMIT_FOREVER = """
for batch in manifest.pending_batches(3):
    ids = [item.id for item in batch.items]
    failed = tuple(Failed(i, "kind", "reason" * 50) for i in ids if i % 5 == 0)
    manifest.commit([Report(0, tuple(Done(i, 1, f"{i % 7}", i, i) for i in ids if i % 5), failed)])
    print(*ids, flush=True)
"""
HOLD = """
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def killed(path: Path, code: str) -> Iterator["subprocess.Popen[str]"]:
    """Run code with the manifest in a process of its own, which is killed at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()


def read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the process has ended"
    return line


def check_integrity(path: Path) -> None:
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


@pytest.mark.parametrize(("num_chunks", "written_bytes"), [(1, 0), (60, 1_000_000)])  # more than memory keeps
def test_a_run_killed_while_listing_has_nothing_listed_and_lists_again(
    tmp_path: Path, num_chunks: int, written_bytes: int
) -> None:
    path = tmp_path / "m"
    with killed(path, LIST_FOREVER) as process:
        for _ in range(num_chunks):
            read_line(process)
        assert (tmp_path / "m-wal").stat().st_size > written_bytes
    with Manifest.open(path, {}) as manifest:
        assert not manifest.is_listed
        assert list(manifest.items()) == []
        assert manifest.list_items([Listed("a", "a.jpg", Place("/a.jpg"), "a")]).num_items == 1
    check_integrity(path)


def test_all_that_was_committed_is_there_whenever_the_run_was_killed(tmp_path: Path) -> None:
    path, num_items = tmp_path / "m", 10_000
    with Manifest.open(path, {}) as manifest:
        manifest.list_items(Listed(f"{i}", f"{i}.jpg", Place(f"/{i}"), f"{i}") for i in range(num_items))
    seed = random.randrange(10**6)
    moments, told = random.Random(seed), set[int]()
    for _ in range(6):
        with killed(path, COMMIT_FOREVER) as process:
            read = read_line(process)
            time.sleep(moments.random() * 0.02)
            process.kill()
            assert process.stdout is not None
            read += process.stdout.read()
        complete = [line for line in read.splitlines(keepends=True) if line.endswith("\n")]
        told |= {int(word) for line in complete for word in line.split()}
        with Manifest.open(path, {}) as manifest:
            pending = {item.id for batch in manifest.pending_batches(3) for item in batch.items}
            assert not told & pending, seed
            # what was committed but not told is at most the batch that was in the making
            assert len(told) <= num_items - len(pending) <= len(told) + 3 * 6, seed
            assert manifest.counts().num_pending == len(pending)
            assert {item.id for item, _, _ in manifest.failures()} >= {i for i in told if i % 5 == 0}
            assert {(item.id, part) for item, part, _, _ in manifest.spooled()} >= {
                (i, f"{i % 7}") for i in told if i % 5
            }
        check_integrity(path)
        if not pending:
            break  # a very fast machine
    assert len(told) >= 3 * 6


def test_a_second_run_is_refused_while_the_first_lives_and_let_in_when_it_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with killed(path, HOLD) as process:
        assert read_line(process) == "held\n"
        with pytest.raises(RunInUseError, match=f"process {process.pid}, since"):
            Manifest.open(path, {})
    Manifest.open(path, {}).close()
