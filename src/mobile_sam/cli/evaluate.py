"""`mobile-sam evaluate ...`: validation by named protocols, one command for each kind."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mobile_sam.cli.progress import progress_bar

if TYPE_CHECKING:
    from mobile_sam.data.records import Dataset
    from mobile_sam.evaluate.models import Model
    from mobile_sam.evaluate.report.content import Report
    from mobile_sam.evaluate.session import RunOptions

SOME_FAILED = 3  # exit code when the report is there but some pictures or models are not in it

_MODEL_HELP = (
    "What to evaluate, repeatable, the first is the baseline: onnxruntime, torch, a checkpoint, or keys as in "
    "name=tuned,engine=torch,checkpoint=tuned.pt,precision=bf16,device=cuda."
)
_Source = Annotated[
    Path,
    typer.Argument(
        help="Annotations: a COCO or LVIS JSON, a folder of SA-1B (sa_*.json), or a folder with images/ and masks/.",
        show_default=False,
    ),
]
_Pictures = Annotated[
    Path | None, typer.Option(help="Folder of the pictures. [default: beside the annotations, or images/ there]")
]
_NewOut = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder for the results. [default: evaluation-latency]")
]
_Masks = Annotated[
    Path | None, typer.Option(help="Folder of masks named as the pictures, if SOURCE is one of pictures.")
]
_MaskKind = Annotated[
    str, typer.Option(help="auto, binary (one object) or labels (each value an object, 255 is void).")
]
_ModelNames = Annotated[list[str] | None, typer.Option("--model", "-m", help=_MODEL_HELP)]
_Protocols = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol",
        "-p",
        help="A protocol or a group, repeatable; `evaluate protocols` lists them. [default: default]",
    ),
]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a choice of the protocols, as in seed=1 or mask_rule=oracle. Repeatable."),
]
_First = Annotated[int | None, typer.Option(help="Only the first N pictures.", min=1)]
_Sample = Annotated[int | None, typer.Option(help="Only N pictures, chosen at random.", min=1)]
_SampleSeed = Annotated[int, typer.Option(help="Of that choice.", min=0)]
_Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="Folder for the results; an interrupted run goes on there. [default: evaluation-COMMAND]"
    ),
]
_Restart = Annotated[bool, typer.Option("--restart", help="Begin anew although the folder holds a run.")]
_Embeddings = Annotated[
    Path | None, typer.Option(help="Keep embeddings in this folder for other runs (4 MiB a picture and model).")
]
_Cases = Annotated[int, typer.Option(help="Worst and best masks of each protocol to show in the page.", min=0)]
_Threads = Annotated[int, typer.Option(help="CPU threads of onnxruntime; 0 for its own choice.", min=0)]


def prompts(
    source: _Source,
    pictures: _Pictures = None,
    masks: _Masks = None,
    mask_kind: _MaskKind = "auto",
    model: _ModelNames = None,
    protocol: _Protocols = None,
    set_: _Set = None,
    first: _First = None,
    sample: _Sample = None,
    sample_seed: _SampleSeed = 0,
    out: _Out = None,
    restart: _Restart = False,
    embeddings: _Embeddings = None,
    cases: _Cases = 4,
    threads: _Threads = 0,
) -> None:
    """Masks for boxes and clicks against annotated masks: mIoU by protocol."""
    from mobile_sam.data.sources import open_dataset
    from mobile_sam.evaluate.presets import prompts_protocols
    from mobile_sam.evaluate.protocols import with_settings
    from mobile_sam.evaluate.validate import evaluate_prompts

    chosen = [with_settings(one, set_ or []) for one in prompts_protocols(protocol or ["default"])]
    specs = _specs(model)
    dataset = _some(open_dataset(source, pictures, masks, mask_kind), first, sample, sample_seed)
    _tell(dataset)
    with _resumable(restart), progress_bar("pictures") as progress:
        options = _options(out or Path("evaluation-prompts"), restart, embeddings, cases, progress)
        report = evaluate_prompts(dataset, _make(specs, threads), chosen, options)
    _show(report, options)


def agreement(
    source: Annotated[
        list[Path],
        typer.Argument(
            help="Pictures and folders of pictures; or annotations (as for `prompts`), for prompts made from objects.",
            show_default=False,
        ),
    ],
    pictures: _Pictures = None,
    model: _ModelNames = None,
    reference_masks: Annotated[
        Path | None, typer.Option(help="Masks of another tool (COCO RLE in JSON) to compare all models with.")
    ] = None,
    pairing: Annotated[
        str, typer.Option(help="How these find their prompts: id (they carry prompt_id), or overlap (the best fit).")
    ] = "id",
    protocol: _Protocols = None,
    set_: _Set = None,
    write_prompts: Annotated[
        Path | None, typer.Option(help="Only write the prompts here (JSON), for another tool to answer.")
    ] = None,
    first: _First = None,
    sample: _Sample = None,
    sample_seed: _SampleSeed = 0,
    out: _Out = None,
    restart: _Restart = False,
    embeddings: _Embeddings = None,
    cases: _Cases = 4,
    threads: _Threads = 0,
) -> None:
    """Masks of two models for the same prompts against each other; needs no annotations.

    The first --model is what the others are compared with, unless there are --reference-masks.
    """
    from mobile_sam.data.mask_files import read_mask_file
    from mobile_sam.evaluate.presets import agreement_protocols
    from mobile_sam.evaluate.prompt_files import write_prompt_file
    from mobile_sam.evaluate.protocols import with_settings
    from mobile_sam.evaluate.validate import evaluate_agreement

    chosen = [with_settings(one, set_ or []) for one in agreement_protocols(protocol or ["default"])]
    specs = _specs(model)
    dataset = _open(source, pictures)
    dataset = _some(dataset, first, sample, sample_seed)
    if write_prompts is not None:
        num_prompts = write_prompt_file(write_prompts, dataset, chosen)
        print(f"{num_prompts} prompts: {write_prompts}")
        return
    masks = None if reference_masks is None else read_mask_file(reference_masks)
    if masks is None and pairing != "id":
        raise ValueError(f"--pairing {pairing} is for the masks of --reference-masks, which are not named")
    if masks is None and len(specs) < 2:
        raise ValueError("name two models, --model A --model B, or the masks of another tool with --reference-masks")
    _tell(dataset)
    with _resumable(restart), progress_bar("pictures") as progress:
        options = _options(out or Path("evaluation-agreement"), restart, embeddings, cases, progress)
        models = _make(specs, threads)
        reference, others = (models[0], models[1:]) if masks is None else (masks, models)
        report = evaluate_agreement(dataset, reference, others, chosen, options, pairing=pairing)
    _show(report, options)


def boxes(
    source: _Source,
    detections: Annotated[
        Path,
        typer.Option(help="COCO results JSON: image_id, category_id, bbox (x, y, w, h), score.", show_default=False),
    ],
    pictures: _Pictures = None,
    model: _ModelNames = None,
    mask_rule: Annotated[list[str] | None, typer.Option(help="single, best or best-of-four. Repeatable.")] = None,
    set_: _Set = None,
    first: _First = None,
    sample: _Sample = None,
    sample_seed: _SampleSeed = 0,
    out: _Out = None,
    restart: _Restart = False,
    embeddings: _Embeddings = None,
    threads: _Threads = 0,
) -> None:
    """COCO AP of the masks for a detector's boxes."""
    from mobile_sam.data.mask_files import read_detections
    from mobile_sam.data.sources import open_dataset
    from mobile_sam.evaluate.protocols import BoxesProtocol, with_settings
    from mobile_sam.evaluate.validate import evaluate_boxes

    rules = mask_rule or ["single"]
    chosen = [with_settings(BoxesProtocol(f"boxes-{rule}", mask_rule=rule), set_ or []) for rule in rules]
    specs = _specs(model)
    found = read_detections(detections)
    dataset = _some(open_dataset(source, pictures), first, sample, sample_seed)
    _tell(dataset)
    with _resumable(restart), progress_bar("pictures") as progress:
        options = _options(out or Path("evaluation-boxes"), restart, embeddings, 0, progress)
        report = evaluate_boxes(dataset, found, _make(specs, threads), chosen, options)
    _show(report, options)


