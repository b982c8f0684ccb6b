"""ONNX for onnxruntime: as a model folder that all engines of ours run, or as files by the options that were given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobile_sam.core.weights import DECODER_GRAPH, ENCODER_GRAPH, FOLDER_WEIGHTS
from mobile_sam.export.target import FP32_BOUND, Bound, ExportOptions, TargetSpec, Written

if TYPE_CHECKING:
    from mobile_sam.export.runner import Runner
    from mobile_sam.modeling.sam import Sam

OPTIONS = frozenset({"input_hw", "preprocess", "joint", "num_prompts", "num_points", "calibration", "opset"})
FP16_NOTE = "fp16 is for GPUs and for half the size: on most CPUs onnxruntime casts it to fp32 and takes longer"
INT8_NOTE = (
    "int8 needs a CPU with VNNI (x86) or dot product (ARM); on older x86 CPUs sums may saturate, which changes masks"
)


def spec() -> TargetSpec:
    """See `mobile_sam.export.targets`."""
    return TargetSpec(
        name="onnx",
        summary="onnxruntime, on servers, desktops and phones",
        precisions=("fp32", "fp16", "int8"),
        extra="export",
        packages=("torch", "onnx", "onnxruntime"),
        bounds={
            "fp32": FP32_BOUND,
            "fp16": Bound(embedding_error=0.01, mask_iou_mean=0.99, mask_iou_min=0.5),
            "int8": Bound(embedding_error=0.1, mask_iou_mean=0.98, mask_iou_min=0.3),
        },
        options=OPTIONS,
    )


def write(sam: Sam, options: ExportOptions, folder: Path) -> Written:
    """See `mobile_sam.export.targets`.

    Raises:
        ValueError: an opset that cannot be; calibration pictures of which none can be read.
    """
    precision = options.precision or "fp32"
    if precision == "fp32" and not options.asked_for() & (OPTIONS - {"calibration"}):
        return _write_model_folder(sam, folder)
    from mobile_sam.export.onnx_files import save_graphs, traced_graphs

    graphs = traced_graphs(sam, options)
    notes: tuple[str, ...] = ()
    facts: dict[str, Any] = {}
    if precision == "fp16":
        from mobile_sam.export.fp16_onnx import to_mixed_precision

        graphs = {role: to_mixed_precision(graph) for role, graph in graphs.items()}
        notes = (FP16_NOTE,)
    elif precision == "int8":
        from mobile_sam.export.quantize_onnx import quantize_graphs

        facts = quantize_graphs(graphs, sam, options)
        notes = (INT8_NOTE,)
    names = save_graphs(graphs, folder)
    return Written(names, "onnxruntime", options.num_prompts, options.num_points, notes, facts)


def _write_model_folder(sam: Sam, folder: Path) -> Written:
    from mobile_sam.export.model_folder import write_model_folder

    write_model_folder(sam, folder)
    return Written({"encoder": ENCODER_GRAPH, "decoder": DECODER_GRAPH}, "model_folder")


def open_runner(folder: Path, num_threads: int = 0) -> Runner | None:
    """See `mobile_sam.export.targets`."""
    from mobile_sam.engines.ort import OrtEngine
    from mobile_sam.export.runner import EngineRunner, open_exported

    if (folder / FOLDER_WEIGHTS).is_file():
        return EngineRunner(OrtEngine(folder, num_threads=num_threads))
    return open_exported(folder, num_threads)
