"""What the runners of other tools' contracts share. They do in numpy what those programs do around the graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.geometry import INPUT_SIDE, PIXEL_MEAN, PIXEL_STD
from mobile_sam.core.masks import upscale_to_mask
from mobile_sam.core.prompts import LABEL_BOX_LOWER_RIGHT, LABEL_BOX_UPPER_LEFT, Prompt
from mobile_sam.engines.ort_module import onnxruntime_module
from mobile_sam.export.runner import Answer


def open_session(path: Path, num_threads: int) -> Any:
    """Open a graph on ONNX Runtime's CPU provider."""
    onnxruntime = onnxruntime_module()

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def prompt_points(prompt: Prompt) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """List the points of a prompt, then the corners of its box: (N, 2) in pixels of the picture, labels (N,)."""
    if prompt.box_xyxy is None:
        return prompt.points_xy, prompt.labels.astype(np.float32)
    corner_labels = np.array([LABEL_BOX_UPPER_LEFT, LABEL_BOX_LOWER_RIGHT], np.float32)
    coords_xy = np.concatenate([prompt.points_xy, prompt.box_xyxy.reshape(2, 2)])
    return coords_xy, np.concatenate([prompt.labels.astype(np.float32), corner_labels])


def normalise_and_pad(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Make what SAM's image encoders take of RGB pixels: (h, w, 3) -> (1, 3, 1024, 1024)."""
    h, w, _ = pixels.shape
    padded = np.zeros((INPUT_SIDE, INPUT_SIDE, 3), np.float32)
    padded[:h, :w] = (pixels - np.array(PIXEL_MEAN, np.float32)) / np.array(PIXEL_STD, np.float32)
    return np.ascontiguousarray(padded.transpose(2, 0, 1)[None])


class FrameRunner:
    """A runner of a program that resizes pictures to the model's frame and enlarges low-resolution masks itself.

    Attributes:
        encoder: session.
        decoder: session.
        features: of the picture that was encoded last, (1, 256, 64, 64).
        image_hw: its height and width.
        input_hw: those of its part of the model's frame.
    """

    features: NDArray[np.float32]
    image_hw: tuple[int, int]
    input_hw: tuple[int, int]

    def __init__(self, encoder: Path, decoder: Path, num_threads: int) -> None:
        self.encoder, self.decoder = open_session(encoder, num_threads), open_session(decoder, num_threads)

    def to_model(self, coords_xy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Move points of the picture to the model's frame: (N, 2) -> (N, 2)."""
        scale_yx = np.array(self.input_hw) / np.array(self.image_hw)
        moved: NDArray[np.float32] = (coords_xy * scale_yx[::-1]).astype(np.float32)
        return moved

    def draw(self, answer: Answer) -> NDArray[np.bool_]:
        """See `Runner.draw`."""
        return np.stack([upscale_to_mask(logits, self.input_hw, self.image_hw) for logits in answer.masks])
