"""The files that `segment` writes: named and checked before the work, so that bad news comes early."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def picture_paths(target: Path, num_pictures: int) -> list[Path]:
    """Name the pictures: `target` itself if there is one, else target-1, target-2 and so on before the suffix."""
    if num_pictures == 1:
        return [target]
    return [target.with_name(f"{target.stem}-{number}{target.suffix}") for number in range(1, num_pictures + 1)]


def check_outputs(
    pictures: list[Path], json_path: Path | None, inputs: Mapping[str, Path | None], *, has_opacity: bool
) -> None:
    """Find out before the work, not after it, that a result could not be written or would destroy an input.

    Args:
        pictures: where pictures will be written.
        json_path: where the JSON will be.
        inputs: the files that are read, by what the user calls them.
        has_opacity: whether the pictures have opacity, which not every format holds.

    Raises:
        OSError, ValueError: a place where nothing can be written, a suffix of no or of a wrong format, a file that is
            read too, or two results in one file.
    """
    from mobile_sam.core.files import check_writable
    from mobile_sam.core.images import check_image_path

    for path in pictures:
        check_image_path(path, has_opacity=has_opacity)
    if json_path is not None:
        check_writable(json_path)
        if any(_is_same_file(json_path, path) for path in pictures):
            raise ValueError(f"--json {json_path} and --output are the same file; name two")
    for path in [*pictures, *([json_path] if json_path else [])]:
        for what, source in inputs.items():
            if source is not None and _is_same_file(path, source):
                raise ValueError(f"writing {path} would replace {what} {source}; name another file to write")


def _is_same_file(path: Path, other: Path) -> bool:
    if path.exists() and other.exists():
        return path.samefile(other)  # also through links, and where case makes no difference
    return os.path.realpath(path) == os.path.realpath(other)
