"""ExecuTorch programs (`.pte`) with XNNPACK, for apps on Android, iOS and small Linux boards.

encoder.pte, decoder.pte, joint.pte, as in `mobile_sam.export.modules`, with one method, `forward`. Numbers of prompts
and points are fixed. What XNNPACK has no operator for (LayerNorm, choices between tensors) is computed by ExecuTorch's
own kernels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mobile_sam.export.programs import Recordable, fixed_counts, record, recordables
from mobile_sam.export.runner import EngineRunner, open_exported
from mobile_sam.export.target import FP32_BOUND, ExportOptions, TargetSpec, Written
from mobile_sam.modeling.common import attention_written_out
from mobile_sam.modeling.sam import Sam

VERSION_NOTE = "The app's ExecuTorch must not be older than the executorch package that wrote the files."
THREADS_NOTE = "Threads are set for the whole process, by ExecuTorch's own thread pool."


def spec() -> TargetSpec:
    """See `mobile_sam.export.targets`."""
    return TargetSpec(
        name="executorch",
        summary="ExecuTorch (.pte) with XNNPACK, for Android, iOS and embedded Linux",
        precisions=("fp32",),
        extra="export-executorch",
        packages=("torch", "executorch"),
        bounds={"fp32": FP32_BOUND},
        options=frozenset({"input_hw", "preprocess", "joint", "num_prompts", "num_points"}),
    )


def write(sam: Sam, options: ExportOptions, folder: Path) -> Written:
    """See `mobile_sam.export.targets`."""
    num_prompts, num_points = fixed_counts(options)
    graphs, shares = {}, {}
    for role, recordable in recordables(sam, options, num_prompts, num_points).items():
        content, shares[role] = lower(recordable)
        graphs[role] = f"{role}.pte"
        (folder / graphs[role]).write_bytes(content)
    return Written(
        graphs,
        runtime="executorch",
        num_prompts=num_prompts,
        num_points=num_points,
        notes=(VERSION_NOTE, THREADS_NOTE),
        facts={"share of operators on XNNPACK": shares},
    )


def lower(recordable: Recordable) -> tuple[bytes, float]:
    """Lower a module to an ExecuTorch program; also return the share of its operators that XNNPACK computes."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.devtools.backend_debug import get_delegation_info
    from executorch.exir import to_edge_transform_and_lower

    with attention_written_out():
        program = record(recordable)
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    share = _delegated_share(get_delegation_info(edge.exported_program().graph_module))
    return bytes(edge.to_executorch().buffer), share


def _delegated_share(info: Any) -> float:
    counts = [count for name, count in info.delegation_by_operator.items() if name != "getitem"]  # picks an output
    delegated = sum(count.delegated for count in counts)
    share: float = delegated / sum(count.delegated + count.non_delegated for count in counts)
    return round(share, 3)


def open_runner(folder: Path, num_threads: int = 0) -> EngineRunner:
    """See `mobile_sam.export.targets`."""
    return open_exported(folder, num_threads)
