"""Whole evaluations, each one call: against ground truth, models against each other, COCO AP, everything, latency."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from mobile_sam.data.mask_files import Detections, MaskFile
from mobile_sam.data.records import Dataset, Picture, Problem
from mobile_sam.evaluate.agreement import AgreementTask
from mobile_sam.evaluate.boxes import BoxesTask, ap_tables, average_precisions, box_ap, check_categories, write_results
from mobile_sam.evaluate.everything import EverythingTask, MakeGenerator, make_sam_generator
from mobile_sam.evaluate.everything_protocol import EverythingProtocol, describe_everything
from mobile_sam.evaluate.everything_results import (
    OBJECT_COLUMNS,
    compare_runs,
    object_rows,
    picture_details,
    run_tables,
    sittings,
    summarise_run,
)
from mobile_sam.evaluate.everything_tables import everything_tables
from mobile_sam.evaluate.latency import LatencyProtocol, measure_latency
from mobile_sam.evaluate.machine import machine_facts
from mobile_sam.evaluate.measurements import Measurement, MeasurementTable
from mobile_sam.evaluate.models import Model, ModelSpec
from mobile_sam.evaluate.prompts import PromptsTask
from mobile_sam.evaluate.protocols import AgreementProtocol, BoxesProtocol, PromptsProtocol, describe
from mobile_sam.evaluate.report.content import NamedTable, Report
from mobile_sam.evaluate.report.files import write_rows
from mobile_sam.evaluate.report.page import can_write_page
from mobile_sam.evaluate.run_folder import MEASUREMENTS_CSV, check_run_folder, write_report
from mobile_sam.evaluate.session import RunOptions, Session, dataset_facts
from mobile_sam.evaluate.showcase import make_cases
from mobile_sam.evaluate.statistics import BOOTSTRAP, compare, summarise


def evaluate_prompts(
    dataset: Dataset, models: Sequence[Model], protocols: Sequence[PromptsProtocol], options: RunOptions | None = None
) -> Report:
    """Measure masks for prompts made from annotated objects against the annotated masks.

    Args:
        dataset: pictures with objects.
        models: the first is the baseline for differences.
        protocols: with unique names.
        options: how the run is done.

    Raises:
        ValueError: no object, models or protocols of one name, another run in the folder, or not one picture that
            could be measured. OSError: the folder cannot be written.
    """
    _require_objects(dataset)
    clicks = [instance.point_xy for picture in dataset.pictures for instance in picture.instances]
    for protocol in protocols:
        if protocol.first_prompt == "annotated" and not any(clicks):
            raise ValueError(
                f"protocol {protocol.name!r} needs the click that made each mask, which SA-1B's files tell; "
                f"{dataset.name} tells none"
            )
    session = Session(
        "prompts",
        "Masks against annotated objects",
        dataset,
        models,
        [protocol.to_json() for protocol in protocols],
        options or RunOptions(),
    )
    return _measure_masks(session, PromptsTask(protocols, models), "objects", models[0].name)


def evaluate_agreement(
    dataset: Dataset,
    reference: Model | MaskFile,
    others: Sequence[Model],
    protocols: Sequence[AgreementProtocol],
    options: RunOptions | None = None,
    *,
    pairing: str = "id",
) -> Report:
    """Measure masks of models against those of a reference, for the same prompts.

    Args:
        dataset: pictures; with objects, if prompts are made from them.
        reference: a model, or the masks that another tool left in a file.
        others: what is compared with it; the first is the baseline for differences among them.
        protocols: with unique names.
        options: how the run is done.
        pairing: how masks of a file find their prompts, one of `agreement.PAIRINGS`.

    Raises:
        ValueError: as `evaluate_prompts`; also nothing to compare, or prompts from objects where there are none.
    """
    if not others:
        raise ValueError("agreement needs two models, or a model and a file of masks; name another model")
    for protocol in protocols:
        given_by_file = protocol.prompts == "given" and isinstance(reference, MaskFile)
        if protocol.prompts in ("box", "centre", "given") and not given_by_file and not dataset.num_instances:
            raise ValueError(f"protocol {protocol.name!r} makes prompts from objects; {dataset.name} has none")
    if isinstance(reference, MaskFile) and pairing == "id":
        _require_ids(dataset, reference, protocols)
    models = [*([reference] if isinstance(reference, Model) else []), *others]
    told = {"name": reference.name}
    if isinstance(reference, MaskFile):
        known = {picture.id for picture in dataset.pictures} | dataset.passed_over
        unknown = [
            Problem("masks of an unknown picture", f"picture {name}", f"{len(masks)} masks; not in {dataset.name}")
            for name, masks in reference.masks.items()
            if name not in known
        ]
        dataset = replace(dataset, problems=(*dataset.problems, *reference.problems, *unknown))
        told |= {"sha256": reference.sha256, "pairing": pairing}
    session = Session(
        "agreement",
        f"Agreement with {reference.name}",
        dataset,
        models,
        [protocol.to_json() for protocol in protocols],
        options or RunOptions(),
        {"reference": told},
    )
    return _measure_masks(session, AgreementTask(protocols, reference, others, pairing), "prompts", others[0].name)


def evaluate_boxes(
    dataset: Dataset,
    detections: Detections,
    models: Sequence[Model],
    protocols: Sequence[BoxesProtocol] = (BoxesProtocol(),),
    options: RunOptions | None = None,
) -> Report:
    """Compute COCO AP of the masks that models give for a detector's boxes.

    Args:
        dataset: pictures with objects, crowds among them.
        detections: of these pictures; those of others are left out and counted.
        models: the first, with the first protocol, is the baseline for differences.
        protocols: with unique names.
        options: how the run is done.

    Raises:
        ValueError: as `evaluate_prompts`; also no detection that belongs to a picture of the dataset.
    """
    _require_objects(dataset)
    known = {picture.id for picture in dataset.pictures}
    _, unknown = detections.check_pictures(known | dataset.passed_over)
    detections, _ = detections.check_pictures(known)
    if not detections.pictures:
        raise ValueError(
            f"no detection in {detections.name} is of a picture in {dataset.name}; do the image ids belong together?"
        )
    if dataset.kind == "lvis":
        raise ValueError(
            f"{dataset.name} is LVIS, whose pictures are not annotated for all categories: COCO AP would count what is "
            "right but not annotated as wrong; only COCO files are scored"
        )
    passed_over = check_categories(dataset.pictures, detections)
    session = Session(
        "boxes",
        f"COCO AP of the masks for the boxes in {detections.name}",
        replace(dataset, problems=(*dataset.problems, *detections.problems, *unknown)),
        models,
        [protocol.to_json() for protocol in protocols],
        options or RunOptions(),
        {"detections": {"name": detections.name, "sha256": detections.sha256}},
    )
    session.measure(BoxesTask(protocols, models, detections))
    failures = session.failures()
    pictures = [picture for picture in dataset.pictures if picture.id not in failures]
    with session.stopwatch.stage("statistics"):
        aps = average_precisions(protocols, [model.name for model in models], pictures, session.entries)
        most_detections = max(protocol.max_detections for protocol in protocols)
        tables = ap_tables(aps, box_ap(pictures, detections, most_detections))
    notes = [*(f"{protocol.name}: {describe(protocol)}." for protocol in protocols), *filter(None, [passed_over])]
    report = session.report(_most_boxes(session, pictures), "boxes", tables=tables, notes=notes)
    write_report(report, session.options.folder)
    if session.options.folder is not None:
        write_results(session.options.folder, session.entries)
    return report


def evaluate_everything(
    dataset: Dataset,
    models: Sequence[Model],
    protocols: Sequence[EverythingProtocol],
    options: RunOptions | None = None,
    *,
    make_generator: MakeGenerator = make_sam_generator,
) -> Report:
    """Measure how many annotated objects are among the masks of everything, and how long these take.

    LVIS will do as well: recall asks only of what is annotated.

    Args:
        dataset: pictures, some with objects; masks and seconds are also counted of the others.
        models: the first, with the first protocol, is the baseline for differences.
        protocols: with unique names.
        options: how the run is done; embeddings are not taken from a folder, since encoding is timed as well.
        make_generator: makes what segments everything, from a config and an engine.

    Raises:
        ValueError: as `evaluate_prompts`; also nothing but crowds to be found.
    """
    _require_objects(dataset)
    if all(instance.is_crowd for picture in dataset.pictures for instance in picture.instances):
        raise ValueError(
            f"{dataset.name} has only crowds, {dataset.num_instances} of them; recall needs single objects"
        )
    session = Session(
        "everything",
        "Masks of everything against annotated objects",
        dataset,
        models,
        [protocol.to_json() for protocol in protocols],
        replace(options or RunOptions(), embeddings=None),
    )
    session.measure(EverythingTask(protocols, models, dataset.pictures, make_generator))
    entries = {name: entry for name, entry in session.entries.items() if "failed" not in entry}
    with session.stopwatch.stage("statistics"):
        runs = run_tables(protocols, [model.name for model in models], entries)
        protocol_of = {protocol.name: protocol for protocol in protocols}
        summaries = [summarise_run(run, protocol_of[run.protocol]) for run in runs]
        differences = [compare_runs(run, runs[0]) for run in runs[1:]]
    report = session.report(
        summaries[0].num_objects,
        "objects",
        tables=everything_tables(summaries, differences),
        details={
            "runs": [asdict(summary) for summary in summaries],
            "differences": [asdict(difference) for difference in differences],
            "pictures": picture_details(runs),
        },
        notes=_notes_of_everything(dataset, protocols, sittings(entries)),
    )
    write_report(report, session.options.folder)
    if session.options.folder is not None:
        write_rows(session.options.folder / MEASUREMENTS_CSV, OBJECT_COLUMNS, object_rows(runs))
    return report


def evaluate_latency(
    dataset: Dataset, specs: Sequence[ModelSpec], protocol: LatencyProtocol, options: RunOptions | None = None
) -> Report:
    """Time models side by side, each in a process of its own.

    A model that gives out is among the report's failures; the others go on.

    Args:
        dataset: pictures to time on.
        specs: with unique names; the first is the baseline for ratios.
        protocol: what is timed, and how often.
        options: where the report goes.

    Raises:
        ValueError: not one picture that can be read, or not one model that runs.
    """
    options = options or RunOptions()
    if options.folder is not None:
        check_run_folder(options.folder, has_journal=False)
    started = time.perf_counter()
    result = measure_latency(protocol, specs, [picture.path for picture in dataset.pictures], options.progress)
    failures = [{"picture": problem.where, "reason": problem.message} for problem in result.failures]
    if not result.models:
        raise ValueError(f"not one model could be timed: {'; '.join(failure['reason'] for failure in failures)}")
    tables = [
        NamedTable(
            title,
            tuple(columns),
            tuple(map(tuple, rows)),
            num_text_columns=sum(isinstance(cell, str) for cell in rows[0]),
        )
        for title, columns, rows in result.tables()
    ]
    report = Report(
        kind="latency",
        title="Latency",
        command=options.command,
        machine={**machine_facts(), **result.watch},
        dataset=dataset_facts(dataset),
        models=result.models,
        protocols=[protocol.to_json()],
        counts={"pictures timed": result.num_pictures, "models timed": len(result.models)},
        failures=failures,
        problems=[asdict(problem) for problem in dataset.problems],
        tables=tables,
        details=result.to_json(),
        notes=[
            "start: from a new process to a model that is ready, files in the disk's cache; import and make engine are "
            "parts of it (torch and onnxruntime are imported in make engine). encode: resizing, normalising and the "
            "network, reading the file left out. Prompts: to masks of the picture's size."
            + (" Everything: encoding among it, with SAM's defaults, to masks." if protocol.everything else "")
        ],
        wall_s=time.perf_counter() - started,
    )
    write_report(report, options.folder)
    return report


def _require_ids(dataset: Dataset, masks: MaskFile, protocols: Sequence[AgreementProtocol]) -> None:
    """See that some masks of a file carry ids of pictures and prompts of the run, before doing the work.

    Raises:
        ValueError: none does.
    """
    if not any(picture.id in masks.masks for picture in dataset.pictures):
        ours, theirs = (next(iter(names), "none") for names in ([p.id for p in dataset.pictures], masks.masks))
        raise ValueError(
            f"no mask in {masks.name} is of a picture in {dataset.name}: ids are like {theirs!r} and {ours!r}"
        )
    ids = {mask.id for of_picture in masks.masks.values() for mask in of_picture}
    names = [protocol.prompts_name for protocol in protocols if protocol.prompts != "given"]
    of_objects = {instance.id for picture in dataset.pictures for instance in picture.instances}
    if names and not any(found.startswith(tuple(f"{name}/" for name in names)) or found in of_objects for found in ids):
        found = ", ".join(map(repr, sorted(ids)[:3])) if ids - {""} else "missing"
        raise ValueError(
            f"the prompt ids in {masks.name} are {found}, those of this run begin with {', '.join(names)}: copy each "
            "prompt_id that --write-prompts wrote, with the same seed and numbers, or use --pairing overlap"
        )


def _notes_of_everything(
    dataset: Dataset, protocols: Sequence[EverythingProtocol], num_pictures_of: Mapping[str, int]
) -> list[str]:
    notes = [f"{protocol.name}: {describe_everything(protocol)}." for protocol in protocols]
    notes += [f"{protocol.name}: {protocol.source}" for protocol in protocols if protocol.source]
    bins = dict.fromkeys(", ".join(map(str, protocol.area_bins)) for protocol in protocols)
    notes += [f"Area bins by the annotated area: {text}." for text in bins]
    if dataset.kind == "lvis":
        notes.append(
            "LVIS: of each picture only some categories are annotated; recall is that of the annotated objects."
        )
    if len(num_pictures_of) > 1:
        told = ", ".join(f"{count} from {began[:19]} UTC on" for began, count in num_pictures_of.items())
        notes.append(f"The seconds come from {len(num_pictures_of)} sittings: pictures measured {told}.")
    return [*notes, f"{BOOTSTRAP}."]


def _area_of(protocol: PromptsProtocol | AgreementProtocol) -> str:
    if isinstance(protocol, AgreementProtocol):
        return "by the reference's pixels:"
    return "by the annotated area:" if protocol.area_from == "annotation" else "by the mask's pixels:"


def _require_objects(dataset: Dataset) -> None:
    if not dataset.num_instances:
        raise ValueError(f"{dataset.name} has no object to measure; left out: {dataset.count_problems() or 'nothing'}")


def _most_boxes(session: Session, pictures: Sequence[Picture]) -> int:
    """Number of boxes that became masks, by the protocol that takes the most of them; all models have the same."""
    name = session.models[0].name
    of_pictures = [session.entries[picture.id]["results"] for picture in pictures]
    protocols = [protocol["name"] for protocol in session.protocols]
    return max(sum(len(results[protocol][name]) for results in of_pictures) for protocol in protocols)


def _measure_masks(session: Session, task: PromptsTask | AgreementTask, what: str, baseline: str) -> Report:
    """Run a protocol whose results are masks' IoU."""
    session.measure(task)
    table = MeasurementTable.of(
        [Measurement.from_row(name, row) for name, entry in session.entries.items() for row in entry.get("rows", ())]
    )
    if not len(table):
        raise ValueError(f"not one of the {what} could be measured; left out: {dict(session.left_out())}")
    with session.stopwatch.stage("statistics"):
        summaries, differences = summarise(table), compare(table, baseline)
    num_cases = session.options.num_cases if session.options.folder is not None and can_write_page() else 0
    with session.stopwatch.stage("cases"):
        cases = make_cases(task, session.dataset.pictures, table, num_cases, session.store, session.options.progress)
    num_measured = len(set(zip(table.picture.tolist(), table.object.tolist(), strict=True)))
    notes = [f"{protocol.name}: {describe(protocol)}." for protocol in task.protocols]
    bins = {
        f"{name} {', '.join(map(str, bins))}" for name, bins in ((_area_of(p), p.area_bins) for p in task.protocols)
    }
    notes += [f"Area bins: {text}." for text in sorted(bins)]
    notes.append(f"{BOOTSTRAP}.")
    report = session.report(num_measured, what, summaries=summaries, differences=differences, notes=notes)
    write_report(report, session.options.folder, table, cases)
    return report
