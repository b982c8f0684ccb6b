"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_YOUNG_S = 10.0  # a file is locked by then
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # of a disk without them, such as Lustre as often mounted


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; what is written there takes the place of `path` when the block ends well.

    A reader sees the old file or the new one, never a part, and an error leaves the old file and no other. The
    temporary name keeps the suffix, since many writers choose the format by it. A link is followed, not replaced.

    Args:
        path: where the file shall be; its folder must exist.

    Yields:
        A path in the same folder, where nothing exists yet.

    Raises:
        OSError, ValueError: as `check_writable` does; an OSError while writing names `path`, not the temporary one.
    """
    check_writable(path)
    target = Path(os.path.realpath(path))
    temporary = target.parent / f".mobile-sam-{secrets.token_hex(8)}{target.suffix}"
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = os.fspath(path)
        raise


def check_writable(path: str | os.PathLike[str]) -> None:
    """Find out whether a file could be written at `path`, before doing the work whose result it is.

    Raises:
        FileNotFoundError: if the folder does not exist.
        NotADirectoryError: if its parent is a file.
        IsADirectoryError: if `path` is a folder.
        PermissionError: if nothing may be created in the folder.
        ValueError: if `path` is a device or a pipe, which could only be destroyed by replacing it.
    """
    target = Path(os.path.realpath(path))
    folder = target.parent
    if not folder.exists():
        raise FileNotFoundError(f"cannot write {os.fspath(path)}: the folder {folder} does not exist; create it first")
    if not folder.is_dir():
        raise NotADirectoryError(f"cannot write {os.fspath(path)}: {folder} is a file, not a folder")
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {os.fspath(path)}: it is a folder; name a file inside it")
    if target.exists() and not target.is_file():
        raise ValueError(f"cannot write {os.fspath(path)}: it is no regular file and would be replaced; name a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write {os.fspath(path)}: no permission to create files in {folder}")


def lock_file(file: IO[bytes]) -> bool:
    """Lock a file until it is closed; whether the disk can do that, which some in a network cannot.

    Raises:
        OSError: another process has locked it.
    """
    try:
        import fcntl
    except ImportError:  # Windows, where an open file cannot be removed anyway
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def remove_abandoned(folder: Path, suffix: str) -> None:
    """Remove what killed processes had written through `atomic_path`; living ones must hold `lock_file` on theirs."""
    for path in folder.glob(f".mobile-sam-*{suffix}"):
        try:
            if time.time() - path.stat().st_mtime > _YOUNG_S:
                with open(path, "r+b") as file:
                    if lock_file(file):
                        path.unlink()
        except OSError:
            continue  # another process was quicker, or is writing it


@contextmanager
def atomic_folder(target: Path, *, replaces: bool = False) -> Iterator[Path]:
    """Give a new folder beside `target`, which takes its name when the block ends well and goes when it does not.

    Args:
        target: where the folder shall be; the folders above are made.
        replaces: whether there is a folder that it takes the place of, all of it.

    Yields:
        The new folder.

    Raises:
        OSError: something is at `target` that shall not be replaced.
    """
    token = secrets.token_hex(8)
    temporary, earlier = target.parent / f".mobile-sam-{token}", target.parent / f".mobile-sam-{token}-earlier"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if replaces:
            os.rename(target, earlier)
        os.rename(temporary, target)
    except BaseException:
        if earlier.exists() and not target.exists():
            os.rename(earlier, target)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if target.exists():
            shutil.rmtree(earlier, ignore_errors=True)
