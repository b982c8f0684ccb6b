"""`mobile-sam bulk`: a task over folders, lists, shards and buckets of pictures, on one machine or a cluster."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mobile_sam.cli.config_options import with_settings
from mobile_sam.cli.evaluate import SOME_FAILED
from mobile_sam.cli.model_option import EngineName, ModelName, PrecisionName
from mobile_sam.cli.part_option import parse_part
from mobile_sam.everything.config import EverythingConfig

if TYPE_CHECKING:
    from mobile_sam.bulk.executor import Executor
    from mobile_sam.bulk.run import BulkSummary
    from mobile_sam.bulk.settings import BulkSettings

STOPPED = 130  # exit code after a first Ctrl-C or SIGTERM, when what was in flight is finished


class Task(str, Enum):
    """What is done with each picture."""

    embed = "embed"
    boxes = "boxes"
    points = "points"
    everything = "everything"


class Cluster(str, Enum):
    """What runs the workers of a cluster."""

    ray = "ray"


@with_settings
def bulk(
    source: Annotated[
        list[str],
        typer.Argument(
            help="Pictures: folders (with sub-folders), patterns, lists (.txt, a path or URL a line), COCO JSON, tar "
            "shards, and URLs of them (s3://, gs://, https://).",
            show_default=False,
        ),
    ],
    task: Annotated[
        Task,
        typer.Option(
            help="embed: embeddings, for prompts or distillation later. boxes, points: a mask for each of a file. "
            "everything: masks of everything.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder; an interrupted run goes on there.", show_default=False)
    ],
    *,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="coco, sa1b, yolo, labelme, label-studio, png or parquet; of embeddings shards or safetensors. "
            "Repeatable. [default: coco; of embeddings shards]",
        ),
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(help="Of the task boxes: COCO results (image_id may be a file name), or COCO annotations."),
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option(
            help='Of the task points: JSON like {"cat.jpg": [{"points": [[x, y], ...], "labels": [1, 0, ...]}, ...]}, '
            "with an entry for each object; or JSON lines."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes, each with a model. [default: by the cores]", min=1)
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of each. [default: by the cores]", min=1)] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Pictures that a worker takes at once, and those in a shard of embeddings. "
            "[default: embed 64, everything 8, others 32]",
            min=1,
        ),
    ] = None,
    encode_together: Annotated[int, typer.Option(help="Pictures encoded in one call, for GPUs.", min=1)] = 1,
    device: Annotated[str | None, typer.Option(help="As in Python: cpu, cuda, ... [default: the engine's]")] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="Do only part I of N, as in 2/8, for schedulers such as Slurm; all may share --out."),
    ] = None,
    max_failures: Annotated[
        int | None, typer.Option(help="Stop when more pictures than this failed. [default: never]", min=0)
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try pictures again that failed in an earlier run.")
    ] = False,
    rescan: Annotated[
        bool, typer.Option("--rescan", help="List the sources of an earlier run again, for new pictures.")
    ] = False,
    cluster: Annotated[Cluster | None, typer.Option(help="Run the workers as actors of a Ray cluster.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster; auto for the one of this machine. [default: a new one here]")
    ] = None,
    actors: Annotated[
        int | None, typer.Option(help="Ray actors at most. [default: as many as the cluster holds]", min=1)
    ] = None,
    gpus: Annotated[float, typer.Option(help="GPUs of each Ray actor; a share is possible.", min=0)] = 0,
    engine: EngineName = "auto",
    precision: PrecisionName = None,
    model: ModelName = None,
    **settings: Any,
) -> None:
    """Do a task with very many pictures.

    The same command goes on after whatever stopped it, and skips what is done. Ctrl-C finishes the pictures in flight,
    a second one stops at once. A picture that cannot be done is listed in failures.csv, and the exit code is then 3.
    The options from --points-per-side on are for everything.
    """
    from mobile_sam.bulk.items import RunStoppedError
    from mobile_sam.bulk.run import BulkRequest, run_bulk
    from mobile_sam.bulk.settings import BulkSettings
    from mobile_sam.bulk.stopping import Stop
    from mobile_sam.cli.progress import progress_bar

    _check_options(task, {"boxes": boxes, "points": points}, cluster, {"address": address, "actors": actors})
    chosen = BulkSettings(
        task=task.value,
        out=os.path.abspath(out),
        formats=tuple(formats or ()),
        model=None if model is None else _model(model),
        engine=engine,
        precision=precision,
        device=device,
        num_threads=threads or 0,
        batch_size=batch_size or 0,
        encode_together=encode_together,
        config=EverythingConfig(**settings, output_mode="coco_rle"),
        shard=(0, 1) if shard is None else parse_part(shard, "--shard"),
    )
    request = BulkRequest(chosen, tuple(source), boxes or points, max_failures, retry_failed, rescan)

    def make_executor(filled_in: BulkSettings) -> Executor:
        if cluster is None:
            return _local_executor(filled_in, workers, threads)
        return _ray_executor(filled_in, address, actors, gpus)

    stop = Stop()
    try:
        with (
            stop.listening(lambda: _tell("stopping when the pictures in flight are finished; again to stop at once")),
            progress_bar("pictures") as progress,
        ):
            summary = run_bulk(request, make_executor, stop=stop, tell=_tell, progress=progress)
    except KeyboardInterrupt:
        _tell("stopped; what is done stays, and the same command goes on here")
        raise
    except RunStoppedError as error:
        raise OSError(str(error)) from error
    _end(summary, out)


def _check_options(
    task: Task, prompts: dict[str, Path | None], cluster: Cluster | None, of_cluster: dict[str, Any]
) -> None:
    for name, file in prompts.items():
        if file is not None and name != task.value:
            raise ValueError(f"--{name} {file} is for --task {name}, got --task {task.value}")
    for name, value in of_cluster.items():
        if value is not None and cluster is None:
            raise ValueError(f"--{name} {value} is for a cluster; add --cluster ray, or leave it out")


def _model(name: str) -> str:
    """A model's path as every working folder sees it, or the name of a bundled one."""
    return os.path.abspath(name) if os.path.exists(name) else name


