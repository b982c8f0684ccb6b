"""The loss of a batch: the only place that knows the objectives.

Decoupled distillation is the method of MobileSAM (Zhang et al. 2023, arXiv 2306.14289, section 3.2): the student's
image embedding shall equal the teacher's, and no mask is drawn. The others are what the paper compares it with.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobile_sam.distill.batches import Batch, normalised
from mobile_sam.distill.config import TrainConfig
from mobile_sam.distill.frozen_encoder import FrozenEncoder
from mobile_sam.distill.losses import embedding_mse
from mobile_sam.distill.mask_losses import mask_losses
from mobile_sam.engines.pytorch import AUTOCAST_DTYPES
from mobile_sam.modeling.sam import Sam


class Distiller(nn.Module):
    """A student and its objective, as one module: batch -> losses.

    The teacher is kept out of the module's own parameters: it is neither trained nor saved nor sent between processes.

    Args:
        student: what is trained.
        config: of the run.
        teacher: prompt encoder and decoder for the teacher's masks, and its image encoder where no embeddings are
            given; None where nothing is asked of it.
    """

    def __init__(self, student: Sam, config: TrainConfig, teacher: Sam | None) -> None:
        super().__init__()
        self.student = student
        self.config = config
        encode: Any = student.image_encoder
        if config.compile:
            encode = torch.compile(encode)
        self._hidden: tuple[Sam | None, Any] = (teacher, encode)
        self._frozen = FrozenEncoder(encode, config.embedding_cache_gb) if config.parts == "decoder" else None

    def train(self, mode: bool = True) -> Distiller:
        """Set the student to training, but for what is frozen: BatchNorm there shall not follow the batches."""
        super().train(mode)
        encoder = self.student.image_encoder
        if self.config.parts == "decoder":
            encoder.eval()
        elif self.config.freeze_batchnorm:
            for module in encoder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Compute "loss", which is to be minimised, and its parts, all scalars.

        Args:
            batch: on the student's device.
        """
        config = self.config
        teacher, encode = self._hidden
        dtype = AUTOCAST_DTYPES.get(config.precision)  # None for fp32
        with torch.autocast(batch.images.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            if config.needs_teacher:
                batch = replace(batch, teacher_features=self.teacher_features(batch))
            images = normalised(batch.images, batch.input_hw, self.student.pixel_mean, self.student.pixel_std)
            if config.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            # (B, 256, S/16, S/16)
            features = encode(images) if self._frozen is None else self._frozen(batch.keys, images)
            if config.objective != "decoupled":
                return mask_losses(self.student, features, batch, teacher, config)
            assert batch.teacher_features is not None
            loss = embedding_mse(features, batch.teacher_features, batch.input_hw)
        return {"loss": loss}

    @torch.no_grad()
    def teacher_features(self, batch: Batch) -> Tensor:
        """Embeddings to imitate, at the student's resolution: (B, 256, S/16, S/16) float32."""
        features = batch.teacher_features
        if features is None:
            teacher, _ = self._hidden
            assert teacher is not None
            has_own = batch.teacher_images is not None and batch.teacher_input_hw is not None
            images = batch.teacher_images if has_own else batch.images
            input_hw = batch.teacher_input_hw if has_own else batch.input_hw
            assert images is not None
            assert input_hw is not None
            features = teacher.image_encoder(normalised(images, input_hw, teacher.pixel_mean, teacher.pixel_std))
        return resized_features(features.float(), self.student.prompt_encoder.image_embedding_size[0])


def resized_features(features: Tensor, map_side: int) -> Tensor:
    """Bring embeddings to another resolution: by the mean of the cells where it shrinks, else bilinear.

    Args:
        features: (B, C, h, h).
        map_side: h of the result.
    """
    if features.shape[-1] == map_side:
        return features
    if features.shape[-1] > map_side:
        return F.adaptive_avg_pool2d(features, map_side)
    return F.interpolate(features, (map_side, map_side), mode="bilinear", align_corners=False)
