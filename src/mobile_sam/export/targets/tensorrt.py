"""TensorRT, as a recipe: ONNX files, the `trtexec` lines that build engines of them, and which layers must stay fp32.

TensorRT itself is not needed to write the recipe, and engines are built where they run: on the very GPU. What is
checked here is the ONNX, by onnxruntime.

fp16 goes wrong in LayerNorm, whose sums of squares leave its range. There are two ways to keep some layers in fp32, and
the recipe has both: `--precision fp16` writes the types into the graph, which TensorRT 10 obeys with `--stronglyTyped`
and TensorRT 11 always; `--precision fp32` names the layers on the command line, for TensorRT 10 and before.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mobile_sam.export.target import FP32_BOUND, MAX_POINTS, Bound, ExportOptions, TargetSpec, Written

if TYPE_CHECKING:
    import onnx

    from mobile_sam.export.runner import Runner
    from mobile_sam.modeling.sam import Sam

OPSET = 17
"""The first with LayerNormalization, which TensorRT 8.6 and later import as one layer; GELU is still written out."""

SCRIPT_FILE, README_FILE = "build.sh", "README.md"
MAX_PROMPTS = 16  # of the profile, where P is not fixed
COMPUTING_OPS = frozenset(
    {"LayerNormalization", "ReduceMean", "Sub", "Pow", "Add", "Sqrt", "Div", "Mul", "Softmax", "Sin", "Cos"}
)
"""Those of the layers to keep in fp32 that compute; the others move numbers, or are not of floats."""

NOTE = "only the ONNX was run, by onnxruntime; the engines are built and checked on the device, see README.md"


def spec() -> TargetSpec:
    """See `mobile_sam.export.targets`."""
    return TargetSpec(
        name="tensorrt",
        summary="a recipe for TensorRT on Jetson and other NVIDIA GPUs: ONNX and the trtexec lines",
        precisions=("fp16", "fp32"),
        extra="export",
        packages=("torch", "onnx", "onnxruntime"),
        bounds={"fp32": FP32_BOUND, "fp16": Bound(embedding_error=0.01, mask_iou_mean=0.99, mask_iou_min=0.5)},
        options=frozenset({"input_hw", "preprocess", "joint", "num_prompts", "num_points", "opset"}),
    )


def write(sam: Sam, options: ExportOptions, folder: Path) -> Written:
    """See `mobile_sam.export.targets`.

    Raises:
        ValueError: an opset that cannot be.
    """
    from mobile_sam.export.fp16_onnx import to_mixed_precision
    from mobile_sam.export.onnx_files import save_graphs, traced_graphs

    precision = options.precision or spec().precisions[0]
    graphs = traced_graphs(sam, replace(options, opset=options.opset or OPSET))
    layers = {role: fp32_layers(graph) for role, graph in graphs.items()}
    if precision == "fp16":
        graphs = {role: to_mixed_precision(graph) for role, graph in graphs.items()}
    names = save_graphs(graphs, folder)
    profiles = {role: profile_flags(graph) for role, graph in graphs.items()}
    script = typed_script(profiles) if precision == "fp16" else script_with_layers(profiles, layers)
    (folder / SCRIPT_FILE).write_text(script, encoding="utf-8", newline="\n")
    (folder / README_FILE).write_text(readme(precision, profiles), encoding="utf-8")
    facts = {"fp32_layers": layers}
    return Written(names, "onnxruntime", options.num_prompts, options.num_points, (NOTE,), facts)


def open_runner(folder: Path, num_threads: int = 0) -> Runner | None:
    """See `mobile_sam.export.targets`: runs the ONNX files by onnxruntime."""
    from mobile_sam.export.runner import open_exported

    return open_exported(folder, num_threads)


def fp32_layers(graph: onnx.ModelProto) -> list[str]:
    """Name the layers that must compute in fp32; TensorRT calls them as the nodes of the ONNX file are called."""
    from mobile_sam.export.fp16_onnx import fp32_nodes

    kept = set(fp32_nodes(graph))
    return [node.name for node in graph.graph.node if node.name in kept and node.op_type in COMPUTING_OPS]


def profile_flags(graph: onnx.ModelProto) -> list[str]:
    """Say which shapes an engine shall take, as flags of trtexec; none if all are fixed."""
    least, usual, most = {"P": 1, "N": 1}, {"P": 1, "N": 2}, {"P": MAX_PROMPTS, "N": MAX_POINTS}
    axes = {one.name: one.type.tensor_type.shape.dim for one in graph.graph.input}
    is_open = {name: any(axis.dim_param for axis in shape) for name, shape in axes.items()}

    def shapes(sizes: dict[str, int]) -> str:
        texts = {
            name: "x".join(str(sizes[axis.dim_param] if axis.dim_param else axis.dim_value) for axis in shape)
            for name, shape in axes.items()
            if is_open[name]
        }
        return ",".join(f"{name}:{text}" for name, text in texts.items())

    if not any(is_open.values()):
        return []
    return [f"--minShapes={shapes(least)}", f"--optShapes={shapes(usual)}", f"--maxShapes={shapes(most)}"]


_SCRIPT_HEAD = """#!/bin/sh
# Builds TensorRT engines of the ONNX files here, on the GPU that they shall run on.
# TRTEXEC names trtexec where it is not on the PATH (JetPack has it in /usr/src/tensorrt/bin).
set -eu
cd "$(dirname "$0")"
TRTEXEC=${TRTEXEC:-$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)}
"""


def typed_script(profiles: dict[str, list[str]]) -> str:
    """Write build.sh for graphs that say the type of each tensor."""
    lines = [
        _SCRIPT_HEAD,
        "# The graphs say which tensors are fp16. TensorRT 11 always obeys them, TensorRT 10 with --stronglyTyped.",
        "",
    ]
    lines += [_build_line(role, flags, "--stronglyTyped", "fp16") for role, flags in profiles.items()]
    return "\n".join(lines)


def script_with_layers(profiles: dict[str, list[str]], layers: dict[str, list[str]]) -> str:
    """Write build.sh for fp32 graphs, with fp16 and bf16 by flags that TensorRT 11 no longer has."""
    lines = [
        _SCRIPT_HEAD,
        "# Usage: sh build.sh [fp32|fp16|bf16]. fp16 is for TensorRT 8.6 to 10, bf16 for 9 and 10 on Ampere and later.",
        "# TensorRT 11 has no such flags: export with --precision fp16 for it.",
        "precision=${1:-fp32}",
        "constrained() {  # flags for a precision with these layers in fp32",
        '  echo "--$precision --precisionConstraints=obey --layerPrecisions=$1 --layerOutputTypes=$1"',
        "}",
        "",
    ]
    lines += [f"{role}_layers='{','.join(f'{name}:fp32' for name in names)}'" for role, names in layers.items()]
    lines += ["", 'case "$precision" in', "fp32)"]
    lines += [_build_line(role, flags, "--noTF32", "fp32") for role, flags in profiles.items()]
    lines += ["  ;;", "fp16 | bf16)"]
    lines += [
        _build_line(role, flags, f'$(constrained "${role}_layers")', "$precision") for role, flags in profiles.items()
    ]
    lines += ["  ;;", '*) echo "unknown precision $precision; expected fp32, fp16 or bf16" >&2; exit 2 ;;', "esac", ""]
    return "\n".join(lines)


def _build_line(role: str, profile: list[str], precision_flags: str, precision: str) -> str:
    flags = [f"--onnx={role}.onnx", f'--saveEngine="{role}-{precision}.plan"', *profile, precision_flags]
    return '  "$TRTEXEC" ' + " ".join(flags) + "\n"


def readme(precision: str, profiles: dict[str, list[str]]) -> str:
    """Write README.md: how to build, what was checked, what was not, and how to check it."""
    checks = "\n".join(
        f"    polygraphy run {role}-{precision}.plan --trt --model-type=engine --save-inputs {role}-in.json "
        f"--save-outputs {role}-trt.json\n"
        f"    polygraphy run {role}.onnx --onnxrt --load-inputs {role}-in.json --load-outputs {role}-trt.json "
        f"--check-error-stat median --atol 0.01 --rtol 0.01"
        for role in profiles
    )
    way = _TYPED_WAY if precision == "fp16" else _FLAGS_WAY
    prompts = _OPEN_PROMPTS if any(profiles.values()) else _FIXED_PROMPTS
    return _README.format(way=way, checks=checks, prompts=prompts, precision=precision)


_OPEN_PROMPTS = f"""The decoder takes up to {MAX_PROMPTS} prompts of up to {MAX_POINTS} points, or as many as were fixed
when it was exported; `build.sh` has the profile. Fill up prompts of fewer points with the label -10."""

_FIXED_PROMPTS = """The decoder takes the numbers of prompts and points that were fixed when it was exported. Fill up
prompts of fewer points with the label -10."""

_TYPED_WAY = """The files say the type of each tensor: fp16, but LayerNorm, softmax and the position encoding in fp32,
and fp32 at the border. TensorRT 11 always obeys them; TensorRT 10 does with `--stronglyTyped`, which `build.sh` passes
(TensorRT 11 takes it and ignores it). TensorRT before 10 has no such mode: export with `--precision fp32` for it."""

_FLAGS_WAY = """`sh build.sh` builds fp32 engines, `sh build.sh fp16` and `sh build.sh bf16` faster ones, in which the
layers that `build.sh` names stay fp32: LayerNorm, softmax and the position encoding. TensorRT 11 has no flags for that,
and TensorRT 10.0 was reported not to obey them (NVIDIA/TensorRT issue 3941): for TensorRT 10 and 11 rather export with
`--precision fp16`, which writes the types into the files."""

_README = """# MobileSAM for TensorRT

    sh build.sh

builds an engine of each ONNX file here, on the GPU that it shall run on; an engine runs on no other kind of GPU and
under no other version of TensorRT. JetPack 6 has TensorRT 10; JetPack 7.2.2 and later can have TensorRT 11.

{way}

{prompts}

## What was checked, and what was not

The ONNX files were run by onnxruntime on a CPU, and `parity.json` has how near they are to PyTorch. TensorRT was not
run here: neither `build.sh` nor the engines. This compares them with onnxruntime on the device
(`pip install polygraphy onnxruntime`), on random input:

{checks}

and `trtexec --loadEngine=encoder-{precision}.plan` measures the time. Masks on pictures of your own are the better
check: fp16 that went wrong shows as masks that are empty or full of holes.
"""
