"""Modules with the inputs and outputs that other tools' programs have written down, and the files of them.

These programs were made for SAM: a square of 1024 pixels, an embedding of (1, 256, 64, 64). SAM's own decoder contract
is `mobile_sam.utils.onnx.SamOnnxModel`; here is what others ask for.
"""

from __future__ import annotations

import logging
from copy import deepcopy
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobile_sam.core.geometry import INPUT_SIDE
from mobile_sam.core.prompts import LABEL_ABSENT, LABEL_BOX_UPPER_LEFT, LABEL_PADDING
from mobile_sam.engines.ort_module import onnxruntime_module
from mobile_sam.export.graphs import GraphSpec, trace
from mobile_sam.modeling.fast_decoder import MaskTokenDecoder, MaskUpscaler
from mobile_sam.modeling.sam import Sam
from mobile_sam.utils.onnx import INPUT_NAMES, OUTPUT_NAMES, OUTPUT_NAMES_WITH_METRICS, SamOnnxModel

CLIENT_OPSET = 17
"""Of ONNX; the onnxruntime-web of SAM's demo (1.14) and the onnxruntime of the labelling tools read it."""

OLDEST_OPSET, NEWEST_OPSET = 13, 20
_IR_VERSION_8_UNTIL = 18  # later opsets came with files that the programs above do not read anyway


def require_sam_frame(sam: Sam, client: str) -> None:
    """Check that a model has the frame that other tools' programs expect.

    Raises:
        ValueError: its input side is another.
    """
    side = sam.image_encoder.img_size
    if side != INPUT_SIDE:
        raise ValueError(
            f"{client} expects models for {INPUT_SIDE} x {INPUT_SIDE} px, and this one was made for {side} x {side}; "
            "export it to another target, such as onnx"
        )


def write_graph(spec: GraphSpec, folder: Path, opset: int | None = None) -> Path:
    """Trace a module to a file of its own, weights and all.

    Raises:
        ValueError: an opset that cannot be written.
    """
    opset = opset or CLIENT_OPSET
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ValueError(f"the opset must be {OLDEST_OPSET} to {NEWEST_OPSET}, got {opset}")
    graph = trace(spec, opset=opset, folds_constants=True)
    if opset <= _IR_VERSION_8_UNTIL:
        graph.ir_version = 8
    onnx.checker.check_model(graph)
    path = folder / spec.file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(graph.SerializeToString(deterministic=True))
    return path


def quantize_weights(path: Path, op_types: tuple[str, ...] | None = None, *, per_channel: bool = False) -> None:
    """Quantize the weights of a graph to uint8, in place; activations are quantized as they come, in each run.

    Args:
        path: the graph.
        op_types: of the operators whose weights are quantized; None for all that ONNX Runtime can.
        per_channel: whether each output channel of a weight has a step of its own.
    """
    onnxruntime_module()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logger = logging.getLogger()
    was_disabled, logger.disabled = logger.disabled, True  # it warns of each tensor that is no weight
    try:
        quantize_dynamic(
            path,
            path,
            op_types_to_quantize=op_types and list(op_types),
            per_channel=per_channel,
            weight_type=QuantType.QUInt8,
        )
    finally:
        logger.disabled = was_disabled


def sam_decoder_spec(sam: Sam, decoder: nn.Module, file_name: str, *, has_metrics: bool = False) -> GraphSpec:
    """Describe a decoder of SAM's own contract: one prompt of any number of points."""
    (h, w), channels = sam.prompt_encoder.image_embedding_size, sam.prompt_encoder.embed_dim
    example_inputs = (
        torch.zeros(1, channels, h, w), torch.full((1, 5, 2), 100.0), torch.ones(1, 5),
        torch.zeros(1, 1, 4 * h, 4 * w), torch.zeros(1), torch.tensor([300.0, 451.0]),
    )  # fmt: skip
    axes = {
        "point_coords": {1: "num_points"},
        "point_labels": {1: "num_points"},
        "masks": {2: "height", 3: "width"},
    }
    outputs = OUTPUT_NAMES_WITH_METRICS if has_metrics else OUTPUT_NAMES
    return GraphSpec(file_name, decoder, example_inputs, INPUT_NAMES, outputs, axes)


