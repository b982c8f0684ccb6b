"""What a source as a user writes it names on this machine: a path, or a pattern of paths, expanded as it is read."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterator

from mobile_sam.bulk.sources.parts import Named, joined
from mobile_sam.bulk.sources.tars import is_tar_name
from mobile_sam.data.folders import PICTURE_SUFFIXES
from mobile_sam.data.picture_sources import with_ranges
from mobile_sam.data.records import Problem

_RANGE_OR_MAGIC = re.compile(r"[*?\[]|\{\d+\.\.\d+\}")


def expand(source: str) -> Iterator[Named | Problem]:
    """Find the files and folders of a source.

    A path that is there is taken as it is written. Of a pattern (*, ?, [ab], ** for any folders, {08..12} for numbers),
    pictures, tars and folders are taken, and other files if it ends in their suffix; hidden ones only where it begins
    with a dot. A pattern with ** takes files only, as it reaches into folders by itself.

    Raises:
        FileNotFoundError: nothing is there, or nothing fits.
        PermissionError: it may not be looked at.
    """
    if source.startswith("@") and not os.path.lexists(source):
        path = _existing(source[1:], source)
        yield Named(path, os.path.basename(path), "list", os.path.realpath(path))
        return
    if not is_pattern(source):
        path = _existing(source, source)
        yield _named(path, "" if os.path.isdir(path) else os.path.basename(path))
        return
    patterns = list(with_ranges(source))
    start = len(fixed_start(source))
    for pattern in patterns:
        if not glob.has_magic(pattern):
            _existing(pattern, source)  # before the first of a million is listed
    has_any = False
    for pattern in patterns:
        if not glob.has_magic(pattern):
            has_any = True
            yield _named(pattern, pattern[start:].replace(os.sep, "/"))
            continue
        for found in _fitting(source[:start], pattern[start:], source):
            has_any = True
            if isinstance(found, Problem) or _is_wanted(found, pattern):
                yield found
    if not has_any:
        raise FileNotFoundError(f"no file fits the pattern {source} (seen from {os.getcwd()}); check its spelling")


def _named(path: str, name: str) -> Named:
    path = os.path.abspath(path)
    return Named(path, name, "folder" if os.path.isdir(path) else "file", os.path.realpath(path))


def is_pattern(source: str) -> bool:
    """Tell whether a source is a pattern, not a path, which may hold the same characters."""
    return not os.path.lexists(source) and _RANGE_OR_MAGIC.search(source) is not None


def fixed_start(source: str) -> str:
    """Beginning of a pattern up to the folder below which names differ, with the divider.

    >>> fixed_start("a/b/c*/d.jpg"), fixed_start("*.jpg")
    ('a/b/', '')
    """
    found = _RANGE_OR_MAGIC.search(source)
    before = source[: found.start()] if found else source
    dividers = [before.rfind(divider) for divider in (os.sep, os.altsep) if divider]
    return before[: max(dividers) + 1]


def _existing(path: str, source: str) -> str:
    try:
        os.stat(path)
    except PermissionError as error:
        raise PermissionError(f"{path} may not be looked at: {error}; check who may read its folder") from error
    except (OSError, ValueError) as error:
        of_source = f", of {source}," if path != source else ""
        message = f"nothing at {path}{of_source} (seen from {os.getcwd()}); check the spelling of the path"
        raise FileNotFoundError(message) from error
    return os.path.abspath(path)


def _is_wanted(found: Named, pattern: str) -> bool:
    if found.form == "folder":
        return "**" not in pattern
    own_suffix = os.path.splitext(pattern)[1].lower()
    is_known = found.suffix in PICTURE_SUFFIXES or is_tar_name(found.path)
    return is_known or (glob.has_magic(own_suffix) is False and found.suffix == own_suffix != "")


def _fitting(start: str, rest: str, source: str) -> Iterator[Named | Problem]:
    folder = os.path.abspath(start or ".")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"no folder {folder}, of the pattern {source}; check the spelling of the path")
    parts = [part for part in (rest.replace(os.altsep, os.sep) if os.altsep else rest).split(os.sep) if part]
    if parts and parts[-1] == "**":
        parts.append("*")
    real = os.path.realpath(folder)
    yield from _descend(folder, folder if real == folder else real, "", parts, {real})


def _descend(folder: str, real: str, name: str, parts: list[str], above: set[str]) -> Iterator[Named | Problem]:
    """Go through what fits the parts of a pattern below a folder, one folder's names in memory for each part.

    Args:
        folder: path of the folder.
        real: its real path.
        name: its way from where the pattern begins.
        parts: of the pattern, those that are left.
        above: real paths of the folders on the way here, so that links in circles end.
    """
    part, rest = parts[0], parts[1:]
    is_any = part == "**"
    if is_any:
        yield from _descend(folder, real, name, rest, above)
    try:
        fitting = _look_for(folder, "*" if is_any else part, only_folders=is_any or bool(rest))
    except OSError as error:
        yield Problem("unreadable folder", folder, f"cannot be listed: {error}")
        return
    for entry_name, is_folder, is_link in fitting:
        path = os.path.join(folder, entry_name)
        entry_real = os.path.realpath(path) if is_link else path if real == folder else os.path.join(real, entry_name)
        if not rest and not is_any:
            yield Named(path, joined(name, entry_name), "folder" if is_folder else "file", entry_real)
        elif entry_real not in above:
            below = parts if is_any else rest
            yield from _descend(path, entry_real, joined(name, entry_name), below, above | {entry_real})


def _look_for(folder: str, part: str, only_folders: bool) -> list[tuple[str, bool, bool]]:
    """Names that fit a part of a pattern, sorted, each with whether it is a folder and whether it is a link."""
    path = os.path.join(folder, part)
    if not glob.has_magic(part):
        is_folder = os.path.isdir(path)
        is_there = is_folder if only_folders else os.path.exists(path)
        return [(part, is_folder, os.path.islink(path))] if is_there else []
    fits = re.compile(fnmatch.translate(os.path.normcase(part))).match
    takes_hidden = part.startswith(".")
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if (entry.name.startswith(".") and not takes_hidden) or not fits(os.path.normcase(entry.name)):
                continue
            try:
                is_folder = entry.is_dir()
                is_there = is_folder or entry.is_file()
            except OSError:  # a link to itself
                continue
            if is_folder if only_folders else is_there:
                found.append((entry.name, is_folder, entry.is_symlink()))
    return sorted(found)
