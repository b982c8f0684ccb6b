"""int8 for onnxruntime: products with the encoder's weights, by quantize and dequantize nodes (QDQ).

Weights are int8 per channel, activations uint8 by calibration. What a group of products costs, such as a layer's MLP,
is measured by quantizing it alone; the worst are left in float32 until the rest is expected to keep to a budget.

Measured of MobileSAM's encoder: quantized alone (two of the calibration's pictures), a convolution moves the embedding
by 0.006 to 0.21, the worst being those whose outputs go to GELU in the first stage and in the last downsampling; a
layer's MLP or attention moves it by 0.002 to 0.023. On six other photographs, one thread (CPU seconds, least of six):

    quantized                                     error   mask IoU of a click   seconds
    nothing                                       0       1                     0.71
    all products                                  0.037   0.992                 0.51
    all but the 18 worst of products and
    convolutions, which keeps to 0.05             0.056   0.987                 0.50

So convolutions are not quantized. Nor are softmax, the products of attention, GELU, normalisations, and the decoder,
which takes little time, and whose few prompt tokens are what a mask depends on.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mobile_sam.build_sam import identify_checkpoint
from mobile_sam.engines.ort_module import onnxruntime_module
from mobile_sam.export.calibration import MAX_VIEWS, encoder_feeds
from mobile_sam.export.target import ExportOptions
from mobile_sam.modeling.sam import Sam

Feed = Mapping[str, NDArray[Any]]
"""Inputs of a graph, by name."""

QUANTIZED_OPS = ("MatMul", "Gemm")
ENCODER_PART = "/image_encoder/"
GROUP_DEPTH = 3
"""How many names of modules make a group: layers.1, blocks.0, mlp."""

ERROR_BUDGET = 0.05
"""Relative error of the embedding that the quantized groups may come to, as far as it can be told from each alone."""

SEARCH_VIEWS = 3
"""Pictures that a group's error is measured on; of more, the order of the groups hardly changes."""

KEPT_IN_FP32: Mapping[str, tuple[str, ...]] = {"vit_t": ()}
"""By architecture, the groups that the search found, so that it need not be run: all of vit_t's keep to the budget."""


def quantize_graphs(
    graphs: dict[str, onnx.ModelProto], sam: Sam, options: ExportOptions, max_views: int = MAX_VIEWS
) -> dict[str, Any]:
    """Quantize the encoder, and that within the joint graph, in place of the graphs given.

    Args:
        graphs: by role, in float32; replaced by quantized ones.
        sam: the model that they are of.
        options: whose calibration, input size and preprocessing are used.
        max_views: calibrate with no more.

    Returns:
        What was left in float32, and the error that each group causes where it was measured.
    """
    for role in {"encoder", "joint"} & set(graphs):
        graphs[role] = with_biases_in_products(graphs[role])
    feeds = encoder_feeds(sam, options.calibration, options.input_hw, options.preprocess, max_views)
    named = _named_feeds(graphs["encoder"], feeds)
    ranges = collect_ranges(graphs["encoder"], named)
    facts: dict[str, Any] = {"num_calibration_views": len(feeds)}
    kept = KEPT_IN_FP32.get(identify_checkpoint(sam.state_dict()) or "")
    if kept is None:
        errors = measure_groups(graphs["encoder"], ranges, named[:SEARCH_VIEWS])
        kept = groups_to_keep(errors)
        facts["embedding_error_by_group"] = {group: round(error, 5) for group, error in errors.items()}
    graphs["encoder"] = quantize(graphs["encoder"], ranges, set(groups_of(graphs["encoder"])) - set(kept))
    if "joint" in graphs:
        points = _example_points(graphs["joint"])
        joint_ranges = collect_ranges(graphs["joint"], [feed | points for feed in named])
        graphs["joint"] = quantize(graphs["joint"], joint_ranges, set(groups_of(graphs["joint"])) - set(kept))
    return facts | {"kept_in_fp32": list(kept)}


