"""SA-1B as it is unpacked: `sa_1.jpg` beside `sa_1.json`, and so on."""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path, PurePosixPath
from typing import Any

from mobile_sam.data.annotations import InstanceReader, no_picture_message, read_size
from mobile_sam.data.folders import PICTURE_SUFFIXES, list_folder, require_folder, sha256_of_listing
from mobile_sam.data.json_values import ItemRejectedError, read_json, require_keys, to_id
from mobile_sam.data.records import Dataset, Picture, Problem


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


def _read_annotation_file(file: Path) -> tuple[dict[str, Any], list[Any]]:
    try:
        content, _ = read_json(file)
    except (OSError, ValueError) as error:
        raise ItemRejectedError("unreadable annotation file", str(error)) from error
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
