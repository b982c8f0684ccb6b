"""ONNX graphs, those in the wheel and others: traced from the modules, every weight left in the safetensors file.

Three graphs, opset 20, the last only where it is asked for:

encoder.onnx   image (B, 3, S, S) -> features (B, 256, S/16, S/16)
decoder.onnx   features (1, 256, S/16, S/16), point_coords (P, N, 2), point_labels (P, N),
               mask_input (D, 1, S/4, S/4), has_mask_input (D,) with D = 1 or P, mask_tokens (M,) int64,
               min_iou () -> low_res_logits (R, M, S/4, S/4), iou_predictions (P, M), drawn (R,) int64: the prompts
               with a predicted IoU of at least min_iou, and always the best; -inf for all
encoder_any.onnx
               image (B, 3, H, W) -> features (B, 256, H/16, W/16) for any multiples of 16: encoder.onnx with arithmetic
               on shapes in it, which OpenVINO takes a tenth longer for (ONNX Runtime does not)

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
from mobile_sam.core.weights import ANY_SIZE_ENCODER_GRAPH, DECODER_GRAPH, ENCODER_GRAPH, read_safetensors_header
from mobile_sam.modeling.common import any_size_traced
from mobile_sam.modeling.fast_decoder import FastMaskDecoder
from mobile_sam.modeling.sam import Sam
from mobile_sam.modeling.tiny_vit_sam import TinyViT

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


class _AnySizeEncoder(_Encoder):
    """The same, traced so that height and width stay open."""

    def forward(self, image: Tensor) -> Tensor:
        with any_size_traced():
            return super().forward(image)


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


def any_size_spec(sam: Sam) -> GraphSpec:
    """Describe the encoder's graph that takes pictures of any size.

    Raises:
        ValueError: an encoder that takes only one size: ViT, for its position embedding.
    """
    if not isinstance(sam.image_encoder, TinyViT):
        raise ValueError(f"{type(sam.image_encoder).__name__} takes pictures of one size only; TinyViT takes any")
    side = sam.image_encoder.img_size
    axes = {"image": {0: "B", 2: "H", 3: "W"}, "features": {0: "B", 2: "h", 3: "w"}}
    example = torch.zeros(1, 3, side, side)
    return GraphSpec(ANY_SIZE_ENCODER_GRAPH, _AnySizeEncoder(sam), (example,), ("image",), ("features",), axes)


def export_graphs(
    sam: Sam, weights: Path, folder: Path, *, metadata: Mapping[str, str] | None = None, with_any_size: bool = False
) -> list[Path]:
    """Write the graphs of `sam` to `folder`, pointing into `weights`.

    Args:
        sam: the model, in eval mode, on the CPU.
        weights: the safetensors file that holds its weights; the graphs look for a file of this name beside them.
        folder: where the graphs go.
        metadata: what the graphs shall say of themselves.
        with_any_size: whether to write the third graph too, which `encode(unpadded=True)` needs.

    Returns:
        The paths of the graphs.

    Raises:
        ValueError: weights other than the model's, or an encoder without a third graph.
    """
    paths = []
    for spec in [*graph_specs(sam), *([any_size_spec(sam)] if with_any_size else [])]:
        graph = trace(spec)
        refer_to_weights(graph, weights)
        onnx.helper.set_model_props(graph, dict(metadata or {}))
        path = folder / spec.file_name
        with atomic_path(path) as partial:
            Path(partial).write_bytes(graph.SerializeToString(deterministic=True))
        paths.append(path)
    return paths


def trace(spec: GraphSpec, *, opset: int = OPSET, folds_constants: bool = False) -> onnx.ModelProto:
    """Trace a module to an ONNX graph.

    The exporter that traces (`dynamo=False`) is used because it can leave every parameter as it is: no folding, no
    fusing.

    Args:
        spec: what to trace, in eval mode.
        opset: of ONNX.
        folds_constants: whether to compute what depends on no input, and to fold each BatchNorm into the convolution
            before it; else the initializers are the untouched parameters, under their own names.
    """
    mode = torch.onnx.TrainingMode.EVAL if folds_constants else torch.onnx.TrainingMode.PRESERVE
    if folds_constants:  # else the exporter puts back a wrapper's own mode, train, and that of all within it
        spec.module.eval()
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # the exporter is called deprecated, and sizes are constants on purpose
        traced = Path(folder) / spec.file_name
        torch.onnx.export(
            spec.module, spec.example_inputs, str(traced), dynamo=False, opset_version=opset,
            input_names=list(spec.input_names), output_names=list(spec.output_names), dynamic_axes=spec.dynamic_axes,
            do_constant_folding=folds_constants, training=mode,
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
