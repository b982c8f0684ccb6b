"""ONNX graphs, those in the wheel and others: traced from the modules, every weight left in the safetensors file.

Two graphs, opset 20:

encoder.onnx   image (B, 3, S, S) -> features (B, 256, S/16, S/16)
decoder.onnx   features (1, 256, S/16, S/16), point_coords (P, N, 2), point_labels (P, N),
               mask_input (D, 1, S/4, S/4), has_mask_input (D,) with D = 1 or P, mask_tokens (M,) int64,
               min_iou () -> low_res_logits (R, M, S/4, S/4), iou_predictions (P, M), drawn (R,) int64: the prompts
               with a predicted IoU of at least min_iou, and always the best; -inf for all

The initializers carry the official keys and are ONNX "external data": file, offset and length of the same bytes in the
safetensors file. BatchNorm is left in the graph, and runtimes fold it when they load it, because a folded weight would
have to be stored again.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from mobile_sam.core.files import atomic_path
from mobile_sam.core.weights import DECODER_GRAPH, ENCODER_GRAPH, read_safetensors_header
from mobile_sam.modeling.fast_decoder import FastMaskDecoder
from mobile_sam.modeling.sam import Sam

OPSET = 20
IR_VERSION = 9  # what onnxruntime 1.17 and later read


@dataclass(frozen=True)
class GraphSpec:
    """A module to trace, with the names of its inputs and outputs."""

    file_name: str
    module: nn.Module
    example_inputs: tuple[Tensor, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    dynamic_axes: dict[str, dict[int, str]]


class _Encoder(nn.Module):
    """The image encoder under the name that its keys begin with."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.image_encoder = sam.image_encoder

    def forward(self, image: Tensor) -> Tensor:
        return self.image_encoder(image)  # type: ignore[no-any-return]


class _Decoder(nn.Module):
    """The fast decoder, with the parts it reads under the names that their keys begin with."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.prompt_encoder, self.mask_decoder = sam.prompt_encoder, sam.mask_decoder
        self.fast = FastMaskDecoder(sam)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.fast(*inputs)  # type: ignore[no-any-return]


def graph_specs(sam: Sam) -> list[GraphSpec]:
    """Describe the two graphs of a model."""
    side, (h, w) = sam.image_encoder.img_size, sam.prompt_encoder.image_embedding_size
    channels = sam.prompt_encoder.embed_dim
    points, labels = torch.zeros(2, 3, 2), torch.ones(2, 3)
    mask, has_mask = torch.zeros(1, 1, 4 * h, 4 * w), torch.zeros(1)
    return [
        GraphSpec(
            ENCODER_GRAPH, _Encoder(sam), (torch.zeros(1, 3, side, side),), ("image",), ("features",),
            {"image": {0: "B"}, "features": {0: "B"}},
        ),
        GraphSpec(
            DECODER_GRAPH, _Decoder(sam),
            (
                torch.zeros(1, channels, h, w), points, labels, mask, has_mask, torch.tensor([1, 2, 3]),
                torch.tensor(0.0),
            ),
            ("features", "point_coords", "point_labels", "mask_input", "has_mask_input", "mask_tokens", "min_iou"),
            ("low_res_logits", "iou_predictions", "drawn"),
            {
                "point_coords": {0: "P", 1: "N"}, "point_labels": {0: "P", 1: "N"}, "mask_input": {0: "D"},
                "has_mask_input": {0: "D"}, "mask_tokens": {0: "M"}, "low_res_logits": {0: "R", 1: "M"},
                "iou_predictions": {0: "P", 1: "M"}, "drawn": {0: "R"},
            },
        ),
    ]  # fmt: skip


def export_graphs(sam: Sam, weights: Path, folder: Path, *, metadata: Mapping[str, str] | None = None) -> list[Path]:
    """Write the two graphs of `sam` to `folder`, pointing into `weights`.

    Args:
        sam: the model, in eval mode, on the CPU.
        weights: the safetensors file that holds its weights; the graphs look for a file of this name beside them.
        folder: where the graphs go.
        metadata: what the graphs shall say of themselves.

    Returns:
        The paths of the graphs.
    """
    paths = []
    for spec in graph_specs(sam):
        graph = trace(spec)
        refer_to_weights(graph, weights)
        onnx.helper.set_model_props(graph, dict(metadata or {}))
        path = folder / spec.file_name
        with atomic_path(path) as partial:
            Path(partial).write_bytes(graph.SerializeToString(deterministic=True))
        paths.append(path)
    return paths


def trace(spec: GraphSpec) -> onnx.ModelProto:
    """Trace a module to an ONNX graph whose initializers are the untouched parameters, under their own names.

    The exporter that traces (`dynamo=False`) is used because it keeps them so: no folding, no fusing.
    """
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # the exporter is called deprecated, and sizes are constants on purpose
        traced = Path(folder) / spec.file_name
        torch.onnx.export(
            spec.module, spec.example_inputs, str(traced), dynamo=False, opset_version=OPSET,
            input_names=list(spec.input_names), output_names=list(spec.output_names), dynamic_axes=spec.dynamic_axes,
            do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE,
        )  # fmt: skip
        graph = onnx.load(traced)
    graph.ir_version = IR_VERSION
    return graph


def refer_to_weights(model: onnx.ModelProto, weights: Path) -> None:
    """Replace the bytes of each initializer that is in `weights` by a reference to them, in place.

    Raises:
        ValueError: an initializer has the name of a weight and another value.
    """
    header, data_start = read_safetensors_header(weights)
    content = np.memmap(weights, np.uint8, mode="r")
    for initializer in model.graph.initializer:
        entry = header.get(initializer.name)
        if entry is None:
            continue
        start, end = (data_start + offset for offset in entry["data_offsets"])
        if numpy_helper.to_array(initializer).tobytes() != content[start:end].tobytes():
            raise ValueError(f"{initializer.name} of the module differs from {weights}; load the module from that file")
        initializer.ClearField("raw_data")
        initializer.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", weights.name), ("offset", start), ("length", end - start)):
            initializer.external_data.add(key=key, value=str(value))