def everything(
    source: _Source,
    pictures: _Pictures = None,
    masks: _Masks = None,
    mask_kind: _MaskKind = "auto",
    model: _ModelNames = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(
            "--mode",
            "--protocol",
            "-p",
            help="exact, fast or mobilesamv2; repeatable, the first is the baseline. [default: exact and fast]",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting of all modes, as in points_per_side=16. Repeatable."),
    ] = None,
    first: _First = None,
    sample: _Sample = None,
    sample_seed: _SampleSeed = 0,
    out: _Out = None,
    restart: _Restart = False,
    threads: _Threads = 0,
) -> None:
    """Masks of everything against annotated masks: average recall, number of masks, seconds."""
    from mobile_sam.data.sources import open_dataset
    from mobile_sam.evaluate.everything_protocol import with_everything_settings
    from mobile_sam.evaluate.presets import everything_protocols
    from mobile_sam.evaluate.validate import evaluate_everything

    chosen = [with_everything_settings(one, set_ or []) for one in everything_protocols(mode or ["default"])]
    specs = _specs(model)
    dataset = _some(open_dataset(source, pictures, masks, mask_kind), first, sample, sample_seed)
    _tell(dataset)
    with _resumable(restart), progress_bar("pictures") as progress:
        options = _options(out or Path("evaluation-everything"), restart, None, 0, progress)
        report = evaluate_everything(dataset, _make(specs, threads), chosen, options)
    _show(report, options)


