"""A detection function for cvat-sdk: masks or polygons of everything in a picture. README.md says how it is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cvat_sdk.auto_annotation as cvataa
import PIL.Image
from cvat_sdk.masks import encode_mask

from mobile_sam import EverythingConfig, SamAutomaticMaskGenerator
from mobile_sam.core.masks import decode_rle, mask_to_polygons

LABEL_ID = 0


class EverythingFunction:
    """Finds everything and calls it by one name.

    Args:
        label: name of the label in the CVAT task.
        tolerance_px: how far a polygon may leave a mask's edge, in pixels.
        engine: see `mobile_sam.engines.make_engine`.
        settings: of `mobile_sam.EverythingConfig`.
    """

    def __init__(self, label: str, tolerance_px: float, engine: str, settings: dict[str, Any]) -> None:
        config = EverythingConfig(**{**settings, "output_mode": "coco_rle"})
        self._generator = SamAutomaticMaskGenerator.from_config(config, engine)
        self._tolerance_px = tolerance_px
        self._spec = cvataa.DetectionFunctionSpec(labels=[cvataa.label_spec(label, LABEL_ID)])

    @property
    def spec(self) -> cvataa.DetectionFunctionSpec:
        """The one label."""
        return self._spec

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: PIL.Image.Image
    ) -> Sequence[cvataa.DetectionAnnotation]:
        """Find everything in a frame, as masks, or as polygons if the caller wants these.

        A polygon is the outline of a mask's largest part, since a CVAT polygon has one outline.
        """
        shapes = []
        for record in self._generator.generate(image):
            if context.conf_threshold is not None and record["predicted_iou"] < context.conf_threshold:
                continue
            mask = decode_rle(record["segmentation"])
            if not context.conv_mask_to_poly:
                shapes.append(cvataa.mask(LABEL_ID, encode_mask(mask)))
                continue
            polygons = mask_to_polygons(mask, tolerance_px=self._tolerance_px)
            if polygons:
                shapes.append(cvataa.polygon(LABEL_ID, polygons[0].ravel().tolist()))
        return shapes


def create(
    label: str = "object", tolerance_px: float = 1.0, engine: str = "auto", **settings: Any
) -> EverythingFunction:
    """Make the function from the parameters that `cvat-cli -p name=type:value` passes.

    Args:
        label: see `EverythingFunction`.
        tolerance_px: see `EverythingFunction`.
        engine: see `EverythingFunction`.
        settings: of `mobile_sam.EverythingConfig`; mode is "fast" unless it says otherwise.
    """
    return EverythingFunction(label, tolerance_px, engine, {"mode": "fast", **settings})
