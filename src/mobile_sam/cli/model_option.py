"""The options --model, --engine and --precision, the same in each command that runs one model."""

from __future__ import annotations

from typing import Annotated

import typer

ModelName = Annotated[
    str | None,
    typer.Option(help="A checkpoint, or a folder of `export` or `distill export`. [default: the bundled weights]"),
]
EngineName = Annotated[
    str, typer.Option(help="auto, onnxruntime, openvino or torch; `info` tells what auto chooses, and why.")
]
PrecisionName = Annotated[
    str | None,
    typer.Option(help="fp32, or bf16 with openvino or torch. [default: fp32, or what --model was exported in]"),
]
