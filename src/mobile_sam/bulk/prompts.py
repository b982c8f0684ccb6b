"""Files of boxes or points for many pictures: read, matched with the pictures of a run, kept as JSON beside them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mobile_sam.bulk.items import Item
from mobile_sam.bulk.prompt_values import PromptFile, boxes_to_json
from mobile_sam.data.records import Problem

__all__ = ["PromptFile", "match_prompts", "read_prompts"]

logger = logging.getLogger(__name__)

_NUM_EXAMPLES = 3


def read_prompts(task: str, file: Path) -> PromptFile:
    """Read a file of prompts.

    Args:
        task: "boxes": results of a detector in COCO's form, or an object with such "annotations", perhaps
            "categories", and perhaps "images" that say the names of the pictures. "points": see
            `mobile_sam.bulk.prompt_points.POINTS_FORM`.
        file: in JSON.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another form, or not one entry can be used.
    """
    if task == "boxes":
        return _read_boxes(file)
    if task == "points":
        from mobile_sam.bulk.prompt_points import read_points

        return read_points(file)
    raise ValueError(f"the task {task} takes no prompts; expected boxes or points")


def match_prompts(
    prompt_file: PromptFile,
    items: Iterable[Item],
    on_problem: Callable[[Problem], None] = lambda problem: logger.warning("%s: %s", problem.where, problem.message),
    *,
    is_part: bool = False,
) -> Iterator[tuple[int, str]]:
    """Find the prompts of each picture, however many pictures there are.

    A picture of an annotation file is meant by its number there, or by its file name. Others are meant by the file
    name, with or without folders and suffix, or by the number that it is (000000397133.jpg is 397133).

    Args:
        prompt_file: what `read_prompts` read.
        items: the pictures of the run.
        on_problem: told of what is wrong with the file, and of prompts that no picture has.
        is_part: whether these are a part of the pictures only, so that prompts of others are to be expected.

    Yields:
        Numbers of items and their prompts, as `Item.prompts` has them.

    Raises:
        ValueError: prompts that may be two pictures', or those of other pictures only.
    """
    from mobile_sam.everything.detections import ImageIds

    for problem in prompt_file.problems:
        on_problem(problem)
    image_ids, by_file_name = ImageIds(prompt_file.prompts), _by_file_name(prompt_file.file_names)
    known: list[str] = []
    for item in items:
        names, number = _names_of(item, by_file_name)
        image_id = image_ids.take(names, number, f"{item.file_name} ({item.place.path})")
        if len(known) < _NUM_EXAMPLES:
            known.append(item.file_name)
        if image_id is not None:
            yield item.id, prompt_file.prompts[image_id]
    _tell_what_is_left(prompt_file, image_ids.num_left, image_ids.left(_NUM_EXAMPLES), known, on_problem, is_part)


def _tell_what_is_left(
    prompt_file: PromptFile,
    num_left: int,
    left: Sequence[str],
    known: Sequence[str],
    on_problem: Callable[[Problem], None],
    is_part: bool,
) -> None:
    came, num_ids = ", ".join(left), len(prompt_file.prompts)
    if not num_ids:
        on_problem(Problem("no prompts", prompt_file.name, "it has no prompts, so there will be no masks"))
    elif num_left == num_ids and known and not is_part:
        raise ValueError(
            f"{prompt_file.name} has prompts for other pictures: it names {came}, the pictures are "
            f"{', '.join(known)}; expected a picture's file name, stem or number"
        )
    elif num_left and not is_part:
        more = ", ..." if num_left > len(left) else ""
        message = f"{num_left} of the {num_ids} pictures that it names are not among those of the run: {came}{more}"
        on_problem(Problem("prompts of other pictures", prompt_file.name, message))


def _by_file_name(file_names: Mapping[str, str]) -> dict[str, str]:
    """Ids by file name, also without its folders."""
    found: dict[str, str] = {}
    for image_id, file_name in file_names.items():
        found.setdefault(file_name, image_id)
    for image_id, file_name in file_names.items():
        found.setdefault(PurePosixPath(file_name).name, image_id)
    return found


def _names_of(item: Item, by_file_name: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """What a picture may be called in a file of prompts, and what it may be called by its value."""
    path = PurePosixPath(item.file_name)
    names = (item.file_name, path.name)
    if item.source_id is not None:
        return (str(item.source_id), *names), str(item.source_id)
    if by_file_name:
        ids = [by_file_name[name] for name in names if name in by_file_name]
        return (*ids[:1], *names), ""
    return (*names, str(path.with_suffix("")), path.stem), path.stem


def _read_boxes(file: Path) -> PromptFile:
    from mobile_sam.data.json_values import read_json
    from mobile_sam.data.mask_files import NO_CATEGORY, detections_of
    from mobile_sam.everything.coco import category_name

    content, sha256 = read_json(file)
    detections = detections_of(content, sha256, file, needs_scores=False)
    categories, file_names, problems = _read_tables(content)
    used_ids = {number for found in detections.pictures.values() for number in found.category_ids.tolist()}
    names = {
        number: category_name(number, categories) for number in sorted(used_ids - {NO_CATEGORY} | categories.keys())
    }
    prompts = {image_id: boxes_to_json(found) for image_id, found in detections.pictures.items()}
    return PromptFile(detections.name, detections.sha256, prompts, names, file_names, (*detections.problems, *problems))


def _read_tables(content: Any) -> tuple[dict[int, str], dict[str, str], list[Problem]]:
    """Read the names of categories and pictures of an annotation file; a list of results has neither."""
    from mobile_sam.data.json_values import shortened, to_id, to_whole_number

    if not isinstance(content, dict):
        return {}, {}, []
    categories: dict[int, str] = {}
    problems: list[Problem] = []
    for index, entry in enumerate(content.get("categories") or []):
        number = to_whole_number(entry.get("id")) if isinstance(entry, dict) else None
        if number is None or not isinstance(entry.get("name"), str):
            message = f"is {shortened(entry)}, expected an id and a name"
            problems.append(Problem("malformed category", f"category {index}", message))
        else:
            categories[number] = entry["name"]
    file_names: dict[str, str] = {}
    for entry in content.get("images") or []:
        image_id = to_id(entry.get("id")) if isinstance(entry, dict) else None
        if image_id is not None and isinstance(entry.get("file_name"), str):
            file_names[image_id] = entry["file_name"]
    return categories, file_names, problems