def with_biases_in_products(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Have onnxruntime simplify a graph, so that a product and the bias added to it become one Gemm.

    It does so anyway when it loads a graph. Done after quantizing, that would undo it: the Gemm would have an int8
    weight and a float bias, which onnxruntime computes in float32, and no sooner than the unquantized graph.
    """
    onnxruntime = onnxruntime_module()

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "graph.onnx")
        options.log_severity_level = 4
        onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        simplified = onnx.load(options.optimized_model_filepath)
    used = {node.domain for node in simplified.graph.node}
    domains = [entry for entry in simplified.opset_import if entry.domain in used | {""}]
    del simplified.opset_import[:]
    simplified.opset_import.extend(domains)
    return simplified


def _named_feeds(graph: onnx.ModelProto, feeds: Sequence[tuple[NDArray[Any], ...]]) -> list[dict[str, NDArray[Any]]]:
    names = [one.name for one in graph.graph.input]
    return [dict(zip(names, feed, strict=True)) for feed in feeds]


def _example_points(joint: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """Any prompts at all, since nothing that depends on them is quantized."""
    shapes = {one.name: [axis.dim_value or 1 for axis in one.type.tensor_type.shape.dim] for one in joint.graph.input}
    return {name: np.ones(shapes[name], np.float32) for name in ("point_coords", "point_labels")}


def groups_of(graph: onnx.ModelProto) -> dict[str, list[str]]:
    """Group what can be quantized, products with weights in the encoder, by the module they come from.

    Returns:
        Names of nodes by group, such as "layers.1/blocks.0/mlp", in the order of the graph.
    """
    weights = {tensor.name for tensor in graph.graph.initializer}
    groups: dict[str, list[str]] = {}
    for node in graph.graph.node:
        _, is_encoder, path = node.name.partition(ENCODER_PART)
        if is_encoder and node.op_type in QUANTIZED_OPS and node.input[1] in weights:
            group = "/".join(path.split("/")[:-1][:GROUP_DEPTH])
            groups.setdefault(group, []).append(node.name)
    return groups


def collect_ranges(graph: onnx.ModelProto, feeds: Sequence[Feed]) -> Any:
    """Find the range of each activation: the mean over the pictures of its least and of its greatest value.

    The mean leaves out what only one picture has, and so spends the 256 steps on what all have.

    Returns:
        `onnxruntime.quantization.calibrate.TensorsData`.
    """
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes(graph.SerializeToString())
        calibrator = create_calibrator(
            path,
            list(QUANTIZED_OPS),
            str(Path(folder) / "augmented.onnx"),
            CalibrationMethod.MinMax,
            extra_options={"moving_average": True, "averaging_constant": 0.01},
        )
        calibrator.collect_data(_reader(feeds))
        return calibrator.compute_data()


def _reader(feeds: Sequence[Feed]) -> Any:
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Hands out the feeds one by one."""

        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> Feed | None:
            return next(self._feeds, None)

    return Reader()


def quantize(graph: onnx.ModelProto, ranges: Any, groups: Collection[str]) -> onnx.ModelProto:
    """Quantize some groups; the argument is unchanged.

    The outputs of matrix products stay in float32, since what follows computes in float32 anyway.

    Args:
        graph: in float32.
        ranges: of its activations, see `collect_ranges`.
        groups: of `groups_of`; none returns a copy.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    inferred = onnx.shape_inference.infer_shapes(graph)
    nodes = [name for group, names in groups_of(graph).items() if group in groups for name in names]
    if not nodes:  # of which the quantizer would make "all"
        return inferred
    quantizer = QDQQuantizer(
        inferred,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=nodes,
        nodes_to_exclude=[],
        op_types_to_quantize=list(QUANTIZED_OPS),
        extra_options={"OpTypesToExcludeOutputQuantization": list(QUANTIZED_OPS)},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model  # type: ignore[no-any-return]


def measure_groups(graph: onnx.ModelProto, ranges: Any, feeds: Sequence[Feed]) -> dict[str, float]:
    """Measure how far the embedding moves when one group alone is quantized.

    Returns:
        By group, the norm of the difference over the norm, the root of the mean square over the pictures.
    """
    expected = [_run(graph, feed) for feed in feeds]
    errors = {}
    for group in groups_of(graph):
        quantized = quantize(graph, ranges, {group})
        found = [_run(quantized, feed) for feed in feeds]
        errors[group] = relative_rms(found, expected)
    return errors


def relative_rms(found: Sequence[NDArray[np.float32]], expected: Sequence[NDArray[np.float32]]) -> float:
    """Norm of the difference over the norm of what was expected, the root of the mean square over the pairs."""
    ratios = [np.linalg.norm(one - other) / np.linalg.norm(other) for one, other in zip(found, expected, strict=True)]
    return float(np.sqrt(np.mean(np.square(ratios))))


def groups_to_keep(errors: Mapping[str, float], budget: float = ERROR_BUDGET) -> tuple[str, ...]:
    """Choose the groups that stay in float32: the worst, until the others keep to the budget.

    Errors of different groups are taken for independent, so that their squares add up.

    Args:
        errors: of each group alone.
        budget: what all that are quantized may come to.

    Returns:
        The groups, the worst first.
    """
    kept: list[str] = []
    for group in sorted(errors, key=errors.__getitem__, reverse=True):
        if math.sqrt(sum(error**2 for other, error in errors.items() if other not in kept)) <= budget:
            break
        kept.append(group)
    return tuple(kept)


def _run(graph: onnx.ModelProto, feed: Feed) -> NDArray[np.float32]:
    onnxruntime = onnxruntime_module()

    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    features: NDArray[np.float32] = session.run(None, dict(feed))[0]
    return features
