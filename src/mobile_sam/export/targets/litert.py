"""LiteRT graphs (`.tflite`, formerly TensorFlow Lite), for Android, iOS, microprocessors and the web.

encoder.tflite, decoder.tflite, joint.tflite, as in `mobile_sam.export.modules`, pictures in PyTorch's layout. Numbers
of prompts and points are fixed. In fp16 the weights lie in the file as float16 and a CPU multiplies in float32. In int8
the weights are int8 per channel; activations are quantized, as they come, where a fully connected layer takes them, and
convolutions multiply in float32, since masks fall apart otherwise (docs/log.md). No calibration is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mobile_sam.export.programs import fixed_counts, recordables
from mobile_sam.export.runner import EngineRunner, open_exported
from mobile_sam.export.target import FP32_BOUND, Bound, ExportOptions, TargetSpec, Written
from mobile_sam.modeling.common import attention_written_out
from mobile_sam.modeling.sam import Sam


def spec() -> TargetSpec:
    """See `mobile_sam.export.targets`."""
    return TargetSpec(
        name="litert",
        summary="LiteRT (.tflite, once TensorFlow Lite), for Android, iOS and small devices",
        precisions=("fp32", "fp16", "int8"),
        extra="export-litert",
        packages=("torch", "litert_torch"),
        bounds={"fp32": FP32_BOUND, "fp16": Bound(0.01, 0.99, 0.6), "int8": Bound(0.1, 0.95, 0.4)},
        options=frozenset({"input_hw", "preprocess", "joint", "num_prompts", "num_points"}),
    )


def write(sam: Sam, options: ExportOptions, folder: Path) -> Written:
    """See `mobile_sam.export.targets`."""
    import litert_torch

    num_prompts, num_points = fixed_counts(options)
    graphs = {}
    for role, (module, inputs) in recordables(sam, options, num_prompts, num_points).items():
        graphs[role] = f"{role}.tflite"
        path = folder / graphs[role]
        with torch.no_grad(), attention_written_out():
            litert_torch.convert(module, inputs).export(str(path))
        if options.precision in ("fp16", "int8"):
            _shrink(path, _fp16_recipe() if options.precision == "fp16" else _int8_recipe())
    return Written(graphs, runtime="litert", num_prompts=num_prompts, num_points=num_points)


def _shrink(path: Path, recipe: Any) -> None:
    """Store the weights of a graph in lower precision, in place."""
    from ai_edge_quantizer.quantizer import Quantizer

    quantizer = Quantizer(str(path))
    quantizer.load_quantization_recipe(recipe)
    quantizer.quantize().export_model(str(path), overwrite=True)


def _int8_recipe() -> Any:
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.recipe_manager import RecipeManager

    manager = RecipeManager()
    manager.add_weight_only_config(".*", TFLOperationName.ALL_SUPPORTED, num_bits=8)
    manager.add_dynamic_config(".*", TFLOperationName.FULLY_CONNECTED, num_bits=8)
    return manager.get_quantization_recipe()


def _fp16_recipe() -> Any:
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.recipe_manager import RecipeManager

    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    manager = RecipeManager()
    manager.add_quantization_config(
        ".*",
        qtyping.TFLOperationName.ALL_SUPPORTED,
        qtyping.OpQuantizationConfig(weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT),
        AlgorithmName.FLOAT_CASTING,
    )
    return manager.get_quantization_recipe()


def open_runner(folder: Path, num_threads: int = 0) -> EngineRunner:
    """See `mobile_sam.export.targets`."""
    return open_exported(folder, num_threads)
