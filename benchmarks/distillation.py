"""Distillation in miniature: what the objectives, the batch size and the number of steps are worth, with three seeds.

Each run is `mobile-sam distill train` with a variant of a recipe and a seed, in a process of its own; the seeds come
one after the other, so that a stop leaves whole rounds, and runs that are there already are kept:

    comparison   recipes/comparison_cpu.py: decoupled, semi-coupled and coupled, at equal CPU time
    ablation     recipes/ablation.py: the variants whose names begin with "tiny"

    step         of the validation
    miou         mean IoU of the student's masks with the teacher's, 16 clicks on each held-out picture
    mse          between the embeddings, over the part that is picture
    cpu_s        CPU seconds of the training process up to there, validation included

results/distillation.csv has every validation of every run; beside it three plots are written.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import HERE, RESULTS, MachineWatch, facts, publish

from mobile_sam.distill.recipe import load_recipe, variants_of
from mobile_sam.distill.run_log import read_log
from mobile_sam.evaluate.report.canvas import axes_of, colour_of, marker_of

RECIPES = HERE.parent / "recipes"
GROUPS = {"comparison": ("comparison_cpu.py", ""), "ablation": ("ablation.py", "tiny")}

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One training run."""

    group: str
    variant: str
    seed: int

    @property
    def recipe(self) -> Path:
        """The file that the variant is in."""
        return RECIPES / GROUPS[self.group][0]

    def folder(self, work: Path) -> Path:
        """Where it is kept; two groups may share a run."""
        config = load_recipe(self.recipe, self.variant)
        return work / f"{config.objective}-batch{config.batch_size}-steps{config.max_steps}-seed{self.seed}"


def list_runs(groups: Sequence[str], num_seeds: int) -> Iterator[Run]:
    """All runs, seed after seed."""
    for seed in range(num_seeds):
        for group in groups:
            file_name, prefix = GROUPS[group]
            for variant in variants_of(RECIPES / file_name):
                if variant.startswith(prefix):
                    yield Run(group, variant, seed)


def train(run: Run, work: Path, extra: Sequence[str]) -> None:
    """Train, unless it is done."""
    folder = run.folder(work)
    if (folder / "student.safetensors").exists():
        return
    command = [
        str(Path(sys.executable).with_name("mobile-sam")),
        "distill",
        "train",
        str(run.recipe),
        "-o",
        str(folder),
    ]
    subprocess.run([*command, "--variant", run.variant, "--set", f"seed={run.seed}", *extra], check=True)


def rows_of(run: Run, work: Path) -> list[Row]:
    """Every validation of a run."""
    config = load_recipe(run.recipe, run.variant)
    return [
        {
            "group": run.group, "variant": run.variant, "seed": run.seed, "objective": config.objective,
            "batch_size": config.batch_size, "step": line["step"], "miou": line["val/miou"], "mse": line["val/mse"],
            "cpu_s": line.get("time/cpu_s", 0.0),
        }
        for line in read_log(run.folder(work) / "log.jsonl")
        if "val/miou" in line
    ]  # fmt: skip


def curves(rows: Sequence[Row], x: str, y: str) -> dict[str, list[tuple[float, float, float, float]]]:
    """For each variant x, and y's mean, lowest and highest over seeds, by step."""
    found: dict[str, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row["variant"]][row["step"]].append(row)
    return {
        variant: [
            (
                statistics.fmean(row[x] for row in at_step), statistics.fmean(row[y] for row in at_step),
                min(row[y] for row in at_step), max(row[y] for row in at_step),
            )
            for _, at_step in sorted(by_step.items())
        ]
        for variant, by_step in found.items()
    }  # fmt: skip


def plot(rows: Sequence[Row], x: str, y: str, labels: tuple[str, str], title: str, path: Path) -> None:
    """Draw the mean over seeds of each variant, and the span between the lowest and the highest."""
    with axes_of(title) as canvas:
        entries = []
        for index, (variant, points) in enumerate(curves(rows, x, y).items()):
            xs, means, lows, highs = zip(*points, strict=True)
            (line,) = canvas.axes.plot(xs, means, color=colour_of(index), marker=marker_of(index), markersize=4)
            canvas.axes.fill_between(xs, lows, highs, color=colour_of(index), alpha=0.15, linewidth=0)
            entries.append((line, variant))
        canvas.axes.set_xlabel(labels[0])
        canvas.axes.set_ylabel(labels[1])
        canvas.axes.set_title(title)
        canvas.legend(entries, "best")
    path.write_text(canvas.svg + "\n", encoding="utf-8")


def main() -> None:
    """Train what is not there, write the table and the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="pictures, as for mobile-sam distill train")
    parser.add_argument("--embeddings", required=True, help="of these pictures, by mobile-sam distill embed")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    watch = MachineWatch()
    extra = [part for source in arguments.data for part in ("--data", source)]
    runs = list(list_runs(arguments.groups, arguments.seeds))
    for run in runs:
        train(run, arguments.work, [*extra, "--embeddings", arguments.embeddings])
    rows = [row for run in runs for row in rows_of(run, arguments.work)]
    config = json.loads((runs[0].folder(arguments.work) / "config.json").read_text(encoding="utf-8"))
    header = {**facts(), **watch.facts(), "trained by": config["code"].get("commit", "an installed package")}
    publish("distillation", rows, header)
    compared, ablated = ([row for row in rows if row["group"] == group] for group in GROUPS)
    miou, title = "mIoU with the teacher's masks", "Objectives at equal compute (mean and span of seeds)"
    if compared:
        plot(compared, "cpu_s", "miou", ("CPU seconds", miou), title, RESULTS / "distillation_objectives.svg")
        title = "Decoupled and others: distance of the embeddings"
        plot(compared, "cpu_s", "mse", ("CPU seconds", "MSE"), title, RESULTS / "distillation_mse.svg")
    if ablated:
        title = "Batch size and steps (mean and span of seeds)"
        plot(ablated, "step", "miou", ("step", miou), title, RESULTS / "distillation_ablation.svg")


if __name__ == "__main__":
    main()