def _local_executor(settings: BulkSettings, workers: int | None, threads: int | None) -> Executor:
    from mobile_sam.bulk.local import LocalExecutor
    from mobile_sam.bulk.parallelism import choose_workers, free_memory_bytes, usable_cores

    num_workers, num_threads = choose_workers(
        usable_cores(), workers, threads, settings.task, device=settings.device, memory_bytes=free_memory_bytes()
    )
    _tell(f"workers: {num_workers}, CPU threads of each: {num_threads}")
    return LocalExecutor(replace(settings, num_threads=num_threads), num_workers)


def _ray_executor(settings: BulkSettings, address: str | None, actors: int | None, gpus: float) -> Executor:
    from mobile_sam.bulk.cluster import RayExecutor, RayOptions

    options = RayOptions(address, max_actors=actors, num_cpus=settings.num_threads or 1, num_gpus=gpus)
    return RayExecutor(replace(settings, num_threads=settings.num_threads or 1), options)


def _end(summary: BulkSummary, out: Path) -> None:
    """Say what came of it, and choose the exit code."""
    counts = summary.counts
    pace = f", {summary.num_new / summary.spent_s:.3g} a second" if summary.num_new else ""
    left = f", {counts.num_pending} left" if counts.num_pending else ""
    print(f"{out}: {counts.num_done} of {counts.num_items} pictures done ({summary.num_new} now{pace}){left}")
    for path in summary.written:
        print(f"wrote {path}")
    if summary.failures:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in summary.failures.items())
        _tell(f"{counts.num_failed} pictures failed: {kinds}")
    if summary.was_stopped:
        _tell(f"stopped, since {summary.was_stopped}; the same command goes on")
    if counts.num_failed:
        raise typer.Exit(SOME_FAILED)
    if not summary.is_complete:
        raise typer.Exit(STOPPED)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
