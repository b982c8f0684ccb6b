"""What fine-tuning did to a model: its masks before and after, on the user's pictures and on general ones.

All numbers are the evaluator's: `mobile-sam evaluate prompts` with the same protocols says the same of the same files.
"""

from __future__ import annotations

import csv
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobile_sam._version import __version__
from mobile_sam.core.files import atomic_path
from mobile_sam.data.file_pictures import FilePictures
from mobile_sam.data.picture_set import PictureSet, SampleError
from mobile_sam.data.records import Dataset, Picture, Problem
from mobile_sam.data.sources import is_annotated, list_picture_files, open_dataset
from mobile_sam.data.stored_pictures import StoredPictures
from mobile_sam.distill.config import TrainConfig
from mobile_sam.distill.train import TrainReport
from mobile_sam.evaluate.models import Model, ModelSpec, make_models
from mobile_sam.evaluate.presets import agreement_protocols, prompts_protocols
from mobile_sam.evaluate.report.content import NamedTable, Report
from mobile_sam.evaluate.run_folder import MEASUREMENTS_CSV
from mobile_sam.evaluate.session import RunOptions
from mobile_sam.evaluate.validate import evaluate_agreement, evaluate_prompts

BEST_FILE, REPORT_FILE, REPORTS_FOLDER = "best.safetensors", "finetune.json", "before-after"
FORMAT = "mobile-sam finetune 1"

PROTOCOLS = ("box-single", "centre-best")
AGREEMENT = "grid"
MAX_GENERAL = 100  # pictures, chosen with seed 0 of more

MAX_LOSS = 0.02  # of mIoU on general pictures, before a warning
MAX_CALIBRATION_LOSS = 0.02  # growth of the mean distance between predicted and true IoU, before a warning
MIN_AGREEMENT = 0.9  # of masks before and after, on general pictures without annotations

ADVICE = (
    "take a lower lr, fewer epochs, --trains decoder, or more pictures and of more kinds (some of the general ones too)"
)


@dataclass(frozen=True)
class Comparison:
    """One protocol on one set of pictures, before and after.

    Attributes:
        pictures: "validation" or "general".
        protocol: the evaluator's, by name.
        target: "annotations", or "before" where there are none and the masks before stand for them.
        num_objects: that both have, or prompts.
        num_pictures: that they are from.
        miou_before: NaN where the target is "before".
        miou_after: mean IoU over objects.
        difference: mean of after less before, NaN as above.
        interval: of the difference, 95 %, by resampling pictures.
        iou_error_before: mean distance between predicted and true IoU; NaN as above.
        iou_error_after: likewise.
        correlation_before: of predicted and true IoU (Pearson); NaN as above, and of fewer than three objects.
        correlation_after: likewise.
    """

    pictures: str
    protocol: str
    target: str
    num_objects: int
    num_pictures: int
    miou_before: float
    miou_after: float
    difference: float
    interval: tuple[float, float]
    iou_error_before: float
    iou_error_after: float
    correlation_before: float
    correlation_after: float


@dataclass(frozen=True)
class BeforeAfter:
    """What fine-tuning did.

    Attributes:
        comparisons: the user's pictures first.
        warnings: what the user should know, with what to do.
        path: of the file that holds all this.
    """

    comparisons: tuple[Comparison, ...]
    warnings: tuple[str, ...]
    path: Path

    def table(self) -> NamedTable:
        """Make the table for people."""
        columns = (
            "Pictures", "Prompt", "objects", "mIoU before", "after", "change [95%]", "IoU error before", "after",
            "correlation before", "after",
        )  # fmt: skip
        rows = tuple(
            (
                f"{row.pictures} ({row.num_pictures})", row.protocol, row.num_objects, _digits(row.miou_before),
                _digits(row.miou_after), _change(row), _digits(row.iou_error_before), _digits(row.iou_error_after),
                _digits(row.correlation_before, 2), _digits(row.correlation_after, 2),
            )
            for row in self.comparisons
        )  # fmt: skip
        note = "IoU error: mean distance between predicted and true IoU; correlation: of the two."
        if any(row.target == "before" for row in self.comparisons):
            note += f" {AGREEMENT}: mIoU with the masks of the model before, general pictures having no annotations."
        return NamedTable("Before and after", columns, rows, note, num_text_columns=2)


