"""A region of Label Studio: one answer of a model or an annotator, as the server and files to import have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def label_studio_region(
    region_id: str,
    names: tuple[str, str],
    kind: str,
    image_hw: tuple[int, int],
    score: float,
    value: Mapping[str, Any],
    label: str | None,
) -> dict[str, Any]:
    """Describe a region as what JSON has.

    Args:
        region_id: unique in its task.
        names: of the control and of the object of the labelling configuration: `from_name` and `to_name`.
        kind: "brushlabels", "polygonlabels", "rectanglelabels", or one of these without labels, such as "brush".
        image_hw: height and width of the picture in pixels.
        score: predicted IoU.
        value: of the kind, without the label.
        label: None where the control has none.
    """
    height, width = image_hw
    from_name, to_name = names
    return {
        "id": region_id,
        "from_name": from_name,
        "to_name": to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "type": kind,
        "score": score,
        "readonly": False,
        "value": dict(value) if label is None else {**value, kind: [label]},
    }
