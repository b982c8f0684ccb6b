"""The pictures of a folder and of all below it, whatever links lead to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from mobile_sam.data.folders import PICTURE_SUFFIXES
from mobile_sam.data.records import OnProblem, Problem


@dataclass(frozen=True, slots=True)
class FoundPicture:
    """A picture file.

    Attributes:
        path: to open it by: the folder's, as it was given, and the way from there.
        name: the way from the folder to it, parts divided by "/".
        real_path: where it is without links, the same for a file that two ways lead to.
    """

    path: str
    name: str
    real_path: str


@dataclass
class _Entries:
    """Names in a folder."""

    pictures: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    links: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    num_tars: int = 0


def walk_pictures(top: str, on_problem: OnProblem) -> Iterator[FoundPicture]:
    """List the pictures of a folder and its sub-folders, by name, those of a folder before those of its sub-folders.

    Hidden entries are passed over. The system is asked about nothing but folders and links. A folder that is reached
    twice, through links, is listed where it is met first, so that links in circles end. The names of one folder are in
    memory at a time, and the paths of all folders so far.

    Args:
        top: the folder.
        on_problem: is told of folders that cannot be listed ("unreadable folder") or came before ("repeated folder"),
            links that lead nowhere ("missing picture") and tars that are passed over ("tars among pictures").
    """
    real = os.path.realpath(top)
    seen = {real: top}
    waiting = [(top, top if real == top else real, "")]
    while waiting:
        folder, real, name = waiting.pop()
        try:
            found = _scan(folder)
        except OSError as error:
            on_problem(unreadable_folder(folder, error))
            continue
        _tell(found, folder, on_problem)
        for picture in found.pictures:
            path = os.path.join(folder, picture)
            yield FoundPicture(path, name + picture, _real(path, real, folder, picture in found.links))
        below: list[tuple[str, str, str]] = []
        for sub in found.folders:
            path = os.path.join(folder, sub)
            sub_real = _real(path, real, folder, sub in found.links or os.name == "nt")  # Windows has junctions too
            if sub_real in seen:
                message = f"is {seen[sub_real]}, which came before"
                on_problem(Problem("repeated folder", path, message, is_left_out=False))
            else:
                seen[sub_real] = path
                below.append((path, sub_real, f"{name}{sub}/"))
        waiting += reversed(below)


def unreadable_folder(where: str, error: OSError) -> Problem:
    """Say that a folder, here or at a URL, cannot be listed."""
    return Problem("unreadable folder", where, f"cannot be listed: {error}")


def tars_among_pictures(where: str, num_tars: int) -> Problem:
    """Say that tars in a folder of pictures, here or at a URL, were passed over."""
    message = f"its {num_tars} tar files were passed over; name the folder of the tars itself, or the tars"
    return Problem("tars among pictures", where, message)


def is_file(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a file or leads to one."""
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _real(path: str, real_folder: str, folder: str, is_link: bool) -> str:
    if is_link:
        return os.path.realpath(path)
    return path if real_folder == folder else os.path.join(real_folder, os.path.basename(path))


def _scan(folder: str) -> _Entries:
    found = _Entries()
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
            elif is_file(entry):
                found.pictures.append(name)
            elif is_link:
                found.broken.append(name)
            if is_link:
                found.links.add(name)
    for names in (found.pictures, found.folders, found.broken):
        names.sort()
    return found


def _tell(found: _Entries, folder: str, on_problem: OnProblem) -> None:
    for name in found.broken:
        on_problem(Problem("missing picture", os.path.join(folder, name), "is a link that leads to no file"))
    if found.num_tars:
        on_problem(tars_among_pictures(folder, found.num_tars))
