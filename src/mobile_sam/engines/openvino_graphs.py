"""The decoder's graph cut for OpenVINO: judge prompts in one model, draw those that are worth it in another.

OpenVINO runs the graph of the wheel as it is, but a graph whose sizes depend on values (`NonZero`) and that embeds a
mask nobody gave takes a click twice the time. So the graph that was read is cut into three models, by its structure and
its names; no second copy of the decoder exists. `openvino` objects are untyped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

POINT_INPUTS = ("point_coords", "point_labels")
MASK_INPUTS = ("mask_input", "has_mask_input")
NO_MASK_EMBED = "prompt_encoder.no_mask_embed.weight"


@dataclass(frozen=True, eq=False)
class DecoderModels:
    """A decoder in parts, not yet compiled. P prompts, M masks each, T tokens, L = (S/16) ** 2 image tokens.

    Attributes:
        embed: point_coords (P, N, 2), point_labels (P, N) -> tokens (P, T, 256). To be run in fp32 whatever the rest is
            run in: where a point lies is a phase, of which bf16 keeps no more than to 4 pixels.
        judge: tokens, point_coords, point_labels, mask_tokens, image_tokens (1, L, 256) -> predicted IoU (P, M),
            weights of the masks (P, M, 32), image tokens (P, L, 256).
        judge_with_mask: the same of features (1, 256, S/16, S/16) and masks in place of the image tokens.
        draw: image tokens (R, L, 256), weights (R, M, 32) -> logits (R, M, S/4, S/4).
        no_mask_embed: (256, 1), what is added to the features where no prompt has a mask.
    """

    embed: Any
    judge: Any
    judge_with_mask: Any
    draw: Any
    no_mask_embed: NDArray[np.float32]

    @classmethod
    def read(cls, core: Any, path: Path, weights: dict[str, NDArray[np.float32]] | None = None) -> DecoderModels:
        """Read a graph, ONNX or IR, and cut it; `weights` take the place of those that it refers to."""
        graph = read_graph(core, path, weights)
        embed, judge, judge_with_mask, draw = (graph.clone() for _ in range(4))  # which cutting changes
        return cls(
            _embed(embed),
            _judge(judge, has_mask=False),
            _judge(judge_with_mask, has_mask=True),
            _draw(draw),
            _no_mask(graph),
        )


def read_graph(core: Any, path: Path, weights: dict[str, NDArray[np.float32]] | None = None) -> Any:
    """Read a graph, and put other weights in the place of those that it refers to, by their names."""
    graph = core.read_model(str(path))
    if weights:
        from openvino import opset13 as ops

        for node in graph.get_ops():
            if node.get_type_name() == "Constant" and node.friendly_name in weights:
                own = ops.constant(weights[node.friendly_name], name=node.friendly_name)
                node.output(0).replace(own.output(0))
    return graph


def _embed(graph: Any) -> Any:
    import openvino
    from openvino import opset13 as ops

    inputs = [graph.input(name).get_node() for name in POINT_INPUTS]
    return openvino.Model([ops.result(_all_tokens(graph))], inputs, "embed")


def _judge(graph: Any, *, has_mask: bool) -> Any:
    import openvino
    from openvino import opset13 as ops

    image_tokens, mask_weights = (gather.input(0).get_source_output() for gather in _gathers(graph))
    results = [ops.result(value) for value in (_result_of(graph, "iou_predictions"), mask_weights, image_tokens)]
    inputs = [_cut(_all_tokens(graph), "tokens")]
    inputs += [graph.input(name).get_node() for name in (*POINT_INPUTS, "mask_tokens")]  # coordinates for their number
    features = graph.input("features").get_node()
    if has_mask:
        inputs += [features, *(graph.input(name).get_node() for name in MASK_INPUTS)]
    else:
        _, num_channels, h, w = graph.input("features").get_shape()
        flat = _following(features, "Transpose").output(0)  # (D, L, C)
        inputs.append(_cut(flat, "image_tokens", [1, h * w, num_channels]))
    return openvino.Model(results, inputs, "judge")


def _draw(graph: Any) -> Any:
    import openvino
    from openvino import opset13 as ops

    logits = _result_of(graph, "low_res_logits")
    chosen = zip(("image_tokens", "mask_weights"), _gathers(graph), strict=True)
    inputs = [_cut(gather.output(0), name) for name, gather in chosen]
    return openvino.Model([ops.result(logits)], inputs, "draw")


def _cut(value: Any, name: str, shape: list[int] | None = None) -> Any:
    """Put a new input in the place of a value within a graph."""
    from openvino import opset13 as ops

    given = ops.parameter(shape or value.partial_shape, np.float32, name)
    given.output(0).set_names({name})
    value.replace(given.output(0))
    return given


def _all_tokens(graph: Any) -> Any:
    """The decoder's own tokens and those of the points, (P, T, C): where both are joined along the second axis."""
    joins = (node for node in graph.get_ordered_ops() if node.get_type_name() == "Concat" and node.get_axis() == 1)
    joined = next(node for node in joins if node.output(0).partial_shape.rank == 3)  # later ones join masks
    return joined.output(0)


def _no_mask(graph: Any) -> NDArray[np.float32]:
    constants = (node for node in graph.get_ops() if node.get_type_name() == "Constant")
    (found,) = (node for node in constants if node.friendly_name.startswith(NO_MASK_EMBED))
    return np.array(found.data, np.float32).reshape(-1, 1)


def _result_of(graph: Any, name: str) -> Any:
    return graph.output(name).get_node().input(0).get_source_output()


def _gathers(graph: Any) -> list[Any]:
    """Where the prompts that are drawn are chosen: of image tokens, then of mask weights."""
    drawn = _result_of(graph, "drawn")
    gathers = [
        target.get_node()
        for target in drawn.get_target_inputs()
        if target.get_node().get_type_name() == "Gather" and target.get_index() == 1
    ]
    return sorted(gathers, key=lambda gather: -int(gather.output(0).partial_shape[2].get_length()))


def _following(node: Any, type_name: str) -> Any:
    """The first node of a type that a chain of single consumers leads to, those of its shape left out."""
    while node.get_type_name() != type_name:
        consumers = [target.get_node() for target in node.output(0).get_target_inputs()]
        (node,) = (consumer for consumer in consumers if consumer.get_type_name() != "ShapeOf")
    return node
