"""A text file that names pictures and tars, one a line.

Lines are paths, relative to the list's folder if they are not absolute, or URLs. They end in LF or CRLF; the file may
begin with a byte order mark. Empty lines and those that begin with "# " are passed over. A path may be any bytes that
the file system takes. Nobody looks whether the files are there: one that is missing fails when it is read, as does a
folder.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from contextlib import closing
from functools import lru_cache
from typing import Any

from mobile_sam.bulk.sources import pictures, tars
from mobile_sam.bulk.sources.parts import Named, Part, problem_part
from mobile_sam.bulk.sources.remote import joined_url, local_path, name_of, open_remote, reaching
from mobile_sam.data.picture_sources import is_url
from mobile_sam.data.records import Problem

SUFFIXES = (".txt", ".lst")
_BLOCK_BYTES = 1 << 22


def takes(named: Named) -> bool:
    """Tell whether this is a list, named as one or by its suffix."""
    return named.form == "list" or (named.form == "file" and named.suffix in SUFFIXES)


def roots(named: Named) -> Iterator[str]:
    """Name nothing: what a list names lies anywhere."""
    yield from ()


def parts(named: Named) -> Iterator[Part]:
    """Take each line as a part, while the file is read.

    Raises:
        FileNotFoundError, PermissionError, OSError: the list cannot be read.
        ValueError: it is a folder, or in UTF-16.
    """
    if not named.is_remote and os.path.isdir(named.path):
        raise ValueError(f"{named.path} is a folder, expected a text file with a picture on each line")
    entry = _remote_entry if named.is_remote else _local_entry
    folder = _folder_of(named.path)
    for number, line in enumerate(_lines(named), 1):
        if not line.strip() or line.startswith(b"# "):
            continue
        try:
            if b"\0" in line:
                raise ValueError("holds a zero byte")
            found = entry(folder, os.fsdecode(line))
            yield from (tars if tars.takes(found) else pictures).parts(found)
        except ValueError as error:  # also what Windows cannot decode
            where = f"line {number} of {named.path}"
            yield problem_part(
                Problem("unusable line", where, f"{error}; expected the path or URL of a picture or tar")
            )


def _lines(named: Named) -> Iterator[bytes]:
    file: Any = open_remote(named.path, _BLOCK_BYTES) if named.is_remote else open(named.path, "rb")  # noqa: SIM115
    with closing(file), reaching(named.path):
        for number, line in enumerate(file):
            if number == 0:
                line = line.removeprefix(codecs.BOM_UTF8)
                if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    break
            yield line.removesuffix(b"\n").removesuffix(b"\r")
        else:
            return
    raise ValueError(f"{named.path} is in UTF-16; save it as UTF-8")


def _folder_of(path: str) -> str:
    if not is_url(path):
        return os.path.dirname(path)
    first, divider, rest = path.partition("::")
    return first.rpartition("/")[0] + divider + rest


def _remote_entry(folder: str, line: str) -> Named:
    url = joined_url(folder, line)
    name = name_of(url).removeprefix(name_of(folder).rstrip("/") + "/")
    return Named(url, name, "file", url)


def _local_entry(folder: str, line: str) -> Named:
    line = local_path(line)
    if is_url(line):
        return Named(line, name_of(line), "file", line)
    path = os.path.normpath(os.path.join(folder, line))
    above, name = os.path.split(path)
    below = folder if folder.endswith(os.sep) else folder + os.sep
    relative = path[len(below) :] if path.startswith(below) else os.path.splitdrive(path)[1].lstrip(os.sep)
    return Named(path, relative.replace(os.sep, "/"), "file", os.path.join(_real_folder(above), name))


@lru_cache(maxsize=1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