def latency(
    photo: Annotated[list[Path], typer.Argument(help="Pictures to time on; one is enough.", show_default=False)],
    model: _ModelNames = None,
    starts: Annotated[int, typer.Option(help="Times to start each model in a new process.", min=1)] = 3,
    rounds: Annotated[int, typer.Option(help="Times to encode each picture and put all prompts to it.", min=1)] = 9,
    prompts: Annotated[list[int] | None, typer.Option(help="Numbers of prompts to put at once. Repeatable.")] = None,
    everything: Annotated[
        list[str] | None, typer.Option(help="Also segment everything: exact or fast. Repeatable.")
    ] = None,
    everything_rounds: Annotated[int, typer.Option(help="Times to segment everything in each picture.", min=1)] = 3,
    threads: _Threads = 0,
    out: _NewOut = None,
) -> None:
    """Seconds and memory: start, encoding, clicks, prompts, everything; models take turns in processes of their own."""
    from mobile_sam.data.sources import list_picture_files
    from mobile_sam.evaluate.latency import LatencyProtocol
    from mobile_sam.evaluate.validate import evaluate_latency

    protocol = LatencyProtocol(
        num_starts=starts,
        num_rounds=rounds,
        prompt_counts=tuple(prompts or (1, 16, 64)),
        num_threads=threads,
        everything=tuple(everything or ()),
        everything_rounds=everything_rounds,
    )
    specs = _specs(model)
    dataset = list_picture_files(photo)
    with progress_bar("turns") as progress:
        options = _options(out or Path("evaluation-latency"), True, None, 0, progress)
        report = evaluate_latency(dataset, specs, protocol, options)
    _show(report, options)


def protocols() -> None:
    """List the protocols and whose they are."""
    from mobile_sam.evaluate import presets
    from mobile_sam.evaluate.everything_protocol import describe_everything
    from mobile_sam.evaluate.protocols import describe

    known: tuple[tuple[str, Any, dict[str, tuple[str, ...]], Callable[[Any], str]], ...] = (
        ("prompts --protocol", presets.PROMPTS_PROTOCOLS, presets.PROMPTS_GROUPS, describe),
        ("agreement --protocol", presets.AGREEMENT_PROTOCOLS, presets.AGREEMENT_GROUPS, describe),
        ("everything --mode", presets.EVERYTHING_PROTOCOLS, presets.EVERYTHING_GROUPS, describe_everything),
    )
    for command, of_command, groups, in_words in known:
        print(f"mobile-sam evaluate {command} ...\n")
        for name, protocol in of_command.items():
            print(f"  {name:20} {in_words(protocol)}")
        print("\n  groups")
        for name, members in groups.items():
            print(f"  {name:20} {', '.join(members)}")
        print("\n  sources")
        for source in dict.fromkeys(protocol.source for protocol in of_command.values() if protocol.source):
            print(f"  - {source}")
        print()


@contextmanager
def _resumable(restarts: bool) -> Iterator[None]:
    """Say after Ctrl-C that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"stopped; the same command{' without --restart' if restarts else ''} goes on here", file=sys.stderr)
        raise


def _specs(models: list[str] | None) -> list[Any]:
    from mobile_sam.evaluate.models import ModelSpec, with_unique_names

    return with_unique_names([ModelSpec.parse(text) for text in models or ["onnxruntime"]])


def _make(specs: Sequence[Any], num_threads: int) -> list[Model]:
    from mobile_sam.evaluate.models import make_models

    return make_models(specs, num_threads)


def _open(sources: Sequence[Path], pictures: Path | None) -> Dataset:
    from mobile_sam.data.sources import is_annotated, list_picture_files, open_dataset

    if len(sources) == 1 and is_annotated(sources[0]):
        return open_dataset(sources[0], pictures)
    if pictures is not None:
        raise ValueError(f"--pictures {pictures} belongs to an annotation file; {sources[0]} are pictures themselves")
    return list_picture_files(sources)


def _some(dataset: Dataset, first: int | None, sample: int | None, seed: int) -> Dataset:
    if first is not None and sample is not None:
        raise ValueError("--first and --sample both choose pictures; use one of them")
    return dataset.some(sample, seed) if sample is not None else dataset.some(first) if first is not None else dataset


def _options(folder: Path, restarts: bool, embeddings: Path | None, num_cases: int, progress: Any) -> RunOptions:
    from mobile_sam.evaluate.session import RunOptions

    command = shlex.join(["mobile-sam", *sys.argv[1:]])
    return RunOptions(folder, restarts, embeddings, num_cases, command, progress)


def _tell(dataset: Dataset) -> None:
    """Say on stderr what is about to be measured, and what is wrong with it."""
    print(
        f"{dataset.kind} {dataset.name}: {len(dataset.pictures)} pictures, {dataset.num_instances} objects",
        file=sys.stderr,
    )
    for kind, count in dataset.count_problems().items():
        example = next(problem for problem in dataset.problems if problem.kind == kind)
        state = "left out" if example.is_left_out else "kept"
        print(f"  {count} x {kind} ({state}), such as {example.where}: {example.message}", file=sys.stderr)


def _show(report: Report, options: RunOptions) -> None:
    """Print the tables and where the files are; some failures end in an exit code of their own."""
    from rich.console import Console

    from mobile_sam.evaluate.report.tables import terminal
    from mobile_sam.evaluate.run_folder import written_files

    Console().print(terminal(report))
    assert options.folder is not None
    for path in written_files(options.folder):
        print(path)
    if report.failures:
        raise typer.Exit(SOME_FAILED)
