"""`mobile-sam distill export`: a trained model as a folder that every engine runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    checkpoint: Annotated[
        str, typer.Argument(help="The student, as `distill train` wrote it, or any checkpoint.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; an earlier export in it is replaced.")],
) -> None:
    """Export a model to a folder that --model takes: its weights, and ONNX graphs for the engine without PyTorch."""
    from mobile_sam.core.errors import MissingDependencyError
    from mobile_sam.core.weights import find_checkpoint

    find_checkpoint(checkpoint)  # said before the libraries are imported, which takes seconds
    try:
        from mobile_sam.export.model_folder import export_model
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "torch"):
            raise
        advice = "mobile-sam distill export needs PyTorch and onnx; run: pip install 'mobile-sam[export]'"
        raise MissingDependencyError(advice, name=error.name) from error
    folder = export_model(checkpoint, out)
    for path in sorted(folder.iterdir()):
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
