"""What one training step sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PromptTargets:
    """P prompts for each picture of a batch, in the student's model frame.

    They are made where the pictures are read, from the run's seed, the picture's key and the epoch alone.

    Attributes:
        points_xy: (B, P, 2) float32, a click for each prompt, in pixels of the S x S frame.
        boxes_xyxy: (B, P, 4) float32, a box around each object, slightly off; zeros where the teacher's masks are the
            target.
        masks: (B, P, S/4, S/4) bool, annotated masks; None if the teacher's masks are the target.
        is_present: (B, P) bool, False for what only fills up a picture with fewer objects.
        seeds: (B,) int64, for further draws.
    """

    points_xy: Tensor
    boxes_xyxy: Tensor
    masks: Tensor | None
    is_present: Tensor
    seeds: Tensor

    def to(self, device: torch.device) -> PromptTargets:
        """Bring all tensors to a device, but for the seeds."""
        masks = None if self.masks is None else self.masks.to(device)
        points_xy, boxes_xyxy = self.points_xy.to(device), self.boxes_xyxy.to(device)
        return PromptTargets(points_xy, boxes_xyxy, masks, self.is_present.to(device), self.seeds)

    def pin_memory(self) -> PromptTargets:
        """Bring all tensors to memory that a GPU reads by itself; torch's loader asks for it by this name."""
        return replace(self, **_pinned(vars(self)))


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures as the student sees them, and what it shall say of them.

    Attributes:
        keys: names of the pictures.
        images: (B, 3, S, S) uint8, padded with zeros at the bottom and right.
        input_hw: (B, 2) int64, height and width of the part that is picture, in pixels.
        teacher_features: (B, 256, S/16, S/16) float32; None where annotations are the target, and before an online
            teacher was asked.
        prompts: for objectives with masks.
        teacher_images: (B, 3, T, T) uint8 for an online teacher, as `images`, with T its own input side; None where
            that is S.
        teacher_input_hw: (B, 2) int64, as `input_hw` for `teacher_images`.
    """

    keys: tuple[str, ...]
    images: Tensor
    input_hw: Tensor
    teacher_features: Tensor | None = None
    prompts: PromptTargets | None = None
    teacher_images: Tensor | None = None
    teacher_input_hw: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Bring all tensors to a device."""
        names = ("images", "input_hw", "teacher_features", "teacher_images", "teacher_input_hw")
        tensors = {name: getattr(self, name) for name in names}
        moved = {name: value.to(device, non_blocking=True) for name, value in tensors.items() if value is not None}
        return replace(self, **moved, prompts=None if self.prompts is None else self.prompts.to(device))

    def pin_memory(self) -> Batch:
        """Bring all tensors to memory that a GPU reads by itself; torch's loader asks for it by this name."""
        prompts = None if self.prompts is None else self.prompts.pin_memory()
        return replace(self, **_pinned(vars(self)), prompts=prompts)


def _pinned(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.pin_memory() for name, value in values.items() if isinstance(value, Tensor)}


def normalised(images: Tensor, input_hw: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalise pictures and leave their padding at zero, as `Sam.preprocess` does.

    Args:
        images: (B, 3, S, S) uint8.
        input_hw: (B, 2) height and width of the part that is picture.
        mean: (3, 1, 1) of the channels.
        std: (3, 1, 1) of the channels.

    Returns:
        (B, 3, S, S) float32.
    """
    side = torch.arange(images.shape[-1], device=images.device)
    is_row, is_column = side < input_hw[:, :1], side < input_hw[:, 1:]  # each (B, S)
    is_picture = is_row[:, None, :, None] & is_column[:, None, None, :]  # (B, 1, S, S)
    return torch.where(is_picture, (images.float() - mean) / std, 0.0)
