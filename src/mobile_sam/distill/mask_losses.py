"""Losses of masks: the student answers prompts, and its masks are compared with the teacher's or with annotations.

Objectives "semi-coupled" and "coupled" ask one click (MobileSAM, arXiv 2306.14289, section 3); "prompted" asks a box
or a click and then corrects with clicks where the mask is wrong (EdgeSAM, arXiv 2312.06660, after SAM's own training,
arXiv 2304.02643, appendix A).

The N prompts of all pictures of a batch are decoded at once. Like `core.prompts.PromptBatch`, a prompt is a list of
points with labels, whose first two are the corners of a box (2, 3), or a click and SAM's padding point (1, -1).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from mobile_sam.core.embedding import EMBEDDING_STRIDE
from mobile_sam.core.prompts import (
    LABEL_BOX_LOWER_RIGHT,
    LABEL_BOX_UPPER_LEFT,
    LABEL_FOREGROUND,
    LABEL_PADDING,
    LOW_RES_STRIDE,
)
from mobile_sam.distill.batches import Batch, PromptTargets
from mobile_sam.distill.config import TrainConfig
from mobile_sam.distill.losses import bce_loss, dice_loss, focal_loss, mask_iou, valid_cells
from mobile_sam.modeling import PromptEncoder, Sam

LOSS_FUNCTIONS = {"focal": focal_loss, "dice": dice_loss, "bce": bce_loss}
FOCAL_AND_DICE = {"focal": 20.0, "dice": 1.0}  # SAM's weights
LOSS_WEIGHTS = {
    "semi-coupled": FOCAL_AND_DICE,
    "coupled": FOCAL_AND_DICE,
    "prompted": {"bce": 5.0, "dice": 5.0},  # EdgeSAM's
}
IOU_HEAD_WEIGHT = 1.0  # SAM's


@dataclass(frozen=True, eq=False)
class MaskPrompts:
    """N prompts as the decoder takes them, in the model's frame.

    Attributes:
        coords_xy: (N, T, 2) float32 pixels.
        labels: (N, T) int64, as in `core.prompts`.
        mask_logits: (N, 1, S/4, S/4) float32 of the answer to correct; None in the first round.
    """

    coords_xy: Tensor
    labels: Tensor
    mask_logits: Tensor | None = None

    @property
    def is_ambiguous(self) -> Tensor:
        """(N,) bool: a click alone, which SAM answers with three masks."""
        is_click = self.labels[:, 0] == LABEL_FOREGROUND
        return is_click if self.labels.shape[1] == 2 else torch.zeros_like(is_click)

    @property
    def may_answer(self) -> Tensor:
        """(N, 4) bool, the mask tokens that answer: 1 to 3 for a single click, else 0."""
        is_multimask = torch.arange(4, device=self.labels.device) > 0
        return is_multimask == self.is_ambiguous[:, None]

    def corrected(self, points_xy: Tensor, labels: Tensor, mask_logits: Tensor) -> MaskPrompts:
        """Add a click, (N, 2) and (N,), and give back the mask that it corrects, (N, S/4, S/4) logits."""
        return MaskPrompts(
            torch.cat([self.coords_xy, points_xy[:, None]], dim=1),
            torch.cat([self.labels, labels[:, None]], dim=1),
            mask_logits[:, None],
        )


@dataclass(frozen=True, eq=False)
class MaskTargets:
    """What the answers to N prompts shall be.

    Attributes:
        masks: (N, S/4, S/4) bool.
        valid: (N, S/4, S/4) bool, what is picture.
        quality: (N,) float32, how good the masks are: the IoU that the teacher predicts for its own, 1 for annotations.
        tokens: (N,) int64, the mask token whose mask it is, if the prompt is a single click; None if no one knows.
    """

    masks: Tensor
    valid: Tensor
    quality: Tensor
    tokens: Tensor | None


def mask_losses(
    student: Sam, features: Tensor, batch: Batch, teacher: Sam | None, config: TrainConfig
) -> dict[str, Tensor]:
    """Compare the student's masks with what they shall be.

    Args:
        student: its prompt encoder and mask decoder are run; what is frozen in it is the caller's choice.
        features: (B, 256, h, w) the student's embeddings.
        batch: with prompts; with the teacher's features where its masks are the target.
        teacher: its prompt encoder and mask decoder make the target; not used where annotations are it.
        config: its objective, mask targets, clicks, share of boxes and trained parts are used.

    Returns:
        "loss", which is to be minimised, and what it is made of: "focal", "dice" or "bce", "dice" before they are
        weighted, and "iou_head", the squared error of the predicted IoU, which is a part of the loss only where the
        decoder is trained; beside them "mask_iou" with the targets. All () float32, averaged over present prompts and
        rounds.

    Raises:
        ValueError: the batch has no prompts, or lacks the teacher where it is the target.
    """
    prompts = batch.prompts
    if prompts is None or not prompts.is_present.any():
        raise ValueError("losses of masks need prompts, and the batch has none; make it with prompt targets")
    is_prompted = config.objective == "prompted"
    num_clicks = config.num_clicks if is_prompted else 0
    draws = _draws(prompts, 1 + num_clicks)  # (N, 1 + num_clicks)
    targets = _targets(batch, teacher, config)
    clicks_xy = prompts.points_xy[prompts.is_present]  # (N, 2)
    asked = _click_prompts(clicks_xy)
    if is_prompted:
        boxes_xyxy = tight_boxes(targets.masks) if prompts.masks is None else prompts.boxes_xyxy[prompts.is_present]
        is_box = (draws[:, 0] < config.box_rate) & targets.masks.any(dim=(-2, -1))
        asked = _with_boxes(asked, boxes_xyxy, is_box)

    features = features[prompts.is_present.nonzero()[:, 0]]  # (N, 256, h, w)
    weights = LOSS_WEIGHTS[config.objective] | {"iou_head": IOU_HEAD_WEIGHT * (config.parts != "encoder")}
    rounds = []
    for index in range(1 + num_clicks):
        logits, predicted_ious = decode(student, features, asked)
        rounds.append(_round_losses(logits, predicted_ious, asked, targets, weights))
        if index < num_clicks:
            best = predicted_ious.masked_fill(~asked.may_answer, -torch.inf).argmax(dim=1)  # SAM feeds this one back
            answer = _take(logits.detach(), best)
            points_xy, labels, is_wrong = error_clicks(answer > 0, targets.masks, targets.valid, draws[:, 1 + index])
            points_xy = torch.where(is_wrong[:, None], points_xy, clicks_xy)
            asked = asked.corrected(points_xy, labels, answer)
    return {name: torch.stack([losses[name] for losses in rounds]).mean() for name in rounds[0]}


def decode(sam: Sam, features: Tensor, prompts: MaskPrompts) -> tuple[Tensor, Tensor]:
    """Run prompt encoder and mask decoder.

    Args:
        sam: whose they are.
        features: (N, 256, h, w), the embedding for each prompt.
        prompts: N of them.

    Returns:
        Logits (N, 4, 4 * h, 4 * w) and predicted IoU (N, 4) of the four mask tokens, float32.
    """
    prompt_encoder = prompt_encoder_for(sam, features.shape[-1] * EMBEDDING_STRIDE)
    sparse, dense = prompt_encoder((prompts.coords_xy, prompts.labels), None, prompts.mask_logits)
    sparse = sparse[:, :-1]  # the prompts have their padding point where it belongs
    logits, ious = sam.mask_decoder.predict_masks(features, prompt_encoder.get_dense_pe(), sparse, dense)
    return logits.float(), ious.float()


def prompt_encoder_for(sam: Sam, side: int) -> PromptEncoder:
    """Return a model's prompt encoder for frames of another side, in pixels; the weights are shared, not copied."""
    map_side = side // EMBEDDING_STRIDE
    encoder = copy.copy(sam.prompt_encoder)  # shallow: its parameters are those of the original
    encoder.image_embedding_size = (map_side, map_side)
    encoder.input_image_size = (side, side)
    encoder.mask_input_size = (4 * map_side, 4 * map_side)
    return encoder


