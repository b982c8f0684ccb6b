"""`mobile-sam distill train`: a recipe, what to change of it, and where the result goes."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

INTERRUPTED = 130  # as after Ctrl-C elsewhere; the same command goes on


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as recipes/tiny_cpu.py.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the student, checkpoints and logs.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Pictures: tar shards, a pattern, a folder, or a COCO file. Repeatable. [default: the recipe's]"
        ),
    ] = None,
    embeddings: Annotated[
        str | None, typer.Option(help="Folder that `distill embed` or `bulk` wrote. [default: the recipe's]")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Checkpoint of the teacher, to run it in the loop. [default: the recipe's]")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="decoupled, semi-coupled, coupled or prompted. [default: the recipe's]")
    ] = None,
    fraction: Annotated[float | None, typer.Option(help="Share of the pictures to train on, 0.01 for 1 %.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change any other setting, as in batch_size=16. Repeatable.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Which of a recipe's variants.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew instead of going on.")] = False,
) -> None:
    """Train a student by a recipe; the same command goes on where it was stopped.

    Several GPUs: torchrun --nproc-per-node 8 --no-python mobile-sam distill train RECIPE.py -o OUT ...
    """
    require_torch()
    from mobile_sam.distill.config import parse_settings
    from mobile_sam.distill.recipe import load_recipe
    from mobile_sam.distill.train import train as run_training

    flags = {
        "data": tuple(data) if data else None, "embeddings": embeddings, "teacher": teacher, "objective": objective,
        "fraction": fraction,
    }  # fmt: skip
    changes = {name: value for name, value in flags.items() if value is not None} | parse_settings(set_ or [])
    config = load_recipe(recipe, variant).with_values(changes)
    is_first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    level = logging.INFO if is_first else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    report = run_training(config, out, restart=restart, tell=Teller())
    if report.ending == "interrupted":
        print(f"stopped after step {report.num_steps}; the same command goes on there", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    if not is_first:
        return
    miou, step = report.best
    print(f"{report.ending} after {report.num_steps} steps; best mIoU {miou:.4f} after step {step}")
    if report.num_skipped:
        print(f"{report.num_skipped} pictures could not be used; see {out}/skipped-*.jsonl")
    for name in ("student.safetensors", "best.safetensors", "log.jsonl"):
        print(out / name)


def require_torch() -> None:
    """Say what to install, before anything that imports PyTorch fails.

    Raises:
        MissingDependencyError: PyTorch is not installed.
    """
    from mobile_sam.core.errors import MissingDependencyError

    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("training needs PyTorch; run: pip install 'mobile-sam[train]'") from error


class Teller:
    """One line on stderr for each report of the loop."""

    def __init__(self) -> None:
        self.started: tuple[float, int] | None = None

    def __call__(self, step: int, num_steps: int, found: dict[str, Any]) -> None:
        now = time.monotonic()
        if self.started is None:
            self.started = (now, step)
        if not found:
            return
        parts = [f"step {step}/{num_steps}"]
        for key, label, digits in _SHOWN:
            if key in found:
                parts.append(f"{label} {found[key]:.{digits}}")
        began, first = self.started
        if step > first:
            left_s = round((now - began) / (step - first) * (num_steps - step))
            parts.append(f"left {left_s // 3600}:{left_s // 60 % 60:02}:{left_s % 60:02}")
        print("  ".join(parts), file=sys.stderr, flush=True)


_SHOWN = (
    ("train/loss", "loss", "4g"), ("train/lr", "lr", "3g"), ("pictures_per_s", "pictures/s", "3g"),
    ("val/miou", "mIoU", "4f"), ("val/mse", "held-out MSE", "4g"),
)  # fmt: skip
