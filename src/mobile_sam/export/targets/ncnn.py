"""ncnn: for phones and small ARM boards; TorchScript -> pnnx -> `.ncnn.param` and `.ncnn.bin` for each graph.

What ncnn computes is checked here on a desktop CPU, where it has no fp16 arithmetic and runs weights stored in fp16 in
fp32.
"""

from __future__ import annotations

import subprocess
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mobile_sam.export.target import FP32_BOUND, Bound, ExportOptions, TargetSpec, Written

if TYPE_CHECKING:
    from mobile_sam.export.runner import Runner
    from mobile_sam.modeling.sam import Sam

HEADER_LINES = 2  # of a .param file: magic number; counts of layers and blobs
BLOB_NOTE = "blobs are in0, in1, ... and out0, out1, ...: the inputs and outputs in their order, without the batch axis"
PIXELS_NOTE = "the encoder takes pixels as floats 0 to 255, (h, w, 3): ncnn has no uint8 input for a network"
FP16_NOTE = (
    "fp16 was run on a CPU without fp16 arithmetic, which computes in fp32; if masks are wrong on a phone, set "
    "opt.use_fp16_arithmetic = false there"
)


def spec() -> TargetSpec:
    """See `mobile_sam.export.targets`."""
    return TargetSpec(
        name="ncnn",
        summary="ncnn .param and .bin for phones and small ARM boards",
        precisions=("fp32", "fp16"),
        extra="export-ncnn",
        packages=("torch", "pnnx", "ncnn"),
        bounds={"fp32": FP32_BOUND, "fp16": Bound(embedding_error=0.01, mask_iou_mean=0.995, mask_iou_min=0.8)},
        options=frozenset({"input_hw", "preprocess", "joint", "num_prompts", "num_points"}),
    )


def write(sam: Sam, options: ExportOptions, folder: Path) -> Written:
    """See `mobile_sam.export.targets`.

    Raises:
        ValueError: more than one prompt at once, or an image encoder other than TinyViT.
    """
    from mobile_sam.export.four_axes import four_axis_recordables
    from mobile_sam.export.programs import fixed_counts

    if options.num_prompts not in (None, 1):
        raise ValueError(
            f"ncnn takes one prompt at a time, got num_prompts={options.num_prompts}; run the decoder once for each"
        )
    precision = options.precision or spec().precisions[0]
    num_prompts, num_points = fixed_counts(options)
    graphs, layers = {}, {}
    for role, (module, inputs) in four_axis_recordables(sam, options, num_prompts, num_points).items():
        graphs[role] = f"{role}.ncnn.param"
        convert(module, inputs, folder / graphs[role], has_fp16_weights=precision == "fp16")
        layers[role] = dict(sorted(Counter(layer_types(folder / graphs[role])).items()))
    notes = [BLOB_NOTE] + [PIXELS_NOTE] * options.preprocess + [FP16_NOTE] * (precision == "fp16")
    return Written(
        graphs=graphs,
        runtime="ncnn",
        num_prompts=1,
        num_points=num_points,
        notes=tuple(notes),
        facts={"layers": layers},
    )


def open_runner(folder: Path, num_threads: int = 0) -> Runner | None:
    """See `mobile_sam.export.targets`."""
    from mobile_sam.export.runner import open_exported

    return open_exported(folder, num_threads)


def convert(module: nn.Module, inputs: tuple[Tensor, ...], param_path: Path, *, has_fp16_weights: bool) -> None:
    """Write a module as `.param` and, beside it, `.bin`.

    Args:
        module: in eval mode.
        inputs: to trace it with; all sizes are fixed to theirs. Pixels become floats.
        param_path: where the `.param` goes; it ends in `.ncnn.param`.
        has_fp16_weights: whether weights are stored in half of the bytes.

    Raises:
        RuntimeError: pnnx failed, or left an operation that ncnn does not have.
    """
    import pnnx

    floats = tuple(one.float() for one in inputs)
    shapes = ",".join(f"[{','.join(map(str, one.shape))}]f32" for one in floats)
    with tempfile.TemporaryDirectory() as working, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # all sizes are meant to be fixed, and torch.jit is what pnnx reads
        traced = Path(working) / "traced.pt"
        torch.jit.trace(module, floats, check_trace=False).save(str(traced))
        outputs = {"ncnnparam": param_path, "ncnnbin": param_path.with_suffix(".bin")}
        ended = subprocess.run(
            [
                pnnx.EXEC_PATH, traced.name, f"inputshape={shapes}", f"fp16={int(has_fp16_weights)}",
                *(f"{name}={path.resolve()}" for name, path in outputs.items()),
            ],
            cwd=working, capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
    if ended.returncode or not all(path.is_file() for path in outputs.values()):
        raise RuntimeError(f"pnnx failed with code {ended.returncode}: {ended.stderr.strip()[-500:]}")
    foreign = sorted({name for name in layer_types(param_path) if "." in name})
    if foreign:
        raise RuntimeError(f"pnnx found no layer of ncnn for {', '.join(foreign)}")


def layer_types(param_path: Path) -> list[str]:
    """Layer types of a `.param` file, in order; PyTorch's own name, with a dot, where pnnx knew no layer."""
    lines = param_path.read_text(encoding="utf-8").splitlines()[HEADER_LINES:]
    return [line.split()[0] for line in lines if line.strip()]
