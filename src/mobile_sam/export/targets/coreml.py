"""Core ML: `.mlpackage` for iOS 16, macOS 13 and later, by way of torch.export.

Conversion works anywhere, but only macOS runs the result. Elsewhere what was written is read back and checked: see
`mobile_sam.export.coreml_check`.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mobile_sam.export.modules import DECODER_INPUTS, DECODER_OUTPUTS, ENCODER_OUTPUTS, encoder_input_names
from mobile_sam.export.target import FP32_BOUND, Bound, ExportOptions, TargetSpec, Written

if TYPE_CHECKING:
    from mobile_sam.export.runner import Runner
    from mobile_sam.modeling.sam import Sam

FP32_LAYERS = frozenset({"layer_norm", "sin", "cos"})
"""Types of operations that stay in fp32 under fp16."""

POSITION_STEPS = frozenset(
    {"add", "cast", "concat", "expand_dims", "mul", "real_div", "slice_by_index", "split", "sub"}
)
"""Types of the operations from coordinates to their sines, which stay in fp32 too: fp16 is half a pixel off at 1000."""

QUANTIZED_LAYERS = ("conv", "conv_transpose", "linear")
"""Types of operations whose weights are stored in int8; positions and the like are left alone."""

CAN_RUN = platform.system() == "Darwin"

NOT_RUN_NOTE = (
    "not run here: Core ML runs on macOS and iOS only; "
    "`mobile-sam export --to coreml` on a Mac runs it and reports parity"
)
IMAGE_NOTE = (
    "the encoder's image is a Core ML image, an RGB pixel buffer of its size; pixels beyond valid_hw do not count"
)


def spec() -> TargetSpec:
    """See `mobile_sam.export.targets`. The bounds of fp16 and int8 are expectations: they were never measured."""
    return TargetSpec(
        name="coreml",
        summary="Core ML .mlpackage for iPhone, iPad and Mac",
        precisions=("fp16", "fp32", "int8"),
        extra="export-coreml",
        packages=("torch", "coremltools"),
        bounds={
            "fp32": FP32_BOUND,
            "fp16": Bound(embedding_error=0.01, mask_iou_mean=0.99, mask_iou_min=0.8),
            "int8": Bound(embedding_error=0.1, mask_iou_mean=0.95, mask_iou_min=0.5),
        },
        options=frozenset({"input_hw", "preprocess", "joint", "num_prompts", "num_points"}),
        not_run_here=None if CAN_RUN else NOT_RUN_NOTE,
    )


def write(sam: Sam, options: ExportOptions, folder: Path) -> Written:
    """See `mobile_sam.export.targets`; int8 is that of weights alone, with arithmetic in fp16.

    Raises:
        ValueError: an image encoder other than TinyViT.
    """
    from mobile_sam.export.coreml_check import check_package
    from mobile_sam.export.four_axes import four_axis_recordables
    from mobile_sam.export.programs import fixed_counts

    precision = options.precision or spec().precisions[0]
    num_prompts, num_points = fixed_counts(options)
    graphs, facts = {}, {}
    for role, (module, inputs) in four_axis_recordables(sam, options, num_prompts, num_points).items():
        names = input_names(role, options.preprocess)
        model = convert(module, inputs, names, output_names(role), precision)
        graphs[role] = f"{role}.mlpackage"
        model.save(str(folder / graphs[role]))
        facts[role] = check_package(folder / graphs[role], module, precision, names, output_names(role))
    notes = ([] if CAN_RUN else [NOT_RUN_NOTE]) + [IMAGE_NOTE] * options.preprocess
    return Written(graphs, "coreml", num_prompts, num_points, tuple(notes), {"checked": facts})


def open_runner(folder: Path, num_threads: int = 0) -> Runner | None:
    """See `mobile_sam.export.targets`."""
    if not CAN_RUN:
        return None
    from mobile_sam.export.runner import open_exported

    return open_exported(folder, num_threads)


def input_names(role: str, has_preprocessing: bool) -> tuple[str, ...]:
    """Names of a graph's inputs, in order."""
    if role == "decoder":
        return DECODER_INPUTS
    image = encoder_input_names(has_preprocessing)
    return image if role == "encoder" else (*image, "point_coords", "point_labels")


def output_names(role: str) -> tuple[str, ...]:
    """Names of a graph's outputs, in order."""
    return ENCODER_OUTPUTS if role == "encoder" else DECODER_OUTPUTS


def convert(
    module: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str], outputs: Sequence[str], precision: str
) -> Any:
    """Convert a module to an ML program with float32 inputs and outputs, or an image in place of uint8 pixels.

    Args:
        module: in eval mode.
        inputs: to record it with; all sizes are fixed to theirs.
        names: of the inputs, in order.
        outputs: names of the outputs, in order.
        precision: "fp32", "fp16" or "int8".

    Returns:
        coremltools' MLModel, not yet saved.
    """
    import coremltools as ct
    import numpy as np

    recorded, recorded_inputs = module, inputs
    takes_pixels = inputs[0].dtype == torch.uint8
    if takes_pixels:
        recorded = _OfImage(module).eval()
        recorded_inputs = (inputs[0].permute(2, 0, 1)[None].float().contiguous(), *inputs[1:])  # (1, 3, h, w)
    types: list[Any] = [
        ct.TensorType(name=name, shape=tuple(one.shape), dtype=np.float32)
        for name, one in zip(names, recorded_inputs, strict=True)
    ]
    if takes_pixels:
        shape = tuple(recorded_inputs[0].shape)
        types[0] = ct.ImageType(name=names[0], shape=shape, color_layout=ct.colorlayout.RGB)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of versions, of torch's renamings, of channels that are all 0 in int8
        program = torch.export.export(recorded, recorded_inputs).run_decompositions({})
        model = ct.convert(
            program,
            inputs=types,
            outputs=[ct.TensorType(name=name, dtype=np.float32) for name in outputs],
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS16,
            compute_precision=_compute_precision(precision),
            skip_model_load=not CAN_RUN,
        )
        return _quantized(model) if precision == "int8" else model


class _OfImage(nn.Module):
    """A graph that takes pixels (h, w, 3), of pixels (1, 3, h, w), as Core ML hands over an image."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.of_pixels = graph

    def forward(self, image: Tensor, *others: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.of_pixels(image[0].permute(1, 2, 0), *others)  # type: ignore[no-any-return]


def _compute_precision(precision: str) -> Any:
    import coremltools as ct

    if precision == "fp32":
        return ct.precision.FLOAT32
    return ct.transform.FP16ComputePrecision(op_selector=lambda op: not stays_fp32(op))


def stays_fp32(op: Any) -> bool:
    """Whether an operation of coremltools' intermediate language is computed in fp32 where the rest is in fp16."""
    return op.op_type in FP32_LAYERS or _leads_to_sine(op)


def _leads_to_sine(op: Any) -> bool:
    if op.op_type not in POSITION_STEPS:
        return False
    children = [child for output in op.outputs for child in output.child_ops]
    return any(child.op_type in {"sin", "cos"} or _leads_to_sine(child) for child in children)


def _quantized(model: Any) -> Any:
    from coremltools.optimize import coreml

    config = coreml.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8")  # a scale for each output channel
    return coreml.linear_quantize_weights(
        model, coreml.OptimizationConfig(op_type_configs=dict.fromkeys(QUANTIZED_LAYERS, config))
    )
