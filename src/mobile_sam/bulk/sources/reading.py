"""Reading what a listing found: the encoded bytes of a picture, from a file, a tar or a URL."""

from __future__ import annotations

import os
import stat

from mobile_sam.bulk.items import Place
from mobile_sam.bulk.sources.remote import cat_remote
from mobile_sam.bulk.sources.retrying import retried
from mobile_sam.data.picture_set import SampleError
from mobile_sam.data.picture_sources import is_url
from mobile_sam.data.stored_pictures import read_span

MISSING, UNREADABLE = "missing picture", "unreadable picture"


class SourceReadError(ValueError):
    """The bytes of a picture cannot be read.

    Args:
        kind: "missing picture" or "unreadable picture".
        message: what came, what was expected, what to do.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind, self.message = kind, message

    def __str__(self) -> str:
        return self.message


def read_place(place: Place) -> bytes:
    """Read the encoded bytes of a picture; of a URL in three tries.

    Raises:
        SourceReadError: "missing picture": nothing is there; "unreadable picture": it may not be read, cannot be
            reached, or ends before.
        MissingDependencyError: a package for this kind of URL is not installed.
    """
    try:
        if is_url(place.path):
            return _whole(retried(lambda: cat_remote(place.path, place.start, place.size_bytes)), place)
        return _read_local(place)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceReadError(MISSING, f"no file at {place.path} (any more)") from error
    except OSError as error:
        raise SourceReadError(UNREADABLE, f"{place.path} cannot be read: {error}") from error


def _read_local(place: Place) -> bytes:
    try:
        state = os.stat(place.path)
    except ValueError as error:  # a zero byte
        raise SourceReadError(MISSING, f"{place.path!r} is no path: {error}") from error
    if not stat.S_ISREG(state.st_mode):  # opening a named pipe would wait for ever
        raise SourceReadError(UNREADABLE, f"{place.path} is no file")
    size_bytes = max(0, state.st_size - place.start) if place.size_bytes is None else place.size_bytes
    try:
        return read_span(place.path, place.start, size_bytes, "", UNREADABLE)
    except SampleError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise SourceReadError(error.kind, error.message) from error


def _whole(content: bytes, place: Place) -> bytes:
    if place.size_bytes is None or len(content) == place.size_bytes:
        return content
    if len(content) < place.size_bytes:
        message = f"{place.path} ends after {len(content)} of the picture's {place.size_bytes} bytes; was it changed?"
    else:
        message = f"{place.path} came whole where a part was asked for; its server cannot do that: download it first"
    raise SourceReadError(UNREADABLE, message)
