"""What other tools left behind: masks as run lengths, and detected boxes, in JSON files."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.geometry import box_xywh_to_xyxy
from mobile_sam.core.masks import Rle, rle_area
from mobile_sam.data.annotations import read_box, read_point, read_rle
from mobile_sam.data.json_values import (
    ItemRejectedError,
    read_json,
    require_keys,
    shortened,
    to_id,
    to_number,
    to_numbers,
    to_whole_number,
)
from mobile_sam.data.records import Problem


@dataclass(frozen=True)
class FileMask:
    """A mask that another tool made.

    Attributes:
        id: of the prompt, else of the annotation, that it answers, else its own; "" where the file has none. A
            prompt's id is what `mobile-sam evaluate agreement --write-prompts` wrote; of a prompt made from an
            annotated object, it is that annotation's.
        rle: in COCO's compressed form; may be empty.
        score: what the tool said of it; NaN where it said nothing.
        point_xy: the click that made it, where the file tells.
        box_xyxy: the file's box, where it has one.
    """

    id: str
    rle: Rle
    score: float = math.nan
    point_xy: tuple[float, float] | None = None
    box_xyxy: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class MaskFile:
    """Masks of another tool.

    Attributes:
        name: of the file, without its path.
        sha256: of the file.
        masks: by picture id, in the order of the file; ids other than "" come once a picture.
        problems: what was wrong with entries.
    """

    name: str
    sha256: str
    masks: Mapping[str, tuple[FileMask, ...]]
    problems: tuple[Problem, ...] = ()


NO_CATEGORY = -(2**63)
"""Stands in `PictureDetections.category_ids` where the file has none; `read_detections` takes no such number."""


@dataclass(frozen=True, eq=False)
class PictureDetections:
    """Detections in one picture, in the order of the file.

    Attributes:
        boxes_xyxy: (N, 4) float64.
        scores: (N,) float64; NaN where the file has none, which `read_detections` must have allowed.
        category_ids: (N,) int64; NO_CATEGORY where the file has none, likewise.
    """

    boxes_xyxy: NDArray[np.float64]
    scores: NDArray[np.float64]
    category_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    def __getitem__(self, rows: list[int]) -> PictureDetections:
        """Return the detections `rows`, in that order."""
        return PictureDetections(self.boxes_xyxy[rows], self.scores[rows], self.category_ids[rows])

    def facts(self, row: int) -> dict[str, Any]:
        """Return what the file says of a detection beside its box: `score` and `category_id`, as far as it has them.

        >>> PictureDetections(np.zeros((1, 4)), np.array([np.nan]), np.array([18])).facts(0)
        {'category_id': 18}
        """
        score, category_id = float(self.scores[row]), int(self.category_ids[row])
        facts: dict[str, Any] = {} if math.isnan(score) else {"score": score}
        return facts if category_id == NO_CATEGORY else {**facts, "category_id": category_id}


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes of a detector.

    Attributes:
        name: of the file, without its path.
        sha256: of the file.
        pictures: by picture id, in the order of the file.
        problems: what was wrong with entries.
    """

    name: str
    sha256: str
    pictures: Mapping[str, PictureDetections]
    problems: tuple[Problem, ...] = ()

    def check_pictures(self, known: Collection[str]) -> tuple[Detections, tuple[Problem, ...]]:
        """Leave out the detections of pictures that are not among the known ids.

        Returns:
            The others, and one problem for each picture left out, which says how many detections it had.
        """
        known_ids = frozenset(known)
        problems = tuple(
            Problem(
                "detections of an unknown picture", f"picture {picture_id}", f"{len(found)} detections; not in the set"
            )
            for picture_id, found in self.pictures.items()
            if picture_id not in known_ids
        )
        kept = {picture_id: found for picture_id, found in self.pictures.items() if picture_id in known_ids}
        return replace(self, pictures=kept), problems


def read_mask_file(path: str | PathLike[str]) -> MaskFile:
    """Read the masks that another tool made of pictures and prompts.

    The file is a list of entries, or an object with the list "annotations" and perhaps, as in SA-1B, an "image" that
    all entries belong to. An entry has "segmentation" (run lengths), "image_id" or "picture", and perhaps "prompt_id",
    "annotation_id" or "id"; "score" or "predicted_iou"; "point_coords" [[x, y]]; "bbox" (XYWH). Empty masks stay, with
    a problem: that a tool found nothing is an answer.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, has no such list, or not one entry can be used.
    """
    path = Path(path)
    content, sha256 = read_json(path)
    entries, shared_picture_id = _entries(content, path), None
    if isinstance(content, dict) and isinstance(image := content.get("image"), dict):
        shared_picture_id = to_id(image.get("image_id")) or to_id(image.get("file_name"))
    problems: list[Problem] = []
    masks: dict[str, list[FileMask]] = {}
    seen: set[tuple[str, str]] = set()
    for index, entry in enumerate(entries):
        where = f"entry {index}"
        try:
            picture_id, mask = _read_mask(entry, shared_picture_id, where, problems)
            if mask.id and (picture_id, mask.id) in seen:
                message = f"the id {mask.id} came before in picture {picture_id}; the first stays"
                raise ItemRejectedError("repeated annotation id", message)
        except ItemRejectedError as reason:
            problems.append(reason.to_problem(where))
            continue
        seen.add((picture_id, mask.id))
        masks.setdefault(picture_id, []).append(mask)
    if not masks:
        raise ValueError(_nothing_usable(path, len(entries), "a mask as run lengths", problems))
    return MaskFile(path.name, sha256, {key: tuple(value) for key, value in masks.items()}, tuple(problems))


