"""Which boxes of a detection file belong to which picture, and which of them can be asked there."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobile_sam.data.mask_files import PictureDetections
    from mobile_sam.data.records import Picture, Problem


def read_boxes(file: Path, pictures: Sequence[Picture]) -> tuple[dict[str, PictureDetections], str]:
    """Read a detection file and say on stderr what of it cannot be used.

    Args:
        file: COCO detections; scores and categories may lack, and so may all entries.
        pictures: that the boxes are for.

    Returns:
        The detections of the pictures that have some, by the picture's id; the file's sha256.

    Raises:
        FileNotFoundError, ValueError: as `read_detections`; or it is about other pictures.
    """
    from mobile_sam.data.mask_files import read_detections

    detections = read_detections(file, needs_scores=False)
    found, others = match_detections(detections.pictures, pictures)
    if not detections.pictures:
        print(f"{file}: it has no boxes, so there will be no masks", file=sys.stderr)
    elif not found:
        came, known = ", ".join(others[:3]), ", ".join(picture.id for picture in pictures[:3])
        raise ValueError(
            f"{file} has no boxes for the pictures: its image_id are {came}; expected a file's name, stem or number, "
            f"as of {known}"
        )
    tell_problems(str(file), detections.problems)
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


def usable_boxes(found: PictureDetections, image_hw: tuple[int, int]) -> tuple[PictureDetections, tuple[Problem, ...]]:
    """Leave out the boxes that are no prompts: outside the picture (see `Prompt.check_inside`), or without area.

    Args:
        found: boxes in one picture.
        image_hw: its height and width in pixels.

    Returns:
        The others, and a problem for each one left out.
    """
    import numpy as np

    from mobile_sam.core.prompts import Prompt
    from mobile_sam.data.records import Problem

    rows, problems = [], []
    for row, box_xyxy in enumerate(found.boxes_xyxy):
        try:
            with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite and is refused
                Prompt.of(box=box_xyxy).check_inside(image_hw)
        except ValueError as error:
            problems.append(Problem("unusable box", f"number {row + 1} of {len(found)}", str(error)))
        else:
            rows.append(row)
    return found[rows], tuple(problems)


def tell_problems(of: str, problems: Sequence[Problem]) -> None:
    """Count problems of a file or picture on stderr, by their kind."""
    for kind, count in Counter(problem.kind for problem in problems).most_common():
        example = next(problem for problem in problems if problem.kind == kind)
        outcome = "left out" if example.is_left_out else "dropped, the box stays"
        print(f"{of}: {count} x {kind}, {outcome}, such as {example.where}: {example.message}", file=sys.stderr)
