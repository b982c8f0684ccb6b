"""An interaction function for cvat-sdk: a mask for what is marked in CVAT's page. README.md says how it is run."""

from __future__ import annotations

import cvat_sdk.auto_annotation as cvataa
import cvat_sdk.models as models
import numpy as np
import PIL.Image
from cvat_sdk.masks import encode_mask

from mobile_sam import Embedding, Prompt, SamPredictor
from mobile_sam.engines import make_engine


class ClickFunction:
    """Encodes a frame once and answers prompts of it.

    Args:
        engine: see `mobile_sam.engines.make_engine`.
    """

    def __init__(self, engine: str) -> None:
        self._engine = make_engine(engine)
        self._spec = cvataa.InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)

    @property
    def spec(self) -> cvataa.InteractionFunctionSpec:
        """Points of both kinds and a box, none of which has to be there."""
        return self._spec

    def preprocess_image(self, context: cvataa.InteractionFunctionContext, image: PIL.Image.Image) -> Embedding:
        """Encode a frame; the agent keeps the embedding, 4 MiB."""
        (embedding,) = SamPredictor(engine=self._engine).encode([image])
        return embedding

    def detect(
        self, context: cvataa.InteractionFunctionContext, pp_image: Embedding, prompts: cvataa.InteractionPrompts
    ) -> list[cvataa.InteractionResultShape]:
        """Answer with one mask, of a lone click the best of three; with none where nothing was marked."""
        points = [*prompts.pos_points, *prompts.neg_points]
        labels = [1] * len(prompts.pos_points) + [0] * len(prompts.neg_points)
        if not prompts.pos_points and prompts.bounding_box is None:
            return []
        box = None if prompts.bounding_box is None else np.ravel(prompts.bounding_box)
        prompt = Prompt.of(points=points or None, labels=labels or None, box=box)
        predictor = SamPredictor(engine=self._engine)  # of its own, since an agent may ask for two pictures at once
        predictor.set_embedding(pp_image)
        is_lone_click = len(points) == 1 and box is None
        (prediction,) = predictor.predict_batch([prompt], multimask_output=is_lone_click)
        mask, score = prediction.masks[prediction.best], float(prediction.iou_predictions[prediction.best])
        if not mask.any():
            return []
        confidence = models.AttributeValRequest(
            spec_id=int(cvataa.InteractionResultAttributes.CONFIDENCE), value=f"{min(max(score, 0), 1):.4f}"
        )
        return [cvataa.InteractionResultShape(type="mask", points=encode_mask(mask), attributes=[confidence])]


def create(engine: str = "auto") -> ClickFunction:
    """Make the function; `cvat-cli -p engine=str:onnxruntime` passes the parameter."""
    return ClickFunction(engine)
