"""`mobile-sam everything`: pictures in, masks of all that is in them out."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mobile_sam._version import __version__
from mobile_sam.cli.config_options import with_settings
from mobile_sam.cli.evaluate import SOME_FAILED
from mobile_sam.cli.model_option import EngineName, ModelName, PrecisionName
from mobile_sam.everything.config import EverythingConfig

if TYPE_CHECKING:
    from mobile_sam.automatic_mask_generator import SamAutomaticMaskGenerator
    from mobile_sam.cli.everything_folder import Place
    from mobile_sam.cli.everything_outputs import Outputs
    from mobile_sam.cli.everything_run import SortBy
    from mobile_sam.data.records import Picture


class Part(str, Enum):
    """What lies in a photo's folder."""

    masks = "masks"
    overlay = "overlay"
    labels = "labels"
    coco = "coco"


class SortKey(str, Enum):
    """What masks are sorted by, the greatest first."""

    area = "area"
    predicted_iou = "predicted_iou"
    stability_score = "stability_score"


@with_settings
def everything(
    photo: Annotated[list[Path], typer.Argument(help="Pictures, and folders of pictures.", show_default=False)],
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            help="What to write, by its name: a picture (the masks drawn over the photo), a .json (COCO), or a folder "
            "(all of --write, for each photo in a folder of its own). Repeatable for one photo; several need a folder "
            "or a .json. [default: PHOTO_everything.png here]",
        ),
    ] = None,
    *,
    write: Annotated[
        list[Part] | None,
        typer.Option(
            help="Only this in a photo's folder: masks (0.png, 1.png, ... and metadata.csv, as SAM's amg.py writes "
            "them), overlay (.png), labels (.png of 16 bits that looks black: each pixel holds the number, from 1, of "
            "its smallest mask), coco (.json). Repeatable. [default: all]"
        ),
    ] = None,
    convert_to_rle: Annotated[
        bool, typer.Option("--convert-to-rle", help="In a folder, for each photo only PHOTO.json, a list of masks.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what a run with other settings wrote into the folder.")
    ] = False,
    min_area: Annotated[int, typer.Option(help="Leave out masks with fewer pixels.", min=0)] = 0,
    max_masks: Annotated[
        int | None, typer.Option(help="Keep only the first so many, as sorted. [default: all]", min=1)
    ] = None,
    sort: Annotated[
        SortKey | None,
        typer.Option(help="Order of masks, the greatest first. [default: predicted_iou; with --boxes theirs]"),
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="JSON of a detector's boxes (COCO results; image_id is the photo's file name, stem or number; score "
            "and category_id may lack): a mask for each instead, whatever its scores. Malformed boxes and those that "
            "lie outside the photo are left out and counted on stderr; the exit code stays 0."
        ),
    ] = None,
    engine: EngineName = "auto",
    precision: PrecisionName = None,
    model: ModelName = None,
    **settings: Any,
) -> None:
    """Segment everything in photos.

    Results in a folder are kept: the same command skips photos that are done, and so goes on after it was stopped.
    The options from --points-per-side on are those of SAM's SamAutomaticMaskGenerator.
    """
    from mobile_sam.cli.everything_boxes import read_boxes
    from mobile_sam.cli.everything_outputs import choose_outputs
    from mobile_sam.cli.everything_run import Selection, Work, run
    from mobile_sam.core.weights import find_checkpoint, weights_file
    from mobile_sam.data.sources import list_picture_files

    config = EverythingConfig(**settings, output_mode="coco_rle")
    pictures = list_picture_files(photo).pictures
    outputs = choose_outputs(output or [], pictures)
    parts = _parts(write, convert_to_rle, outputs)
    checkpoint = find_checkpoint(model)
    weights = weights_file(checkpoint) if checkpoint else None
    places = _checked_places(outputs, pictures, {"the boxes": boxes, "the checkpoint": weights}, parts)
    found, boxes_sha256 = read_boxes(boxes, pictures) if boxes else (None, None)
    selection = Selection(_sort_key(sort, has_boxes=boxes is not None), min_area, max_masks)
    written = None if outputs.folder is None else list(parts) or "run lengths"
    more = {**asdict(selection), "boxes_file_sha256": boxes_sha256, "written": written, "precision": precision}
    made_by = _made_by(config.to_json() | more, engine, checkpoint)
    make_generator = partial(_make_generator, config, engine, precision, checkpoint)
    num_failed = run(Work(make_generator, outputs, parts, overwrite, found, selection, made_by), pictures, places)
    _end(num_failed, len(pictures))


def _parts(write: list[Part] | None, convert_to_rle: bool, outputs: Outputs) -> tuple[str, ...]:
    """Which parts a photo's folder gets; none if run lengths take its place.

    Raises:
        ValueError: options that exclude each other.
    """
    if outputs.folder is None and (write or convert_to_rle):
        raise ValueError(f"--{'write' if write else 'convert-to-rle'} is for results in a folder; name one with -o")
    if write and convert_to_rle:
        raise ValueError("--write and --convert-to-rle exclude each other: PHOTO.json holds nothing but run lengths")
    return () if convert_to_rle else tuple(part.value for part in Part if not write or part in write)


def _checked_places(
    outputs: Outputs, pictures: Sequence[Picture], other_inputs: Mapping[str, Path | None], parts: tuple[str, ...]
) -> dict[str, Place]:
    """Give each picture its place in the folder, if there is one, after checking that nothing read is overwritten.

    Raises:
        OSError, ValueError: as `Outputs.check` and `places_in`.
    """
    from mobile_sam.cli.everything_folder import places_in

    inputs = {"the photo" if len(pictures) == 1 else f"the photo {one.id}": one.path for one in pictures}
    inputs |= {what: file for what, file in other_inputs.items() if file}
    outputs.check(inputs)
    return places_in(outputs.folder, pictures, inputs, as_run_lengths=not parts) if outputs.folder else {}


def _sort_key(asked: SortKey | None, *, has_boxes: bool) -> SortBy | None:
    """What to sort by: what was asked, else the predicted IoU, and for boxes nothing, which keeps their order."""
    if asked is not None:
        return asked.value
    return None if has_boxes else "predicted_iou"


def _end(num_failed: int, num_pictures: int) -> None:
    """Say how many pictures failed, and end with another exit code if some did."""
    if num_failed:
        print(f"{num_failed} of {num_pictures} pictures failed", file=sys.stderr)
        raise typer.Exit(SOME_FAILED)


def _make_generator(
    config: EverythingConfig, engine: str, precision: str | None, checkpoint: Path | None
) -> SamAutomaticMaskGenerator:
    """Make what finds the masks; tests put something quicker here."""
    from mobile_sam.automatic_mask_generator import SamAutomaticMaskGenerator
    from mobile_sam.engines import make_engine

    return SamAutomaticMaskGenerator.from_config(config, make_engine(engine, checkpoint, precision=precision))


def _made_by(settings: dict[str, Any], engine: str, checkpoint: Path | None) -> dict[str, Any]:
    """Say how masks are made, as what JSON has."""
    from mobile_sam.cli.everything_folder import TOOL
    from mobile_sam.core.weights import describe_checkpoint

    name, sha256 = describe_checkpoint(checkpoint)
    model = {"checkpoint": name, "sha256": sha256}
    return {"tool": TOOL, "version": __version__, "engine": engine, "model": model, "settings": settings}
