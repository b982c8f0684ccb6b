"""The model that is imitated: any in the registry, from an official file, frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobile_sam.build_sam import identify_checkpoint
from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.weights import describe_checkpoint
from mobile_sam.data.embedding_format import TeacherRecord
from mobile_sam.engines.base import check_image
from mobile_sam.engines.pytorch import TorchEngine
from mobile_sam.modeling.sam import Sam


@dataclass(frozen=True, eq=False)
class TeacherFeatures:
    """What the teacher says of a picture.

    Attributes:
        features: (256, S/16, S/16) float32, on the teacher's device.
        image_hw: height and width of the picture in pixels.
        input_hw: height and width of its part of the model frame in pixels.
    """

    features: Tensor
    image_hw: tuple[int, int]
    input_hw: tuple[int, int]


class Teacher:
    """A trained model whose embeddings and masks a student shall reproduce; its weights do not change.

    Args:
        checkpoint: an official file (sam_vit_h_4b8939.pth, ...), one of ours, or "mobile_sam" for the bundled weights.
        device: torch's name; None for CUDA, then MPS, then the CPU.
        precision: of the encoder's run: "fp32", or "bf16" or "fp16" through autocast.

    Attributes:
        sam: the model, in eval and without gradients.
        record: who it is, as is written beside its embeddings.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no model that is known here, or the device or precision is unknown.
    """

    def __init__(self, checkpoint: str | Path, *, device: str | None = None, precision: str = "fp32") -> None:
        self.engine = TorchEngine(str(checkpoint), device=device, precision=precision)
        self.sam: Sam = self.engine.model.eval().requires_grad_(False)
        name = identify_checkpoint(self.sam.state_dict())
        assert name is not None  # or it would not have been loaded
        side = self.engine.input_side
        _, sha256 = describe_checkpoint(checkpoint)
        self.record = TeacherRecord(name, sha256, self.engine.model_id, side, precision)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.engine.device

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[TeacherFeatures]:
        """Encode pictures of any sizes as one batch.

        Args:
            images: each (H, W, 3) uint8 RGB.

        Raises:
            ValueError: a picture of another type, shape or dtype.
        """
        for image in images:
            check_image(image)
        resizes = [LongSideResize((image.shape[0], image.shape[1]), self.record.input_side) for image in images]
        pixels = [resize.resize_image(image) for resize, image in zip(resizes, images, strict=True)]
        if not pixels:
            return []
        features = self.encode_resized(pixels)  # (B, 256, S/16, S/16)
        return [
            TeacherFeatures(row, resize.image_hw, resize.input_hw)
            for row, resize in zip(features, resizes, strict=True)
        ]

    def encode_resized(self, pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Encode pictures that have the size of the model frame already, as one batch.

        Args:
            pixels: B pictures, each (h, w, 3) uint8 RGB, the longer side being the frame's.

        Returns:
            (B, 256, S/16, S/16) float32, on the teacher's device.
        """
        order = [0, 1, 2] if self.sam.image_format == "RGB" else [2, 1, 0]
        inputs = [
            self.sam.preprocess(torch.from_numpy(picture).to(self.device)[:, :, order].permute(2, 0, 1)[None])
            for picture in pixels
        ]  # each (1, 3, S, S)
        return self.encode_input(torch.cat(inputs))

    def encode_input(self, model_input: Tensor) -> Tensor:
        """Encode what is normalised and padded: (B, 3, S, S) -> (B, 256, S/16, S/16) float32, on its device."""
        return self.engine.encode_tensor(model_input.to(self.device))