def compare_before_and_after(
    config: TrainConfig, training: TrainReport, validation: PictureSet, general: Dataset | None = None
) -> BeforeAfter:
    """Measure the weights before a run and the best of it, and write `finetune.json`.

    Args:
        config: of the run.
        training: how it ended.
        validation: pictures with masks.
        general: of `general_dataset`; None for no such comparison.

    Raises:
        ValueError: pictures of which none can be measured. FileNotFoundError, OSError: as the evaluator.
    """
    best = training.folder / BEST_FILE
    specs = [
        ModelSpec(name, "torch", checkpoint, config.device or None)
        for name, checkpoint in (("before", config.start_from), ("after", str(best)))
    ]
    models = make_models(specs)
    reports = training.folder / REPORTS_FOLDER
    with tempfile.TemporaryDirectory() as spare:
        dataset = dataset_of(validation, Path(spare))
        comparisons = _against_annotations("validation", dataset, models, reports / "validation")
    if general is not None:
        measure = _against_annotations if general.num_instances else _against_before
        comparisons += measure("general", general, models, reports / "general")
    found = BeforeAfter(tuple(comparisons), tuple(warnings_of(training, comparisons)), training.folder / REPORT_FILE)
    _write(found, config, training)
    return found


def warnings_of(training: TrainReport, comparisons: Sequence[Comparison]) -> list[str]:
    """Say what of a result a user must know: nothing gained, general pictures lost, predicted IoU spoilt."""
    warnings = []
    if training.best[1] == 0:
        warnings.append(
            f"nothing was better on the validation pictures than the weights before training: {BEST_FILE} holds these; "
            "take a lower lr, or more pictures"
        )
    on_validation = [row.difference for row in comparisons if row.pictures == "validation"]
    if training.best[1] > 0 and on_validation and max(on_validation) <= 0:
        warnings.append(
            "by all objects of the validation pictures nothing improved, though it seemed so in training, which asks "
            "for prompts_per_picture of each: take more of them, or more pictures to validate on"
        )
    for row in comparisons:
        where = f"{row.pictures} pictures, {row.protocol}"
        if row.pictures == "general" and row.difference < -MAX_LOSS:
            warnings.append(
                f"{where}: mIoU fell from {row.miou_before:.3f} to {row.miou_after:.3f}, by more than {MAX_LOSS}: the "
                f"model forgets what it knew; {ADVICE}"
            )
        if row.target == "before" and row.miou_after < MIN_AGREEMENT:
            warnings.append(
                f"{where}: the masks have mIoU {row.miou_after:.3f} with those before, less than {MIN_AGREEMENT}; look "
                f"at some, and if they are worse, {ADVICE}"
            )
        if row.iou_error_after > row.iou_error_before + MAX_CALIBRATION_LOSS:
            warnings.append(
                f"{where}: predicted IoU is off by {row.iou_error_after:.3f} on average, {row.iou_error_before:.3f} "
                f"before: the model chooses among its masks by it; {ADVICE}"
            )
    if not any(row.pictures == "general" for row in comparisons):
        warnings.append("what became of other kinds of pictures was not measured; name some with --general")
    return warnings


def dataset_of(pictures: PictureSet, spare: Path) -> Dataset:
    """Make pictures to train on ones that the evaluator reads.

    Args:
        pictures: with masks; those that cannot be used become problems.
        spare: folder for the pictures that lie in tars, as files.
    """
    assert isinstance(pictures, StoredPictures)
    usable, problems = [], list(pictures.problems)
    for index, key in enumerate(pictures.keys):
        try:
            sample = pictures.read(index, with_instances=True)
        except SampleError as error:
            problems.append(Problem(error.kind, key, error.message))
            continue
        if isinstance(pictures, FilePictures):
            path = Path(pictures.paths[index])
        else:
            suffix, content = pictures.encoded(index)
            path = spare / f"{index}{suffix}"
            path.write_bytes(content)
        usable.append(Picture(key, path, sample.instances, (sample.image.shape[0], sample.image.shape[1])))
    return Dataset(pictures.name, "coco", pictures.fingerprint, tuple(usable), tuple(problems))