def with_approximate_gelu(module: nn.Module) -> nn.Module:
    """Return a copy whose GELUs are computed by tanh, for runtimes without the error function."""
    copied = deepcopy(module)
    for part in copied.modules():
        if isinstance(part, nn.GELU):
            part.approximate = "tanh"
    return copied


def hide_padding_beside_boxes(labels: Tensor) -> Tensor:
    """Make padding points of prompts with a box absent, since SAM's predictor adds none there: (P, N) -> (P, N)."""
    has_box = (labels == LABEL_BOX_UPPER_LEFT).any(dim=1, keepdim=True)  # (P, 1)
    return torch.where((labels == LABEL_PADDING) & has_box, float(LABEL_ABSENT), labels)


class PixelEncoder(nn.Module):
    """An image encoder that takes pixels of any height and width up to S, and normalises and pads them itself.

    Args:
        sam: the model.
        channels_last: whether it takes (h, w, 3), or else (1, 3, h, w).
    """

    def __init__(self, sam: Sam, channels_last: bool) -> None:
        super().__init__()
        self.sam = sam
        self.channels_last = channels_last

    def forward(self, image: Tensor) -> Tensor:
        """Encode RGB pixels of 0 to 255, float32 or uint8 -> (1, C, S/16, S/16)."""
        pixels = image.permute(2, 0, 1)[None] if self.channels_last else image  # (1, 3, h, w)
        normalised = (pixels.float() - self.sam.pixel_mean) / self.sam.pixel_std
        side = self.sam.image_encoder.img_size
        padded = F.pad(normalised, (0, side - normalised.shape[3], 0, side - normalised.shape[2]))
        features: Tensor = self.sam.image_encoder(padded)
        return features


class LabelledDecoder(nn.Module):
    """SAM's decoder contract for programs that add a padding point to every prompt: beside a box it is not seen."""

    def __init__(self, decoder: SamOnnxModel) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, image_embeddings: Tensor, point_coords: Tensor, point_labels: Tensor, *rest: Tensor) -> Tensor:
        """See `SamOnnxModel.forward`."""
        labels = hide_padding_beside_boxes(point_labels)
        answer: Tensor = self.decoder(image_embeddings, point_coords, labels, *rest)
        return answer


class PointDecoder(nn.Module):
    """A decoder for programs that add no padding point and have no masks: points and corners of boxes only."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.prompt_encoder = sam.prompt_encoder
        self.token_decoder, self.upscaler = MaskTokenDecoder(sam), MaskUpscaler(sam)

    def forward(
        self, features: Tensor, point_coords: Tensor, point_labels: Tensor, dense_pe: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Decode P prompts.

        Args:
            features: (1, C, h, w), or (P, C, h, w).
            point_coords: (P, N, 2) float32, model pixels.
            point_labels: (P, N) float32: 1, 0, 2, 3, -1 and -10.
            dense_pe: (1, C, h, w), see `MaskTokenDecoder`.

        Returns:
            Predicted IoU (P, 4) and logits (P, 4, 4h, 4w).
        """
        coords_xy = torch.cat([point_coords, torch.zeros_like(point_coords[:, :1])], dim=1)  # (P, N + 1, 2)
        labels = torch.cat([point_labels, torch.full_like(point_labels[:, :1], LABEL_PADDING)], dim=1)
        h, w = self.prompt_encoder.image_embedding_size
        no_mask = torch.zeros(1, 1, 4 * h, 4 * w, device=features.device)
        iou, mask_weights, image_tokens = self.token_decoder(
            features, coords_xy, hide_padding_beside_boxes(labels), no_mask, no_mask[0, 0, 0, :1], dense_pe
        )
        return iou, self.upscaler(image_tokens, mask_weights)
