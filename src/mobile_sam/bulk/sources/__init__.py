"""Sources of pictures, each kind a small module that knows little of the others.

A source is expanded (`patterns`, `remote_patterns`) to files and folders; the first kind that takes one of these splits
it into parts, which are listed one after another, and of which a shard takes some.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from types import ModuleType

from mobile_sam.bulk.items import Listed
from mobile_sam.bulk.sources import (
    coco,
    folders,
    list_file,
    patterns,
    pictures,
    remote_folders,
    remote_patterns,
    tars,
)
from mobile_sam.bulk.sources.parts import Named, Part, problem_part
from mobile_sam.bulk.sources.remote import local_path
from mobile_sam.bulk.sources.sharding import list_shard
from mobile_sam.data.picture_sources import is_url
from mobile_sam.data.records import Problem

__all__ = ["KINDS", "SOURCE_FORMS", "list_sources", "local_roots"]

KINDS: tuple[ModuleType, ...] = (folders, remote_folders, list_file, tars, coco, pictures)
"""Modules with functions `takes(named)`, `parts(named)` and `roots(named)`; the first that takes it has it."""

SOURCE_FORMS = (
    "expected a folder, a picture, a tar, a pattern of these (pictures/*.jpg, sa_{000000..000009}.tar), a .txt or .lst "
    "file (or @FILE) with a picture or tar on each line, a COCO or LVIS .json file, or a URL of any of these"
)


def list_sources(
    sources: Sequence[str], *, shard: tuple[int, int] = (0, 1), on_problem: Callable[[Problem], None]
) -> Iterator[Listed]:
    """List the pictures of sources, in the order of the sources, each in a fixed order of its own.

    Each source is looked for before the first is listed. What is wrong with single folders, tars or entries is told,
    and the rest goes on; so it may be that nothing is listed. Pictures named twice come twice, with one identity.

    Args:
        sources: see SOURCE_FORMS.
        shard: (number from 0, count): list this part only, see `mobile_sam.bulk.sources.sharding`.
        on_problem: is told of each problem, while the listing goes on.

    Returns:
        The pictures, found while they are asked for.

    Raises:
        FileNotFoundError: a source is not there.
        PermissionError, OSError: a source cannot be read.
        MissingDependencyError: a package for the URL of a source is not installed.
        ValueError: a source of no known form, no source, or a shard that is none. Of a COCO file that is no such file,
            while it is listed.
    """
    number, count = shard
    if not 0 <= number < count:
        raise ValueError(f"shard must be (number from 0, count), got {shard}")
    if not sources:
        raise ValueError(f"no source of pictures was named; {SOURCE_FORMS}")
    begun = [_begun(_parts_of(source)) for source in sources]
    return list_shard(chain.from_iterable(begun), shard, on_problem)


def local_roots(sources: Sequence[str]) -> tuple[str, ...]:
    """Name the folders and tars on this machine that the pictures of the sources lie in, absolute.

    Of a pattern it is the folder where it begins, of a single picture its folder. URLs have none, nor have lists, whose
    entries lie anywhere. A source may be gone by now: then so is its root.
    """
    roots: dict[str, None] = {}
    for source in map(local_path, sources):
        if is_url(source.removeprefix("@")) or (source.startswith("@") and not os.path.lexists(source)):
            continue
        if patterns.is_pattern(source):
            roots[os.path.abspath(patterns.fixed_start(source) or ".")] = None
            continue
        path = os.path.abspath(source)
        named = Named(path, "", "folder" if os.path.isdir(path) else "file", path)
        kinds = [kind for kind in KINDS if kind.takes(named)]
        roots.update(dict.fromkeys(kinds[0].roots(named) if kinds else [path]))
    return tuple(roots)


def _begun(parts: Iterator[Part]) -> Iterator[Part]:
    """Find the first part now, so that what is wrong with a source shows, and go through all of them later."""
    first = next(parts, None)
    return parts if first is None else chain((first,), parts)


def _parts_of(source: str) -> Iterator[Part]:
    """Go through the parts of a source.

    Raises:
        OSError, ValueError: as `list_sources`, before the first part.
    """
    source = source[:1] + local_path(source[1:]) if source.startswith("@") else local_path(source)
    expand = remote_patterns.expand if is_url(source.removeprefix("@")) else patterns.expand
    for named in expand(source):
        yield from [problem_part(named)] if isinstance(named, Problem) else _kind_of(named).parts(named)


def _kind_of(named: Named) -> ModuleType:
    for kind in KINDS:
        if kind.takes(named):
            return kind
    raise ValueError(f"{named.path} is of no known form; {SOURCE_FORMS}")
