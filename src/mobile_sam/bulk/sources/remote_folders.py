"""A folder at a URL, or all that an object store has below a prefix: its pictures, or its tars."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from mobile_sam.bulk.items import Listed, Place
from mobile_sam.bulk.sources import tars
from mobile_sam.bulk.sources.naming import listed
from mobile_sam.bulk.sources.parts import Named, Part, joined
from mobile_sam.bulk.sources.remote import filesystem_of, reaching, url_of
from mobile_sam.bulk.sources.retrying import retried
from mobile_sam.data.folders import PICTURE_SUFFIXES
from mobile_sam.data.picture_walk import tars_among_pictures, unreadable_folder
from mobile_sam.data.records import OnProblem

Found = tuple[dict[str, str], dict[str, str]]
"""Paths of the files and of the folders in a folder, by their names in it, sorted."""


def takes(named: Named) -> bool:
    """Tell whether this is a folder at a URL."""
    return named.form == "folder" and named.is_remote


def roots(named: Named) -> Iterator[str]:
    """Name nothing: a URL is no folder of this machine."""
    yield from ()


def parts(named: Named) -> Iterator[Part]:
    """Take the tars one by one of a folder that has tars and no pictures on its top level, else the folder as one part.

    Raises:
        FileNotFoundError, PermissionError, OSError: it cannot be listed.
    """
    filesystem, path = filesystem_of(named.path)
    files, folders = _list(filesystem, path, named.path)
    if any(name.lower().endswith(PICTURE_SUFFIXES) for name in files) or not any(map(_is_tar, files)):
        yield Part(lambda on_problem: _walk(named, on_problem, (files, folders)))
        return
    for name in filter(_is_tar, files):
        url = url_of(files[name], filesystem, named.path)
        yield from tars.parts(Named(url, joined(named.name, name), "file", url))


def _is_tar(name: str) -> bool:
    return name.lower().endswith(".tar")


def _walk(top: Named, on_problem: OnProblem, first: Found) -> Iterator[Listed]:
    """List the pictures below, by name, of a folder before those of its sub-folders; hidden ones are passed over."""
    filesystem, path = filesystem_of(top.path)
    waiting = [(path, top.name)]
    found: Found | None = first  # asking again takes minutes where there are millions
    while waiting:
        here, name = waiting.pop()
        try:
            files, folders = found or _list(filesystem, here, top.path)
            found = None
        except OSError as error:
            on_problem(unreadable_folder(url_of(here, filesystem, top.path), error))
            continue
        num_tars = sum(map(_is_tar, files))
        if num_tars:
            on_problem(tars_among_pictures(url_of(here, filesystem, top.path), num_tars))
        for file, file_path in files.items():
            if file.lower().endswith(PICTURE_SUFFIXES):
                url = url_of(file_path, filesystem, top.path)
                yield listed(joined(name, _unquoted(file, url)), Place(url), url)
        waiting += [(folder, joined(name, _unquoted(sub, folder))) for sub, folder in reversed(folders.items())]


def _list(filesystem: Any, path: str, url: str) -> Found:
    def ask() -> list[dict[str, Any]]:
        with reaching(url):
            found: list[dict[str, Any]] = filesystem.ls(path, detail=True)
            filesystem.invalidate_cache(path)  # which would keep millions of entries that nobody asks for again
            return found

    start = path.rstrip("/") + "/"
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for info in retried(ask):
        below = info["name"].rstrip("/")
        prefix = start if below.startswith("/") else start.lstrip("/")
        name = below.removeprefix(prefix)
        if not below.startswith(prefix) or not name or name.startswith(".") or "/" in name:
            continue  # the folder itself, which some stores list too, a link of a page that leads elsewhere, hidden
        (folders if info["type"] == "directory" else files)[name] = below
    return dict(sorted(files.items())), dict(sorted(folders.items()))


def _unquoted(name: str, url: str) -> str:
    return unquote(name, errors="surrogateescape") if url.startswith("http") else name
