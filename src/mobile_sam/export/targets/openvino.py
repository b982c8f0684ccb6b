"""OpenVINO IR: the quickest on x86 CPUs, and what Intel's GPUs and NPUs run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobile_sam.core.manifest import OPENVINO_ENGINE
from mobile_sam.export.target import FP32_BOUND, Bound, ExportOptions, TargetSpec, Written

if TYPE_CHECKING:
    from mobile_sam.export.runner import Runner
    from mobile_sam.modeling.sam import Sam

OPTIONS = frozenset({"input_hw", "preprocess", "joint", "num_prompts", "num_points", "calibration"})
NOTES = {
    "fp16": "fp16 is how the weights are stored; CPUs compute in fp32, Intel's GPUs and NPUs in fp16",
    "bf16": "bf16 needs a CPU that computes in it (AVX-512 BF16, AMX); the weights are stored in fp16",
    "int8": "int8 is the encoder's; what is left of it and the decoder run in bf16 where the CPU has it, else in fp32",
}


def spec() -> TargetSpec:
    """See `mobile_sam.export.targets`."""
    return TargetSpec(
        name="openvino",
        summary="OpenVINO IR: x86 and ARM CPUs, Intel's GPUs and NPUs",
        precisions=("fp32", "fp16", "bf16", "int8"),
        extra="export-openvino",
        packages=("torch", "onnx", "openvino", "nncf"),
        bounds={
            "fp32": FP32_BOUND,
            "fp16": Bound(embedding_error=0.005, mask_iou_mean=0.998, mask_iou_min=0.7),
            "bf16": Bound(embedding_error=0.04, mask_iou_mean=0.98, mask_iou_min=0.0),
            "int8": Bound(embedding_error=0.09, mask_iou_mean=0.97, mask_iou_min=0.0),
        },
        options=OPTIONS,
    )


def write(sam: Sam, options: ExportOptions, folder: Path) -> Written:
    """See `mobile_sam.export.targets`.

    Without options that change shapes, the graphs are those of the wheel, for the OpenVINO engine; else those of
    `mobile_sam.export.modules`.

    Raises:
        ValueError: calibration pictures of which none can be read.
    """
    import openvino

    from mobile_sam.export.quantize_openvino import read_traced

    precision = options.precision or "fp32"
    graphs, facts = _graphs(sam, options, precision)
    is_for_engine = not options.asked_for() & (OPTIONS - {"calibration"})
    if is_for_engine:
        from mobile_sam.export.graphs import graph_specs, trace

        specs = {Path(one.file_name).stem: one for one in graph_specs(sam)}
        graphs["decoder"] = read_traced(trace(specs["decoder"]))
    names = {}
    for role, model in graphs.items():
        names[role] = f"{role}.xml"
        openvino.save_model(model, folder / names[role], compress_to_fp16=precision != "fp32")
    notes = (NOTES[precision],) if precision in NOTES else ()
    runtime = OPENVINO_ENGINE if is_for_engine else "openvino"
    return Written(names, runtime, options.num_prompts, options.num_points, notes, facts)


def _graphs(sam: Sam, options: ExportOptions, precision: str) -> tuple[dict[str, Any], dict[str, Any]]:
    from mobile_sam.export.quantize_openvino import quantized_graphs, read_traced

    if precision == "int8":
        return quantized_graphs(sam, options)
    from mobile_sam.export.onnx_files import traced_graphs

    return {role: read_traced(graph) for role, graph in traced_graphs(sam, options).items()}, {}


def open_runner(folder: Path, num_threads: int = 0) -> Runner | None:
    """See `mobile_sam.export.targets`."""
    from mobile_sam.engines.openvino import OpenVinoEngine, is_openvino_folder
    from mobile_sam.export.runner import EngineRunner, open_exported

    if is_openvino_folder(folder):
        return EngineRunner(OpenVinoEngine(folder, num_threads=num_threads))
    return open_exported(folder, num_threads)