def general_dataset(sources: Sequence[str | Path]) -> Dataset:
    """Open pictures of other kinds than those trained on, MAX_GENERAL at most.

    Args:
        sources: annotations, as `open_dataset` reads them; or pictures and folders of pictures.

    Raises:
        ValueError, FileNotFoundError: as `open_dataset` and `list_picture_files`.
    """
    if len(sources) == 1 and is_annotated(sources[0]):
        return open_dataset(sources[0]).some(MAX_GENERAL, seed=0)
    return list_picture_files(sources).some(MAX_GENERAL, seed=0)


def _against_annotations(name: str, dataset: Dataset, models: Sequence[Model], folder: Path) -> list[Comparison]:
    protocols = prompts_protocols(PROTOCOLS)
    report = evaluate_prompts(dataset, models, protocols, RunOptions(folder, restarts=True, num_cases=0))
    calibrations = _calibrations(folder / MEASUREMENTS_CSV)
    means = {(row.protocol, row.model): row.mean for row in report.summaries}
    rows = []
    for protocol in PROTOCOLS:
        (errors, correlations) = zip(*(calibrations[protocol, model] for model in ("before", "after")), strict=True)
        size, difference, interval = _paired(report, protocol)
        rows.append(
            Comparison(
                name, protocol, "annotations", *size, means[protocol, "before"], means[protocol, "after"], difference,
                interval, *errors, *correlations,
            )
        )  # fmt: skip
    return rows


def _against_before(name: str, dataset: Dataset, models: Sequence[Model], folder: Path) -> list[Comparison]:
    before, after = models
    protocols = agreement_protocols([AGREEMENT])
    options = RunOptions(folder, restarts=True, num_cases=0)
    (found,) = evaluate_agreement(dataset, before, [after], protocols, options).summaries
    unknown = (math.nan, math.nan)
    size = (found.num_objects, found.num_pictures)
    return [Comparison(name, AGREEMENT, "before", *size, math.nan, found.mean, math.nan, unknown, *unknown, *unknown)]


def _paired(report: Report, protocol: str) -> tuple[tuple[int, int], float, tuple[float, float]]:
    """Numbers of objects and pictures, and the mean difference with its interval."""
    difference = next(row for row in report.differences if row.protocol == protocol)
    num_pictures = next(row.num_pictures for row in report.summaries if row.protocol == protocol)
    interval = (difference.interval.low, difference.interval.high)
    return (difference.num_pairs, num_pictures), difference.mean_difference, interval


def _calibrations(path: Path) -> dict[tuple[str, str], tuple[float, float]]:
    """Mean distance and correlation of predicted and true IoU, by protocol and model, from the evaluator's rows."""
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            pair = (float(row["predicted_iou"]), float(row["iou"]))
            pairs.setdefault((row["protocol"], row["model"]), []).append(pair)
    return {key: _calibration(np.array(values)) for key, values in pairs.items()}


def _calibration(pairs: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    predicted, true = pairs.T  # each (N,)
    error = float(np.abs(predicted - true).mean())
    has_spread = len(pairs) > 2 and predicted.std() > 0 and true.std() > 0
    return error, float(np.corrcoef(predicted, true)[0, 1]) if has_spread else math.nan


def _write(found: BeforeAfter, config: TrainConfig, training: TrainReport) -> None:
    miou, step = training.best
    content: dict[str, Any] = {
        "format": FORMAT,
        "package_version": __version__,
        "ending": training.ending,
        "num_steps": training.num_steps,
        "best": {"file": BEST_FILE, "step": step, "validation_miou": miou, "is_the_start": step == 0},
        "comparisons": [asdict(row) for row in found.comparisons],
        "warnings": list(found.warnings),
        "config": config.to_json(),
    }
    with atomic_path(found.path) as partial:
        partial.write_text(json.dumps(_without_nan(content), indent=2) + "\n", encoding="utf-8")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _digits(value: float, num_digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:.{num_digits}f}"


def _change(row: Comparison) -> str:
    if math.isnan(row.difference):
        return "-"
    low, high = row.interval
    interval = "" if math.isnan(low) else f" [{low:+.3f}, {high:+.3f}]"
    return f"{row.difference:+.3f}{interval}"
