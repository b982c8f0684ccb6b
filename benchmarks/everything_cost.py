"""What "segment everything" costs: seconds and memory against points, picture size and the masks there are to find.

Three series, each for exact and for fast mode on onnxruntime, with SAM's defaults but for what the series varies:

    points    the first picture at --size, grids of --points to a side
    size      the first picture at each of --sizes, 32 points to a side
    pictures  each picture at --size, 32 points to a side

Pictures are resized by Pillow to that longer side, enlarged where they are smaller. Every run has a process of its own
that loads, warms up on a thumbnail with four points, and is then timed; all runs take turns in each round, from another
start each time. A case that two series share is measured once. Memory is measured before, in processes that do not warm
up, because a second picture raises the peak. Besides results/NAME.csv a plot is written, NAME.svg, and the straight
lines in it are in the CSV's header.

    points          decoded; fast mode leaves some of the grid out
    median_s, ...   of generate: median, interquartile range, least, how many runs
    peak_rss_mb     largest resident memory of "import, load, read, generate", 10^6 bytes; in series size only
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from against_original import SECONDS_BETWEEN_VARIANTS
from everything_against_original import save_resized
from remote import RemoteWorker
from report import RESULTS, MachineWatch, facts, publish, summarise

from mobile_sam.evaluate.report.canvas import PALETTE

ENGINE = "onnxruntime"
MODES = ("exact", "fast")
WARM_UP_SIDE_PX, WARM_UP_POINTS_PER_SIDE = 256, 2
LINES = {"points": ("points", "point"), "pictures": ("masks", "mask")}  # series -> column along x, one of it

Row = dict[str, Any]
Answer = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    mode: str
    picture: str
    longer_side_px: int
    points_per_side: int

    def __str__(self) -> str:
        side = self.points_per_side
        return f"{self.mode}, {Path(self.picture).name}, {self.longer_side_px} px, {side} x {side} points"


@dataclass(frozen=True)
class Plan:
    """What each series varies, and what stays."""

    pictures: tuple[str, ...]
    points: tuple[int, ...]
    sizes_px: tuple[int, ...]
    points_per_side: int
    longer_side_px: int
    rounds: int
    picture_rounds: int
    output_mode: str

    def series(self) -> dict[str, list[Case]]:
        """The cases of each series, by mode and then as given."""
        side, size_px, first = self.points_per_side, self.longer_side_px, self.pictures[0]
        return {
            "points": [Case(mode, first, size_px, points) for mode in MODES for points in self.points],
            "size": [Case(mode, first, size, side) for mode in MODES for size in self.sizes_px],
            "pictures": [Case(mode, picture, size_px, side) for mode in MODES for picture in self.pictures],
        }

    def turns(self) -> Iterator[tuple[int, Case]]:
        """All runs in order, with the index of their round; the modes of a case follow each other."""
        series = self.series()
        of_all_rounds = dict.fromkeys([*series["points"], *series["size"]])
        of_few_rounds = dict.fromkeys(case for case in series["pictures"] if case not in of_all_rounds)
        num_rounds = max(self.rounds, self.picture_rounds)
        for round_index in range(num_rounds):
            cases = list(of_all_rounds) if round_index < self.rounds else []
            cases += list(of_few_rounds) if round_index < self.picture_rounds else []
            cases.sort(key=lambda case: (case.picture, case.longer_side_px, case.points_per_side))
            shift = len(cases) * round_index // num_rounds
            yield from ((round_index, case) for case in cases[shift:] + cases[:shift])


def measure_once(case: Case, output_mode: str, folder: Path, warm_up: bool) -> Answer:
    """The worker's answer for a case, from a process of its own."""
    pictures = {size: str(save_resized(case.picture, size, folder)) for size in (WARM_UP_SIDE_PX, case.longer_side_px)}
    settings = {"mode": case.mode, "output_mode": output_mode}
    time.sleep(SECONDS_BETWEEN_VARIANTS)
    with RemoteWorker(ENGINE, sys.executable) as worker:
        worker.ask("load")
        if warm_up:
            small = settings | {"points_per_side": WARM_UP_POINTS_PER_SIDE}
            worker.ask("everything", picture=pictures[WARM_UP_SIDE_PX], settings=small)
        asked = settings | {"points_per_side": case.points_per_side}
        return worker.ask("everything", picture=pictures[case.longer_side_px], settings=asked)


def measure_memory(plan: Plan, folder: Path) -> dict[Case, float]:
    """Peak memory in MB of each case of the series of sizes."""
    peaks_mb = {}
    for case in plan.series()["size"]:
        peaks_mb[case] = measure_once(case, plan.output_mode, folder, warm_up=False)["peak_rss_mb"]
        print(f"memory: {case}: {peaks_mb[case]:.0f} MB", file=sys.stderr)
    return peaks_mb


def measure(plan: Plan, folder: Path) -> dict[Case, list[Answer]]:
    """All answers to each case."""
    answers: dict[Case, list[Answer]] = defaultdict(list)
    turns = list(plan.turns())
    for turn, (round_index, case) in enumerate(turns, start=1):
        answer = measure_once(case, plan.output_mode, folder, warm_up=True)
        answers[case].append(answer)
        found = f"{answer['seconds']:.2f} s, {answer['num_points']} points, {answer['num_masks']} masks"
        print(f"run {turn} of {len(turns)}, round {round_index + 1}: {case}: {found}", file=sys.stderr)
    return answers


