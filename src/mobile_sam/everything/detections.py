"""Which pictures the ids of a detections file mean, and which of its boxes can be asked there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobile_sam.data.mask_files import PictureDetections
    from mobile_sam.data.records import Picture, Problem


class ImageIds:
    """The picture ids of a file, each of which means one picture at most.

    In memory it takes what the ids take, however many pictures there are.

    Args:
        image_ids: as the file has them.
    """

    def __init__(self, image_ids: Iterable[str]) -> None:
        self._ids = dict.fromkeys(image_ids)
        self._by_number: dict[int, str] = {}
        for image_id in self._ids:
            number = _number(image_id)
            if number is not None:
                self._by_number.setdefault(number, image_id)
        self._meant: dict[str, str] = {}

    def take(self, names: Sequence[str], number: str, where: str) -> str | None:
        """Find the id of a picture.

        Args:
            names: of the picture; the first one that is an id counts.
            number: a name that may also be meant by its value: 000000397133 is 397133; "" for none.
            where: the picture is, for messages.

        Returns:
            The id; None if there is none.

        Raises:
            ValueError: the id means another picture, too.
        """
        value = _number(number)
        by_number = None if value is None else self._by_number.get(value)
        image_id = next((name for name in names if name in self._ids), by_number)
        if image_id is None:
            return None
        if image_id in self._meant:
            raise ValueError(f"image_id {image_id} may mean {self._meant[image_id]} or {where}; name one of them")
        self._meant[image_id] = where
        return image_id

    @property
    def num_left(self) -> int:
        """How many ids mean no picture so far."""
        return len(self._ids) - len(self._meant)

    def left(self, num_most: int | None = None) -> list[str]:
        """List the ids that mean no picture so far, in the order of the file, at most so many."""
        found: list[str] = []
        for image_id in self._ids:
            if len(found) == num_most:
                break
            if image_id not in self._meant:
                found.append(image_id)
        return found


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
    image_ids = ImageIds(by_image_id)
    found = {}
    for picture in pictures:
        stem = picture.path.stem
        image_id = image_ids.take((picture.path.name, stem), stem, str(picture.path))
        if image_id is not None:
            found[picture.id] = by_image_id[image_id]
    return found, image_ids.left()


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


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 1000 else None
