"""Files of points for many pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mobile_sam.bulk.prompt_values import OBJECT_FORM, PromptFile, compact_json, prompt_of
from mobile_sam.data.records import Problem

POINTS_FORM = (
    f'a JSON object {{"picture.jpg": [{OBJECT_FORM}, ...], ...}}, or lines of {{"picture": "picture.jpg", "objects": '
    "[...]}"
)
_NAME_KEYS = ("picture", "image_id", "file_name")


def read_points(file: Path) -> PromptFile:
    """Read the objects of each picture; what is wrong with one costs only that.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another form than POINTS_FORM, or not one object can be used.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no file of points at {file}; check the spelling of the path")
    text = file.read_bytes()
    problems: list[Problem] = []
    objects: dict[str, list[dict[str, Any]]] = {}
    num_objects = 0
    for where, name, values in _entries(file, text, problems):
        found = objects.setdefault(name, [])
        for index, value in enumerate(values):
            num_objects += 1
            try:
                prompt_of(value)
            except ValueError as error:
                problems.append(Problem("malformed object", f"{where}, object {index}", str(error)))
            else:
                found.append({key: value[key] for key in ("points", "labels", "box") if value.get(key) is not None})
    if problems and not any(objects.values()):
        raise ValueError(f"{file} has no object that can be used: {problems[0].where}: {problems[0].message}")
    prompts = {name: compact_json(values) for name, values in objects.items()}
    return PromptFile(file.name, hashlib.sha256(text).hexdigest(), prompts, problems=tuple(problems))


def _entries(file: Path, text: bytes, problems: list[Problem]) -> Iterator[tuple[str, str, list[Any]]]:
    """Give where each entry is, the name of its picture, and its objects."""
    from mobile_sam.data.json_values import parse_json, shortened, to_id

    records: Iterable[tuple[str, Any]]
    try:
        content = parse_json(text, str(file))
    except ValueError:
        records = _lines(file, text, problems)
    else:
        if isinstance(content, list):
            records = ((f"entry {index}", entry) for index, entry in enumerate(content))
        elif isinstance(content, dict) and isinstance(content.get("objects"), list):
            records = [("line 1", content)]
        elif isinstance(content, dict):
            records = ((name, {"picture": name, "objects": values}) for name, values in content.items())
        else:
            raise ValueError(f"{file} holds {shortened(content)}; expected {POINTS_FORM}")
    for where, record in records:
        values = record.get("objects") if isinstance(record, dict) else None
        names = (to_id(record.get(key)) for key in _NAME_KEYS) if isinstance(values, list) else iter(())
        name = next((name for name in names if name is not None), None)
        if name is None or not isinstance(values, list):
            message = f"is {shortened(record)}; expected {POINTS_FORM}"
            problems.append(Problem("malformed entry", where, message))
        else:
            yield where, name, values


def _lines(file: Path, text: bytes, problems: list[Problem]) -> Iterator[tuple[str, Any]]:
    """Read lines of JSON; a malformed one is a problem, unless it is the first one."""
    from mobile_sam.data.json_values import parse_json

    is_first = True
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", parse_json(line, f"{file}, line {number},")
        except ValueError as error:
            if is_first:
                raise ValueError(
                    f"{file} is neither JSON nor lines of JSON: {error}; expected {POINTS_FORM}"
                ) from error
            problems.append(Problem("malformed entry", f"line {number}", str(error)))
        is_first = False
    if is_first:
        raise ValueError(f"{file} is empty; expected {POINTS_FORM}")