def row_of(series: str, case: Case, answers: Sequence[Answer], peak_mb: float | None) -> Row:
    """The columns of a case."""
    seconds = [answer["seconds"] for answer in answers]
    summary = summarise(seconds)
    height, width = answers[0]["size_hw"]
    return {
        "series": series,
        "mode": case.mode,
        "picture": Path(case.picture).name,
        "width_px": width,
        "height_px": height,
        "points_per_side": case.points_per_side,
        "points": answers[0]["num_points"],
        "masks": answers[0]["num_masks"],
        "median_s": summary.median,
        "iqr_s": summary.iqr,
        "min_s": min(seconds),
        "n": summary.n,
        "peak_rss_mb": peak_mb,
    }


def select(rows: Sequence[Row], series: str, mode: str) -> list[Row]:
    """The rows of a mode in a series."""
    return [row for row in rows if (row["series"], row["mode"]) == (series, mode)]


def straight_line(rows: Sequence[Row], column: str) -> tuple[float, float] | None:
    """Seconds per unit of a column and seconds at 0, by least squares; None where it takes a single value."""
    x = [row[column] for row in rows]
    if len(set(x)) < 2:
        return None
    slope, start = np.polyfit(x, [row["median_s"] for row in rows], 1)
    return float(slope), float(start)


def describe_lines(rows: Sequence[Row]) -> dict[str, str]:
    """Lines for the header: the straight lines of the plot."""
    notes = {}
    for series, (column, unit) in LINES.items():
        for mode in MODES:
            line = straight_line(select(rows, series, mode), column)
            if line is not None:
                notes[f"seconds ({mode}, {series})"] = f"{line[1]:.3g} + {line[0]:.3g} per {unit}"
    return notes


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the plot: seconds against points, pixels and masks."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    labels = {"points": "points decoded", "size": "million pixels", "pictures": "masks found, a dot for each picture"}
    for axes, (series, label) in zip(panels, labels.items(), strict=True):
        for mode, marker, colour in zip(MODES, "os", PALETTE, strict=False):
            chosen = select(rows, series, mode)
            column, unit = LINES.get(series, ("", ""))
            x = [row[column] if column else row["width_px"] * row["height_px"] / 1e6 for row in chosen]
            style = "-" if series == "size" else "none"
            axes.plot(x, [row["median_s"] for row in chosen], ls=style, marker=marker, color=colour, ms=4, label=mode)
            line = straight_line(chosen, column) if column else None
            if line is not None:
                ends = np.array([0 if series == "points" else min(x), max(x)])
                text = f"{line[1]:.2g} s + {line[0] * 1e3:.2g} ms per {unit}"
                axes.plot(ends, line[1] + line[0] * ends, color=colour, lw=0.8, label=text)
        axes.set_xlabel(label)
        axes.set_ylabel("seconds")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=7, framealpha=0)
    panels[1].set_xscale("log")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", nargs="+", required=True, metavar="FILE", help="the first is that of all series")
    parser.add_argument("--points", nargs="+", type=int, default=[4, 8, 16, 32, 48], metavar="N", help="to a side")
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=[256, 512, 1024, 2048, 4096, 8192], metavar="PX", help="longer sides"
    )
    parser.add_argument("--size", type=int, default=2048, help="longer side in the other two series (default: 2048)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each case of points and size (default: 2)")
    parser.add_argument("--picture-rounds", type=int, default=1, help="runs of each picture (default: 1)")
    parser.add_argument("--output-mode", default="binary_mask", help="of the generator (default: binary_mask)")
    parser.add_argument("--quick", action="store_true", help="tiny grids and sizes, once each: to see that it runs")
    parser.add_argument("--name", default="everything_cost", help="writes results/NAME.csv and results/NAME.svg")
    return parser.parse_args()


def main() -> None:
    """Measure, write, draw and print."""
    given = parse_arguments()
    plan = Plan(
        pictures=tuple(given.pictures[:2] if given.quick else given.pictures),
        points=(2, 4) if given.quick else tuple(given.points),
        sizes_px=(256, 512) if given.quick else tuple(given.sizes),
        points_per_side=4 if given.quick else 32,
        longer_side_px=512 if given.quick else given.size,
        rounds=1 if given.quick else given.rounds,
        picture_rounds=1 if given.quick else given.picture_rounds,
        output_mode=given.output_mode,
    )
    header, watch = facts(), MachineWatch()
    with tempfile.TemporaryDirectory() as folder:
        peaks_mb = measure_memory(plan, Path(folder))
        answers = measure(plan, Path(folder))
    rows = [
        row_of(series, case, answers[case], peaks_mb[case] if series == "size" else None)
        for series, cases in plan.series().items()
        for case in cases
    ]
    notes = {"engine": ENGINE, "output mode": plan.output_mode, **describe_lines(rows)}
    publish(given.name, rows, {**header, **notes, **watch.facts()})
    draw(rows, RESULTS / f"{given.name}.svg")
    print(f"written: {RESULTS / given.name}.svg")


if __name__ == "__main__":
    main()