def error_clicks(masks: Tensor, targets: Tensor, valid: Tensor, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Click where masks are wrong, on any wrong valid pixel, all alike.

    Args:
        masks: (N, h, w) bool, on the decoder's low-resolution grid.
        targets: (N, h, w) bool.
        valid: (N, h, w) bool.
        draws: (N,) float in [0, 1), which choose the pixels.

    Returns:
        Points (N, 2) float32 x, y in model pixels, the middles of cells; labels (N,) int64, 1 where something is
        missing and 0 where there is too much; and whether there was an error, (N,) bool. Without one the label is 1,
        and the point says nothing.
    """
    width = masks.shape[-1]
    wrong = ((masks ^ targets) & valid).flatten(1)  # (N, h * w)
    counts = wrong.sum(dim=1)  # (N,)
    ranks = (draws * counts).long().minimum(counts - 1)
    pixels = (wrong.cumsum(dim=1) <= ranks[:, None]).sum(dim=1)  # (N,) pixels before the one of that rank
    is_wrong = counts > 0
    labels = torch.where(is_wrong, targets.flatten(1).gather(1, pixels[:, None])[:, 0].long(), LABEL_FOREGROUND)
    cells_xy = torch.stack([pixels % width, pixels // width], dim=1)
    return _middle_px(cells_xy), labels, is_wrong


def tight_boxes(masks: Tensor) -> Tensor:
    """Boxes around masks: (N, h, w) bool of low resolution -> (N, 4) float32 XYXY in model pixels; zeros if empty."""
    corners = []
    for axis in (1, 2):  # over y for the columns, over x for the rows
        is_on = masks.any(dim=axis).int()  # (N, w) or (N, h)
        corners.append((is_on.argmax(dim=1), is_on.shape[1] - is_on.flip(1).argmax(dim=1)))
    (x1, x2), (y1, y2) = corners
    boxes_xyxy = torch.stack([x1, y1, x2, y2], dim=1).float() * LOW_RES_STRIDE
    return boxes_xyxy * masks.any(dim=(-2, -1))[:, None]


def _targets(batch: Batch, teacher: Sam | None, config: TrainConfig) -> MaskTargets:
    prompts = batch.prompts
    assert prompts is not None
    is_present = prompts.is_present
    low_res_side = batch.images.shape[-1] // LOW_RES_STRIDE
    pictures = is_present.nonzero()[:, 0]  # (N,)
    valid = valid_cells(batch.input_hw, (low_res_side, low_res_side), LOW_RES_STRIDE)[pictures]  # (N, S/4, S/4)
    if config.mask_targets == "annotations":
        if prompts.masks is None:
            raise ValueError("mask_targets is 'annotations', and the batch has no annotated masks")
        return MaskTargets(
            prompts.masks[is_present] & valid, valid, valid.new_ones(len(valid), dtype=torch.float32), None
        )
    if teacher is None or batch.teacher_features is None:
        raise ValueError("mask_targets is 'teacher': pass the teacher, and its features in the batch")
    with torch.no_grad():
        asked = _click_prompts(prompts.points_xy[is_present])
        logits, predicted_ious = decode(teacher, batch.teacher_features[pictures], asked)
        tokens = 1 + predicted_ious[:, 1:].argmax(dim=1)
        return MaskTargets((_take(logits, tokens) > 0) & valid, valid, _take(predicted_ious, tokens), tokens)


def _round_losses(
    logits: Tensor, predicted_ious: Tensor, asked: MaskPrompts, targets: MaskTargets, weights: dict[str, float]
) -> dict[str, Tensor]:
    """Losses of one answer, averaged over prompts.

    The mask that is trained is the one of the teacher's token; of an annotated object's three, the nearest (SAM's
    rule). The predicted IoU shall be the IoU with the target, times the target's own quality, so that a student equal
    to its teacher has nothing to learn; with annotations all masks that answer are scored, to learn which to choose
    (SAM 2's rule, arXiv 2408.00714).
    """
    names = [name for name in weights if name in LOSS_FUNCTIONS]
    tokens = _trained_tokens(logits, asked, targets, {name: weights[name] for name in names})
    trained = _take(logits, tokens)
    parts = {name: LOSS_FUNCTIONS[name](trained, targets.masks, targets.valid) for name in names}  # each (N,)
    ious = mask_iou(logits, targets.masks[:, None], targets.valid[:, None])  # (N, 4)
    is_trained = torch.arange(4, device=tokens.device) == tokens[:, None]  # (N, 4)
    is_scored = is_trained if targets.tokens is not None else asked.may_answer
    errors = (predicted_ious - targets.quality[:, None] * ious).square() * is_scored
    parts["iou_head"] = errors.sum(dim=1) / is_scored.sum(dim=1)
    losses = {name: values.mean() for name, values in parts.items()}
    losses["mask_iou"] = _take(ious, tokens).mean()
    return {"loss": torch.stack([weight * losses[name] for name, weight in weights.items() if weight]).sum(), **losses}


@torch.no_grad()
def _trained_tokens(logits: Tensor, asked: MaskPrompts, targets: MaskTargets, weights: dict[str, float]) -> Tensor:
    """Choose the mask token that learns from each prompt: (N,) int64."""
    is_ambiguous = asked.is_ambiguous
    if not is_ambiguous.any():
        return torch.zeros_like(is_ambiguous, dtype=torch.int64)
    tokens = targets.tokens
    if tokens is None:
        masks, valid = targets.masks[:, None], targets.valid[:, None]
        costs = [weight * LOSS_FUNCTIONS[name](logits[:, 1:], masks, valid) for name, weight in weights.items()]
        tokens = 1 + torch.stack(costs).sum(dim=0).argmin(dim=1)
    return torch.where(is_ambiguous, tokens, 0)


def _click_prompts(points_xy: Tensor) -> MaskPrompts:
    """(N, 2) model pixels -> a click and a padding point for each."""
    coords_xy = torch.stack([points_xy, torch.zeros_like(points_xy)], dim=1)
    labels = torch.tensor([LABEL_FOREGROUND, LABEL_PADDING], device=points_xy.device)
    return MaskPrompts(coords_xy, labels.expand(len(points_xy), 2))


def _with_boxes(clicks: MaskPrompts, boxes_xyxy: Tensor, is_box: Tensor) -> MaskPrompts:
    """Replace some of the clicks by boxes, (N, 4) and (N,) bool: both are two points."""
    corner_labels = torch.tensor([LABEL_BOX_UPPER_LEFT, LABEL_BOX_LOWER_RIGHT], device=is_box.device)
    return MaskPrompts(
        torch.where(is_box[:, None, None], boxes_xyxy.unflatten(1, (2, 2)), clicks.coords_xy),
        torch.where(is_box[:, None], corner_labels, clicks.labels),
    )


def _draws(prompts: PromptTargets, num_draws: int) -> Tensor:
    """Numbers in [0, 1) for each present prompt, from its picture's seed alone: (N, num_draws) float32."""
    num_prompts = prompts.is_present.shape[1]
    of_pictures = [
        torch.rand((num_prompts, num_draws), generator=torch.Generator().manual_seed(seed))
        for seed in prompts.seeds.tolist()
    ]
    return torch.stack(of_pictures).to(prompts.is_present.device)[prompts.is_present]


def _middle_px(cells_xy: Tensor) -> Tensor:
    """Cells of the low-resolution grid -> the pixel coordinates of their middles, where pixel 0 has its middle at 0."""
    return cells_xy.float() * LOW_RES_STRIDE + (LOW_RES_STRIDE - 1) / 2


def _take(values: Tensor, tokens: Tensor) -> Tensor:
    """(N, 4, ...) and (N,) -> (N, ...), the entry of each prompt's token."""
    return values[torch.arange(len(tokens), device=tokens.device), tokens]
