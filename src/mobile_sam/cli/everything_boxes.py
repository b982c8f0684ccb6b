"""`--boxes`: the detection file, and what is said of it on stderr."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
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
    from mobile_sam.everything.detections import match_detections

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


def tell_problems(of: str, problems: Sequence[Problem]) -> None:
    """Count problems of a file or picture on stderr, by their kind."""
    for kind, count in Counter(problem.kind for problem in problems).most_common():
        example = next(problem for problem in problems if problem.kind == kind)
        outcome = "left out" if example.is_left_out else "dropped, the box stays"
        print(f"{of}: {count} x {kind}, {outcome}, such as {example.where}: {example.message}", file=sys.stderr)
