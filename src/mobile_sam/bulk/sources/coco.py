"""The pictures that a COCO or LVIS file lists, with their numbers in it; annotations are not looked at.

Nobody looks whether the files are there: one that is missing fails when it is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from mobile_sam.bulk.items import Listed, Place
from mobile_sam.bulk.sources.naming import listed
from mobile_sam.bulk.sources.parts import Named, Part
from mobile_sam.bulk.sources.remote import cat_remote, filesystem_of, joined_url, reaching
from mobile_sam.bulk.sources.retrying import retried
from mobile_sam.data.json_values import ItemRejectedError, shortened, to_id
from mobile_sam.data.records import OnProblem
from mobile_sam.data.sources import folder_of_pictures

_MAX_ID = 2**63 - 1  # that a database takes


def takes(named: Named) -> bool:
    """Tell whether this is a .json file."""
    return named.form == "file" and named.suffix == ".json"


def roots(named: Named) -> Iterator[str]:
    """Name the folder of the pictures."""
    if not named.is_remote:
        yield str(folder_of_pictures(Path(named.path)))


def parts(named: Named) -> Iterator[Part]:
    """Take the pictures of the file as one part, which is read when it is listed."""
    yield Part(lambda on_problem: _list_pictures(named, on_problem))


def _list_pictures(named: Named, on_problem: OnProblem) -> Iterator[Listed]:
    """List the pictures, in the order of the file.

    Raises:
        ValueError: it is no JSON, or has no list "images".
        OSError: it cannot be read.
    """
    folder = _remote_folder(named.path) if named.is_remote else _local_folder(named.path)
    seen: set[str] = set()
    for number, record in enumerate(_read_images(named)):
        picture_id = to_id(record.get("id")) if isinstance(record, dict) else None
        try:
            if picture_id in seen:
                raise ItemRejectedError("repeated picture id", f"the id {picture_id} came before; the first stays")
            name = _name_in(record, folder.has)
        except ItemRejectedError as reason:
            where = f"picture {picture_id}" if picture_id is not None else f'entry {number} of "images"'
            on_problem(reason.to_problem(f"{where} of {named.path}"))
            continue
        if picture_id is not None:
            seen.add(picture_id)
        yield listed(name, Place(folder.join(name)), folder.join_real(name), _whole_number(picture_id))


class _Folder:
    """Where the pictures lie: how a name in it becomes a path and an identity, and whether it has a sub-folder."""

    def __init__(self, join: Callable[[str], str], join_real: Callable[[str], str], has: Callable[[str], bool]) -> None:
        self.join, self.join_real = join, join_real
        self.has = lru_cache(maxsize=1024)(has)


def _local_folder(path: str) -> _Folder:
    folder = str(folder_of_pictures(Path(path)))
    real = os.path.realpath(folder)

    def below(start: str) -> Callable[[str], str]:
        return lambda name: os.path.join(start, *name.split("/"))

    return _Folder(below(folder), below(real), lambda name: os.path.isdir(os.path.join(folder, name)))


def _remote_folder(url: str) -> _Folder:
    filesystem, _ = filesystem_of(url)

    def has(folder: str, name: str) -> bool:
        with reaching(url):
            return bool(filesystem.isdir(filesystem_of(joined_url(folder, name))[1]))

    above = joined_url(url, "..")
    folder = joined_url(above, "images") if has(above, "images") else above
    return _Folder(
        lambda name: joined_url(folder, name), lambda name: joined_url(folder, name), lambda n: has(folder, n)
    )


def _read_images(named: Named) -> list[Any]:
    path = named.path
    text = retried(lambda: cat_remote(path)) if named.is_remote else Path(path).read_bytes()
    expected = 'expected an object with the list "images", as COCO\'s files have'
    try:
        content = json.loads(text, object_hook=_without_annotations)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{named.path} is not JSON: {error}; was it copied or downloaded to the end?") from error
    if not isinstance(content, dict):
        raise ValueError(f"{named.path} holds {shortened(content)}; {expected}")
    images = content.get("images")
    if not isinstance(images, list):
        raise ValueError(f"{named.path} has no list 'images' (its keys: {', '.join(content) or 'none'}); {expected}")
    return images


def _without_annotations(record: dict[str, Any]) -> dict[str, Any] | None:
    """Let go of annotations while the file is read, which are by far the most of it."""
    return None if "segmentation" in record else record


def _name_in(record: Any, has_folder: Callable[[str], bool]) -> str:
    """Name a picture's file in the folder: file_name, or of LVIS the end of coco_url.

    Raises:
        ItemRejectedError: there is no name, or one that leads out of the folder.
    """
    if not isinstance(record, dict):
        raise ItemRejectedError("missing key", f"expected an object with id and file_name, got {shortened(record)}")
    text, url = record.get("file_name"), record.get("coco_url")
    is_url = not isinstance(text, str) or not text
    if is_url:
        text = url
    if not isinstance(text, str) or not text:
        raise ItemRejectedError("missing key", "lacks file_name, and has no coco_url")
    path = PurePosixPath(text.replace("\\", "/"))
    if is_url:
        path = PurePosixPath(*path.parts[-2:])
    elif path.is_absolute() or ".." in path.parts or ":" in text:
        message = f"its file_name is {shortened(text)}, expected a name within the folder of the pictures"
        raise ItemRejectedError("name outside the folder", message)
    if path.name in ("", "..") or "\0" in text:
        raise ItemRejectedError("missing key", f"its file is called {shortened(text)}, expected the name of a picture")
    # COCO's files of 2014, and LVIS, name folders that many do not have: then the picture lies in the folder itself
    return str(path) if path.parent.name == "" or has_folder(path.parent.as_posix()) else path.name


def _whole_number(picture_id: str | None) -> int | None:
    if picture_id is None or not picture_id.isascii() or not picture_id.isdigit() or len(picture_id) > 19:
        return None
    number = int(picture_id)
    return number if str(number) == picture_id and number <= _MAX_ID else None
