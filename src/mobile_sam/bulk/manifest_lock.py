"""One run on a folder at a time."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from mobile_sam.core.files import lock_file

LOG = logging.getLogger(__name__)
_LOCKED_BYTE = 1 << 20  # Windows locks a byte, which nobody else may read: one behind what is written


class RunInUseError(ValueError):
    """Another run has the folder."""


class RunLock:
    """Holds a file from its making until `close`, or until the process ends, however it ends.

    The kernel frees what a killed process held, so nothing is left that would have to be removed by hand. A worker that
    was forked from the run holds the file, too: as long as one lives, the folder is in use.

    Args:
        path: of the file; made if it is missing, and never removed, as another process may just be opening it.

    Attributes:
        is_held: False on a disk that knows no locks, where nothing keeps a second run out.

    Raises:
        RunInUseError: another process holds the file.
        OSError: the file cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = open(path, "a+b", buffering=0)  # noqa: SIM115  # held until `close`
        try:
            self.is_held = _lock(self._file)
            if not self.is_held:
                LOG.warning("the disk of %s has no locks: take care that no second run is started on it", path.parent)
            self._file.truncate(0)
            self._file.write(json.dumps(_this_run()).encode())
        except (BlockingIOError, PermissionError) as error:
            holder = _describe_holder(self._file)
            self._file.close()
            raise RunInUseError(
                f"{path.parent} is in use by another run ({holder}); wait until it has ended, stop it, or name "
                "another --out"
            ) from error
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Let others have it."""
        if not self._file.closed:
            with suppress(OSError):  # it says who holds it, which matters no more
                self._file.truncate(0)
            self._file.close()


def _lock(file: IO[bytes]) -> bool:
    if sys.platform == "win32":
        import msvcrt

        file.seek(_LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        return True
    return lock_file(file)


def _this_run() -> dict[str, str | int]:
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": now}


def _describe_holder(file: IO[bytes]) -> str:
    """Say which run holds the file, as far as it has written that."""
    try:
        file.seek(0)
        holder = json.loads(file.read())
        return f"host {holder['host']}, process {holder['pid']}, since {holder['started']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "which has only just begun"
