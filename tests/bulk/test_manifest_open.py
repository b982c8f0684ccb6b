import json
import logging
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mobile_sam.bulk import manifest_lock
from mobile_sam.bulk.items import Done, Failed, Listed, Place, Report, RunStoppedError
from mobile_sam.bulk.manifest import Manifest
from mobile_sam.bulk.manifest_lock import RunInUseError
from mobile_sam.bulk.manifest_settings import ChangedSettingsError

SETTINGS = {
    "task": "embed",
    "formats": ["shards"],
    "model": {"checkpoint": "vit_t", "sha256": "0" * 64},
    "config": {"points_per_side": 32, "crop_n_layers": 0},
}


def begin(path: Path, num_items: int = 3) -> Path:
    with Manifest.open(path, SETTINGS) as manifest:
        manifest.list_items(Listed(f"{i}", f"{i}.jpg", Place(f"/{i}.jpg"), f"{i}") for i in range(num_items))
        manifest.commit([Report(0, (Done(1),))])
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return begin(tmp_path / "manifest.sqlite")


def test_a_run_goes_on_with_the_same_settings_tuples_being_lists(path: Path) -> None:
    with Manifest.open(path, {**SETTINGS, "formats": ("shards",)}) as manifest:
        assert manifest.is_listed
        assert (manifest.counts().num_done, manifest.counts().num_items) == (1, 3)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"task": "boxes"}, ["task was 'embed', is 'boxes'"]),
        ({"config": {"points_per_side": 16, "crop_n_layers": 0}}, ["config.points_per_side was 32, is 16"]),
        ({"model": {"checkpoint": "vit_t", "sha256": "1" * 64}}, ["the model has changed"]),
        ({"config": {"points_per_side": 32}}, ["config.crop_n_layers was 0, is not set"]),
        ({"new": 1.5}, ["new was not set, is 1.5"]),
        ({"config": None}, ["config was {", "is None"]),
        ({"formats": ["safetensors"], "task": "x"}, ["task was 'embed', is 'x'; formats was ['shards'], is ['safet"]),
    ],
)
def test_changed_settings_are_refused_with_what_differs(
    path: Path, changed: dict[str, Any], expected: list[str]
) -> None:
    with pytest.raises(ChangedSettingsError) as refused:
        Manifest.open(path, {**SETTINGS, **changed})
    for words in (*expected, str(path), "--out", "go back to the settings"):
        assert words in str(refused.value)
    Manifest.open(path, SETTINGS).close()  # nothing was changed, and it is not left locked


def test_long_values_are_shortened_and_hashes_are_not_shown(tmp_path: Path) -> None:
    old = {"text": "x" * 500, "prompts_sha256": "a" * 64}
    with Manifest.open(tmp_path / "m", old) as manifest:
        manifest.list_items([Listed("a", "a.jpg", Place("/a.jpg"), "a")])
    with pytest.raises(ChangedSettingsError, match="the file with the prompts has changed") as refused:
        Manifest.open(tmp_path / "m", {"text": "y" * 500, "prompts_sha256": "b" * 64})
    assert "bbb" not in str(refused.value)
    assert len(str(refused.value)) < 400 + len(str(tmp_path))


def test_a_run_that_has_listed_nothing_takes_other_settings(tmp_path: Path) -> None:
    Manifest.open(tmp_path / "m", {"task": "embed"}).close()
    with Manifest.open(tmp_path / "m", {"task": "boxes"}) as manifest:
        manifest.list_items([Listed("a", "a.jpg", Place("/a.jpg"), "a")])
    with pytest.raises(ChangedSettingsError, match="task was 'boxes', is 'embed'"):
        Manifest.open(tmp_path / "m", {"task": "embed"})


def test_a_second_run_is_refused_by_name_and_let_in_afterwards(path: Path) -> None:
    with Manifest.open(path, SETTINGS):
        with pytest.raises(RunInUseError) as refused:
            Manifest.open(path, SETTINGS)
        for words in (str(path.parent), f"host {socket.gethostname()}, process {os.getpid()}, since 20", "--out"):
            assert words in str(refused.value)
    Manifest.open(path, SETTINGS).close()


def test_what_a_lock_says_of_an_earlier_run_is_written_over(path: Path) -> None:
    lock = path.with_name("manifest.sqlite.lock")
    lock.write_text('{"host": "gone", "pid": 1, "started": "long ago and at great length"}')
    with Manifest.open(path, SETTINGS):
        assert json.loads(lock.read_text())["pid"] == os.getpid()


def test_a_holder_that_has_not_said_who_it_is_is_refused_all_the_same(path: Path) -> None:
    with Manifest.open(path, SETTINGS):
        path.with_name("manifest.sqlite.lock").write_bytes(b"\xff{")
        with pytest.raises(RunInUseError, match="only just begun"):
            Manifest.open(path, SETTINGS)


