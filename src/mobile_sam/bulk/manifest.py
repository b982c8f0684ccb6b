"""What became of each picture of a run: a database beside the results, from which a killed run goes on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from mobile_sam.bulk.items import Batch, Done, Failed, Item, Listed, Report
from mobile_sam.bulk.manifest_file import clear_errors, open_database, transaction
from mobile_sam.bulk.manifest_listing import ListingSummary, write_items
from mobile_sam.bulk.manifest_lock import RunLock
from mobile_sam.bulk.manifest_rows import COLUMNS, NUM_COLUMNS, unpack
from mobile_sam.bulk.manifest_settings import check_settings
from mobile_sam.core.files import check_writable

_PAGE_ITEMS = 512  # read at once, so that memory does not grow, and nothing is read while something is written
_ITEM = ", ".join(f"items.{name}" for name in COLUMNS.split(", "))
_ALL = f"SELECT {_ITEM} FROM items"
_PENDING = (
    f"SELECT {_ITEM}, prompts.prompts FROM items LEFT JOIN prompts USING (id) WHERE items.id > ? AND items.id <= ? "
    "AND NOT EXISTS (SELECT 1 FROM done WHERE done.id = items.id) "
    "AND NOT EXISTS (SELECT 1 FROM failed WHERE failed.id = items.id) ORDER BY items.id"
)
_FAILURES = f"SELECT {_ITEM}, failed.kind, failed.reason FROM failed JOIN items USING (id)"
_SPOOLED = (
    f"SELECT {_ITEM}, parts.name, done.start, done.size_bytes FROM done JOIN items USING (id) "
    "JOIN parts ON parts.id = done.part"
)
_ADD_DONE = "INSERT OR IGNORE INTO done VALUES (?, ?, (SELECT id FROM parts WHERE name = ?), ?, ?)"
_ADD_FAILED = "INSERT OR IGNORE INTO failed SELECT ?1, ?2, ?3 WHERE NOT EXISTS (SELECT 1 FROM done WHERE id = ?1)"


@dataclass(frozen=True)
class Counts:
    """How far a run is.

    Attributes:
        num_items: in all.
        num_done: with results.
        num_failed: without, for good, unless they are tried again.
    """

    num_items: int
    num_done: int
    num_failed: int

    @property
    def num_pending(self) -> int:
        """Number of items that are still to be done."""
        return self.num_items - self.num_done - self.num_failed


class Manifest:
    """The items of a run and what became of them; opened by `open`, held by one run at a time.

    To be used from the thread that opened it, and from no other; others hand their reports over to that. It can be left
    by `with`.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path, database: sqlite3.Connection, lock: RunLock) -> None:
        self.path = path
        self._database, self._lock = database, lock
        facts = dict(self._read("SELECT name, value FROM facts"))
        self._description: str | None = facts.get("description")
        self._num_items = int(facts.get("num_items", 0))
        self._has_prompts = "has_prompts" in facts
        self._num_done, self._num_failed = (
            self._read(f"SELECT COUNT(*) FROM {table}")[0][0] for table in ("done", "failed")
        )

    @classmethod
    def open(cls, path: Path, description: Mapping[str, Any]) -> Manifest:
        """Open the manifest of a run, or begin one.

        Args:
            path: of its file, whose folder must exist. Beside it there will be a file to lock, named with ".lock".
            description: all that results depend on, as what JSON takes. A run whose pictures are not listed yet takes
                what comes, since it has no results.

        Raises:
            RunInUseError: another run has it.
            ChangedSettingsError: it is of a run with another description.
            ValueError: the file is no manifest, of another version, or damaged.
            RunStoppedError: the disk is full or does not work.
            OSError: the file cannot be made.
        """
        check_writable(path)
        lock = RunLock(path.with_name(path.name + ".lock"))
        try:
            database = open_database(path, lock.is_held)
            try:
                manifest = cls(path, database, lock)
                manifest._describe(description)
            except BaseException:
                database.close()
                raise
        except BaseException:
            lock.close()
            raise
        return manifest

    @property
    def is_listed(self) -> bool:
        """Whether the pictures are listed: all, or none."""
        return self._num_items > 0

    @property
    def has_prompts(self) -> bool:
        """Whether `add_prompts` has come to its end."""
        return self._has_prompts

    def list_items(self, listed: Iterable[Listed]) -> ListingSummary:
        """Enter the pictures of a run, or those that are new: all or, when anything goes wrong, none.

        Of pictures with the same identity the first counts. Of keys that are the same, also in upper and lower case or
        in another form of Unicode, the first stays, and the others become "key~2", "key~3" and so on, in the order of
        the listing.

        Args:
            listed: the pictures, taken one at a time. When there are none, nothing is entered, and the next run lists
                again.

        Raises:
            RunStoppedError: the disk is full or does not work.
        """
        with self._transaction():
            summary = write_items(self._database, listed, self.items())
            if summary.num_items:
                self._set_fact("num_items", str(summary.num_items))
        self._num_items = summary.num_items
        self._read("PRAGMA wal_checkpoint(TRUNCATE)")  # the log holds a copy of all
        return summary

    def add_prompts(self, prompts: Iterable[tuple[int, str]]) -> None:
        """Enter the prompts of items: all or, when anything goes wrong, none.

        Args:
            prompts: the item's id, and its prompts as JSON, taken one at a time.

        Raises:
            RunStoppedError: the disk is full or does not work.
        """
        with self._transaction():
            self._database.executemany("INSERT OR REPLACE INTO prompts VALUES (?, ?)", prompts)
            self._set_fact("has_prompts", "1")
        self._has_prompts = True

    def items(self, after_id: int = 0) -> Iterator[Item]:
        """Give all items in the order of their ids, without their prompts."""
        return (unpack(row) for row in self._pages(_ALL, after_id))

    def counts(self) -> Counts:
        """Say how far the run is; costs nothing."""
        return Counts(self._num_items, self._num_done, self._num_failed)

    def pending_batches(self, batch_size: int) -> Iterator[Batch]:
        """Give what is to be done, in the order of ids, with prompts; each item once.

        Reports may be committed meanwhile: what is done before its batch is read does not come.

        Args:
            batch_size: number of ids of a batch, of which those done or failed are left out; the same for all of a run.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        page_ids = max(_PAGE_ITEMS // batch_size, 1) * batch_size  # whole batches
        for after_id in range(0, self._num_items, page_ids):
            rows = self._read(_PENDING, (after_id, after_id + page_ids))
            for number, of_batch in groupby(rows, lambda row: (row[0] - 1) // batch_size):
                yield Batch(number, tuple(unpack(row, prompts=row[NUM_COLUMNS]) for row in of_batch))

    def commit(self, reports: Sequence[Report]) -> None:
        """Enter what workers report: all of it, or nothing of it.

        An item may be reported more than once, as a cluster does when it loses a machine: the first result counts, and
        a result counts more than a failure.

        Raises:
            ValueError: an item that the run does not have.
            RunStoppedError: the disk is full or does not work.
        """
        done = [found for report in reports for found in report.done]
        failed = [found for report in reports for found in report.failed]
        for item_id in (*(found.item_id for found in done), *(found.item_id for found in failed)):
            if not 1 <= item_id <= self._num_items:
                raise ValueError(f"a report of item {item_id}, but the run has the items 1 to {self._num_items}")
        if not done and not failed:
            return
        with self._transaction():
            num_done = self._add_done(done)
            num_again = self._change("DELETE FROM failed WHERE id = ?", [(found.item_id,) for found in done])
            num_failed = self._change(_ADD_FAILED, [_failed_row(found) for found in failed])
        self._num_done += num_done
        self._num_failed += num_failed - num_again

    def failures(self) -> Iterator[tuple[Item, str, str]]:
        """Give the items that failed, without their prompts, with kind and reason, in the order of their ids."""
        return ((unpack(row), *row[NUM_COLUMNS:]) for row in self._pages(_FAILURES))

    def count_failures(self) -> dict[str, int]:
        """Count the failures by kind, the most frequent first."""
        return dict(self._read("SELECT kind, COUNT(*) FROM failed GROUP BY kind ORDER BY 2 DESC, 1"))

    def retry_failed(self) -> int:
        """Make items that failed pending again.

        Returns:
            How many there were.
        """
        with self._transaction():
            num_again = self._change("DELETE FROM failed", [()])
        self._num_failed = 0
        return num_again

    def spooled(self) -> Iterator[tuple[Item, str, int, int]]:
        """Give the items whose masks lie in the spool, without their prompts, in the order of their ids.

        Returns:
            The item, and of its line the part, the offset and the size in bytes.
        """
        return ((unpack(row), *row[NUM_COLUMNS:]) for row in self._pages(_SPOOLED))

    def spool_parts(self) -> set[str]:
        """Name the files of the spool that hold the masks of at least one item."""
        return {name for (name,) in self._read("SELECT name FROM parts WHERE id IN (SELECT part FROM done)")}

    def note_run(self, facts: Mapping[str, Any]) -> None:
        """Note that the run was begun or gone on with, where and how, as what JSON takes."""
        with self._transaction():
            self._database.execute("INSERT INTO runs (facts) VALUES (?)", (json.dumps(facts),))

    def runs(self) -> list[dict[str, Any]]:
        """Give what `note_run` noted, in its order."""
        return [json.loads(facts) for (facts,) in self._read("SELECT facts FROM runs ORDER BY id")]

    def close(self) -> None:
        """Let another run have it; may be called again."""
        self._database.close()
        self._lock.close()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _describe(self, description: Mapping[str, Any]) -> None:
        """Compare what results depend on with what is stored, or store it."""
        if self.is_listed and self._description is not None:
            check_settings(self.path, json.loads(self._description), description)
        else:
            with self._transaction():
                self._set_fact("description", json.dumps(description))

    def _set_fact(self, name: str, value: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def _add_done(self, done: Sequence[Done]) -> int:
        parts = {(found.part,) for found in done if found.part}
        self._database.executemany("INSERT OR IGNORE INTO parts (name) VALUES (?)", parts)
        rows = [(found.item_id, found.num_masks, found.part, found.offset, found.size_bytes) for found in done]
        return self._change(_ADD_DONE, rows)

    def _change(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> int:
        """Execute a statement for each row, and count what it changed."""
        before = self._database.total_changes
        self._database.executemany(statement, rows)
        return self._database.total_changes - before

    def _transaction(self) -> AbstractContextManager[None]:
        return transaction(self._database, self.path)

    def _read(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with clear_errors(self.path):
            return self._database.execute(query, values).fetchall()

    def _pages(self, query: str, after_id: int = 0) -> Iterator[tuple[Any, ...]]:
        """Read rows that begin with the id of an item, a page at a time."""
        while rows := self._read(f"{query} WHERE items.id > ? ORDER BY items.id LIMIT {_PAGE_ITEMS}", (after_id,)):
            after_id = rows[-1][0]
            yield from rows


def _failed_row(found: Failed) -> tuple[int, str, str]:
    """Make a row of a failure; names of files that are no Unicode may be in the words."""
    kind, reason = (text.encode("utf-8", "backslashreplace").decode() for text in (found.kind, found.reason))
    return found.item_id, kind, reason
