"""Prompts to train with, made where pictures are read: from the run's seed, the picture's key and the epoch alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.masks import mask_to_logits
from mobile_sam.core.prompts import LOW_RES_STRIDE
from mobile_sam.data.annotations import tight_box
from mobile_sam.data.clicks import object_rng, random_pixel
from mobile_sam.data.picture_set import PictureSample, SampleError
from mobile_sam.data.records import Instance
from mobile_sam.distill.batches import PromptTargets
from mobile_sam.distill.config import TrainConfig

MIN_LOW_RES_PX = 16
"""Objects of fewer pixels on the grid of the decoder's masks are left out: their outline is not on it."""

BOX_JITTER = 0.1
"""Standard deviation of the noise on a box's corners, as a share of its sides (SAM, arXiv 2304.02643, appendix A)."""
MAX_JITTER = 20 / 1024
"""The most that a corner moves, as a share of the side of the model's frame; SAM's 20 px of 1024."""


@dataclass(frozen=True, eq=False)
class PicturePrompts:
    """P prompts for one picture, in the student's model frame; see `PromptTargets`.

    Attributes:
        points_xy: (P, 2) float32.
        boxes_xyxy: (P, 4) float32; zeros where the teacher's masks are the target.
        masks: (P, S/4, S/4) bool; None where the teacher's masks are the target.
        is_present: (P,) bool.
        seed: for further draws.
    """

    points_xy: NDArray[np.float32]
    boxes_xyxy: NDArray[np.float32]
    masks: NDArray[np.bool_] | None
    is_present: NDArray[np.bool_]
    seed: int


def make_prompt_targets(config: TrainConfig, sample: PictureSample, epoch: int) -> PicturePrompts:
    """Draw `config.prompts_per_picture` prompts for a picture.

    Where the teacher's masks are the target, clicks lie anywhere in the picture, all pixels of the model's frame alike.
    Where annotations are, different objects are drawn, all alike, with a click on any of their pixels and a box that is
    slightly off; if there are fewer, the rest is not present.

    Args:
        config: its seed, input side, mask targets and number of prompts are used.
        sample: the picture, with its instances where annotations are the target.
        epoch: pass over the data; each has prompts of its own.

    Raises:
        SampleError: "no usable object" where annotations are the target and all are crowds or too small;
            "mask of another size" if a mask is not of the picture's size.
    """
    rng = object_rng(config.seed, sample.key, f"epoch {epoch}")
    resize = LongSideResize(sample.image.shape[:2], config.input_side)
    num_prompts = config.prompts_per_picture
    seed = int(rng.integers(2**63))
    points_xy, boxes_xyxy = np.zeros((num_prompts, 2), np.float32), np.zeros((num_prompts, 4), np.float32)
    if config.mask_targets == "teacher":
        points_xy[:] = rng.integers(0, resize.input_hw[::-1], (num_prompts, 2))
        return PicturePrompts(points_xy, boxes_xyxy, None, np.ones(num_prompts, bool), seed)

    objects = _draw_objects(sample, resize, num_prompts, rng)
    low_res_side = resize.side // LOW_RES_STRIDE
    masks = np.zeros((num_prompts, low_res_side, low_res_side), bool)
    for row, (mask, low_res_mask) in enumerate(objects):
        points_xy[row] = resize.to_model(random_pixel(mask, rng))
        boxes_xyxy[row] = _jittered(resize.boxes_to_model(tight_box(mask)), resize, rng)
        masks[row] = low_res_mask
    return PicturePrompts(points_xy, boxes_xyxy, masks, np.arange(num_prompts) < len(objects), seed)


def stack_prompt_targets(pictures: Sequence[PicturePrompts]) -> PromptTargets:
    """Make a batch of the prompts of B pictures, which all have as many."""
    masks = [picture.masks for picture in pictures if picture.masks is not None]
    assert len(masks) in (0, len(pictures)), "the pictures of a batch have one kind of target"
    return PromptTargets(
        points_xy=torch.from_numpy(np.stack([picture.points_xy for picture in pictures])),
        boxes_xyxy=torch.from_numpy(np.stack([picture.boxes_xyxy for picture in pictures])),
        masks=torch.from_numpy(np.stack(masks)) if masks else None,
        is_present=torch.from_numpy(np.stack([picture.is_present for picture in pictures])),
        seeds=torch.tensor([picture.seed for picture in pictures], dtype=torch.int64),
    )


def _draw_objects(
    sample: PictureSample, resize: LongSideResize, num_objects: int, rng: np.random.Generator
) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Masks of up to so many usable objects: (H, W) bool of the picture, and (S/4, S/4) bool on the decoder's grid."""
    usable: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]] = []
    for index in rng.permutation(len(sample.instances)).tolist():
        if sample.instances[index].is_crowd:
            continue
        mask = _checked_mask(sample, sample.instances[index])
        low_res_mask = _low_res(mask, resize)
        if np.count_nonzero(low_res_mask) >= MIN_LOW_RES_PX:
            usable.append((mask, low_res_mask))
            if len(usable) == num_objects:
                return usable
    if not usable:
        raise SampleError(
            sample.key,
            "no usable object",
            f"none of its {len(sample.instances)} annotated objects can be learned from: each is a crowd or under "
            f"{MIN_LOW_RES_PX} px of {LOW_RES_STRIDE} x {LOW_RES_STRIDE} model pixels; leave the picture out",
        )
    return usable


def _checked_mask(sample: PictureSample, instance: Instance) -> NDArray[np.bool_]:
    mask, image_hw = instance.mask, sample.image.shape[:2]
    if mask.shape != image_hw:
        raise SampleError(
            sample.key,
            "mask of another size",
            f"object {instance.id} has a mask of {mask.shape}, the picture is {image_hw} (H, W); "
            "annotate the picture as it is stored",
        )
    return mask


def _low_res(mask: NDArray[np.bool_], resize: LongSideResize) -> NDArray[np.bool_]:
    """Bring a mask to the decoder's grid, by the larger share of each cell: (H, W) -> (S/4, S/4) bool."""
    side = resize.side // LOW_RES_STRIDE
    if not mask.any():  # which cannot be a mask prompt
        return np.zeros((side, side), bool)
    return mask_to_logits(mask, resize.input_hw, resize.side, side) > 0


def _jittered(box_xyxy: NDArray[np.float64], resize: LongSideResize, rng: np.random.Generator) -> NDArray[np.float64]:
    """Move the corners of a box as SAM's training did, and cut it to the picture: (4,) XYXY in the model's frame."""
    sides_xyxy = np.tile(box_xyxy[2:] - box_xyxy[:2], 2)
    max_px = MAX_JITTER * resize.side
    moved_xyxy = box_xyxy + np.clip(rng.normal(0, BOX_JITTER * sides_xyxy), -max_px, max_px)
    height, width = resize.input_hw
    return np.clip(moved_xyxy, 0, [width, height, width, height])
