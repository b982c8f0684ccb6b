"""`mobile-sam distill finetune`: a model for one's own pictures, and what became of it on others."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from mobile_sam.cli.distill_train import INTERRUPTED, Teller, require_torch


def finetune(
    data: Annotated[
        list[str],
        typer.Argument(
            help="Pictures with masks: a COCO or LVIS JSON, SA-1B (folder, tars), or a folder with images/ and masks/.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the model, checkpoints and reports.")],
    val: Annotated[
        list[str] | None,
        typer.Option(help="Pictures with masks to validate on. Repeatable. [default: a fifth of DATA, held out]"),
    ] = None,
    general: Annotated[
        list[Path] | None,
        typer.Option(help="Pictures of other kinds that shall not suffer: annotations, pictures, folders. Repeatable."),
    ] = None,
    trains: Annotated[str | None, typer.Option(help="decoder or all. [default: the recipe's, or decoder]")] = None,
    start_from: Annotated[
        str | None, typer.Option(help="Checkpoint to start from. [default: the recipe's, or mobile_sam]")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="Settings to begin with, as recipes/finetune.py.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change any setting, as in lr=1e-5. Repeatable.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew instead of going on.")] = False,
) -> None:
    """Fine-tune on your own masks; best.safetensors is never worse on the validation pictures than what you began with.

    The same command goes on where it was stopped.
    """
    require_torch()
    from rich.console import Console

    from mobile_sam.distill.config import parse_settings
    from mobile_sam.distill.finetune import fine_tuning_config
    from mobile_sam.distill.finetune import finetune as run_fine_tuning
    from mobile_sam.distill.recipe import load_recipe
    from mobile_sam.evaluate.report.tables import FittedTable

    config = fine_tuning_config(
        data,
        val or (),
        trains=trains or "",
        start_from=start_from or "",
        recipe=None if recipe is None else load_recipe(recipe),
        settings=parse_settings(set_ or []),
    )
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    report = run_fine_tuning(config, out, general=general or (), restart=restart, tell=Teller())
    training, comparison = report.training, report.comparison
    if training.ending == "interrupted":
        print(f"stopped after step {training.num_steps}; the same command goes on there", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    if comparison is None:  # not the first of several processes
        return
    miou, step = training.best
    print(f"{training.ending} after {training.num_steps} steps; best validation mIoU {miou:.4f} after step {step}")
    if training.num_skipped:
        print(f"{training.num_skipped} times a picture could not be used; see {out}/skipped-*.jsonl")
    table = comparison.table()
    Console().print(FittedTable(table), table.note)
    for warning in comparison.warnings:
        print(f"warning: {warning}")
    for name in ("best.safetensors", "student.safetensors", "finetune.json", "before-after", "log.jsonl"):
        print(out / name)
