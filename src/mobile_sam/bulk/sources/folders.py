"""A folder on this machine: its pictures with those of all sub-folders, or its tars."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mobile_sam.bulk.items import Listed, Place
from mobile_sam.bulk.sources import tars
from mobile_sam.bulk.sources.naming import listed
from mobile_sam.bulk.sources.parts import Named, Part, joined
from mobile_sam.data.folders import PICTURE_SUFFIXES, require_folder
from mobile_sam.data.picture_walk import is_file, walk_pictures
from mobile_sam.data.records import OnProblem


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
            if entry.name.startswith(".") or not lower.endswith((*PICTURE_SUFFIXES, ".tar")) or not is_file(entry):
                continue
            if not lower.endswith(".tar"):
                return None
            names.append(entry.name)
    return sorted(names) or None


def walk(top: Named, on_problem: OnProblem) -> Iterator[Listed]:
    """List the pictures of a folder and its sub-folders, as `walk_pictures` finds them."""
    for found in walk_pictures(top.path, on_problem):
        yield listed(joined(top.name, found.name), Place(found.path), found.real_path)
