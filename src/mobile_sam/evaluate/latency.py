"""How long models take to start, to encode and to answer, and how much memory: several models side by side.

Each model lives in a process of its own and only one computes at a time. Within a round all of them do the same work,
and their order rotates from round to round, so that a slow spell of the machine meets all alike.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from mobile_sam.core.images import read_image
from mobile_sam.data.records import Problem
from mobile_sam.evaluate.latency_results import (
    START_STAGES,
    LatencyProtocol,
    LatencyResult,
    MemoryRow,
    Seconds,
    add_means,
    everything_stage,
    prompts_stage,
    tabulate,
)
from mobile_sam.evaluate.latency_worker import Answer, WorkerError, WorkerProcess
from mobile_sam.evaluate.machine import MachineWatch
from mobile_sam.evaluate.models import ModelSpec
from mobile_sam.evaluate.run import Progress

__all__ = ["LatencyProtocol", "LatencyResult", "measure_latency"]


def measure_latency(
    protocol: LatencyProtocol,
    models: Sequence[ModelSpec],
    pictures: Sequence[Path],
    progress: Progress | None = None,
) -> LatencyResult:
    """Measure models side by side; one that gives out is reported, and the others go on.

    Args:
        protocol: what to measure.
        models: the first one is what the others are compared with.
        pictures: files; those that cannot be read are reported and left out.
        progress: told after each turn of a model: turns done, models that gave out, turns in all.

    Raises:
        ValueError: no model, names that repeat, no picture, or none that can be read.
    """
    names = [model.name for model in models]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"latency needs models, each with a name of its own, got {names}; see with_unique_names")
    watch = MachineWatch()
    tasks, problems = _make_tasks(protocol, pictures)
    with ExitStack() as stack:
        turns = _Turns(protocol, models, len(tasks), stack, progress)
        turns.measure_starts()
        turns.measure_rounds(tasks)
        turns.measure_everything(tasks)
        turns.ask_facts()
    kept = [name for name in names if name not in turns.failed]
    seconds = {key: values for key, values in turns.seconds.items() if key[0] in kept}
    rows, ratios = tabulate(protocol, kept, add_means(seconds, len(tasks)))
    memory = tuple(turns.memory[name] for name in kept)
    facts = tuple(turns.facts[name] for name in kept)
    failures = (*problems, *turns.failed.values())
    return LatencyResult(protocol, facts, len(tasks), rows, ratios, memory, failures, watch.facts())


@dataclass(frozen=True)
class _Task:
    """A picture with its prompts.

    Attributes:
        picture: its name in the report.
        path: where the file is.
        points_xy: as many as the largest number of prompts; smaller numbers take the first ones.
    """

    picture: str
    path: Path
    points_xy: list[list[float]]


def _make_tasks(protocol: LatencyProtocol, pictures: Sequence[Path]) -> tuple[list[_Task], list[Problem]]:
    """Choose the prompts of each picture, and list the pictures that cannot be read."""
    num_of_name = Counter(path.name for path in pictures)
    tasks, problems = [], []
    for index, path in enumerate(pictures):
        picture = path.name if num_of_name[path.name] == 1 else f"{path.as_posix()} ({index + 1})"
        try:
            image_hw = read_image(path).shape[:2]
        except (OSError, ValueError) as error:
            problems.append(Problem("broken picture", f"picture {picture}", str(error)))
            continue
        shares = np.random.default_rng([protocol.seed, index]).random((max(protocol.prompt_counts, default=0), 2))
        tasks.append(_Task(picture, path, (shares * image_hw[::-1]).tolist()))
    if not tasks:
        reason = f"; the first: {problems[0].message}" if problems else ""
        raise ValueError(f"latency needs a picture, got {len(pictures)}, none of which can be read{reason}")
    return tasks, problems


class _Turns:
    """The models' processes, which take turns, and what was measured so far.

    Attributes:
        seconds: see `Seconds`.
        memory: of each model, by its name.
        facts: what each model is, see `Model.facts`; by its name.
        failed: why a model has gone, by its name; what was measured of it before does not count.
    """

    def __init__(
        self,
        protocol: LatencyProtocol,
        models: Sequence[ModelSpec],
        num_pictures: int,
        stack: ExitStack,
        progress: Progress | None,
    ) -> None:
        self.protocol, self.stack, self.progress = protocol, stack, progress
        self.models = {model.name: model for model in models}
        self.workers: dict[str, WorkerProcess] = {}
        self.seconds: Seconds = defaultdict(list)
        self.memory: dict[str, MemoryRow] = {}
        self.facts: dict[str, dict[str, str | None]] = {}
        self.failed: dict[str, Problem] = {}
        num_rounds = protocol.warmup_rounds + protocol.num_rounds
        if protocol.everything:
            num_rounds += protocol.everything_rounds
        self.num_turns = len(models) * (2 + protocol.num_starts + num_rounds * num_pictures)
        self.num_done = 0

    def measure_starts(self) -> None:
        """Start a process of each model to keep, which fills the disk's cache with its files; then those that count."""
        for name in self.order(0):
            self.take(name, "first start", partial(self.start_to_keep, name))
        for index in range(self.protocol.num_starts):
            for name in self.order(index):
                self.take(name, f"start {index + 1} of {self.protocol.num_starts}", partial(self.start, name))

    def measure_rounds(self, tasks: Sequence[_Task]) -> None:
        """Have all models do all tasks in each round; those of the warm-up do not count."""
        for index in range(-self.protocol.warmup_rounds, self.protocol.num_rounds):
            label = f"round {index + 1} of {self.protocol.num_rounds}" if index >= 0 else "warm-up"
            for task in tasks:
                for name in self.order(index):
                    self.take(name, f"{label}, {task.picture}", partial(self.answer, name, task, index >= 0))

    def measure_everything(self, tasks: Sequence[_Task]) -> None:
        """Have all models segment everything in all pictures in each round, if the protocol wants that."""
        for index in range(self.protocol.everything_rounds if self.protocol.everything else 0):
            label = f"everything, round {index + 1} of {self.protocol.everything_rounds}"
            for task in tasks:
                for name in self.order(index):
                    self.take(name, f"{label}, {task.picture}", partial(self.segment_everything, name, task))

    def ask_facts(self) -> None:
        """Have the models say what they are, once nothing is timed any more."""
        for name in self.order(0):
            self.take(name, "facts", partial(self.describe, name))

    def order(self, round_index: int) -> list[str]:
        """Return the models, rotated by one place each round."""
        names = list(self.models)
        shift = round_index % len(names)
        return names[shift:] + names[:shift]

    def take(self, name: str, what: str, work: Callable[[], None]) -> None:
        """Let a model have its turn; if it gives out, note why and go on without it."""
        self.num_done += 1
        if name in self.failed:
            return  # its turns count as done
        time.sleep(self.protocol.pause_s)
        try:
            work()
        except WorkerError as error:
            self.failed[name] = Problem("failed model", f"model {name}", f"{what}: {error}")
            if name in self.workers:
                self.workers[name].close(kill=True)
        if self.progress:
            self.progress(self.num_done, len(self.failed), self.num_turns)

    def load(self, name: str, worker: WorkerProcess) -> Answer:
        """Have a process make its model."""
        return worker.ask("load", model=self.models[name].to_json(), num_threads=self.protocol.num_threads)

    def start_to_keep(self, name: str) -> None:
        """Start the process that will do the tasks."""
        self.workers[name] = self.stack.enter_context(WorkerProcess())
        self.memory[name] = MemoryRow(name, self.load(name, self.workers[name])["peak_mb"])

    def start(self, name: str) -> None:
        """Start a process that has to do no more than be ready."""
        with WorkerProcess() as worker:
            loaded = self.load(name, worker)
            seconds = (worker.seconds_since_start(), loaded["import_s"], loaded["make_engine_s"])
        for stage, value in zip(START_STAGES, seconds, strict=True):
            self.seconds[name, stage, ""].append(value)

    def describe(self, name: str) -> None:
        """Have a model say what it is."""
        self.facts[name] = self.workers[name].ask("facts")

    def answer(self, name: str, task: _Task, counts: bool) -> None:
        """Encode a picture, then answer its prompts in groups of each size."""
        worker, use_three = self.workers[name], self.protocol.num_masks == 3
        done = worker.ask("encode", picture=str(task.path))
        seconds = {"encode": done["seconds"]}
        memory = self.memory[name]
        if memory.after_encode_mb is None:
            memory = replace(memory, after_encode_mb=done["peak_mb"])
        for num_prompts in self.protocol.prompt_counts:
            command = "click" if num_prompts == 1 else "prompts"
            done = worker.ask(command, points_xy=task.points_xy[:num_prompts], multimask=use_three)
            seconds[prompts_stage(num_prompts)] = done["seconds"]
        self.memory[name] = replace(memory, after_prompts_mb=done["peak_mb"])
        if counts:
            for stage, value in seconds.items():
                self.seconds[name, stage, task.picture].append(value)

    def segment_everything(self, name: str, task: _Task) -> None:
        """Segment everything in a picture, in each mode."""
        for mode in self.protocol.everything:
            done = self.workers[name].ask("everything", picture=str(task.path), mode=mode)
            self.seconds[name, everything_stage(mode), task.picture].append(done["seconds"])
            self.memory[name] = replace(self.memory[name], after_everything_mb=done["peak_mb"])
