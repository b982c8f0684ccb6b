"""What a URL as a user writes it names: a file, a folder, or a pattern of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mobile_sam.bulk.sources import coco, list_file
from mobile_sam.bulk.sources.parts import Named, file_part
from mobile_sam.bulk.sources.remote import filesystem_of, name_of, reaching, url_of
from mobile_sam.bulk.sources.tars import is_tar_name
from mobile_sam.data.folders import PICTURE_SUFFIXES
from mobile_sam.data.picture_sources import with_ranges

_RANGE = re.compile(r"\{\d+\.\.\d+\}")


def expand(source: str) -> Iterator[Named]:
    """Find the files and folders of a URL.

    A URL that ends in "/" is a folder, one with a known suffix a file; else the store is asked. Of a range of URLs
    ({000..999}) the first and the last are looked for, the others are met when they are opened.

    Raises:
        FileNotFoundError, PermissionError, OSError: nothing is there, or it cannot be reached.
        MissingDependencyError: a package for this kind of URL is not installed.
        ValueError: there is no such kind of URL.
    """
    is_list = source.startswith("@")
    url = source.removeprefix("@")
    if url.startswith("pipe:"):
        raise ValueError(f"{url} is a stream, from which no picture can be read alone; save what it gives to a file")
    urls = list(with_ranges(url))
    start = _fixed_start(url)
    for number, each in enumerate(urls):
        if _has_magic(each):
            yield from _fitting(each, start)
            continue
        is_checked = number in (0, len(urls) - 1)
        form = "list" if is_list else _form(each, is_checked)
        name = _below(each, start) if start != url else "" if form == "folder" else name_of(each).rpartition("/")[2]
        yield Named(each, name, form, each)


def _is_http(url: str) -> bool:
    return url.lower().startswith(("http:", "https:"))


def _has_magic(url: str) -> bool:
    return re.search(r"\*" if _is_http(url) else r"[*?\[]", url.partition("::")[0]) is not None


def _fixed_start(url: str) -> str:
    """Beginning of a URL up to the folder below which names differ; all of a URL that is no pattern."""
    found = re.search(rf"{_RANGE.pattern}|\*" if _is_http(url) else rf"{_RANGE.pattern}|[*?\[]", url)
    return url if found is None else url[: url.rfind("/", 0, found.start()) + 1]


def _form(url: str, is_checked: bool) -> str:
    path = file_part(url)
    if path.endswith("/"):
        return "folder"
    suffixes = (*PICTURE_SUFFIXES, *list_file.SUFFIXES, ".json")
    is_file = is_tar_name(path) or path.lower().endswith(suffixes)
    if is_file and not is_checked:
        return "file"
    filesystem, inside = filesystem_of(url)
    with reaching(url):
        if not is_file and filesystem.isdir(inside):
            return "folder"
        return "folder" if filesystem.info(inside)["type"] == "directory" else "file"


def _fitting(url: str, start: str) -> Iterator[Named]:
    filesystem, pattern = filesystem_of(url)
    with reaching(url):
        found = sorted(
            (path, info["type"] == "directory") for path, info in filesystem.glob(pattern, detail=True).items()
        )
    if not found:
        raise FileNotFoundError(f"nothing fits the pattern {url}; check its spelling")
    own_suffix = "." + pattern.rpartition(".")[2].lower()
    for path, is_folder in found:
        each = url_of(path.rstrip("/"), filesystem, url)
        named = Named(each, _below(each, start), "folder" if is_folder else "file", each)
        is_known = named.suffix in PICTURE_SUFFIXES or is_tar_name(each)
        is_asked_for = named.suffix == own_suffix and (list_file.takes(named) or coco.takes(named))
        if "**" not in pattern if is_folder else is_known or is_asked_for:
            yield named


def _below(url: str, start: str) -> str:
    whole, begin = name_of(url), name_of(start)
    return whole[len(begin) :] if whole.startswith(begin) else whole
