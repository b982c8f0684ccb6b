"""`mobile-sam export`: the model in the files of another runtime or tool, with the parity report beside them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mobile_sam.export.exporter import ExportResult
    from mobile_sam.export.target import TargetSpec

BELOW_BOUND = 3  # exit code when an export is farther from PyTorch than its target promises
LIST = "list"

_To = Annotated[
    str | None, typer.Option("--to", help="What to export to; --list shows the targets.", show_default=False)
]
_Checkpoint = Annotated[
    str | None,
    typer.Option(help="A checkpoint, or a folder of `distill export`. [default: the bundled weights]"),
]
_Precision = Annotated[
    str | None, typer.Option(help="fp32, fp16, bf16 or int8, of those the target has. [default: the target's first]")
]
_Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder to write, a new one. [default: exported/TARGET-PRECISION]")
]
_InputSize = Annotated[
    str | None,
    typer.Option(
        metavar="S|HxW",
        help="What the encoder takes, in px, multiples of 16: a square, or height x width for pictures of one shape. "
        "The longer side is the model's; another one than its own builds the model for it (TinyViT). [default: 1024]",
    ),
]
_Preprocess = Annotated[
    bool, typer.Option("--preprocess", help="The encoder takes uint8 pixels, and normalises and pads them itself.")
]
_Joint = Annotated[bool, typer.Option("--joint", help="Write one graph from the picture to the masks as well.")]
_NumPrompts = Annotated[int | None, typer.Option(help="Fix the decoder to so many prompts.", min=1)]
_NumPoints = Annotated[
    int | None,
    typer.Option(help="Fix it to so many points a prompt; a box is two, and clicks need one more of SAM's own.", min=1),
]
_Calibration = Annotated[
    list[Path] | None,
    typer.Option(help="Pictures, or a folder of them, to calibrate int8 with, repeatable. [default: built-in ones]"),
]
_Pictures = Annotated[
    list[Path] | None,
    typer.Option(help="Pictures, or a folder of them, for the parity report, repeatable. [default: built-in ones]"),
]
_SingleMask = Annotated[
    bool, typer.Option("--return-single-mask", help="One mask a prompt, chosen as SAM's export script does.")
]
_Stability = Annotated[
    bool, typer.Option("--use-stability-score", help="Judge masks by stability in place of the predicted IoU.")
]
_Extra = Annotated[bool, typer.Option("--return-extra-metrics", help="Also give stability scores and areas.")]
_Gelu = Annotated[bool, typer.Option("--gelu-approximate", help="GELU by tanh, for runtimes without erf.")]
_Opset = Annotated[int | None, typer.Option(help="Of ONNX. [default: 20, or what the target's tool reads]", min=1)]
_Threads = Annotated[int, typer.Option(help="CPU threads of what is measured; 0 leaves it to each runtime.", min=0)]
_BelowBound = Annotated[
    bool, typer.Option("--below-bound", help="Keep the files although parity is below the target's bound.")
]
_List = Annotated[bool, typer.Option("--list", help="List the targets, and exit.")]


def export(
    to: _To = None,
    checkpoint: _Checkpoint = None,
    precision: _Precision = None,
    out: _Out = None,
    input_size: _InputSize = None,
    preprocess: _Preprocess = False,
    joint: _Joint = False,
    num_prompts: _NumPrompts = None,
    num_points: _NumPoints = None,
    calibration: _Calibration = None,
    pictures: _Pictures = None,
    return_single_mask: _SingleMask = False,
    use_stability_score: _Stability = False,
    return_extra_metrics: _Extra = False,
    gelu_approximate: _Gelu = False,
    opset: _Opset = None,
    threads: _Threads = 0,
    below_bound: _BelowBound = False,
    is_list: _List = False,
) -> None:
    """Export the model for another runtime or tool, and measure how near to PyTorch and how fast the files are."""
    from mobile_sam.export import exporter
    from mobile_sam.export.parity import ParityError
    from mobile_sam.export.target import ExportOptions
    from mobile_sam.export.targets import target_names

    if is_list or to == LIST:
        _print_targets(exporter.describe_targets())
        return
    if to is None:
        raise ValueError(f"name what to export to with --to; the targets are {', '.join(target_names())}")
    side, input_hw = _parse_input_size(input_size)
    options = ExportOptions(
        precision=precision, input_hw=input_hw, preprocess=preprocess, joint=joint, num_prompts=num_prompts,
        num_points=num_points, calibration=tuple(calibration or ()), return_single_mask=return_single_mask,
        use_stability_score=use_stability_score, return_extra_metrics=return_extra_metrics,
        gelu_approximate=gelu_approximate, opset=opset,
    )  # fmt: skip
    how: dict[str, Any] = {"input_side": side, "checks_bound": not below_bound, "num_threads": threads}
    try:
        result = exporter.export(
            checkpoint or "mobile_sam", to, out, options, pictures=tuple(pictures or ()), on_progress=_tell, **how
        )
    except ParityError as error:
        print(f"mobile-sam: error: {error}", file=sys.stderr)
        raise typer.Exit(BELOW_BOUND) from error
    _show(result)


def _parse_input_size(text: str | None) -> tuple[int | None, tuple[int, int] | None]:
    """Read what --input-size says: the side of the square, and the part of it that is taken, None for all."""
    if text is None:
        return None, None
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.strip().lower())
    if found is None:
        raise ValueError(f"--input-size must be a side as 1024 or height x width as 768x1024, in px, got {text!r}")
    h, w = int(found[1]), int(found[2] or found[1])
    return max(h, w), None if h == w else (h, w)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_targets(specs: list[TargetSpec]) -> None:
    widths = [max(len(spec.name) for spec in specs), max(len(", ".join(spec.precisions)) for spec in specs)]
    for spec in specs:
        precisions = ", ".join(spec.precisions)
        print(f"{spec.name:{widths[0]}}  {precisions:{widths[1]}}  {spec.summary}")
        print(f"{'':{widths[0]}}  needs pip install 'mobile-sam[{spec.extra}]'")


def _show(result: ExportResult) -> None:
    """Print the report, the notes and the files."""
    from mobile_sam.core.weights import MANIFEST_FILE
    from mobile_sam.export.parity_report import PARITY_FILE

    print(result.report.table())
    print()
    for note in result.manifest.notes:
        print(f"note: {note}")
    for name, sha256 in result.manifest.files.items():
        path = result.folder / name
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB, sha256 {sha256[:16]})")
    for name in (MANIFEST_FILE, PARITY_FILE):
        print(f"wrote {result.folder / name}")
