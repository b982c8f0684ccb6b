"""COCO instances and LVIS: one JSON file for a folder of pictures."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mobile_sam.data.annotations import InstanceReader, no_picture_message, read_size, where_is
from mobile_sam.data.folders import require_folder
from mobile_sam.data.json_values import ItemRejectedError, read_json, require_keys, shortened, to_id
from mobile_sam.data.records import Dataset, Instance, Picture, Problem


def read_coco(annotations: Path, pictures: Path) -> Dataset:
    """Read a COCO instances file, or an LVIS file, which names its pictures by `coco_url`.

    A picture is looked for at `file_name` within the folder, then by the last part of that name, then, as LVIS needs
    it, in the sub-folder that its URL names. What cannot be used is left out and listed in `problems`; pictures without
    a usable instance stay.

    Args:
        annotations: the JSON file.
        pictures: folder of the pictures.

    Raises:
        FileNotFoundError: the file or the folder is not there.
        ValueError: the file is no JSON or has no lists "images" and "annotations", or no picture can be used.
    """
    content, sha256 = read_json(annotations)
    _require_lists(content, annotations)
    require_folder(pictures, "folder of pictures")
    problems: list[Problem] = []
    image_ids = [_image_id(record) for record in content["annotations"]]
    found = _find_pictures(content["images"], pictures, Counter(image_ids), problems)
    instances: dict[str, list[Instance]] = {picture.id: [] for picture in found.usable}
    sizes_hw = {picture.id: picture.size_hw for picture in found.usable}
    reader = InstanceReader(problems, _category_names(content.get("categories")))
    for record, image_id in zip(content["annotations"], image_ids, strict=True):
        if image_id is None:
            problems.append(_without_image_id(record))
        elif (size_hw := sizes_hw.get(image_id)) is not None:
            instance = reader.read(record, image_id, size_hw)
            if instance is not None:
                instances[image_id].append(instance)
        elif image_id not in found.left_out_ids:
            message = f'its image_id is {image_id}, which is not in "images"'
            problems.append(Problem("annotation of an unknown picture", where_is(record, image_id), message))
    usable = tuple(replace(picture, instances=tuple(instances[picture.id])) for picture in found.usable)
    if not usable:
        raise ValueError(no_picture_message(annotations, pictures, problems))
    return Dataset(annotations.name, "lvis" if _is_lvis(content["images"]) else "coco", sha256, usable, tuple(problems))


@dataclass(frozen=True)
class _FoundPictures:
    usable: list[Picture]  # without instances as yet
    left_out_ids: set[str]


def _require_lists(content: Any, path: Path) -> None:
    expected = 'expected an object with the lists "images" and "annotations", as COCO\'s instances files have'
    if not isinstance(content, dict):
        kind = "a list, as files of results are" if isinstance(content, list) else shortened(content)
        raise ValueError(f"{path} holds {kind}; {expected}")
    for key in ("images", "annotations"):
        if not isinstance(content.get(key), list):
            raise ValueError(f"{path} has no list {key!r} (its keys: {', '.join(content) or 'none'}); {expected}")


def _is_lvis(images: list[Any]) -> bool:
    records = [record for record in images if isinstance(record, dict)]
    return any("neg_category_ids" in record for record in records) or (
        bool(records) and all("coco_url" in record and "file_name" not in record for record in records)
    )


def _image_id(record: Any) -> str | None:
    return to_id(record.get("image_id")) if isinstance(record, dict) else None


def _without_image_id(record: Any) -> Problem:
    try:
        require_keys(record, ("id", "image_id", "segmentation"))
        message = f"its image_id is {shortened(record['image_id'])}, expected a number or text"
    except ItemRejectedError as reason:
        message = str(reason)
    return Problem("missing key", where_is(record, None), message)


def _category_names(categories: Any) -> dict[str, str]:
    records = categories if isinstance(categories, list) else []
    return {
        category_id: str(record["name"])
        for record in records
        if isinstance(record, dict) and "name" in record and (category_id := to_id(record.get("id"))) is not None
    }


def _find_pictures(
    records: list[Any], folder: Path, num_annotations: Counter[str | None], problems: list[Problem]
) -> _FoundPictures:
    usable: dict[str, Picture] = {}
    left_out_ids: set[str] = set()
    for record in records:
        picture_id = to_id(record.get("id")) if isinstance(record, dict) else None
        where = "picture without id" if picture_id is None else f"picture {picture_id}"
        try:
            picture = _picture(record, picture_id, folder)
            if picture.id in usable:
                raise ItemRejectedError("repeated picture id", f"the id {picture.id} came before; the first stays")
            usable[picture.id] = picture
        except ItemRejectedError as reason:
            problem = reason.to_problem(where)
            if picture_id is not None and picture_id not in usable:
                left_out_ids.add(picture_id)
                num_lost = num_annotations[picture_id]
                lost = f"{problem.message}; its {num_lost} annotations are left out with it"
                problem = replace(problem, message=lost, num_objects=num_lost)
            problems.append(problem)
    return _FoundPictures(list(usable.values()), left_out_ids)


def _picture(record: Any, picture_id: str | None, folder: Path) -> Picture:
    require_keys(record, ("id", "height", "width"))
    if picture_id is None:
        raise ItemRejectedError("missing key", f"its id is {shortened(record['id'])}, expected a number or text")
    size_hw = read_size(record)
    names = _possible_names(record)
    if not names:
        raise ItemRejectedError("missing key", "lacks file_name, and has no coco_url")
    for name in names:
        path = folder / name
        if os.path.isfile(path):  # unlike Path.is_file, no error for names that cannot be
            return Picture(picture_id, path, size_hw=size_hw)
    raise ItemRejectedError("missing picture", f"no file {names[0]} in {folder}")


def _possible_names(record: dict[str, Any]) -> list[str]:
    """Where in the folder a picture may be, the likeliest first; nothing leads out of the folder."""
    names = []
    for key in ("file_name", "coco_url"):
        text = record.get(key)
        if not isinstance(text, str):
            continue
        path = PurePosixPath(text.replace("\\", "/"))
        is_within = not path.is_absolute() and ".." not in path.parts and ":" not in text
        names += [str(path)] if key == "file_name" and is_within and path.name else []
        names += [path.name] if path.name not in ("", "..") else []
        names += [f"{path.parent.name}/{path.name}"] if key == "coco_url" and path.parent.name not in ("", "..") else []
    return names
