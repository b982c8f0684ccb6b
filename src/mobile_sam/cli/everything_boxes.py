"""Which boxes of a detection file belong to which picture."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobile_sam.data.mask_files import Detections, PictureDetections
    from mobile_sam.data.records import Picture


def read_boxes(file: Path, pictures: Sequence[Picture]) -> tuple[dict[str, PictureDetections], str]:
    """Read a detection file and say on stderr what of it cannot be used.

    Args:
        file: COCO detections.
        pictures: that the boxes are for.

    Returns:
        The detections of the pictures that have some, by the picture's id; the file's sha256.

    Raises:
        FileNotFoundError, ValueError: as `read_detections`; or it is about other pictures.
    """
    from mobile_sam.data.mask_files import read_detections

    detections = read_detections(file)
    found, others = match_detections(detections.pictures, pictures)
    if not found:
        came, known = ", ".join(others[:3]), ", ".join(picture.id for picture in pictures[:3])
        raise ValueError(
            f"{file} has no boxes for the pictures: its image_id are {came}; expected a file's name, stem or number, "
            f"as of {known}"
        )
    _tell_problems(file, detections)
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        print(f"{file}: left out the boxes of pictures that were not named ({len(others)}): {shown}", file=sys.stderr)
    return found, detections.sha256


def match_detections(
    by_image_id: Mapping[str, PictureDetections], pictures: Sequence[Picture]
) -> tuple[dict[str, PictureDetections], list[str]]:
    """Match image ids with pictures: by a file's name, else its stem, else its number (000000397133.jpg is 397133).

    With one picture and one id, these belong together.

    Returns:
        Detections by the picture's id, and the image ids that are left.

    Raises:
        ValueError: two pictures that an image id might mean.
    """
    if len(pictures) == len(by_image_id) == 1:
        return {pictures[0].id: next(iter(by_image_id.values()))}, []
    by_number: dict[int | None, str] = {}
    for other_id in by_image_id:
        by_number.setdefault(_number(other_id), other_id)
    by_number.pop(None, None)  # what is no number
    meant: dict[str, Picture] = {}
    for picture in pictures:
        stem = picture.path.stem
        names = (picture.path.name, stem, by_number.get(_number(stem)))
        image_id = next((name for name in names if name in by_image_id), None)
        if image_id is None:
            continue
        if image_id in meant:
            raise ValueError(f"image_id {image_id} may mean {meant[image_id].path} or {picture.path}; name one of them")
        meant[image_id] = picture
    found = {picture.id: by_image_id[image_id] for image_id, picture in meant.items()}
    return found, [image_id for image_id in by_image_id if image_id not in meant]


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 1000 else None


def _tell_problems(file: Path, detections: Detections) -> None:
    """Count on stderr the entries that are of no use, by what is wrong with them."""
    from collections import Counter

    for kind, count in Counter(problem.kind for problem in detections.problems).most_common():
        example = next(problem for problem in detections.problems if problem.kind == kind)
        print(f"{file}: {count} x {kind}, left out, such as {example.where}: {example.message}", file=sys.stderr)
