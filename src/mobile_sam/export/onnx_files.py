"""Self-contained ONNX files of the graphs of `mobile_sam.export.modules`, which runtimes and other converters take.

BatchNorm is folded and every weight lies in the file. Nodes are named after the modules they come from, such as
/image_encoder/layers.1/blocks.0/attn/norm/LayerNormalization.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from mobile_sam.export.graphs import OPSET, GraphSpec, trace
from mobile_sam.export.modules import (
    DECODER_INPUTS,
    DECODER_OUTPUTS,
    ENCODER_OUTPUTS,
    DecoderGraph,
    EncoderGraph,
    JointGraph,
    encoder_input_names,
)
from mobile_sam.export.target import ExportOptions
from mobile_sam.modeling.sam import Sam

MIN_OPSET = 13
EXAMPLE_PROMPTS, EXAMPLE_POINTS = 2, 3  # to trace with, where they are not fixed
_POINT_INPUTS = DECODER_INPUTS[1:3]


def onnx_specs(sam: Sam, options: ExportOptions) -> dict[str, GraphSpec]:
    """Describe the graphs that are asked for, by role: encoder, decoder, and joint if asked for."""
    encoder = EncoderGraph(sam, options.input_hw, options.preprocess)
    decoder = DecoderGraph(sam)
    image_names = encoder_input_names(options.preprocess)
    num_points = options.num_prompts or EXAMPLE_PROMPTS, options.num_points or EXAMPLE_POINTS
    axes = _dynamic_axes(options)
    specs = {
        "encoder": GraphSpec("encoder.onnx", encoder, encoder.example_inputs(), image_names, ENCODER_OUTPUTS, {}),
        "decoder": GraphSpec(
            "decoder.onnx", decoder, decoder.example_inputs(*num_points), DECODER_INPUTS, DECODER_OUTPUTS, axes
        ),
    }
    if options.joint:
        joint = JointGraph(encoder, decoder)
        names = (*image_names, *_POINT_INPUTS)
        specs["joint"] = GraphSpec("joint.onnx", joint, joint.example_inputs(*num_points), names, DECODER_OUTPUTS, axes)
    return specs


def _dynamic_axes(options: ExportOptions) -> dict[str, dict[int, str]]:
    """Name the axes of prompts and points that are not fixed."""
    prompts = {} if options.num_prompts else {0: "P"}
    points = prompts | ({} if options.num_points else {1: "N"})
    axes = dict.fromkeys(_POINT_INPUTS, points) | dict.fromkeys(DECODER_OUTPUTS, prompts)
    return {name: named for name, named in axes.items() if named}


def traced_graphs(sam: Sam, options: ExportOptions) -> dict[str, onnx.ModelProto]:
    """Trace the graphs that are asked for, in fp32, by role.

    Raises:
        ValueError: an opset that cannot be.
    """
    opset = options.opset or OPSET
    if not MIN_OPSET <= opset <= OPSET:
        raise ValueError(f"the opset must be {MIN_OPSET} to {OPSET}, got {opset}")
    specs = onnx_specs(sam, options)
    graphs = {role: trace(spec, opset=opset, folds_constants=True) for role, spec in specs.items()}
    for graph in graphs.values():
        _give_each_its_weight(graph)
    return graphs


def _give_each_its_weight(graph: onnx.ModelProto) -> None:
    """Undo the exporter's sharing of equal weights, such as biases of zero: quantizers need a weight to be one."""
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    for node in list(graph.graph.node):
        if node.op_type == "Identity" and node.input[0] in weights:
            copied = graph.graph.initializer.add()
            copied.CopyFrom(weights[node.input[0]])
            copied.name = node.output[0]
            graph.graph.node.remove(node)


def save_graphs(graphs: dict[str, onnx.ModelProto], folder: Path) -> dict[str, str]:
    """Write graphs to a folder, ROLE.onnx each, and return their file names by role."""
    names = {role: f"{role}.onnx" for role in graphs}
    for role, graph in graphs.items():
        (folder / names[role]).write_bytes(graph.SerializeToString(deterministic=True))
    return names
