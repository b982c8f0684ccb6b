"""Prompts as the command line and prompt files write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobile_sam.core.prompts import Prompt

FILE_HELP = (
    'a list of objects like [{"points": [[x, y]], "labels": [1], "box": [x1, y1, x2, y2]}, ...], or the marks of one '
    'object: [{"type": "point", "data": [x, y], "label": 1}, {"type": "rectangle", "data": [x1, y1, x2, y2]}]'
)


def parse_prompts(points: list[str], boxes: list[str], file: Path | None) -> list[Prompt]:
    """Turn the options of `segment` into prompts.

    All points together are one object. Each box is an object; a single box and the points are one object.

    Raises:
        ValueError: no prompt, malformed numbers, points with several boxes, or a malformed file.
    """
    from mobile_sam.core.prompts import Prompt

    if file is not None:
        if points or boxes:
            raise ValueError("--prompts came together with --point or --box; put all prompts into the file")
        return read_prompt_file(file)
    marks = [_numbers(text, "--point", "X,Y or X,Y,LABEL", (2, 3)) for text in points]
    corners = [_numbers(text, "--box", "X1,Y1,X2,Y2", (4,)) for text in boxes]
    if not marks and not corners:
        raise ValueError("no prompt: say what to cut out with --point X,Y, --box X1,Y1,X2,Y2 or --prompts FILE.json")
    if marks and len(corners) > 1:
        raise ValueError(
            f"{len(marks)} --point and {len(corners)} --box: it is not clear which box the points belong to; "
            "use --prompts FILE.json"
        )
    if not marks:
        return [Prompt.of(box=box) for box in corners]
    labels = [mark[2] if len(mark) == 3 else 1 for mark in marks]
    for text, label in zip(points, labels, strict=True):
        if label not in (0, 1):
            raise ValueError(f"--point {text!r}: the label must be 1 (the object) or 0 (not the object)")
    return [Prompt.of([mark[:2] for mark in marks], labels, corners[0] if corners else None)]


def read_prompt_file(file: Path) -> list[Prompt]:
    """Read prompts from JSON, in either of two forms (see FILE_HELP).

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is not JSON, or of another form.
    """
    from mobile_sam.core.prompts import Prompt

    if not file.is_file():
        raise FileNotFoundError(f"no prompt file at {file}")
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))  # Windows editors may begin it with a mark
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, list) or not content or not all(isinstance(entry, dict) for entry in content):
        raise ValueError(f"{file} must hold {FILE_HELP}")
    if all("type" in entry for entry in content):
        return [_prompt_of_marks(content, file)]
    prompts = []
    for index, entry in enumerate(content):
        unknown = entry.keys() - {"points", "labels", "box"}
        if unknown or (entry.get("points") is None and entry.get("box") is None):
            raise ValueError(f"object {index} in {file} has the keys {sorted(entry)}; expected {FILE_HELP}")
        try:
            prompts.append(Prompt.of(entry.get("points"), entry.get("labels"), entry.get("box")))
        except ValueError as error:
            raise ValueError(f"object {index} in {file}: {error}") from error
    return prompts


def _prompt_of_marks(marks: list[dict[str, Any]], file: Path) -> Prompt:
    from mobile_sam.core.prompts import Prompt

    points: list[Any] = [mark.get("data") for mark in marks if mark["type"] == "point"]
    labels = [mark.get("label", 1) for mark in marks if mark["type"] == "point"]
    boxes = [mark.get("data") for mark in marks if mark["type"] == "rectangle"]
    if len(points) + len(boxes) != len(marks) or len(boxes) > 1:
        raise ValueError(f"{file}: marks are any number of points and at most one rectangle; expected {FILE_HELP}")
    try:
        return Prompt.of(points or None, labels or None, boxes[0] if boxes else None)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _numbers(text: str, option: str, form: str, counts: tuple[int, ...]) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in counts:
        raise ValueError(f"{option} {text!r} is not of the form {form}, in pixels of the picture")
    return numbers
