"""A single picture file."""

from __future__ import annotations

import os
from collections.abc import Iterator

from mobile_sam.bulk.items import Listed, Place
from mobile_sam.bulk.sources.naming import listed
from mobile_sam.bulk.sources.parts import Named, Part
from mobile_sam.data.folders import PICTURE_SUFFIXES
from mobile_sam.data.records import OnProblem


def takes(named: Named) -> bool:
    """Tell whether this is a picture by its suffix, or a URL, which may have none."""
    return named.form == "file" and (named.is_remote or named.suffix in PICTURE_SUFFIXES)


def roots(named: Named) -> Iterator[str]:
    """Name the folder of the picture: when the picture alone is gone, that is the picture's fault."""
    if not named.is_remote:
        yield os.path.dirname(named.path)


def parts(named: Named) -> Iterator[Part]:
    """Take the picture."""

    def list_pictures(on_problem: OnProblem) -> Iterator[Listed]:
        yield listed(named.name, Place(named.path), named.identity)

    yield Part(list_pictures)
