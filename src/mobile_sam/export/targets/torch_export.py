"""Programs of torch.export (`.pt2`): the network without its code, for PyTorch, AOTInductor and converters.

encoder.pt2, decoder.pt2, joint.pt2, as in `mobile_sam.export.modules`; numbers of prompts and points are free where
none is asked for. In bf16 and fp16 the arithmetic is that of autocast, with LayerNorm, softmax and the border in
float32, and weights lie in the file as they are multiplied.

There is no TorchScript (`.pt`), which PyTorch calls deprecated in favour of torch.export.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from mobile_sam.export.modules import DecoderGraph
from mobile_sam.export.programs import dynamic_points, record, recordables
from mobile_sam.export.runner import EngineRunner, open_exported
from mobile_sam.export.target import FP32_BOUND, Bound, ExportOptions, TargetSpec, Written
from mobile_sam.modeling.sam import Sam

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
CASTS = [{(torch.ops.aten._to_copy.default, dtype)} for dtype in DTYPES.values()]
EXAMPLE_PROMPTS, EXAMPLE_POINTS = 2, 3  # to record with where they are free; torch.export would fix sizes of 0 and 1

VERSION_NOTE = (
    "A .pt2 is read by the version of torch that wrote it and by later ones, as far as PyTorch keeps its promise."
)


def spec() -> TargetSpec:
    """See `mobile_sam.export.targets`."""
    return TargetSpec(
        name="torch-export",
        summary="torch.export programs (.pt2), for PyTorch without this package; TorchScript is deprecated",
        precisions=("fp32", *DTYPES),
        extra="export",
        packages=("torch",),
        bounds={"fp32": FP32_BOUND, "bf16": Bound(0.05, 0.97, 0.4), "fp16": Bound(0.01, 0.99, 0.6)},
        options=frozenset({"input_hw", "preprocess", "joint", "num_prompts", "num_points"}),
    )


class _LowPrecision(nn.Module):
    """A module whose matrix products and convolutions are of a lower precision; float32 goes in and comes out."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module, dtype

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        with torch.autocast("cpu", self.dtype):
            answer = self.module(*inputs)
        return tuple(one.float() for one in answer) if isinstance(answer, tuple) else answer.float()


def write(sam: Sam, options: ExportOptions, folder: Path) -> Written:
    """See `mobile_sam.export.targets`."""
    example_counts = options.num_prompts or EXAMPLE_PROMPTS, options.num_points or EXAMPLE_POINTS
    graphs = {}
    for role, (module, inputs) in recordables(sam, options, *example_counts).items():
        free = dynamic_points(options, role, len(inputs))
        if options.precision in DTYPES:
            wrapped = _LowPrecision(module, DTYPES[options.precision])
            is_flat = free is not None and isinstance(module, DecoderGraph)  # the wrapper takes *inputs
            program = record((wrapped, inputs), (free,) if is_flat else free)
            program = program.run_decompositions({})  # autocast becomes casts
            store_as_cast(program)
        else:
            program = record((module, inputs), free)
        program.example_inputs = None  # which would lie in the file
        graphs[role] = f"{role}.pt2"
        torch.export.save(program, folder / graphs[role])
    return Written(
        graphs,
        runtime="torch_export",
        num_prompts=options.num_prompts,
        num_points=options.num_points,
        notes=(VERSION_NOTE,),
    )


def store_as_cast(program: ExportedProgram) -> None:
    """Store parameters that are cast wherever they are used as what they are cast to, and drop the casts, in place."""
    weights = program.state_dict
    key_of = program.graph_signature.inputs_to_parameters
    nodes = [node for node in program.graph.nodes if node.name in key_of]
    stored: dict[int, tuple[nn.Parameter, Any]] = {}
    for node in nodes:
        casts = list(node.users)
        if {(user.target, user.kwargs.get("dtype")) for user in casts} not in CASTS:
            continue
        weight = weights[key_of[node.name]]
        cast_weight = nn.Parameter(weight.detach().to(casts[0].kwargs["dtype"]), requires_grad=False)
        stored[weight.data_ptr()] = cast_weight, casts[0].meta["val"]
        for cast in casts:
            cast.replace_all_uses_with(node)
            program.graph.erase_node(cast)
    by_key = {key: stored.get(weight.data_ptr()) for key, weight in weights.items()}  # one weight may have several keys
    for node in nodes:
        if (found := by_key[key_of[node.name]]) is not None:
            weights[key_of[node.name]], node.meta["val"] = found
    program.graph_module.recompile()


def open_runner(folder: Path, num_threads: int = 0) -> EngineRunner:
    """See `mobile_sam.export.targets`."""
    return open_exported(folder, num_threads)
