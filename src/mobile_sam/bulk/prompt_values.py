"""Prompts of a picture as the manifest keeps them: JSON, checked when it was written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mobile_sam.bulk.items import Item
from mobile_sam.data.records import Problem

if TYPE_CHECKING:
    from mobile_sam.core.prompts import Prompt
    from mobile_sam.data.mask_files import PictureDetections

OBJECT_FORM = '{"points": [[x, y], ...], "labels": [1, 0, ...], "box": [x1, y1, x2, y2]}'
"""Of an object; labels are 1 where they lack, and one of points and box may lack."""


@dataclass(frozen=True, eq=False)
class PromptFile:
    """Prompts by picture, as a file has them.

    Attributes:
        name: of the file, without its path.
        sha256: of the file.
        prompts: by the picture's id in the file: JSON as `Item.prompts` has it.
        categories: names of the detector's categories by number, all that a box has: as the file tells, or made up.
        file_names: of pictures by their id, where the file tells, as an annotation file of COCO does.
        problems: what of the file cannot be used.
    """

    name: str
    sha256: str
    prompts: Mapping[str, str]
    categories: Mapping[int, str] = field(default_factory=dict)
    file_names: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


def boxes_to_json(found: PictureDetections) -> str:
    """Write the boxes of a picture for `Item.prompts`."""
    from mobile_sam.data.mask_files import NO_CATEGORY

    content = {
        "boxes": found.boxes_xyxy.tolist(),
        "scores": [None if math.isnan(score) else score for score in found.scores.tolist()],
        "category_ids": [None if number == NO_CATEGORY else number for number in found.category_ids.tolist()],
    }
    return compact_json(content)


def boxes_of(item: Item) -> PictureDetections:
    """Read the boxes of a picture from what the manifest keeps; none where it has none."""
    import numpy as np

    from mobile_sam.data.mask_files import NO_CATEGORY, PictureDetections

    content = json.loads(item.prompts or '{"boxes": [], "scores": [], "category_ids": []}')
    scores = [math.nan if score is None else score for score in content["scores"]]
    category_ids = [NO_CATEGORY if number is None else number for number in content["category_ids"]]
    return PictureDetections(
        np.array(content["boxes"], np.float64).reshape(-1, 4),
        np.array(scores, np.float64),
        np.array(category_ids, np.int64),
    )


def prompt_of(value: Any) -> Prompt:
    """Make a prompt of an object as files have it, see OBJECT_FORM.

    Raises:
        ValueError: it is of another form, or a prompt that cannot be, see `Prompt.of`.
    """
    from mobile_sam.core.prompts import Prompt
    from mobile_sam.data.json_values import shortened

    if not isinstance(value, dict) or value.keys() - {"points", "labels", "box"}:
        raise ValueError(f"an object is {shortened(value)}; expected {OBJECT_FORM}")
    return Prompt.of(value.get("points"), value.get("labels"), value.get("box"))


def objects_of(item: Item) -> list[Prompt]:
    """Read the objects of a picture from what the manifest keeps; none where it has none."""
    return [prompt_of(value) for value in json.loads(item.prompts or "[]")]


def compact_json(content: Any) -> str:
    """Write JSON without spaces."""
    return json.dumps(content, separators=(",", ":"))
