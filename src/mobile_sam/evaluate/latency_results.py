"""What the latency protocol measures, and its results: rows, ratios, memory, and tables of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mobile_sam.data.records import Problem
from mobile_sam.evaluate.protocols import Config
from mobile_sam.everything.config import MODES

START_STAGES = ("start", "import", "make engine")
ALL_PICTURES = "all pictures"
"""In place of a picture's name: each round's mean over the pictures, then as for one of them."""

Seconds = dict[tuple[str, str, str], list[float]]
"""(model, stage, picture) -> a measurement for each round; the picture of the start stages is ""."""


@dataclass(frozen=True)
class LatencyProtocol(Config):
    """What is measured, and how often.

    start: from the making of a process to a model that is ready to encode (files in the disk's cache already); import
    and make engine are the parts of it that the process itself sees. encode: resizing, normalising and the network,
    reading the file left out. one click, P prompts: from points to masks of the picture's size; the prompts are random
    points, each an object of its own, decoded together. everything MODE: from the picture, encoding it anew, to the
    masks of everything, with SAM's defaults.

    Attributes:
        name: unique in a run.
        num_starts: processes started for each model.
        num_rounds: measurements of each picture and stage.
        warmup_rounds: rounds before these that do not count.
        prompt_counts: P, any number of them; 1 is one click.
        num_masks: for each prompt, 3 or 1.
        num_threads: CPU threads of the engine; 0 is its own choice.
        pause_s: seconds between turns, which let the threads of the model before fall asleep.
        seed: of the points.
        everything: modes of `EverythingConfig` to segment everything in; none leaves it out.
        everything_rounds: measurements of each picture and mode; they come after the others, and each counts.

    Raises:
        ValueError: a value out of its range.
    """

    name: str = "latency"
    num_starts: int = 3
    num_rounds: int = 9
    prompt_counts: tuple[int, ...] = (1, 16, 64)
    num_threads: int = 0
    warmup_rounds: int = 1
    seed: int = 0
    num_masks: int = 3
    pause_s: float = 0.1
    everything: tuple[str, ...] = ()
    everything_rounds: int = 3

    def __post_init__(self) -> None:
        least = {
            "num_starts": 0,
            "num_rounds": 1,
            "num_threads": 0,
            "warmup_rounds": 0,
            "seed": 0,
            "everything_rounds": 1,
        }
        for name, limit in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < limit:
                raise ValueError(f"protocol {self.name!r}: {name} must be a whole number from {limit}, got {value!r}")
        counts = self.prompt_counts
        if any(not isinstance(count, int) or count < 1 for count in counts) or len(set(counts)) < len(counts):
            raise ValueError(f"protocol {self.name!r}: prompt_counts must differ and be at least 1, got {counts}")
        if self.num_masks not in (1, 3):
            raise ValueError(f"protocol {self.name!r}: num_masks must be 3 or 1, got {self.num_masks!r}")
        modes = self.everything
        if any(mode not in MODES for mode in modes) or len(set(modes)) < len(modes):
            raise ValueError(
                f"protocol {self.name!r}: everything must be modes of {', '.join(MODES)}, each once, got {modes}"
            )
        if not 0 <= self.pause_s < 60:
            raise ValueError(f"protocol {self.name!r}: pause_s must be 0 to 60 seconds, got {self.pause_s!r}")

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of all stages, in the order of the report."""
        return (*START_STAGES, "encode", *map(prompts_stage, self.prompt_counts), *self.everything_stages)

    @property
    def everything_stages(self) -> tuple[str, ...]:
        """Names of the stages that segment everything."""
        return tuple(map(everything_stage, self.everything))


def prompts_stage(num_prompts: int) -> str:
    """Name the stage of P prompts."""
    return "one click" if num_prompts == 1 else f"{num_prompts} prompts"


def everything_stage(mode: str) -> str:
    """Name the stage of everything in a mode."""
    return f"everything {mode}"


@dataclass(frozen=True)
class LatencyRow:
    """Seconds of one model in one stage.

    Attributes:
        model: its name.
        stage: one of `LatencyProtocol.stages`.
        picture: its name, ALL_PICTURES, or "" in the start stages.
        median_s: over the rounds.
        iqr_s: interquartile range over the rounds, 0 for a single one.
        min_s: the quickest round.
        num: of rounds.
        num_prompts: P in a stage of prompts, else 0.
        rounds_s: each round.
    """

    model: str
    stage: str
    picture: str
    median_s: float
    iqr_s: float
    min_s: float
    num: int
    num_prompts: int = 0
    rounds_s: tuple[float, ...] = ()

    @property
    def per_prompt_ms(self) -> float | None:
        """Median milliseconds for each prompt; None where there is none."""
        return 1000 * self.median_s / self.num_prompts if self.num_prompts else None


@dataclass(frozen=True)
class SpeedRatio:
    """How many times as fast as the first model another one is: 2 means half the time.

    Attributes:
        model: the other's name.
        baseline: the first model's name.
        stage: see `LatencyRow`.
        picture: see `LatencyRow`.
        median: of the ratios of all rounds, each within its round.
        iqr: their interquartile range.
        num: of rounds.
    """

    model: str
    baseline: str
    stage: str
    picture: str
    median: float
    iqr: float
    num: int


@dataclass(frozen=True)
class MemoryRow:
    """Largest resident memory of a model's process so far, in MB (10^6 bytes); None where the system does not tell.

    Memory of a GPU is not in it; the picture and the masks are.

    Attributes:
        model: its name.
        after_start_mb: ready to encode.
        after_encode_mb: the first picture is encoded.
        after_prompts_mb: all prompts are answered.
        after_everything_mb: everything is segmented.
    """

    model: str
    after_start_mb: float | None
    after_encode_mb: float | None = None
    after_prompts_mb: float | None = None
    after_everything_mb: float | None = None


Table = tuple[str, list[str], list[list[Any]]]
"""Title, names of columns, rows."""


@dataclass(frozen=True)
class LatencyResult:
    """What was measured.

    Attributes:
        protocol: how.
        models: of each that did not fail, what `Model.facts` says.
        num_pictures: measured on; those that cannot be read are among the failures.
        rows: by stage, picture and model.
        ratios: in the same order, of all models but the first.
        memory: one for each model.
        failures: models that gave out, none of whose measurements are kept, and pictures that cannot be read.
        watch: wall time, and how busy other processes kept the machine.
    """

    protocol: LatencyProtocol
    models: tuple[dict[str, str | None], ...]
    num_pictures: int
    rows: tuple[LatencyRow, ...]
    ratios: tuple[SpeedRatio, ...]
    memory: tuple[MemoryRow, ...]
    failures: tuple[Problem, ...]
    watch: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return all fields as plain mappings and lists."""
        return asdict(self)

    def tables(self) -> list[Table]:
        """Return what a reader wants to see; of several pictures only their mean, of a single round no spread."""
        ratio_of = {(ratio.model, ratio.stage, ratio.picture): ratio.median for ratio in self.ratios}
        ratio_column = [f"times as fast as {self.ratios[0].baseline}, median of rounds"] if self.ratios else []
        starts: list[list[Any]] = []
        answers: list[list[Any]] = []
        everything: list[list[Any]] = []
        for row in self.rows:
            ratio = [ratio_of.get((row.model, row.stage, row.picture))] if self.ratios else []
            iqr_s = row.iqr_s if row.num > 1 else None
            in_s = [row.stage, row.model, row.median_s, iqr_s, row.min_s, row.num, *ratio]
            if row.stage in START_STAGES:
                starts.append(in_s)
            elif self.num_pictures > 1 and row.picture != ALL_PICTURES:
                continue
            elif row.stage in self.protocol.everything_stages:
                everything.append(in_s)
            else:
                times_ms = [1000 * row.median_s, None if iqr_s is None else 1000 * iqr_s, 1000 * row.min_s]
                answers.append([row.stage, row.model, *times_ms, row.per_prompt_ms, row.num, *ratio])
        times = ["stage", "model", "median", "IQR", "min"]
        of_pictures = f"({self.num_pictures} picture{'s' * (self.num_pictures != 1)})"
        tables: list[Table] = [
            ("Start-up in s", [*times, "n", *ratio_column], starts),
            (f"Latency in ms {of_pictures}", [*times, "per prompt", "n", *ratio_column], answers),
            (f"Everything in s {of_pictures}", [*times, "n", *ratio_column], everything),
            self._memory_table(),
        ]
        return [table for table in tables if table[2]]

    def _memory_table(self) -> Table:
        columns = ["model", "after start", "after encode", "after prompts"]
        rows: list[list[Any]] = [
            [row.model, row.after_start_mb, row.after_encode_mb, row.after_prompts_mb] for row in self.memory
        ]
        if self.protocol.everything:
            columns.append("after everything")
            rows = [[*row, memory.after_everything_mb] for row, memory in zip(rows, self.memory, strict=True)]
        return "Peak memory in MB", columns, rows


def summarise(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Return median, interquartile range and minimum.

    >>> summarise([5.0, 1.0, 2.0, 3.0, 9.0])
    (3.0, 3.0, 1.0)
    """
    lower, median, upper = (float(value) for value in np.percentile(seconds, [25, 50, 75]))
    return median, upper - lower, float(min(seconds))


def add_means(seconds: Mapping[tuple[str, str, str], list[float]], num_pictures: int) -> Seconds:
    """Add, if there are several pictures, each round's mean over them, as those of ALL_PICTURES."""
    by_stage: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for (model, stage, picture), values in seconds.items():
        if picture and num_pictures > 1:
            by_stage[model, stage].append(values)
    means: Seconds = {(*key, ALL_PICTURES): np.mean(rounds, axis=0).tolist() for key, rounds in by_stage.items()}
    return {**means, **seconds}


def tabulate(
    protocol: LatencyProtocol, models: Sequence[str], seconds: Seconds
) -> tuple[tuple[LatencyRow, ...], tuple[SpeedRatio, ...]]:
    """Turn measurements into rows and ratios, by stage, picture and model, the first model being the baseline."""
    num_prompts = {prompts_stage(count): count for count in protocol.prompt_counts}
    pictures = list(dict.fromkeys(picture for _, _, picture in seconds))
    rows: list[LatencyRow] = []
    ratios: list[SpeedRatio] = []
    for stage, picture in [(stage, picture) for stage in protocol.stages for picture in pictures]:
        for model in models:
            values = seconds.get((model, stage, picture))
            if not values:
                continue
            times = summarise(values)
            rows.append(
                LatencyRow(model, stage, picture, *times, len(values), num_prompts.get(stage, 0), tuple(values))
            )
            if model != models[0]:
                baseline_s = seconds[models[0], stage, picture]
                paired = [first / other for first, other in zip(baseline_s, values, strict=True)]
                median, iqr, _ = summarise(paired)
                ratios.append(SpeedRatio(model, models[0], stage, picture, median, iqr, len(values)))
    return tuple(rows), tuple(ratios)
