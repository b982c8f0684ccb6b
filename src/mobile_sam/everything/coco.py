"""Records of masks as COCO JSON, which annotation tools and pycocotools read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

CATEGORY_ID, CATEGORY_NAME = 1, "object"
MAX_ID_DIGITS = 15  # what every reader of JSON keeps exactly


@dataclass(frozen=True, eq=False)
class PictureRecords:
    """The masks of one picture.

    Attributes:
        file_name: of the picture, or its path from wherever its readers will look.
        size_hw: height and width in pixels.
        records: as `SamAutomaticMaskGenerator.generate` gives with output_mode "coco_rle".
    """

    file_name: str
    size_hw: tuple[int, int]
    records: Sequence[Mapping[str, Any]]


def coco_json(pictures: Sequence[PictureRecords], info: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Put the masks of pictures into COCO's form, as what JSON has.

    Pictures are numbered by their file names if all of these are different numbers (000000397133.jpg is 397133), else
    from 1; annotations from 1. Masks without a category of their own are "object", number 1; masks of a detector's
    boxes keep its `category_id` and `score`.

    Args:
        pictures: in the order they shall have.
        info: anything about how the masks were made.

    Returns:
        `info`, `images`, `annotations` and `categories`.
    """
    image_ids = _image_ids([picture.file_name for picture in pictures])
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, picture in zip(image_ids, pictures, strict=True):
        images.append(coco_image(image_id, picture.file_name, picture.size_hw))
        for record in picture.records:
            annotations.append(coco_annotation(len(annotations) + 1, image_id, json_record(record)))
    used_ids = {annotation["category_id"] for annotation in annotations} | (set() if annotations else {CATEGORY_ID})
    return {
        "info": {"description": "Masks of everything, by mobile-sam", **(info or {})},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": used, "name": category_name(used)} for used in sorted(used_ids)],
    }


def coco_image(image_id: int, file_name: str, size_hw: tuple[int, int]) -> dict[str, Any]:
    """Describe a picture as an entry of COCO's `images`."""
    height, width = size_hw
    return {"id": image_id, "file_name": file_name, "width": width, "height": height}


def coco_annotation(annotation_id: int, image_id: int, record: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a mask as an entry of COCO's `annotations`.

    Args:
        annotation_id: of the mask.
        image_id: of its picture.
        record: as `json_record` gives; its category, if it has one, is kept.
    """
    ids = {"id": annotation_id, "image_id": image_id, "category_id": CATEGORY_ID, "iscrowd": 0}
    return {**ids, **record}


def number_in_name(file_name: str) -> int | None:
    """Read the number that a file is called by; None if it is called otherwise.

    >>> number_in_name("val2017/000000397133.jpg"), number_in_name("cat-1.jpg")
    (397133, None)
    """
    stem = PurePath(file_name).stem
    return int(stem) if stem.isascii() and stem.isdecimal() and len(stem) <= MAX_ID_DIGITS else None


def category_name(category_id: int, known: Mapping[int, str] | None = None) -> str:
    """Name a category: as known, else "object" for number 1 and "object N" for others."""
    if known and category_id in known:
        return known[category_id]
    return CATEGORY_NAME if category_id == CATEGORY_ID else f"{CATEGORY_NAME} {category_id}"


def json_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a record to what JSON has: numpy's numbers and arrays to plain ones.

    >>> json_record({"area": 3, "bbox": (0, 0, 1, 3)})
    {'area': 3, 'bbox': [0, 0, 1, 3]}
    """
    return {key: _plain(value) for key, value in record.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return json_record(value)
    if hasattr(value, "tolist"):  # numpy's
        return value.tolist()
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _image_ids(file_names: Sequence[str]) -> list[int]:
    numbers = [number for name in file_names if (number := number_in_name(name)) is not None]
    is_each_different = len(set(numbers)) == len(file_names)
    return numbers if is_each_different else list(range(1, len(file_names) + 1))
