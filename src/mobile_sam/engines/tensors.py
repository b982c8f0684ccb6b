"""The tensor door: prompts as torch tensors in the model frame, on any engine.

On the torch engine prompts and masks stay on the device (the embedding, kept as an array, is sent there on each call);
other engines are asked through arrays.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.prompts import (
    LABEL_BOX_LOWER_RIGHT,
    LABEL_BOX_UPPER_LEFT,
    LABEL_PADDING,
    LOW_RES_STRIDE,
    PromptBatch,
)
from mobile_sam.engines.base import Engine
from mobile_sam.engines.pytorch import TorchEngine
from mobile_sam.modeling.common import enlarge_logits

TensorPrompts = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""Points (P, N, 2), labels (P, N), boxes (P, 4), mask logits (P, 1, 256, 256), in the model frame."""


def predict_tensors(
    engine: Engine, embedding: Embedding, prompts: TensorPrompts, mask_tokens: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Decode and bring the masks to the picture's size.

    Returns:
        Logits (P, M, H, W), predicted IoU (P, M), low-resolution logits (P, M, 256, 256).

    Raises:
        ValueError: no prompt at all, points without labels, wrong shapes, or counts that differ.
    """
    masks = _check_masks(prompts[3], embedding)
    coords_xy, labels = stack_points_and_boxes(*prompts[:3], masks)
    if isinstance(engine, TorchEngine):
        features = torch.from_numpy(embedding.features).to(engine.device)
        low_res, iou = engine.decode_tensors(
            features,
            coords_xy.to(engine.device),
            labels.to(engine.device),
            mask_tokens,
            None if masks is None else masks.to(engine.device),
        )
    else:
        has_mask = np.full(len(labels), masks is not None)
        mask_logits = None if masks is None else masks.expand(len(labels), -1, -1, -1).cpu().numpy()
        batch = PromptBatch(coords_xy.cpu().numpy(), labels.cpu().numpy(), mask_logits, has_mask)
        decoded = engine.decode(embedding, batch, mask_tokens)
        low_res, iou = torch.from_numpy(decoded.low_res_logits), torch.from_numpy(decoded.iou_predictions)
    sizes = (embedding.input_hw, embedding.image_hw)
    return enlarge_logits(low_res, embedding.input_side, *sizes), iou, low_res


def stack_points_and_boxes(
    points: Tensor | None, labels: Tensor | None, boxes: Tensor | None, masks: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Turn points and boxes into decoder tokens, coordinates (P, N, 2) and labels (P, N), by SAM's rule.

    Points alone get one padding point, a box becomes its two corners.
    """
    if (points is None) != (labels is None):
        raise ValueError("point_coords and point_labels must come together, of shapes (P, N, 2) and (P, N)")
    coords_parts, label_parts = [], []
    if points is not None and labels is not None:
        if points.ndim != 3 or points.shape[2] != 2 or labels.shape != points.shape[:2] or not points.shape[1]:
            raise ValueError(
                "point_coords must be (P, N, 2) and point_labels (P, N) with N at least 1, "
                f"got {tuple(points.shape)} and {tuple(labels.shape)}"
            )
        coords_parts.append(points.float())
        label_parts.append(labels.float())
        if boxes is None:
            coords_parts.append(points.new_zeros((len(points), 1, 2), dtype=torch.float32))
            label_parts.append(labels.new_full((len(points), 1), LABEL_PADDING, dtype=torch.float32))
    if boxes is not None:
        if boxes.ndim == 0 or boxes.shape[-1] != 4:
            raise ValueError(f"boxes must be (P, 4): x1, y1, x2, y2, got {tuple(boxes.shape)}")
        corners_xy = boxes.float().reshape(-1, 2, 2)
        coords_parts.append(corners_xy)
        label_parts.append(
            corners_xy.new_tensor([LABEL_BOX_UPPER_LEFT, LABEL_BOX_LOWER_RIGHT]).expand(len(corners_xy), 2)
        )
    if not coords_parts:
        if masks is None:
            raise ValueError("no prompt: pass point_coords with point_labels, boxes or mask_input")
        return masks.new_zeros((len(masks), 0, 2)), masks.new_zeros((len(masks), 0))
    counts = {len(part) for part in coords_parts} | ({len(masks)} - {1} if masks is not None else set())
    if len(counts) != 1:
        raise ValueError(f"points, boxes and masks must come for the same number of prompts, got {sorted(counts)}")
    for part in coords_parts:
        if not torch.isfinite(part).all():
            raise ValueError("points and boxes must be finite, got NaN or infinite coordinates")
    if boxes is not None and (coords_parts[-1][:, 0] >= coords_parts[-1][:, 1]).any():
        raise ValueError("boxes must be x1, y1, x2, y2 with x1 < x2 and y1 < y2, got swapped or equal corners")
    return torch.cat(coords_parts, dim=1), torch.cat(label_parts, dim=1)


def _check_masks(masks: Tensor | None, embedding: Embedding) -> Tensor | None:
    side = embedding.input_side // LOW_RES_STRIDE
    if masks is not None and masks.shape[1:] != (1, side, side):
        raise ValueError(f"mask_input must be (P, 1, {side}, {side}) logits, got {tuple(masks.shape)}")
    return None if masks is None else masks.float()
