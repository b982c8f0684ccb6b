"""Where a picture's files lie, and how they get there: whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mobile_sam.bulk.results import PictureMasks
from mobile_sam.core.files import atomic_path


def place_of(folder: Path, masks: PictureMasks, suffix: str = "") -> Path:
    """Name the file of a picture in a folder, folder/KEY.suffix, and make the folders above.

    Other workers may make them, too, at the same time.

    Raises:
        ValueError: a file of another picture is where a folder must be.
        OSError: as the disk does.
    """
    place = folder.joinpath(*f"{masks.key}{suffix}".split("/"))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise taken_error(place, masks) from error
    return place


def taken_error(place: Path, masks: PictureMasks) -> ValueError:
    """Say that the outputs of two pictures want the same place, which costs the later one."""
    return ValueError(
        f"cannot write {place} of {masks.file_name}: the file of another picture is where a folder must be, or its"
        " folder where a file must be; rename one of the two pictures"
    )


def write_text(place: Path, text: str, masks: PictureMasks) -> None:
    """Write a picture's text file in UTF-8, in place of an earlier one.

    Raises:
        ValueError: the folder of another picture is there.
        OSError: as the disk does.
    """
    try:
        with atomic_path(place) as temporary:
            temporary.write_bytes(text.encode("utf-8"))
    except IsADirectoryError as error:
        raise taken_error(place, masks) from error


def write_json(place: Path, content: Any, masks: PictureMasks) -> None:
    """Write a picture's JSON file, on one line, as `write_text`; the same content gives the same bytes."""
    write_text(place, json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n", masks)
