"""A run from its sources to its last file: lists, hands out, enters what became of each picture, and finishes."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mobile_sam.bulk.embedding_sinks import describe_teacher, write_plan
from mobile_sam.bulk.executor import Executor
from mobile_sam.bulk.items import Report
from mobile_sam.bulk.manifest import Counts, Manifest
from mobile_sam.bulk.prompts import PromptFile, read_prompts
from mobile_sam.bulk.results import PictureMasks
from mobile_sam.bulk.run_folder import FAILURES, SUMMARY, folder_of, manifest_path
from mobile_sam.bulk.run_listing import add_prompts, list_pictures, printable
from mobile_sam.bulk.settings import NEEDS_PROMPTS, SPOOL, BulkSettings
from mobile_sam.bulk.sinks import make_sink
from mobile_sam.bulk.sinks.base import CollectedSink, PictureSink
from mobile_sam.bulk.sources import local_roots
from mobile_sam.bulk.spool import read_spooled, remove_unnamed_parts
from mobile_sam.bulk.stopping import Stop
from mobile_sam.core.files import atomic_path
from mobile_sam.data.picture_sources import is_url

logger = logging.getLogger(__name__)

Progress = Callable[[float, int, float], None]
"""Told how many pictures are done with, how many of them failed, and how many there are."""


@dataclass(frozen=True)
class BulkRequest:
    """What a user asks for.

    Attributes:
        settings: what is done to each picture; `prompts_sha256`, `categories` and `roots` are filled in here.
        sources: as for `mobile_sam.bulk.sources.list_sources`.
        prompts_file: boxes or points, for the tasks that need them.
        max_failures: how many failed pictures end the run; None for any number.
        retries_failed: whether pictures that failed in an earlier run are tried again.
        rescans: whether the sources of an earlier run are listed again, for pictures that are new.
    """

    settings: BulkSettings
    sources: tuple[str, ...]
    prompts_file: Path | None = None
    max_failures: int | None = None
    retries_failed: bool = False
    rescans: bool = False


@dataclass(frozen=True)
class BulkSummary:
    """What became of a run.

    Attributes:
        counts: of the pictures, over all runs in the folder.
        num_new: pictures that this run did.
        spent_s: seconds that it took.
        is_complete: whether no picture is left.
        was_stopped: why some are left; "" where none are.
        failures: by kind.
        written: files with the results of many pictures, and the list of failures.
    """

    counts: Counts
    num_new: int
    spent_s: float
    is_complete: bool
    was_stopped: str = ""
    failures: Mapping[str, int] = field(default_factory=dict)
    written: tuple[Path, ...] = ()


def run_bulk(
    request: BulkRequest,
    make_executor: Callable[[BulkSettings], Executor],
    *,
    stop: Stop | None = None,
    tell: Callable[[str], None] = logger.info,
    progress: Progress | None = None,
) -> BulkSummary:
    """Do a task with all pictures of some sources, or go on with that.

    Args:
        request: what to do.
        make_executor: makes what runs the workers; called only if there is something to do.
        stop: ends the run when it is asked, after what is in flight.
        tell: is told what people want to know, a line at a time.
        progress: is told how far the run is.

    Raises:
        ValueError, OSError: nothing to do was found, a folder of another run or of other files, changed settings,
            another run at work in the folder, prompts for other pictures.
        MissingDependencyError: a package that the formats, the sources or the engine need.
        RunStoppedError: something went wrong that no single picture is to blame for; the same call goes on later.
    """
    prompts = _read_prompts(request)
    settings = replace(
        request.settings,
        roots=local_roots(request.sources),
        prompts_sha256=prompts.sha256 if prompts else "",
        categories=prompts.categories if prompts else {},
    )
    sink_settings = settings.sink_settings()
    sinks = [] if settings.task == "embed" else [make_sink(name, sink_settings) for name in settings.formats]
    described = {**settings.describe(), "sources": [_absolute(source) for source in request.sources]}
    with folder_of(settings, request.sources) as folder, Manifest.open(manifest_path(settings), described) as manifest:
        if not manifest.is_listed or request.rescans:
            list_pictures(request.sources, settings, manifest, tell)
        if prompts and (not manifest.has_prompts or request.rescans):
            add_prompts(prompts, settings, manifest, tell)
        folder.has_run = True
        if request.retries_failed:
            tell(f"{manifest.retry_failed()} failed pictures are tried again")
        return _Run(settings, sinks, manifest, request, stop or Stop(), tell, progress).do_all(make_executor)


class _Run:
    """One run over what is left."""

    def __init__(
        self,
        settings: BulkSettings,
        sinks: Sequence[PictureSink | CollectedSink],
        manifest: Manifest,
        request: BulkRequest,
        stop: Stop,
        tell: Callable[[str], None],
        progress: Progress | None,
    ) -> None:
        self.settings = settings
        self.sinks = sinks
        self.manifest = manifest
        self.request = request
        self.stop = stop
        self.tell = tell
        self.progress = progress
        self.num_computed = 0  # and not in the manifest yet
        self.started_s = time.monotonic()

    def do_all(self, make_executor: Callable[[BulkSettings], Executor]) -> BulkSummary:
        """Do what is left, and finish if nothing is left then."""
        before = self.manifest.counts()
        summary_path = self.settings.named(SUMMARY, ".json")
        why = ""
        if before.num_pending:
            summary_path.unlink(missing_ok=True)
            executor = make_executor(self.settings)
            self._begin()
            why = self._work(executor)
        counts = self.manifest.counts()
        is_complete = not counts.num_pending
        written = self._finish() if is_complete and not summary_path.exists() else []
        written += self._write_failures()
        spent_s = time.monotonic() - self.started_s
        num_new = counts.num_done - before.num_done
        failures = self.manifest.count_failures()
        summary = BulkSummary(counts, num_new, spent_s, is_complete, why, failures, tuple(written))
        if is_complete:
            self._write_summary(summary_path, summary)
        return summary

    def _begin(self) -> None:
        """Write what all pictures share, and remove what a killed run left that no picture needs."""
        if self.settings.needs_spool:
            remove_unnamed_parts(self.settings.named(SPOOL), self.manifest.spool_parts())
        for sink in self.sinks:
            if isinstance(sink, PictureSink):
                sink.begin()
        if self.settings.task == "embed":
            self._plan_embeddings()
        self.manifest.note_run(
            {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "host": platform.node(), "engine": self.settings.engine}
        )

    def _plan_embeddings(self) -> None:
        num_items = self.manifest.counts().num_items
        listed = json.dumps([self.request.sources, self.settings.shard_name, num_items])
        fingerprint = hashlib.sha256(listed.encode()).hexdigest()
        named = printable(Path(self.request.sources[0]).name)
        write_plan(self.settings, describe_teacher(self.settings), num_items, fingerprint, named)

    def _work(self, executor: Executor) -> str:
        """Have the pictures done, and enter what became of them; why it ended early, if it did."""
        self._tell_progress()
        failed_before, most = self.manifest.counts().num_failed, self.request.max_failures
        has_too_many = False
        reports = executor.run(self.manifest.pending_batches(self.settings.batch_size), self.stop)
        with closing(reports):  # no worker is left when the manifest is let go
            for report in reports:
                self._enter(report)
                num_failed = self.manifest.counts().num_failed - failed_before
                if most is not None and num_failed > most and not has_too_many:
                    has_too_many = True
                    self.stop.ask()
        if has_too_many:
            return f"more than {most} pictures failed"
        return "it was asked to stop" if self.stop.is_asked else ""

    def _enter(self, report: Report) -> None:
        self.manifest.commit([report])
        num_entered = len(report.done) + len(report.failed)
        self.num_computed = max(0, self.num_computed + report.num_computed - num_entered)
        self._tell_progress()

    def _tell_progress(self) -> None:
        if self.progress:
            counts = self.manifest.counts()
            num_past = min(counts.num_done + counts.num_failed + self.num_computed, counts.num_items)
            self.progress(num_past, counts.num_failed, counts.num_items)

    def _finish(self) -> list[Path]:
        """Write the formats that hold many pictures in a file."""
        pictures = _Spooled(self.settings.named(SPOOL), self.manifest)
        written: list[Path] = []
        for name, sink in zip(self.settings.formats, self.sinks, strict=False):
            if isinstance(sink, CollectedSink):
                self.tell(f"writing {name}")
                written += sink.write(pictures)
        return written

    def _write_failures(self) -> list[Path]:
        """Write the list of what failed and why; none if nothing did."""
        path = self.settings.named(FAILURES, ".csv")
        if not self.manifest.counts().num_failed:
            path.unlink(missing_ok=True)
            return []
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("key", "place", "kind", "reason"))
            for item, kind, reason in self.manifest.failures():
                place = item.place.path + (f" at byte {item.place.start}" if item.place.start else "")
                writer.writerow([printable(text) for text in (item.key, place, kind, reason)])
        return [path]

    def _write_summary(self, path: Path, summary: BulkSummary) -> None:
        """Write what the run came to, last of all: where this file is, all others are whole."""
        content: dict[str, Any] = {
            "num_pictures": summary.counts.num_items,
            "num_done": summary.counts.num_done,
            "num_failed": summary.counts.num_failed,
            "failures": dict(summary.failures),
            "made_by": self.settings.sink_settings().info,
        }
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


class _Spooled:
    """The masks of all pictures that are done, in their order, as often as they are asked for."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = folder
        self._manifest = manifest

    def __iter__(self) -> Iterator[PictureMasks]:
        return read_spooled(self._folder, self._manifest.spooled())


def _read_prompts(request: BulkRequest) -> PromptFile | None:
    task, file = request.settings.task, request.prompts_file
    if task not in NEEDS_PROMPTS:
        if file is not None:
            raise ValueError(f"the task {task} takes no prompts, got {file}; leave it out, or choose another task")
        return None
    if file is None:
        raise ValueError(f"the task {task} needs a file of {task}; name one with --{task} FILE")
    return read_prompts(task, file)


def _absolute(source: str) -> str:
    return source if is_url(source) else printable(os.path.abspath(source))
