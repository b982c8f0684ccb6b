"""Masks on their way to formats that are written at the end: lines of JSON in files that only grow.

A file of the spool (a *part*) has one writer and a name that no other writer chooses. Which lines count is what the
manifest says: part, offset and size of each item's. All else is left of workers that were killed, and is never read.
"""

from __future__ import annotations

import os
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from mobile_sam.bulk.items import Done, Item, RunStoppedError
from mobile_sam.bulk.results import PictureMasks

SUFFIX = ".jsonl"
MAX_OPEN_PARTS = 64
BUFFER_BYTES = 1 << 18  # of each open part: lines that follow one another are read at once

Entry = tuple[Item, str, int, int]
"""Of the manifest: an item, and part, offset and size in bytes of its line."""


class SpoolDamagedError(ValueError):
    """The spool does not hold what the manifest says."""


class SpoolWriter:
    """Writes lines to a part of its own, which begins to exist with the first line.

    For one thread at a time. After an error nothing goes on: neither what was added since the last `flush`, nor more.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        """Choose a name for the part.

        Args:
            folder: of the spool; made when it is needed.
            prefix: which worker this is, such as host and process, for people; what files cannot be called by is
                replaced.
        """
        self._folder = folder
        self._part = f"{re.sub(r'[^A-Za-z0-9._-]', '-', prefix)[:64]}-{secrets.token_hex(8)}{SUFFIX}"
        self._file: BinaryIO | None = None
        self._num_written_bytes = 0
        self._num_durable_bytes = 0
        self._is_over = False

    def add(self, masks: PictureMasks) -> Done:
        """Append the masks of a picture.

        Returns:
            What may be reported once `flush` has returned, and not before.

        Raises:
            OSError: as the disk does.
            RunStoppedError: an earlier call raised an error, or the writer is closed.
        """
        line = masks.to_line()
        try:
            self._opened().write(line)
        except BaseException:  # also Ctrl-C: how much of the line is there is not known
            self._is_over = True
            raise
        done = Done(masks.item_id, len(masks.records), self._part, self._num_written_bytes, len(line))
        self._num_written_bytes += len(line)
        return done

    def flush(self) -> None:
        """Bring to the disk what was added.

        Raises:
            OSError, RunStoppedError: as `add`.
        """
        if self._num_durable_bytes == self._num_written_bytes and not self._is_over:
            return
        try:
            file = self._opened()
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            self._is_over = True
            raise
        self._num_durable_bytes = self._num_written_bytes

    def close(self) -> None:
        """End the part, and remove it if nothing in it was ever flushed; what was added since then is lost."""
        self._is_over = True
        file, self._file = self._file, None
        if file is None:
            return
        with suppress(OSError):  # what cannot be written now was not flushed, so that nobody counts on it
            file.close()
        if not self._num_durable_bytes:
            with suppress(OSError):
                (self._folder / self._part).unlink()

    def _opened(self) -> BinaryIO:
        if self._is_over:
            raise RunStoppedError(
                f"nothing more is written to {self._folder / self._part}: writing has failed before, or it is closed;"
                " see the first error, and start the run again to go on"
            )
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self._folder / self._part, "xb", buffering=BUFFER_BYTES)  # noqa: SIM115
            _sync_folder(self._folder)
        return self._file


def read_spooled(folder: Path, entries: Iterable[Entry]) -> Iterator[PictureMasks]:
    """Read lines of the spool, one at a time.

    Args:
        folder: of the spool.
        entries: in any order; that of the items is nearly that of the parts, which is quick.

    Yields:
        The masks of each entry, with key, file name and number as the item has them.

    Raises:
        SpoolDamagedError: a part is missing or too short, or a line is not that of its item.
        OSError: as the disk does.
    """
    opened: OrderedDict[str, BinaryIO] = OrderedDict()  # the one that was used last comes last
    try:
        for item, part, offset, size_bytes in entries:
            if part not in opened:
                if len(opened) >= MAX_OPEN_PARTS:
                    opened.popitem(last=False)[1].close()
                opened[part] = _open_part(folder, part)
            opened.move_to_end(part)
            opened[part].seek(offset)  # within what is buffered this costs nothing
            line = opened[part].read(size_bytes)
            yield replace(
                _checked(folder, item, part, offset, size_bytes, line),
                key=item.key,
                file_name=item.file_name,
                source_id=item.source_id,
            )
    finally:
        for file in opened.values():
            file.close()


def remove_unnamed_parts(folder: Path, named: set[str]) -> int:
    """Remove the parts of killed workers that the manifest does not name; nobody may be writing to the spool.

    Returns:
        How many there were.
    """
    unnamed = [path for path in folder.glob(f"*{SUFFIX}") if path.name not in named]
    for path in unnamed:
        path.unlink(missing_ok=True)
    return len(unnamed)


def _open_part(folder: Path, part: str) -> BinaryIO:
    try:
        return open(folder / part, "rb", buffering=BUFFER_BYTES)
    except FileNotFoundError as error:
        raise _damaged(folder, part, "is missing") from error


def _damaged(folder: Path, part: str, problem: str) -> SpoolDamagedError:
    return SpoolDamagedError(
        f"the file {part} of {folder} {problem}; the run's spool folder must not be changed: "
        "start again in another --out, or bring the file back"
    )


def _checked(folder: Path, item: Item, part: str, offset: int, size_bytes: int, line: bytes) -> PictureMasks:
    where = f"at byte {offset}"
    if len(line) < size_bytes:
        problem = f"ends after {len(line)} of the {size_bytes} bytes {where} that item {item.id} ({item.key}) has there"
        raise _damaged(folder, part, problem)
    try:
        masks = PictureMasks.from_line(line)
    except ValueError as error:
        raise _damaged(folder, part, f"has {where}, where item {item.id} ({item.key}) is, {error}") from error
    if masks.item_id != item.id or not line.endswith(b"\n"):
        problem = f"has item {masks.item_id} {where}, expected item {item.id} ({item.key}) in {size_bytes} bytes"
        raise _damaged(folder, part, problem)
    return masks


def _sync_folder(folder: Path) -> None:
    """Make the name of a new file as durable as its content, where the system knows such a thing."""
    with suppress(OSError):  # Windows does not open folders; some disks in a network do not sync them
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
