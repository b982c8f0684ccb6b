"""What the kinds of sources have in common: what was named, and the parts of it that are listed one by one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mobile_sam.bulk.items import Listed
from mobile_sam.data.picture_sources import is_url
from mobile_sam.data.records import OnProblem, Problem


@dataclass(frozen=True)
class Named:
    """A file or folder that a source names, there when it was looked for.

    Attributes:
        path: absolute path, or a URL.
        name: what the keys below it begin with: its way within the source, parts divided by "/"; "" for the source
            itself.
        form: "folder", "file", or "list" for what was named as a list of others, whatever its suffix.
        identity: real path, or URL.
    """

    path: str
    name: str
    form: str
    identity: str

    @property
    def is_remote(self) -> bool:
        """Whether it is a URL."""
        return is_url(self.path)

    @property
    def suffix(self) -> str:
        """Of its file, small letters, with the dot; of a URL without the query."""
        return os.path.splitext(file_part(self.path))[1].lower()


@dataclass(frozen=True)
class Part:
    """A part of a source that can be listed without the others.

    Attributes:
        list_pictures: lists its pictures, telling of problems on the way.
        tar: identity of a tar; None for everything else.
        is_problem: whether it holds no pictures, only what went wrong when the parts were looked for.
    """

    list_pictures: Callable[[OnProblem], Iterator[Listed]]
    tar: str | None = None
    is_problem: bool = False


def problem_part(problem: Problem) -> Part:
    """Make a part that only tells of a problem."""

    def tell(on_problem: OnProblem) -> Iterator[Listed]:
        on_problem(problem)
        return iter(())

    return Part(tell, is_problem=True)


def file_part(path: str) -> str:
    """Take the path of a URL alone, without a query and what it is chained to; of a path all.

    >>> file_part("https://host/1.jpg?sign=x.y"), file_part("zip://1.jpg::s3://b/a.zip"), file_part("what?.jpg")
    ('https://host/1.jpg', 'zip://1.jpg', 'what?.jpg')
    """
    return path.partition("::")[0].partition("?")[0] if is_url(path) else path


def joined(*names: str) -> str:
    """Join parts of a name by "/", passing over empty ones."""
    return "/".join(name for name in names if name)
