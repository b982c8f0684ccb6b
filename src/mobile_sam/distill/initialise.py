"""A better start for a fresh student: embeddings of the teacher's scale.

The student's last layer is a LayerNorm, whose output begins with mean 0 and variance 1 in each channel; SAM's
embeddings have a variance of a hundredth of that. AdamW moves a weight by no more than the learning rate in a step, so
that hundreds of steps would go by until the scales agree (docs/log.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mobile_sam.core.embedding import EMBEDDING_STRIDE
from mobile_sam.distill.batches import Batch
from mobile_sam.distill.distiller import Distiller
from mobile_sam.distill.loading import Samples, StepSampler, load_batches
from mobile_sam.distill.losses import valid_cells
from mobile_sam.modeling.common import LayerNorm2d

NUM_PICTURES = 16  # whose cells, some 40,000, tell a mean and a spread well enough


@torch.no_grad()
def match_channels(distiller: Distiller, samples: Samples, device: torch.device) -> None:
    """Set the last LayerNorm of the student's encoder to mean and standard deviation of the teacher's channels.

    Args:
        distiller: with a student whose encoder ends in SAM's neck, and a teacher.
        samples: the first of them are asked for the teacher's embeddings.
        device: of the distiller.

    Raises:
        NoPictureError: too many of the first pictures cannot be used.
    """
    last = distiller.student.image_encoder.neck[-1]
    assert isinstance(last, LayerNorm2d)
    first = StepSampler(samples.order, (0, NUM_PICTURES), batch_size=1, parts=1, rank=0, num_processes=1)
    cells = torch.cat(
        [_teacher_cells(distiller, batch.to(device)) for batch, _ in load_batches(samples, first, device)]
    )
    last.weight.copy_(cells.std(dim=0))
    last.bias.copy_(cells.mean(dim=0))


def _teacher_cells(distiller: Distiller, batch: Batch) -> Tensor:
    """What the teacher says of the cells that hold picture: (cells, C) float32."""
    features = distiller.teacher_features(batch)  # (1, C, h, w)
    valid = valid_cells(batch.input_hw, (features.shape[2], features.shape[3]), EMBEDDING_STRIDE)  # (1, h, w)
    return features.permute(0, 2, 3, 1)[valid]
