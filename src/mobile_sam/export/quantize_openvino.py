"""int8 for OpenVINO: NNCF's post-training quantization, with weights that were rounded for what they multiply.

What takes part was found by measurement (docs/log.md). Left in bf16 or fp32: depthwise convolutions and the products of
attention, for which int8 is no quicker; the decoder; and groups of layers that cost more of the embedding than they
save. SmoothQuant is off, since it moves the spread of activations into weights, where it did more harm.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mobile_sam.build_sam import identify_checkpoint
from mobile_sam.export.calibration import calibration_inputs, encoder_feeds
from mobile_sam.export.onnx_files import traced_graphs
from mobile_sam.export.quantize_onnx import ENCODER_PART, groups_to_keep, relative_rms
from mobile_sam.export.rounding import round_weights
from mobile_sam.export.target import ExportOptions
from mobile_sam.modeling.sam import Sam

NEVER_QUANTIZED = (
    r".*/conv2/c/Conv",
    r".*/local_conv/c/Conv",  # depthwise, as the line above
    r".*/attn/MatMul_[34]",  # queries with keys, weights with values
    r".*token_decoder.*",
    r".*upscaler.*",
)
"""Patterns of node names."""

NUM_VIEWS, NUM_MEASURED = 24, 3
"""Pictures to calibrate with, and those of them that a group's error is measured on."""

ERROR_BUDGET = 0.04
"""Relative error of the embedding that quantizing activations may cause, as far as it can be told by group."""

KEPT: Mapping[str, tuple[str, ...]] = {
    "vit_t": (
        "patch_embed/seq", "layers.0/blocks.0", "layers.0/blocks.1", "layers.0/downsample", "layers.2/downsample",
    ),
}  # fmt: skip
"""Groups that are not quantized, by model, from `measure_groups` over 12 photographs. Without any, the error of the
embedding is 0.106; of its square these cause 22 % (stem), 20 % (layers.0) and 8 % (layers.2/downsample)."""


def quantized_graphs(sam: Sam, options: ExportOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """Quantize the encoder, and that within the joint graph.

    Args:
        sam: the model, which is not changed.
        options: what the graphs take, and what to calibrate with.

    Returns:
        `openvino.Model` by role; and what was left in higher precision, with the errors if they were measured.

    Raises:
        ValueError: calibration pictures of which none can be read.
    """
    name = identify_checkpoint(sam.state_dict()) or ""
    feeds = encoder_feeds(sam, options.calibration, options.input_hw, options.preprocess, NUM_VIEWS)
    facts: dict[str, Any] = {"num_calibration_views": len(feeds)}
    if name in KEPT:
        kept = KEPT[name]
    else:
        quantized = _quantize(read_traced(traced_graphs(sam, options)["encoder"]), feeds, ())
        contributions = measure_groups(quantized, feeds[:NUM_MEASURED])
        kept = groups_to_keep(contributions, ERROR_BUDGET)
        facts["embedding_error_by_group"] = {group: round(error, 5) for group, error in contributions.items()}
    rounded = copy.deepcopy(sam)
    if options.preprocess:
        inputs = calibration_inputs(sam, options.calibration, options.input_hw, NUM_VIEWS)
    else:
        inputs = [image[0] for (image,) in feeds]
    round_weights(rounded.image_encoder, inputs, lambda layer, _: not _is_in(layer, kept))
    graphs = {role: read_traced(graph) for role, graph in traced_graphs(rounded, options).items()}
    points = [np.ones((options.num_prompts or 1, options.num_points or 2, 2), np.float32)]
    points.append(points[0][..., 0])
    graphs["encoder"] = _quantize(graphs["encoder"], feeds, kept)
    if "joint" in graphs:
        graphs["joint"] = _quantize(graphs["joint"], [(*feed, *points) for feed in feeds], kept)
    return graphs, facts | {"kept_in_higher_precision": list(kept)}


def read_traced(graph: onnx.ModelProto) -> Any:
    """Make an OpenVINO model of a traced graph."""
    import openvino

    return openvino.Core().read_model(graph.SerializeToString())


def _quantize(model: Any, feeds: Sequence[tuple[NDArray[Any], ...]], kept: Collection[str]) -> Any:
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters

    patterns = [*NEVER_QUANTIZED, *(f".*{ENCODER_PART}{group}/.*" for group in kept)]
    with _quiet(nncf):
        return nncf.quantize(
            model,
            nncf.Dataset([list(feed) for feed in feeds]),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(feeds),
            ignored_scope=nncf.IgnoredScope(patterns=patterns, validate=False),
            advanced_parameters=AdvancedQuantizationParameters(
                smooth_quant_alphas=AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
            ),
        )


def measure_groups(quantized: Any, feeds: Sequence[tuple[NDArray[Any], ...]]) -> dict[str, float]:
    """Measure what the quantized activations of each group add to the error of the embedding.

    Args:
        quantized: a quantized encoder; unchanged.
        feeds: its inputs.

    Returns:
        By group, such as "layers.1/blocks.0": the root of what the square of the error loses without its quantizers.
    """
    exact = _embeddings(_without(quantized, set(_groups(quantized))), feeds)

    def error(model: Any) -> float:
        return relative_rms(_embeddings(model, feeds), exact)

    whole = error(quantized)
    return {
        group: math.sqrt(max(0.0, whole**2 - error(_without(quantized, {group})) ** 2)) for group in _groups(quantized)
    }


def _groups(model: Any) -> list[str]:
    found = (_group_of(node) for node in model.get_ordered_ops() if node.get_type_name() == "FakeQuantize")
    return list(dict.fromkeys(group for group in found if group))


def _group_of(node: Any) -> str:
    _, _, path = node.friendly_name.partition(ENCODER_PART)
    return "/".join(path.split("/")[:2])


def _without(quantized: Any, groups: Collection[str]) -> Any:
    """Copy a model without the activation quantizers of some groups."""
    model = quantized.clone()
    for node in model.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize" and _group_of(node) in groups:
            node.output(0).replace(node.input(0).get_source_output())
    return model


def _embeddings(model: Any, feeds: Sequence[tuple[NDArray[Any], ...]]) -> list[NDArray[np.float32]]:
    import openvino

    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [compiled(list(feed))[0] for feed in feeds]


def _is_in(layer: str, groups: Collection[str]) -> bool:
    """Tell whether a layer of the image encoder, such as "layers.1.blocks.0.attn.qkv", is in one of the groups."""
    return any(layer.startswith(group.replace("/", ".") + ".") for group in groups)


@contextlib.contextmanager
def _quiet(nncf: Any) -> Any:
    """Keep NNCF's progress bars and advice from the terminal."""
    nncf.set_log_level(logging.ERROR)
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,  # an encoding that has what bars are drawn with
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield
