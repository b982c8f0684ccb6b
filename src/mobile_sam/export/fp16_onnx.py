"""ONNX graphs in mixed precision: weights and most arithmetic in float16, what goes wrong in float16 in float32.

In float32 stay: normalisations, whose sums of squares leave the range of float16; softmax; the position encoding, whose
phases have more digits than float16; and the inputs and outputs of the graph. Every tensor's type is written into the
graph, as TensorRT's strongly typed networks want it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

FP32_OPS = frozenset({"LayerNormalization", "ReduceMean", "Sqrt", "Softmax", "Sin", "Cos"})
"""Kept in float32; before opset 17 a LayerNormalization is a chain of the second and third and what lies between."""

_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def fp32_nodes(graph: onnx.ModelProto) -> list[str]:
    """Name the nodes that must compute in float32: FP32_OPS, what sines are taken of, and what is in a norm's chain."""
    nodes = [node for node in graph.graph.node if node.op_type != "Shape"]
    makers = {output: node for node in nodes for output in node.output}
    sines = [node for node in nodes if node.op_type in ("Sin", "Cos")]
    names = {node.name for node in nodes if node.op_type in FP32_OPS}
    names |= {node.name for node in _ancestors(sines, makers)} | {node.name for node in _norm_chains(nodes)}
    return [node.name for node in nodes if node.name in names]


def _ancestors(nodes: Iterable[NodeProto], makers: dict[str, NodeProto]) -> list[NodeProto]:
    found: dict[str, NodeProto] = {}
    waiting = list(nodes)
    while waiting:
        for name in waiting.pop().input:
            maker = makers.get(name)
            if maker is not None and maker.name not in found:
                found[maker.name] = maker
                waiting.append(maker)
    return list(found.values())


def _norm_chains(nodes: list[NodeProto]) -> list[NodeProto]:
    """Nodes of normalisations that were written out: those in the module of a ReduceMean, by their name."""
    modules = {node.name.rpartition("/")[0] for node in nodes if node.op_type == "ReduceMean"}
    return [node for node in nodes if node.name.rpartition("/")[0] in modules]


def to_mixed_precision(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Convert a float32 graph without sub-graphs, as `onnx_files.traced_graphs` makes them; the argument is unchanged.

    Values of weights beyond the range of float16 become infinite; none of MobileSAM's is.
    """
    inferred = onnx.shape_inference.infer_shapes(graph)
    _remove_idle_casts(inferred)
    _turn_constants_into_weights(inferred)
    return _Converter(inferred).convert(set(fp32_nodes(inferred)))


def _remove_idle_casts(graph: onnx.ModelProto) -> None:
    """Take out casts to the type that a tensor has already."""
    values = [*graph.graph.value_info, *graph.graph.input]
    dtypes = {value.name: value.type.tensor_type.elem_type for value in values}
    source_of: dict[str, str] = {}
    remaining = []
    for node in graph.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = source_of.get(name, name)
        if node.op_type == "Cast" and dtypes.get(node.input[0]) == node.attribute[0].i:
            source_of[node.output[0]] = node.input[0]
        else:
            remaining.append(node)
    assert not source_of.keys() & {output.name for output in graph.graph.output}
    del graph.graph.node[:]
    graph.graph.node.extend(remaining)


def _turn_constants_into_weights(graph: onnx.ModelProto) -> None:
    """Store float32 constants as weights, so that each user gets them in its precision, rounded at most once."""
    constants = [
        node for node in graph.graph.node if node.op_type == "Constant" and node.attribute[0].t.data_type == _FLOAT
    ]
    for node in constants:
        graph.graph.node.remove(node)
        values = numpy_helper.to_array(node.attribute[0].t)
        graph.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))


class _Converter:
    """Rewrites the nodes one by one, in order, with a cast wherever a tensor crosses between the two precisions."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        self.graph = graph
        values = [*graph.graph.value_info, *graph.graph.input, *graph.graph.output]
        self.dtypes = {value.name: value.type.tensor_type.elem_type for value in values}
        self.weights = {tensor.name: tensor for tensor in graph.graph.initializer}
        self.dtypes |= {name: tensor.data_type for name, tensor in self.weights.items()}
        self.halves: set[str] = set()  # tensors that were float32 and now are float16
        self.nodes: list[NodeProto] = []
        self.casts: dict[tuple[str, int], str] = {}
        self.used: dict[str, TensorProto] = {}

    def convert(self, kept: set[str]) -> onnx.ModelProto:
        """Convert all nodes but those named."""
        for node in self.graph.graph.node:
            self._convert_node(node, is_half=node.name not in kept)
        for output in self.graph.graph.output:
            if output.name in self.halves:
                self._rename_output(output.name)
        converted = onnx.ModelProto()
        converted.CopyFrom(self.graph)
        del converted.graph.node[:], converted.graph.initializer[:], converted.graph.value_info[:]
        converted.graph.node.extend(self.nodes)
        converted.graph.initializer.extend(self.used.values())
        return converted

    def _convert_node(self, source: NodeProto, is_half: bool) -> None:
        node = NodeProto()
        node.CopyFrom(source)
        float_outputs = [name for name in node.output if self.dtypes.get(name) == _FLOAT]
        is_half = is_half and (bool(float_outputs) or self._has_float_input(node))
        wanted = _HALF if is_half else _FLOAT
        for index, name in enumerate(node.input):
            if self.dtypes.get(name) == _FLOAT:
                node.input[index] = self._as(name, wanted)
            elif name in self.weights:
                self.used[name] = self.weights[name]
        if is_half:
            _make_attributes_half(node)
            self.halves.update(float_outputs)
        self.nodes.append(node)

    def _has_float_input(self, node: NodeProto) -> bool:
        return any(self.dtypes.get(name) == _FLOAT for name in node.input)

    def _as(self, name: str, dtype: int) -> str:
        """Name a tensor in the precision that is wanted, adding a cast or a converted weight if there is none yet."""
        has = _HALF if name in self.halves else _FLOAT
        if name in self.weights:
            return self._weight_as(name, dtype)
        if has == dtype:
            return name
        if (name, dtype) not in self.casts:
            cast = f"{name}_as_{'fp16' if dtype == _HALF else 'fp32'}"
            self.nodes.append(helper.make_node("Cast", [name], [cast], name=f"{cast}/Cast", to=dtype))
            self.casts[name, dtype] = cast
        return self.casts[name, dtype]

    def _weight_as(self, name: str, dtype: int) -> str:
        if dtype == _FLOAT:
            self.used[name] = self.weights[name]
            return name
        converted = f"{name}_fp16"
        if converted not in self.used:
            values = numpy_helper.to_array(self.weights[name]).astype(np.float16)
            self.used[converted] = numpy_helper.from_array(values, converted)
        return converted

    def _rename_output(self, name: str) -> None:
        """Give an output of the graph back its precision, under its name."""
        half = f"{name}_fp16"
        for node in self.nodes:
            for names in (node.input, node.output):
                for index, one in enumerate(names):
                    if one == name:
                        names[index] = half
        self.nodes.append(helper.make_node("Cast", [half], [name], name=f"{name}/Cast", to=_FLOAT))


def _make_attributes_half(node: NodeProto) -> None:
    """Have constants and casts of a node give float16 where they gave float32."""
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.i == _FLOAT:
            attribute.i = _HALF
        elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == _FLOAT:
            values = numpy_helper.to_array(attribute.t).astype(np.float16)
            attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