def read_detections(path: str | PathLike[str], *, needs_scores: bool = True) -> Detections:
    """Read detected boxes in COCO's form of results: [{"image_id", "category_id", "bbox" (XYWH), "score"}, ...].

    Args:
        path: of the file.
        needs_scores: whether each box must have its score and category; else boxes alone will do, as for prompts: a
            malformed score or category is dropped, with a problem, and a list without entries is an answer.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON list, or not one entry can be used.
    """
    path = Path(path)
    return detections_of(*read_json(path), path, needs_scores=needs_scores)


def detections_of(content: Any, sha256: str, path: Path, *, needs_scores: bool = True) -> Detections:
    """Do what `read_detections` does with a file that was read with `read_json`.

    Raises:
        ValueError: it holds no list, or not one entry can be used.
    """
    entries = _entries(content, path)
    problems: list[Problem] = []
    columns: dict[str, _Columns] = {}
    for index, entry in enumerate(entries):
        where = f"entry {index}"
        try:
            picture_id, box_xywh, score, category_id = _read_detection(entry, needs_scores, where, problems)
        except ItemRejectedError as reason:
            problems.append(reason.to_problem(where))
            continue
        found = columns.setdefault(picture_id, _Columns())
        found.boxes_xywh.append(box_xywh)
        found.scores.append(score)
        found.category_ids.append(category_id)
    if not columns and (entries or needs_scores):
        what = "a box with a score" if needs_scores else "a box"
        raise ValueError(_nothing_usable(path, len(entries), what, problems))
    pictures = {
        picture_id: PictureDetections(
            box_xywh_to_xyxy(found.boxes_xywh), np.array(found.scores), np.array(found.category_ids, np.int64)
        )
        for picture_id, found in columns.items()
    }
    return Detections(path.name, sha256, pictures, tuple(problems))


@dataclass
class _Columns:
    boxes_xywh: list[tuple[float, ...]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    category_ids: list[int] = field(default_factory=list)


def _entries(content: Any, path: Path) -> list[Any]:
    entries = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise ValueError(f'{path} holds no list of entries, and no "annotations" with one; got {shortened(content)}')
    return entries


def _nothing_usable(path: Path, num_entries: int, what: str, problems: list[Problem]) -> str:
    first = f"; the first: {problems[0].message}" if problems else ""
    return f"none of the {num_entries} entries of {path} can be used, expected each to hold {what}{first}"


def _first_id(entry: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((found for key in keys if (found := to_id(entry.get(key))) is not None), None)


def _read_mask(entry: Any, shared_picture_id: str | None, where: str, problems: list[Problem]) -> tuple[str, FileMask]:
    require_keys(entry, ("segmentation",))
    picture_id = _first_id(entry, ("image_id", "picture")) or shared_picture_id
    if picture_id is None:
        raise ItemRejectedError("missing key", "lacks image_id and picture, or has no number or text there")
    rle = read_rle(entry["segmentation"])
    numbers = (to_number(entry.get(key)) for key in ("score", "predicted_iou"))
    score = next((number for number in numbers if number is not None), math.nan)
    points, box_xywh = entry.get("point_coords"), entry.get("bbox")
    mask = FileMask(
        _first_id(entry, ("prompt_id", "annotation_id", "id")) or "", rle, score, read_point(points), read_box(box_xywh)
    )
    if rle_area(rle) == 0:
        problems.append(Problem("empty mask", where, f"its mask has no pixel, in picture {picture_id}", False))
    elif box_xywh is not None and mask.box_xyxy is None:
        message = f"bbox is {shortened(box_xywh)}, expected [x, y, width, height] with an area"
        problems.append(Problem("malformed box", where, message, is_left_out=False))
    if points is not None and mask.point_xy is None:
        message = f"point_coords is {shortened(points)}, expected [[x, y]]"
        problems.append(Problem("malformed point", where, message, is_left_out=False))
    return picture_id, mask


def _read_detection(
    entry: Any, needs_scores: bool, where: str, problems: list[Problem]
) -> tuple[str, tuple[float, ...], float, int]:
    """Read the picture's id, the box (XYWH), score and category; NaN and NO_CATEGORY where they may lack."""
    require_keys(entry, ("image_id", "category_id", "bbox", "score") if needs_scores else ("image_id", "bbox"))
    picture_id, box_xywh = to_id(entry["image_id"]), to_numbers(entry["bbox"], 4)
    if picture_id is None:
        came = shortened(entry["image_id"])
        raise ItemRejectedError("malformed detection", f"its image_id is {came}, expected a whole number or text")
    if box_xywh is None:
        came = shortened(entry["bbox"])
        raise ItemRejectedError("malformed detection", f"its bbox is {came}, expected four finite numbers")
    if read_box(entry["bbox"]) is None:
        raise ItemRejectedError("box without area", f"its bbox is {shortened(entry['bbox'])}: x, y, width, height")
    score, category_id = to_number(entry.get("score")), to_whole_number(entry.get("category_id"))
    if category_id is not None and abs(category_id) >= 2**63:
        category_id = None
    read = {"score": score, "category_id": category_id}
    malformed = [key for key, value in read.items() if value is None and entry.get(key) is not None]
    if malformed:
        came = " and ".join(f"{key} is {shortened(entry[key])}" for key in malformed)
        message = f"its {came}, expected a finite score and a whole number as category_id"
        if needs_scores:
            raise ItemRejectedError("malformed detection", message)
        problems.append(Problem("malformed score or category", where, message, is_left_out=False))
    return (
        picture_id,
        box_xywh,
        math.nan if score is None else score,
        NO_CATEGORY if category_id is None else category_id,
    )
