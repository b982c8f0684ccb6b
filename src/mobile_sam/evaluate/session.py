"""One evaluation from its first picture to its report, whatever is measured."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mobile_sam._version import __version__
from mobile_sam.data.embedding_store import EmbeddingStore
from mobile_sam.data.records import Dataset
from mobile_sam.evaluate.journal import Journal
from mobile_sam.evaluate.machine import MachineWatch, machine_facts
from mobile_sam.evaluate.models import Model
from mobile_sam.evaluate.report.content import Report
from mobile_sam.evaluate.run import NOTED, PixelsTask, Progress, Task, run_pictures
from mobile_sam.evaluate.run_folder import JOURNAL, check_run_folder
from mobile_sam.evaluate.stopwatch import Stopwatch


@dataclass(frozen=True)
class RunOptions:
    """How a run is done; none of it changes a number.

    Attributes:
        folder: where the results go, and where an interrupted run goes on; None to keep only what is returned.
        restarts: begin anew although the folder holds a run.
        embeddings: a folder that keeps embeddings for other runs, 4 MiB for each picture and model; None for none.
        num_cases: pictures of the worst and of the best masks of each protocol in the page; 0 for none.
        command: as it was typed, for the report.
        progress: told after each picture.
    """

    folder: Path | None = None
    restarts: bool = False
    embeddings: Path | None = None
    num_cases: int = 4
    command: str = ""
    progress: Progress | None = None

    def __post_init__(self) -> None:
        for name in ("folder", "embeddings"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))  # callers may pass a str


@dataclass(eq=False)
class Session:
    """A run of some models over the pictures of a dataset.

    Attributes:
        kind: one of `report.content.KINDS`.
        title: for the report.
        dataset: pictures, with objects where the protocols need them.
        models: all that run.
        protocols: all fields of each, ready for JSON.
        options: how the run is done.
        extra: what else makes the run this run, ready for JSON.
        entries: what came of each picture, by its id, once `measure` has ended.
    """

    kind: str
    title: str
    dataset: Dataset
    models: Sequence[Model]
    protocols: Sequence[Mapping[str, Any]]
    options: RunOptions
    extra: Mapping[str, Any] = field(default_factory=dict)
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_unique("protocols", [protocol["name"] for protocol in self.protocols])
        _require_unique("models", [model.name for model in self.models])
        if self.options.folder is not None:
            check_run_folder(self.options.folder, has_journal=True)
        self.store = None if self.options.embeddings is None else EmbeddingStore(self.options.embeddings)
        self.stopwatch = Stopwatch()
        self._facts = [model.facts() for model in self.models]
        self._dataset_facts = dataset_facts(self.dataset)
        self._watch, self._started, self._num_before = MachineWatch(), time.perf_counter(), 0

    def description(self) -> dict[str, Any]:
        """Say what makes this run this run: only with the same can it be continued."""
        return {
            "kind": self.kind,
            "package_version": __version__,
            "dataset": self._dataset_facts,
            "models": self._facts,
            "protocols": list(self.protocols),
            **self.extra,
        }

    def measure(self, task: Task | PixelsTask) -> None:
        """Measure all pictures, but those that an earlier run in the same folder has measured.

        Raises:
            ValueError: the folder holds another run, or not one picture could be measured.
        """
        with tempfile.TemporaryDirectory() as passing:
            path = (self.options.folder or Path(passing)) / JOURNAL
            with Journal(path, self.description(), restarts=self.options.restarts) as journal:
                self._num_before = run_pictures(
                    self.dataset.pictures,
                    task,
                    journal,
                    store=self.store,
                    stopwatch=self.stopwatch,
                    progress=self.options.progress,
                )
        self.entries = {picture.id: journal.entries[picture.id] for picture in self.dataset.pictures}
        if not self.entries:
            raise ValueError(f"{self.dataset.name} has no picture to measure")
        if len(self.failures()) == len(self.entries):
            reason, count = Counter(self.failures().values()).most_common(1)[0]
            raise ValueError(
                f"none of the {len(self.entries)} pictures could be measured, {count} of them for this: {reason}"
            )

    def failures(self) -> dict[str, str]:
        """Return why pictures could not be measured, by their ids."""
        return {name: str(entry["failed"]) for name, entry in self.entries.items() if "failed" in entry}

    def left_out(self) -> Counter[str]:
        """Count what was left out of the pictures that were measured, by reason."""
        total: Counter[str] = Counter()
        for entry in self.entries.values():
            total.update(entry.get("left_out", {}))
        return +total  # without zeros

    def report(self, num_measured: int, what: str, **results: Any) -> Report:
        """Put results into a report with all that is known of the run.

        Args:
            num_measured: objects, prompts or boxes that were measured: what means are over.
            what: which of these.
            results: other fields of `Report`.
        """
        failures, left_out = self.failures(), self.left_out()
        counts = {
            "pictures measured": len(self.entries) - len(failures),
            "pictures failed": len(failures),
            f"{what} measured": num_measured,
            **{_count_name(reason): count for reason, count in left_out.most_common()},
        }
        lost = sum(len(picture.instances) for picture in self.dataset.pictures if picture.id in failures)
        if lost:
            counts["objects of failed pictures"] = lost
        num_missing = sum(problem.num_objects for problem in self.dataset.problems)
        if num_missing:
            counts["objects of pictures that are missing or unusable"] = num_missing
        notes = list(results.pop("notes", ()))
        if self._num_before:
            notes.append(f"{self._num_before} pictures were measured by an earlier run that this one continued.")
        return Report(
            kind=self.kind,
            title=self.title,
            command=self.options.command,
            machine={**machine_facts(), **self._watch.facts()},
            dataset={**self._dataset_facts, "pictures_sha256": self.dataset.pictures_sha256, **self.extra},
            models=self._facts,
            protocols=self.protocols,
            counts=counts,
            failures=[{"picture": name, "reason": reason} for name, reason in failures.items()],
            problems=[asdict(problem) for problem in self.dataset.problems],
            profile=dict(self.stopwatch.seconds),
            wall_s=time.perf_counter() - self._started,
            notes=notes,
            **results,
        )


def dataset_facts(dataset: Dataset) -> dict[str, Any]:
    """Say which pictures a run is over, ready for JSON."""
    return {
        "name": dataset.name,
        "kind": dataset.kind,
        "sha256": dataset.sha256,
        "selection": dataset.selection,
        "num_pictures": len(dataset.pictures),
        "num_objects": dataset.num_instances,
    }


def _count_name(reason: str) -> str:
    return reason.removeprefix(NOTED) if reason.startswith(NOTED) else f"left out: {reason}"


def _require_unique(what: str, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not names:
        found = f"got {', '.join(map(repr, twice))} more than once" if twice else "got none"
        raise ValueError(f"{what} must have unique names, {found}")
