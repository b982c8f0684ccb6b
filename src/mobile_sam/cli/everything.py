"""`mobile-sam everything`: pictures in, masks of all that is in them out."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mobile_sam._version import __version__
from mobile_sam.cli.config_options import SettingsCommand
from mobile_sam.cli.evaluate import SOME_FAILED
from mobile_sam.cli.everything_outputs import Outputs, Part, choose_outputs

if TYPE_CHECKING:
    from mobile_sam.automatic_mask_generator import SamAutomaticMaskGenerator
    from mobile_sam.cli.everything_folder import Place
    from mobile_sam.data.records import Picture
    from mobile_sam.everything.config import EverythingConfig


class SortKey(str, Enum):
    """What masks are sorted by, the greatest first."""

    area = "area"
    predicted_iou = "predicted_iou"
    stability_score = "stability_score"


def everything_app() -> typer.Typer:
    """Make the app that `mobile-sam` takes the command `everything` from."""
    app = typer.Typer(rich_markup_mode=None)
    app.command(cls=SettingsCommand)(everything)
    return app


def everything(
    context: typer.Context,
    photo: Annotated[list[Path], typer.Argument(help="Pictures, and folders of pictures.", show_default=False)],
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            help="A picture (the overlay), a .json (COCO), or a folder, in which each picture gets a folder as by "
            "SAM's amg.py, with overlay.png, labels.png and coco.json. Repeatable for one picture; several need a "
            "folder or a .json. [default: PHOTO_everything.png here]",
        ),
    ] = None,
    write: Annotated[list[Part] | None, typer.Option(help="Only this in a folder. Repeatable. [default: all]")] = None,
    convert_to_rle: Annotated[
        bool, typer.Option("--convert-to-rle", help="In a folder, a STEM.json of COCO RLE for each picture instead.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results of other settings; equal ones are skipped anyway.")
    ] = False,
    boxes: Annotated[
        Path | None,
        typer.Option(help="COCO detections: a mask for each box, in their order. Settings of the grid do not apply."),
    ] = None,
    min_area: Annotated[int, typer.Option(help="Leave out masks with fewer pixels.", min=0)] = 0,
    max_masks: Annotated[int | None, typer.Option(help="Keep only the first so many, as sorted.", min=1)] = None,
    sort: Annotated[
        SortKey | None, typer.Option(help="Greatest first. [default: predicted IoU, or as the boxes]")
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, onnxruntime or torch.")] = "auto",
    model: Annotated[str | None, typer.Option(help="A checkpoint. [default: the bundled weights]")] = None,
) -> None:
    """Segment everything in pictures, or whatever a detector's boxes show.

    A folder's pictures that were done before with the same settings are skipped, so a run that was stopped goes on.
    """
    from mobile_sam.cli.everything_boxes import read_boxes
    from mobile_sam.cli.everything_run import Selection, Work, run
    from mobile_sam.data.sources import list_picture_files

    pictures = list_picture_files(photo).pictures
    outputs = choose_outputs(output or [], pictures)
    if outputs.folder is None and (write or convert_to_rle):
        raise ValueError(f"--{'write' if write else 'convert-to-rle'} is for results in a folder; name one with -o")
    if write and convert_to_rle:
        raise ValueError("--write and --convert-to-rle exclude each other: STEM.json holds nothing but run lengths")
    parts = tuple(part for part in Part if not write or part in write)
    places = _checked_places(outputs, pictures, convert_to_rle, {"the boxes": boxes, "the checkpoint": _file(model)})
    found, boxes_sha256 = read_boxes(boxes, pictures) if boxes else (None, None)
    selection = Selection(sort.value if sort else None, min_area, max_masks)
    written = "run lengths" if convert_to_rle else [part.value for part in parts]
    more = {**asdict(selection), "boxes_file_sha256": boxes_sha256, "written": written if outputs.folder else None}
    config: EverythingConfig = context.obj
    made_by = _made_by(config.to_json() | more, engine, model)
    work = Work(partial(_make_generator, config, engine, model), outputs, parts, overwrite, found, selection, made_by)
    num_failed = run(work, pictures, places)
    if num_failed:
        print(f"{num_failed} of {len(pictures)} pictures failed", file=sys.stderr)
        raise typer.Exit(SOME_FAILED)


def _make_generator(config: EverythingConfig, engine: str, model: str | None) -> SamAutomaticMaskGenerator:
    """Make what finds the masks; tests put something quicker here."""
    from mobile_sam.automatic_mask_generator import SamAutomaticMaskGenerator
    from mobile_sam.engines import make_engine

    return SamAutomaticMaskGenerator.from_config(config, make_engine(engine, model))


def _checked_places(
    outputs: Outputs, pictures: Sequence[Picture], as_run_lengths: bool, inputs: dict[str, Path | None]
) -> list[Place] | None:
    """See that everything can be written and nothing replaces a file that is read; where pictures go in the folder."""
    from mobile_sam.cli.everything_folder import check_inputs_stay, places_in

    numbered = {f"picture {number}": picture.path for number, picture in enumerate(pictures, 1)}
    inputs = {**({"the photo": pictures[0].path} if len(pictures) == 1 else numbered), **inputs}
    outputs.check(inputs)
    if outputs.folder is None:
        return None
    places = places_in(outputs.folder, pictures, as_run_lengths=as_run_lengths)
    check_inputs_stay(places, inputs)
    return places


def _file(model: str | None) -> Path | None:
    """The checkpoint's file; None for the bundled weights.

    Raises:
        FileNotFoundError: there is no such file.
    """
    from mobile_sam.core.weights import is_bundled_name

    if model is None or is_bundled_name(model):
        return None
    if not Path(model).is_file():
        raise FileNotFoundError(f"there is no checkpoint {model}; leave out --model for the bundled weights")
    return Path(model)


def _made_by(settings: dict[str, Any], engine: str, model: str | None) -> dict[str, Any]:
    """Say how masks are made, as what JSON has."""
    from mobile_sam.cli.everything_folder import TOOL
    from mobile_sam.core.weights import BUNDLED, sha256_of_file

    file = _file(model)
    weights = {"checkpoint": "bundled", "sha256": BUNDLED.file_sha256}
    if file is not None:
        weights = {"checkpoint": file.name, "sha256": sha256_of_file(file)}
    strict = {name: str(value) if value in (math.inf, -math.inf) else value for name, value in settings.items()}
    return {"tool": TOOL, "version": __version__, "engine": engine, "model": weights, "settings": strict}
