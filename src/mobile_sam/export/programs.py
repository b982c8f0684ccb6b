"""The modules of `mobile_sam.export.modules` as programs of torch.export, which several targets begin with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mobile_sam.export.modules import DecoderGraph, EncoderGraph, JointGraph
from mobile_sam.export.target import MAX_POINTS, ExportOptions
from mobile_sam.modeling.sam import Sam

Recordable = tuple[nn.Module, tuple[Tensor, ...]]
"""A module, and inputs to record it with."""


def fixed_counts(options: ExportOptions) -> tuple[int, int]:
    """Numbers of prompts and of points of each, for a target that needs them."""
    return options.num_prompts or 1, options.num_points or MAX_POINTS


def recordables(sam: Sam, options: ExportOptions, num_prompts: int, num_points: int) -> dict[str, Recordable]:
    """Make the modules that are asked for, by role, with inputs of so many prompts and points."""
    encoder, decoder = EncoderGraph(sam, options.input_hw, options.preprocess).eval(), DecoderGraph(sam).eval()
    made: dict[str, Recordable] = {
        "encoder": (encoder, encoder.example_inputs()),
        "decoder": (decoder, decoder.example_inputs(num_prompts, num_points)),
    }
    if options.joint:
        joint = JointGraph(encoder, decoder).eval()
        made["joint"] = (joint, joint.example_inputs(num_prompts, num_points))
    return made


def record(recordable: Recordable, dynamic_shapes: Any = None) -> ExportedProgram:
    """Record a module, without gradients; every size is fixed that is not said to be free."""
    module, inputs = recordable
    with torch.no_grad():
        return torch.export.export(module, inputs, dynamic_shapes=dynamic_shapes)


def dynamic_points(options: ExportOptions, role: str, num_inputs: int) -> tuple[Any, ...] | None:
    """Say which axes of a graph's inputs are free: prompts and points where no number was asked for.

    Args:
        options: what is asked for.
        role: of the graph.
        num_inputs: how many inputs it has.

    Returns:
        For each input the free axes, as `torch.export.export` takes them; None where there are none.
    """
    if role == "encoder" or (options.num_prompts and options.num_points):
        return None
    axes = {} if options.num_prompts else {0: Dim("P", min=1)}
    axes |= {} if options.num_points else {1: Dim("N", min=1)}
    first = 1 if role == "decoder" else num_inputs - 2  # coordinates, then labels
    free: list[Any] = [{} for _ in range(num_inputs)]
    free[first], free[first + 1] = axes, axes
    return (tuple(free),) if role == "joint" else tuple(free)  # the joint module takes *inputs
