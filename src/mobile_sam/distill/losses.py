"""Losses of distillation, as pure functions: of embeddings, and of masks, one number for each mask.

All of them leave out the padding of the model's frame, and calculate in float32 whatever autocast says. Sources: MSE
between embeddings, MobileSAM (arXiv 2306.14289, section 3.2); focal loss, arXiv 1708.02002; dice loss, arXiv
1606.04797, smoothed as in DETR (arXiv 2005.12872), which is what SAM was trained with (arXiv 2304.02643, appendix A).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mobile_sam.core.embedding import EMBEDDING_STRIDE

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2
DICE_SMOOTH = 1.0


def valid_cells(input_hw: Tensor, map_hw: tuple[int, int], stride: int) -> Tensor:
    """Say which cells of a map hold picture, be it only a part of them.

    Args:
        input_hw: (B, 2) int64, height and width of what is picture in the model's frame, in pixels.
        map_hw: height and width of the map in cells.
        stride: pixels of the frame per cell, along each side.

    Returns:
        (B, *map_hw) bool.
    """
    y, x = (torch.arange(length, device=input_hw.device) * stride for length in map_hw)  # first pixel of each cell
    height, width = input_hw[:, :1], input_hw[:, 1:]  # each (B, 1)
    return (y < height)[:, :, None] & (x < width)[:, None, :]


def embedding_mse(student: Tensor, teacher: Tensor, input_hw: Tensor, stride: int = EMBEDDING_STRIDE) -> Tensor:
    """Mean squared error between two embeddings, over the cells that hold picture.

    The mean is taken over each picture first and then over pictures, so that a narrow one counts as much as a square.

    Args:
        student: (B, C, h, w) float.
        teacher: (B, C, h, w) float.
        input_hw: (B, 2) int64, height and width of what is picture, in pixels of the model's frame.
        stride: pixels of the frame per cell.

    Returns:
        () float32.
    """
    squared = (student.float() - teacher.float()).square().mean(dim=1)  # (B, h, w)
    return _mean_of_valid(squared, valid_cells(input_hw, (squared.shape[-2], squared.shape[-1]), stride)).mean()


def bce_loss(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Binary cross entropy, averaged over the valid pixels.

    Args:
        logits: (..., H, W) float, above 0 for the object.
        targets: (..., H, W) bool, or float in [0, 1].
        valid: (..., H, W) bool, the pixels that count; as the targets, it may lack or repeat leading axes.

    Returns:
        (...) float32, one number for each mask.
    """
    return _mean_of_valid(_cross_entropy(logits.float(), _as_floats(targets, logits)), valid)


def focal_loss(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Cross entropy that counts surely right pixels less: alpha_t * (1 - p_t) ** gamma * BCE, over the valid pixels.

    Arguments and result are those of `bce_loss`.
    """
    logits, targets = logits.float(), _as_floats(targets, logits)
    share = logits.sigmoid()
    error = share + targets - 2 * share * targets  # 1 - p_t
    alpha_t = (1 - FOCAL_ALPHA) + (2 * FOCAL_ALPHA - 1) * targets  # alpha on the object, 1 - alpha beside it
    return _mean_of_valid(alpha_t * error**FOCAL_GAMMA * _cross_entropy(logits, targets), valid)


def dice_loss(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """One minus the soft Dice coefficient, 2 |A B| / (|A| + |B|), over the valid pixels; 1 is added to both parts.

    Arguments and result are those of `bce_loss`.
    """
    share = logits.float().sigmoid() * valid
    targets = _as_floats(targets, share) * valid
    overlap = (share * targets).sum(dim=(-2, -1))
    sizes = share.sum(dim=(-2, -1)) + targets.sum(dim=(-2, -1))
    return 1 - (2 * overlap + DICE_SMOOTH) / (sizes + DICE_SMOOTH)


def mask_iou(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Intersection over union of masks, cut at logit 0, with their targets; no gradient.

    Arguments are those of `bce_loss`, the targets bool.

    Returns:
        (...) float32 in [0, 1]; 1 where both masks are empty, as they are the same.
    """
    masks, targets = (logits > 0) & valid, targets & valid
    intersection = (masks & targets).sum(dim=(-2, -1))
    union = (masks | targets).sum(dim=(-2, -1))
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def _as_floats(targets: Tensor, like: Tensor) -> Tensor:
    """Give targets the shape of the logits, in float32."""
    return targets.float().expand_as(like)


def _mean_of_valid(values: Tensor, valid: Tensor) -> Tensor:
    """(..., H, W) -> (...), the mean where `valid`; every picture has valid cells."""
    return (values * valid).sum(dim=(-2, -1)) / valid.sum(dim=(-2, -1))