@pytest.mark.skipif(os.name == "nt", reason="all disks have locks there")
def test_a_disk_without_locks_is_said_so_and_used(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(manifest_lock, "lock_file", lambda file: False)
    with caplog.at_level(logging.WARNING), Manifest.open(path, SETTINGS) as manifest:
        manifest.commit([Report(0, (Done(2),))])
        assert not list(path.parent.glob("*-shm"))
    assert "no locks" in caplog.text
    monkeypatch.undo()
    with Manifest.open(path, SETTINGS) as manifest:
        assert manifest.counts().num_done == 2


def test_another_program_that_has_the_file_open_is_told_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sqlite3, "connect", lambda *args, connect=sqlite3.connect, **kw: connect(*args, timeout=0, **kw)
    )
    other = sqlite3.connect(path)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RunInUseError, match="another program"):
        Manifest.open(path, SETTINGS)
    other.close()


def test_no_memory_is_shared_so_that_disks_in_a_network_will_do(path: Path) -> None:
    with Manifest.open(path, SETTINGS) as manifest:
        manifest.commit([Report(0, (Done(2),))])
        assert sorted(found.suffix for found in path.parent.iterdir()) == [".lock", ".sqlite", ".sqlite-wal"]


def test_a_newer_manifest_is_refused(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(ValueError, match=r"manifest.sqlite is of a newer version .*format 2, expected 1"):
        Manifest.open(path, SETTINGS)


def test_a_database_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "firefox.sqlite"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE places (url)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"firefox.sqlite is a database, but no manifest"):
        Manifest.open(path, SETTINGS)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "manifest.sqlite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest.sqlite is damaged, or no manifest"):
        Manifest.open(path, SETTINGS)
    assert path.read_bytes() == content


def test_a_file_cut_short_or_overwritten_is_refused_or_reading_it_says_so(tmp_path: Path) -> None:
    path = begin(tmp_path / "manifest.sqlite", 2000)
    content = path.read_bytes()
    for damaged in (content[:8192], content[:4096] + b"\xaa" * (len(content) - 4096)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"manifest.sqlite is damaged"), Manifest.open(path, SETTINGS) as manifest:
            list(manifest.items())


def test_an_empty_file_is_a_run_that_was_killed_as_it_began(tmp_path: Path) -> None:
    (tmp_path / "m").touch()
    with Manifest.open(tmp_path / "m", SETTINGS) as manifest:
        assert not manifest.is_listed


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing does not exist"):
        Manifest.open(tmp_path / "missing" / "m", SETTINGS)


def full(manifest: Manifest) -> None:
    """Let the database have hardly more pages than it has, as SQLite itself counts them."""
    (num_pages,) = manifest._database.execute("PRAGMA page_count").fetchone()
    manifest._database.execute(f"PRAGMA max_page_count = {num_pages + 2}")


def test_a_full_disk_stops_the_run_with_nothing_half_written(path: Path) -> None:
    with Manifest.open(path, SETTINGS) as manifest:
        full(manifest)
        with pytest.raises(RunStoppedError, match=r"manifest.sqlite is full.*make room"):
            manifest.commit([Report(0, (Done(2),), (Failed(3, "kind", "x" * 100_000),))])
        assert manifest.counts().num_pending == 2
        assert next(manifest.pending_batches(10)).items[0].id == 2
        manifest.commit([Report(0, (Done(2),))])  # there is room for that
        assert manifest.counts().num_pending == 1


def test_a_disk_that_gets_full_while_listing_leaves_the_run_unlisted(tmp_path: Path) -> None:
    with Manifest.open(tmp_path / "m", SETTINGS) as manifest:
        full(manifest)
        with pytest.raises(RunStoppedError, match="is full"):
            manifest.list_items(Listed(f"{i}", f"{i}.jpg", Place(f"/{i}"), f"{i}") for i in range(10_000))
        assert not manifest.is_listed
        assert manifest.list_items([Listed("a", "a.jpg", Place("/a"), "a")]).num_items == 1


@pytest.mark.skipif(os.name == "nt", reason="needs limits on files")
def test_a_file_that_the_system_will_not_let_grow_stops_the_run(path: Path) -> None:
    import resource
    import signal

    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with Manifest.open(path, SETTINGS) as manifest:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
            with pytest.raises(RunStoppedError, match=r"manifest.sqlite.*run the same command again"):
                manifest.commit([Report(0, (Done(2),), (Failed(3, "kind", "x" * 500_000),))])
            assert manifest.counts().num_pending == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    with Manifest.open(path, SETTINGS) as manifest:
        assert manifest.counts().num_pending == 2


def test_another_thread_is_refused_rather_than_let_loose(path: Path) -> None:
    found: list[BaseException] = []

    def commit(manifest: Manifest) -> None:
        try:
            manifest.commit([Report(0, (Done(2),))])
        except sqlite3.ProgrammingError as error:
            found.append(error)

    with Manifest.open(path, SETTINGS) as manifest:
        thread = threading.Thread(target=commit, args=(manifest,))
        thread.start()
        thread.join()
        assert manifest.counts().num_done == 1
    assert "thread" in str(found[0])


def test_leaving_with_an_error_lets_others_have_it(path: Path) -> None:
    def breaks() -> Iterator[None]:
        with Manifest.open(path, SETTINGS):
            raise RuntimeError("stopped")
        yield

    with pytest.raises(RuntimeError, match="stopped"):
        next(breaks())
    Manifest.open(path, SETTINGS).close()
