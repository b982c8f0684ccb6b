"""What a project's extra parameters in Label Studio say of how it wants to be answered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mobile_sam.everything.config import EverythingConfig

MAX_POINTS_PER_SIDE = 64
MAX_LABEL_CHARACTERS = 500
OUTPUT_KINDS = ("brush", "polygon", "rectangle")
EVERYTHING_SETTINGS = (
    "mode",
    "points_per_side",
    "pred_iou_thresh",
    "stability_score_thresh",
    "box_nms_thresh",
    "min_mask_region_area",
)


@dataclass(frozen=True)
class ProjectSetup:
    """What a project's extra parameters say.

    Attributes:
        everything: how to pre-annotate tasks; None for not at all.
        output: kind of regions to answer with, one of OUTPUT_KINDS; None for the first that the configuration has.
        label: of pre-annotated regions; None for the first of the control tag.
    """

    everything: EverythingConfig | None = None
    output: str | None = None
    label: str | None = None

    @classmethod
    def of(cls, extra_params: Mapping[str, Any] | str | None) -> ProjectSetup:
        """Read the JSON of "Any extra params to pass during model connection".

        Raises:
            ValueError: no JSON object, an unknown name, or a value out of its range.
        """
        if isinstance(extra_params, str):
            try:
                extra_params = json.loads(extra_params) if extra_params.strip() else None
            except ValueError as error:
                raise ValueError(f'extra_params must be JSON such as {{"everything": true}}: {error}') from error
        if extra_params is None:
            return cls()
        if not isinstance(extra_params, Mapping):
            raise ValueError(f"extra_params must be a JSON object, got {type(extra_params).__name__}")
        params = dict(extra_params)
        is_everything, output, label = (
            params.pop("everything", False),
            params.pop("output", None),
            params.pop("label", None),
        )
        unknown = sorted(set(params) - set(EVERYTHING_SETTINGS))
        if unknown:
            names = ", ".join(("everything", "output", "label", *EVERYTHING_SETTINGS))
            raise ValueError(f"extra_params has unknown names {unknown}; it may have {names}")
        if output not in (None, *OUTPUT_KINDS):
            raise ValueError(f"output must be one of {', '.join(OUTPUT_KINDS)}, got {output!r}")
        if not isinstance(is_everything, bool):
            raise ValueError(f"everything must be true or false, got {is_everything!r}")
        if label is not None and not (isinstance(label, str) and len(label) <= MAX_LABEL_CHARACTERS):
            raise ValueError(f"label must be a text of at most {MAX_LABEL_CHARACTERS} characters")
        config = EverythingConfig(**{"mode": "fast", "output_mode": "coco_rle", **params})
        if config.points_per_side is None or config.points_per_side > MAX_POINTS_PER_SIDE:
            raise ValueError(f"points_per_side must be 1 to {MAX_POINTS_PER_SIDE}, got {config.points_per_side}")
        return cls(config if is_everything else None, output, label)
