"""SA-1B: `sa_1.jpg` beside `sa_1.json`, and so on, unpacked or not."""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mobile_sam.data.annotations import InstanceReader, no_picture_message, read_size
from mobile_sam.data.folders import PICTURE_SUFFIXES, list_folder, require_folder, sha256_of_listing
from mobile_sam.data.json_values import ItemRejectedError, parse_json, read_json, require_keys, to_id
from mobile_sam.data.picture_set import SampleError, other_size_error
from mobile_sam.data.records import Dataset, Instance, Picture, Problem


def read_sa1b(folder: Path) -> Dataset:
    """Read a folder of pictures `sa_N.jpg`, each with the masks in `sa_N.json`.

    An instance's `point_xy` is the click that SA-1B's model was given. Files may count their annotations from
    the start again: an id that another picture has becomes "picture/annotation".

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no sa_*.json, or no picture can be used.
    """
    require_folder(folder, "folder of SA-1B files")
    files = annotation_files(folder)
    if not files:
        raise ValueError(f"{folder} holds no sa_*.json; expected SA-1B as unpacked: sa_1.jpg, sa_1.json, ...")
    problems: list[Problem] = []
    pictures: dict[str, Picture] = {}
    reader = InstanceReader(problems, may_count_anew=True)
    for file in files:
        try:
            picture = _read_picture(file, pictures, reader)
            pictures[picture.id] = picture
        except ItemRejectedError as reason:
            problems.append(reason.to_problem(file.name))
    listed = [*files, *(file for file in list_folder(folder) if file.name.startswith("sa_"))]
    problems += _without_annotations(listed)
    if not pictures:
        raise ValueError(no_picture_message(folder, folder, problems))
    sha256 = sha256_of_listing((file.name, file) for file in listed)
    return Dataset(folder.resolve().name, "sa-1b", sha256, tuple(pictures.values()), tuple(problems))


def annotation_files(folder: Path) -> list[Path]:
    """List a folder's sa_*.json, by name."""
    return [file for file in list_folder(folder, (".json",)) if file.name.startswith("sa_")]


def _read_picture(file: Path, known_ids: Container[str], reader: InstanceReader) -> Picture:
    """Read one annotation file and find its picture."""
    header, records = _read_annotation_file(file)
    require_keys(header, ("image_id", "height", "width"))
    picture_id = to_id(header["image_id"])
    if picture_id is None:
        raise ItemRejectedError("missing key", f"its image_id is {header['image_id']!r}, expected a number or text")
    if picture_id in known_ids:
        raise ItemRejectedError("repeated picture id", f"the id {picture_id} came before; the first stays")
    size_hw = read_size(header)
    path = _find_picture(file, header, len(records))
    instances = (reader.read(record, picture_id, size_hw) for record in records)
    return Picture(picture_id, path, tuple(instance for instance in instances if instance is not None), size_hw)


def read_sample_annotations(
    text: bytes | None, key: str, image_hw: tuple[int, int], where: str
) -> tuple[Instance, ...]:
    """Read the annotations of one picture, when the picture itself is already read.

    Records that cannot be used are left out, unless that is all of them.

    Args:
        text: of a JSON file in SA-1B's form; None if there is none.
        key: of the picture.
        image_hw: its height and width.
        where: it lies, for messages.

    Raises:
        SampleError: "missing annotation", "unusable annotation", "annotation of another size".
    """
    if text is None:
        raise SampleError(key, "missing annotation", f"no JSON file of its name beside the picture ({where})")
    problems: list[Problem] = []
    reader = InstanceReader(problems, may_count_anew=True)
    try:
        header, records = _header_and_records(parse_json(text, "its JSON file"))
        size_hw = read_size(header)
        found = tuple(instance for record in records if (instance := reader.read(record, key, size_hw)) is not None)
    except ValueError as error:
        raise SampleError(key, "unusable annotation", f"{error} ({where})") from error
    if size_hw != image_hw:
        raise other_size_error(key, size_hw, image_hw, where)
    if records and not found:
        message = f"none of its {len(records)} annotations can be used, the first because: {problems[0].message}"
        raise SampleError(key, "unusable annotation", f"{message} ({where})")
    return found


def to_sa1b(
    picture_id: int, file_name: str, image_hw: tuple[int, int], instances: Sequence[Instance]
) -> dict[str, Any]:
    """Put a picture's annotations into SA-1B's form, as what JSON has; scores, which instances lack, are left out."""
    height, width = image_hw
    annotations = [
        {
            "id": int(instance.id) if instance.id.isdecimal() else instance.id,
            "segmentation": dict(instance.rle),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": instance.area_px,
            "crop_box": [0.0, 0.0, float(width), float(height)],
            **({} if instance.point_xy is None else {"point_coords": [list(instance.point_xy)]}),
            **({"category_id": instance.category_id} if instance.category_id else {}),
            **({"iscrowd": 1} if instance.is_crowd else {}),
        }
        for instance in instances
        for x1, y1, x2, y2 in [instance.box_xyxy]
    ]
    header = {"image_id": picture_id, "width": width, "height": height, "file_name": file_name}
    return {"image": header, "annotations": annotations}


def _read_annotation_file(file: Path) -> tuple[dict[str, Any], list[Any]]:
    try:
        content, _ = read_json(file)
    except (OSError, ValueError) as error:
        raise ItemRejectedError("unreadable annotation file", str(error)) from error
    return _header_and_records(content)


def _header_and_records(content: Any) -> tuple[dict[str, Any], list[Any]]:
    header, records = (content.get("image"), content.get("annotations")) if isinstance(content, dict) else (None, None)
    if not isinstance(header, dict) or not isinstance(records, list):
        raise ItemRejectedError("unreadable annotation file", 'expected an object "image" and a list "annotations"')
    return header, records


def _find_picture(file: Path, header: dict[str, Any], num_annotations: int) -> Path:
    named = PurePosixPath(str(header.get("file_name") or "")).name
    for name in [named, *(file.stem + suffix for suffix in (".jpg", *PICTURE_SUFFIXES))]:
        if name not in ("", "..") and os.path.isfile(file.parent / name):
            return file.parent / name
    raise ItemRejectedError(
        "missing picture",
        f"no file {named or file.stem + '.jpg'} beside it; its {num_annotations} annotations are left out with it",
    )


def _without_annotations(files: list[Path]) -> list[Problem]:
    annotated = {file.stem for file in files if file.suffix.lower() == ".json"}
    return [
        Problem("picture without masks", file.name, f"no {file.stem}.json beside it")
        for file in files
        if file.stem not in annotated
    ]
