"""A folder on this machine: its pictures with those of all sub-folders, or its tars."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mobile_sam.bulk.items import Listed, Place
from mobile_sam.bulk.sources import tars
from mobile_sam.bulk.sources.naming import listed
from mobile_sam.bulk.sources.parts import Named, OnProblem, Part, joined
from mobile_sam.data.folders import PICTURE_SUFFIXES, require_folder
from mobile_sam.data.records import Problem


def takes(named: Named) -> bool:
    """Tell whether this is a folder on this machine."""
    return named.form == "folder" and not named.is_remote


def roots(named: Named) -> Iterator[str]:
    """Name the folder."""
    yield named.path


def parts(named: Named) -> Iterator[Part]:
    """Take the tars one by one of a folder that has tars and no pictures on its top level, else the folder as one part.

    Raises:
        FileNotFoundError: it is gone.
        PermissionError, OSError: it cannot be listed.
    """
    require_folder(Path(named.path), "folder of pictures")
    try:
        tar_names = _names_of_tars(named.path)
    except OSError as error:
        kind = PermissionError if isinstance(error, PermissionError) else OSError
        raise kind(f"the folder {named.path} cannot be listed: {error}; check who may read it") from error
    if tar_names is None:
        yield Part(lambda on_problem: walk(named, on_problem))
        return
    for name in tar_names:
        path = os.path.join(named.path, name)
        yield from tars.parts(Named(path, joined(named.name, name), "file", os.path.realpath(path)))


def _names_of_tars(folder: str) -> list[str] | None:
    """Names of a folder of tars, sorted; None if it is none."""
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            lower = entry.name.lower()
            if entry.name.startswith(".") or not lower.endswith((*PICTURE_SUFFIXES, ".tar")) or not _is_file(entry):
                continue
            if not lower.endswith(".tar"):
                return None
            names.append(entry.name)
    return sorted(names) or None


@dataclass
class _Found:
    """Names in a folder."""

    pictures: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    links: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    num_tars: int = 0


def walk(top: Named, on_problem: OnProblem) -> Iterator[Listed]:
    """List the pictures of a folder and its sub-folders, by name, those of a folder before those of its sub-folders.

    Hidden entries are passed over. The system is asked about nothing but folders and links. A folder that is reached
    twice, through links, is listed where it is met first, so that links in circles end. The names of one folder are in
    memory at a time, and the paths of all folders so far.
    """
    real = os.path.realpath(top.path)
    seen = {real: top.path}
    waiting = [(top.path, top.path if real == top.path else real, top.name)]
    while waiting:
        folder, real, name = waiting.pop()
        try:
            found = _scan(folder)
        except OSError as error:
            on_problem(Problem("unreadable folder", folder, f"cannot be listed: {error}"))
            continue
        _tell(found, folder, on_problem)
        for picture in found.pictures:
            path = os.path.join(folder, picture)
            identity = _real(path, real, folder, picture in found.links)
            yield listed(f"{name}/{picture}" if name else picture, Place(path), identity)
        below: list[tuple[str, str, str]] = []
        for sub in found.folders:
            path = os.path.join(folder, sub)
            sub_real = _real(path, real, folder, sub in found.links or os.name == "nt")  # Windows has junctions too
            if sub_real in seen:
                message = f"is {seen[sub_real]}, which came before"
                on_problem(Problem("repeated folder", path, message, is_left_out=False))
            else:
                seen[sub_real] = path
                below.append((path, sub_real, joined(name, sub)))
        waiting += reversed(below)


def _real(path: str, real_folder: str, folder: str, is_link: bool) -> str:
    if is_link:
        return os.path.realpath(path)
    return path if real_folder == folder else os.path.join(real_folder, os.path.basename(path))


def _scan(folder: str) -> _Found:
    found = _Found()
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            is_link = entry.is_symlink()
            if _is_folder(entry):
                found.folders.append(name)
            elif not name.lower().endswith(PICTURE_SUFFIXES):
                found.num_tars += name.lower().endswith(".tar")
                continue
            elif _is_file(entry):
                found.pictures.append(name)
            elif is_link:
                found.broken.append(name)
            if is_link:
                found.links.add(name)
    for names in (found.pictures, found.folders, found.broken):
        names.sort()
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _tell(found: _Found, folder: str, on_problem: OnProblem) -> None:
    for name in found.broken:
        on_problem(Problem("missing picture", os.path.join(folder, name), "is a link that leads to no file"))
    if found.num_tars:
        message = f"its {found.num_tars} tar files were passed over; name the folder of the tars itself, or the tars"
        on_problem(Problem("tars among pictures", folder, message))
