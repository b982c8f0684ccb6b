"""The manifest's file: a database of our own format, made or recognised, and its errors in words.

A run has the file for itself, so SQLite is told to lock it for good (`locking_mode = EXCLUSIVE`). Then its write-ahead
log (WAL) needs no memory shared between processes, which disks in a network do not have. Other programs can read the
file when the run has ended.

What can be lost: by kill -9 nothing that was committed, since what was written is with the kernel. When the power goes,
with the log and `synchronous = NORMAL` the last commits, up to some megabytes of the log, but never the file: what was
in them is done again, and gives the same. Where the log does not work the file is written with a journal and
`synchronous = FULL`: then nothing is lost by that either, and each commit waits for the disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobile_sam.bulk.items import RunStoppedError
from mobile_sam.bulk.manifest_lock import RunInUseError

APPLICATION_ID = 0x4D53424D  # "MSBM", in the file's header: `file` and we know it by that
VERSION = 1
_LOG_BYTES = 16 << 20  # what the log shrinks to after the listing
_CACHE_KIB = 8 << 10
_SCHEMA = (
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE runs (id INTEGER PRIMARY KEY, facts TEXT NOT NULL)",
    # written once: rows as `manifest_rows` packs them
    "CREATE TABLE items (id INTEGER PRIMARY KEY, key TEXT NOT NULL, packing INTEGER NOT NULL, file_name TEXT NOT NULL, "
    "path BLOB NOT NULL, start INTEGER NOT NULL, size_bytes INTEGER, source_id)",
    "CREATE TABLE prompts (id INTEGER PRIMARY KEY, prompts TEXT NOT NULL)",
    # an item in neither of these two is pending, and none is in both
    "CREATE TABLE done (id INTEGER PRIMARY KEY, num_masks INTEGER NOT NULL, part INTEGER, start INTEGER, "
    "size_bytes INTEGER)",
    "CREATE TABLE failed (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, reason TEXT NOT NULL)",
    "CREATE TABLE parts (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)


def open_database(path: Path, has_locks: bool) -> sqlite3.Connection:
    """Open a manifest's database, or make an empty one.

    Args:
        path: of the file.
        has_locks: whether the disk has locks; without them SQLite does without, too.

    Returns:
        The connection, which begins no transactions by itself.

    Raises:
        ValueError: the file is no manifest, of another version, or damaged.
        RunInUseError: another program has it open.
        RunStoppedError: the disk is full or does not work.
    """
    with clear_errors(path):
        if has_locks:
            database = sqlite3.connect(path, isolation_level=None)
        else:
            uri = f"{path.absolute().as_uri()}?vfs=unix-none"  # never on Windows, all of whose disks have locks
            database = sqlite3.connect(uri, uri=True, isolation_level=None)
        try:
            _prepare(database, path)
        except BaseException:
            database.close()
            raise
    return database


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    database.execute("PRAGMA locking_mode = EXCLUSIVE")  # before the first access, or the log shares memory
    database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    found_id, version = (
        database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    is_empty = database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None
    if found_id != APPLICATION_ID and not (is_empty and found_id == 0):
        raise ValueError(f"{path} is a database, but no manifest of a run of mobile-sam bulk; name another --out")
    if not is_empty and version != VERSION:
        age = "a newer" if version > VERSION else "another"
        raise ValueError(
            f"{path} is of {age} version of mobile-sam (format {version}, expected {VERSION}); go on with that "
            "version, or name another --out"
        )
    mode = database.execute("PRAGMA journal_mode = WAL").fetchone()[0]  # as it was, where WAL does not work
    database.execute(f"PRAGMA synchronous = {'NORMAL' if mode == 'wal' else 'FULL'}")
    database.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    if is_empty:
        with transaction(database, path):
            for statement in _SCHEMA:
                database.execute(statement)


@contextmanager
def transaction(database: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Make all that is written in the block one change: when it ends well, it is there, else nothing of it.

    Raises:
        ValueError, RunStoppedError: as `clear_errors` does.
    """
    with clear_errors(path):
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:  # after some errors SQLite has rolled back already
                database.execute("ROLLBACK")
            raise


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Say in words what SQLite means.

    Raises:
        RunInUseError: another program has the file open.
        RunStoppedError: the disk is full or does not work.
        ValueError: the file is no database, or damaged.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text:
            raise RunInUseError(f"another program has {path} open; close it, or wait for the other run") from error
        if "is full" in text:
            raise RunStoppedError(
                f"the disk of {path} is full (or, while pictures are listed, that of temporary files); make room and "
                "run the same command again, which goes on where this stopped"
            ) from error
        if any(words in text for words in ("disk I/O", "readonly", "unable to open")):
            raise RunStoppedError(
                f"cannot use {path}: {text}; see that its disk is there and can be written, and run the same command "
                "again, which goes on where this stopped"
            ) from error
        raise
    except sqlite3.DatabaseError as error:
        if type(error) is not sqlite3.DatabaseError:
            raise  # a mistake of ours
        raise ValueError(
            f"{path} is damaged, or no manifest of a run of mobile-sam bulk ({error}); name another --out, or remove "
            "it to do all pictures again"
        ) from error
