"""What a part of the model frame is compared with: PyTorch on the same part."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mobile_sam.engines.pytorch import TorchEngine
from mobile_sam.export.modules import EncoderGraph


class PartEngine(TorchEngine):
    """PyTorch in fp32 on the CPU that encodes only the upper left part of the square, as an export can.

    Args:
        weights: see `TorchEngine`.
        part_hw: height and width in pixels of the model frame.
    """

    def __init__(self, weights: str | Path | None, part_hw: tuple[int, int]) -> None:
        super().__init__(weights, device="cpu")
        self._graph = EncoderGraph(self.model, part_hw).eval()

    def encode_tensor(self, model_input: Tensor) -> Tensor:
        """See `TorchEngine.encode_tensor`; what it is given is the whole square."""
        h, w = self._graph.input_hw
        with torch.no_grad():
            return torch.cat([self._graph(one[None, :, :h, :w]) for one in model_input])
