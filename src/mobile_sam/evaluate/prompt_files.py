"""Prompts as a file, so that a tool that runs elsewhere can answer the very same ones."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mobile_sam.core.errors import ImageReadError
from mobile_sam.core.files import atomic_path
from mobile_sam.data.records import Dataset, Picture
from mobile_sam.evaluate.agreement import make_prompts
from mobile_sam.evaluate.protocols import AgreementProtocol
from mobile_sam.evaluate.run import open_picture

logger = logging.getLogger(__name__)


def write_prompt_file(path: Path, dataset: Dataset, protocols: Sequence[AgreementProtocol]) -> int:
    """Write the prompts of a dataset and return how many there are.

    A picture that cannot be measured, as it is damaged or not of the annotated size, has none, and a warning says so.

    The file is a list of {"image_id", "file_name", "prompt_id", "point_coords" [[x, y]], "point_labels", "box" [x1, y1,
    x2, y2] or null}, in pixels of the picture. Masks that answer them come back as a list of {"image_id", "prompt_id",
    "segmentation" (COCO RLE)}.

    Raises:
        OSError: it cannot be written. ValueError: not one prompt could be made.
    """
    records = [
        _record(picture, name, prompt.to_json())
        for picture in dataset.pictures
        if (size_hw := _size_hw(picture)) is not None
        for protocol in protocols
        for name, prompt in make_prompts(protocol, picture, size_hw, Counter())
    ]
    if not records:
        raise ValueError(f"{dataset.name} gives no prompt for {', '.join(protocol.name for protocol in protocols)}")
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(records, indent=0), encoding="utf-8")
    return len(records)


def _record(picture: Picture, name: str, prompt: dict[str, Any]) -> dict[str, Any]:
    return {
        "image_id": picture.id,
        "file_name": picture.path.name,
        "prompt_id": name,
        "point_coords": prompt["points"],
        "point_labels": prompt["labels"],
        "box": prompt["box"],
    }


def _size_hw(picture: Picture) -> tuple[int, int] | None:
    try:
        pixels = open_picture(picture).pixels
    except (OSError, ImageReadError) as error:
        logger.warning("no prompts for picture %s: %s", picture.id, error)
        return None
    return pixels.shape[0], pixels.shape[1]
