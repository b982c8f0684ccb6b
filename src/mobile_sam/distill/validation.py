"""How good a student is on pictures that it was not trained on: mIoU of its masks with the targets.

The target is the teacher's mask for the same click, as in table 2 of the MobileSAM paper (arXiv 2306.14289), or an
annotated mask. Masks are compared at the decoder's resolution, which takes a tenth of the time that whole pictures
take; `mobile-sam evaluate` compares at the picture's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.prompts import LABEL_BOX_LOWER_RIGHT, LOW_RES_STRIDE, Prompt, PromptBatch
from mobile_sam.data.clicks import grid_points
from mobile_sam.data.picture_set import PictureSet, SampleError
from mobile_sam.distill.config import TrainConfig
from mobile_sam.distill.distiller import resized_features
from mobile_sam.distill.frozen_encoder import GB
from mobile_sam.distill.loading import embedding_of
from mobile_sam.distill.losses import embedding_mse
from mobile_sam.distill.models import TeacherParts
from mobile_sam.distill.prompt_targets import make_prompt_targets
from mobile_sam.engines.pytorch import TorchEngine
from mobile_sam.modeling.sam import Sam

logger = logging.getLogger(__name__)

CLICKS_PER_SIDE = 4  # a grid of 16 clicks on each picture
ALL_MASKS = (0, 1, 2, 3)


@dataclass(frozen=True, eq=False)
class Question:
    """The prompts of one held-out picture, and what shall come of them.

    Attributes:
        index: of the picture in its set.
        prompts: P prompts in the student's model frame.
        targets: (P, ceil(h * w / 8)) uint8, the masks' bits, of the part of the low-resolution frame that is picture.
        frame_side: side of the low-resolution frame that the targets are in.
        valid_hw: (h, w) of the part of it that is picture.
        tokens: which of the decoder's four masks answers each prompt; None for the student's own choice.
        features: (1, 256, h, h) float16 of the teacher, where they are in no shard.
    """

    index: int
    prompts: PromptBatch
    targets: NDArray[np.uint8]
    frame_side: int
    valid_hw: tuple[int, int]
    tokens: NDArray[np.int64] | None
    features: NDArray[np.float16] | None = None


class Validator:
    """Asks students the same questions again and again.

    Args:
        config: of the run.
        pictures: held out.
        teacher: what there is of it; None where annotations are the target.
    """

    def __init__(self, config: TrainConfig, pictures: PictureSet, teacher: TeacherParts | None) -> None:
        self.config = config
        self.pictures = pictures
        self.teacher = teacher
        self._questions: list[Question] | None = None
        self._kept: dict[int, Embedding] = {}

    def measure(self, student: Sam) -> dict[str, float]:
        """Measure a student, in eval mode.

        Returns:
            val/miou: mean IoU with the target, over prompts. val/iou_error: mean distance between predicted and true
            IoU, of the masks given. val/mse: of the embeddings, where there is a teacher.

        Raises:
            ValueError: none of the held-out pictures can be used.
        """
        if self._questions is None:
            self._questions = self._ask_all()
        engine = TorchEngine(student)
        ious, errors, squares = [], [], []
        for question in self._questions:
            embedding = self._embedding(engine, question.index)
            decoded = engine.decode(embedding, question.prompts, ALL_MASKS)
            rows, tokens = np.arange(len(question.prompts)), question.tokens
            if tokens is None:
                tokens = _own_choice(question.prompts, decoded.iou_predictions)
            iou = _iou_with_targets(torch.from_numpy(decoded.low_res_logits[rows, tokens]), question)
            ious.append(iou)
            errors.append(np.abs(decoded.iou_predictions[rows, tokens] - iou))
            if self.teacher is not None:
                squares.append(self._mse(embedding, question))
        found = {"val/miou": float(np.concatenate(ious).mean()), "val/iou_error": float(np.concatenate(errors).mean())}
        return found | ({"val/mse": float(np.mean(squares))} if squares else {})

    def _embedding(self, engine: TorchEngine, index: int) -> Embedding:
        """Encode a picture; once, where the encoder stays as it is."""
        kept = self._kept.get(index)
        if kept is None:
            kept = engine.encode([self.pictures.read(index).image])[0]
            room_for = self.config.embedding_cache_gb * GB / kept.features.nbytes
            if self.config.parts == "decoder" and len(self._kept) < room_for:
                self._kept[index] = kept
        return kept

    def _ask_all(self) -> list[Question]:
        questions = []
        for index in range(len(self.pictures)):
            try:
                questions.append(self._question(index))
            except SampleError as error:
                logger.warning("a held-out picture is left out: %s", error)
        if not questions:
            raise ValueError(f"none of the {len(self.pictures)} held-out pictures can be used; see the warnings")
        return questions

    def _question(self, index: int) -> Question:
        if self.teacher is None:
            return self._annotated_question(index)
        sample = self.pictures.read(index)
        resize = LongSideResize((sample.image.shape[0], sample.image.shape[1]), self.config.input_side)
        engine = TorchEngine(self.teacher.sam)
        if self.teacher.embeddings is not None and sample.key in self.teacher.embeddings:
            stored = embedding_of(sample, self.teacher.embeddings)
            features = stored.features[None].astype(np.float32)
            embedding, kept = Embedding(features, stored.image_hw, stored.input_hw, engine.model_id), None
        elif self.teacher.embeddings is not None and not self.config.teacher:
            raise SampleError(sample.key, "missing embedding", "it is not in the shards; embed held-out pictures, too")
        else:
            embedding = engine.encode([sample.image])[0]
            kept = embedding.features.astype(np.float16)
        clicks_xy = grid_points(resize.image_hw, CLICKS_PER_SIDE)
        decoded = engine.decode(embedding, PromptBatch.of_points(clicks_xy, embedding.resize))
        best = decoded.iou_predictions.argmax(axis=1)
        valid_hw = _low_res_hw(embedding.input_hw)
        masks = decoded.low_res_logits[np.arange(len(best)), best][:, : valid_hw[0], : valid_hw[1]] > 0
        return Question(
            index, PromptBatch.of_points(clicks_xy, resize), _packed(masks), decoded.low_res_logits.shape[-1], valid_hw,
            1 + best, kept,
        )  # fmt: skip

    def _annotated_question(self, index: int) -> Question:
        """Ask for annotated objects, by a click and by a box each."""
        sample = self.pictures.read(index, with_instances=True)
        resize = LongSideResize((sample.image.shape[0], sample.image.shape[1]), self.config.input_side)
        made = make_prompt_targets(self.config, sample, epoch=0)
        assert made.masks is not None
        present = np.flatnonzero(made.is_present)
        points_xy = resize.to_image(made.points_xy[present])
        corners_xy = resize.to_image(made.boxes_xyxy[present].reshape(-1, 2, 2))
        prompts = [Prompt.of(points=point_xy) for point_xy in points_xy]
        prompts += [Prompt.of(box=corner_xy.reshape(4)) for corner_xy in corners_xy]
        valid_hw = _low_res_hw(resize.input_hw)
        masks = made.masks[present][:, : valid_hw[0], : valid_hw[1]]
        targets = _packed(np.concatenate([masks, masks]))
        batch = PromptBatch.from_prompts(prompts, resize)
        return Question(index, batch, targets, made.masks.shape[-1], valid_hw, None)

    def _mse(self, embedding: Embedding, question: Question) -> float:
        assert self.teacher is not None
        features = question.features
        if features is None:
            assert self.teacher.embeddings is not None
            features = self.teacher.embeddings.read(self.pictures.keys[question.index]).features[None]
        target = resized_features(torch.from_numpy(features.astype(np.float32)), embedding.features.shape[-1])
        student = torch.from_numpy(embedding.features)
        return float(embedding_mse(student, target, torch.tensor([embedding.input_hw])))


def _low_res_hw(input_hw: tuple[int, int]) -> tuple[int, int]:
    return -(-input_hw[0] // LOW_RES_STRIDE), -(-input_hw[1] // LOW_RES_STRIDE)


def _packed(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.packbits(masks.reshape(len(masks), -1), axis=1)


def _own_choice(prompts: PromptBatch, iou_predictions: NDArray[np.float32]) -> NDArray[np.int64]:
    """Choose as SAM's users do: the single mask for a box, the best of three for a click."""
    has_box = (prompts.labels == LABEL_BOX_LOWER_RIGHT).any(axis=1)
    return np.where(has_box, 0, 1 + iou_predictions[:, 1:].argmax(axis=1))


def _iou_with_targets(logits: Tensor, question: Question) -> NDArray[np.float64]:
    """IoU of masks with the targets: (P, h, h) logits -> (P,), 1 where both are empty."""
    height, width = question.valid_hw
    if logits.shape[-1] != question.frame_side:
        size = (question.frame_side, question.frame_side)
        logits = F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    masks = (logits[:, :height, :width] > 0).numpy()
    bits = np.unpackbits(question.targets, axis=1, count=height * width)
    targets = bits.reshape(-1, height, width).astype(bool)
    overlap, union = (masks & targets).sum(axis=(1, 2)), (masks | targets).sum(axis=(1, 2))
    return np.where(union == 0, 1.0, overlap / np.maximum(union, 1))
