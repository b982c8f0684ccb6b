"""Pictures of 256 x 256 pixels: each pixel is one of the decoder's masks, so every IoU can be counted by hand."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.images import write_image
from mobile_sam.core.masks import encode_rle
from mobile_sam.data.records import Dataset, Instance, Picture
from mobile_sam.engines import Engine
from mobile_sam.evaluate.models import Model, ModelSpec

SIZE_HW = (256, 256)


@dataclass(frozen=True, eq=False)
class Asked:
    """One prompt as the decoder saw it, in pixels of a picture of 256 x 256."""

    points_xy: list[list[float]]
    labels: list[int]
    box_xyxy: tuple[float, ...] | None
    logits: NDArray[np.float32] | None
    tokens: tuple[int, ...]


@dataclass(eq=False)
class AnsweringEngine(Engine):
    """Answers each prompt with the four masks and predicted IoUs that a test wants, and keeps what it was asked."""

    answer: Callable[[Asked], tuple[NDArray[np.bool_], list[float]]]
    asked: list[Asked] = field(default_factory=list)
    name = "answering"
    model_id = "answering"

    def encode_input(self, model_input):
        return np.zeros((len(model_input), 256, 64, 64), np.float32)

    def _decode_some(self, embedding, prompts, mask_tokens):
        answers = []
        for row, labels in enumerate(prompts.labels.astype(int)):
            coords_xy = prompts.coords_xy[row] / 4
            is_point, is_corner = np.isin(labels, (0, 1)), np.isin(labels, (2, 3))
            box_xyxy = tuple(coords_xy[is_corner].ravel().tolist()) or None
            logits = prompts.mask_logits[row, 0] if prompts.has_mask[row] else None
            asked = Asked(coords_xy[is_point].tolist(), labels[is_point].tolist(), box_xyxy, logits, mask_tokens)
            self.asked.append(asked)
            answers.append(self.answer(asked))
        logits = np.stack([np.where(masks, 10, -10) for masks, _ in answers])[:, mask_tokens]
        scores = np.array([scores for _, scores in answers])[:, mask_tokens]
        return logits.astype(np.float32), scores.astype(np.float32)


@pytest.fixture
def answering() -> Callable[..., Model]:
    """Make a model that answers as a function says; it gives one mask for all tokens, or four, and maybe scores."""

    def make(answer: Callable[[Asked], Any], name: str = "answering") -> Model:
        def whole_answer(asked: Asked) -> tuple[NDArray[np.bool_], list[float]]:
            given = answer(asked)
            masks, scores = given if isinstance(given, tuple) else (given, [0.5, 0.6, 0.7, 0.8])
            return np.broadcast_to(masks, (4, *SIZE_HW)), scores

        return Model(ModelSpec(name), AnsweringEngine(whole_answer))

    return make


@pytest.fixture
def disc_model(disc_engine: Engine) -> Model:
    """Token m is a disc of 10 (m + 1) pixels; its predicted IoU is 0.5 + m / 10."""
    return Model(ModelSpec("disc"), disc_engine)


@pytest.fixture
def small_disc_model(disc_engine: Engine) -> Model:
    """As `disc_model`, but discs are 7 pixels smaller, and the first token is predicted to be best."""

    class SmallDiscEngine(type(disc_engine)):
        name = model_id = "small disc"

        def _decode_some(self, embedding, prompts, mask_tokens):
            logits, scores = super()._decode_some(embedding, prompts, mask_tokens)
            return logits - 28, 1 - scores

    return Model(ModelSpec("small"), SmallDiscEngine())


@pytest.fixture
def disc() -> Callable[..., NDArray[np.bool_]]:
    """Make the mask of a disc in a picture of 256 x 256; x and y of its middle count from the corner of a pixel."""

    def make(x: float, y: float, radius: float) -> NDArray[np.bool_]:
        rows, columns = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]] + 0.5
        return np.hypot(columns - x, rows - y) < radius

    return make


@pytest.fixture
def rectangle() -> Callable[..., NDArray[np.bool_]]:
    """Make the mask of a rectangle from x1, y1 to the far edges x2, y2."""

    def make(x1: int, y1: int, x2: int, y2: int) -> NDArray[np.bool_]:
        mask = np.zeros(SIZE_HW, bool)
        mask[y1:y2, x1:x2] = True
        return mask

    return make


@pytest.fixture
def iou() -> Callable[..., float]:
    """Count the IoU of two masks."""
    return lambda mask_a, mask_b: (mask_a & mask_b).sum() / (mask_a | mask_b).sum()


@pytest.fixture
def make_instance() -> Callable[..., Instance]:
    """Make an annotated object from its mask; its box and area are the mask's if they are not given."""

    def make(object_id: str, mask: NDArray[np.bool_], **fields: Any) -> Instance:
        y, x = np.nonzero(mask)
        box_xyxy = (float(x.min()), float(y.min()), x.max() + 1.0, y.max() + 1.0)
        own = {"box_xyxy": box_xyxy, "area_px": float(mask.sum()), "category": "thing", "category_id": 1}
        return Instance(object_id, encode_rle(mask), **{**own, **fields})

    return make


@pytest.fixture
def make_picture(tmp_path: Path) -> Callable[..., Picture]:
    """Write a picture of noise and annotate it."""

    def make(picture_id: str, instances: Any = (), size_hw: tuple[int, int] = SIZE_HW) -> Picture:
        path = tmp_path / f"{picture_id}.png"
        pixels = np.random.default_rng(list(picture_id.encode())).integers(0, 256, (*size_hw, 3), np.uint8)
        write_image(path, pixels)
        return Picture(picture_id, path, tuple(instances), size_hw)

    return make


@pytest.fixture
def make_dataset() -> Callable[..., Dataset]:
    return lambda *pictures, **fields: Dataset("handmade", "coco", "0" * 64, pictures, **fields)


@pytest.fixture
def embeddings() -> Callable[..., dict[str, Embedding]]:
    """Make embeddings of nothing, for engines that do not look at them."""

    def make(*models: Model, size_hw: tuple[int, int] = SIZE_HW) -> dict[str, Embedding]:
        features, input_hw = np.zeros((1, 256, 64, 64), np.float32), LongSideResize(size_hw).input_hw
        return {model.name: Embedding(features, size_hw, input_hw, model.engine.model_id) for model in models}

    return make
