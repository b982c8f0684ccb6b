"""Plots of measurements as SVG text, for pages of light or dark ground."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_sam.evaluate.measurements import MeasurementTable
from mobile_sam.evaluate.report.canvas import GREY, Plot, axes_of, colour_of, marker_of, shortened
from mobile_sam.evaluate.statistics import Interval, Summary

_FEW_OBJECTS = 100
_MAX_POINTS = 400  # of a line
_MAX_DOTS = 5_000  # of a scatter; beyond, hexagons are counted


def iou_distribution(table: MeasurementTable, protocol: str, steps: Sequence[int]) -> Plot:
    """Draw the share of objects whose IoU is at least x, a line for each model; of several steps the last is solid.

    The axis starts at 0, or where masks agree nearly everywhere, at what the lowest hundredth reaches.

    Args:
        table: measurements, of any protocols.
        protocol: whose to draw.
        steps: numbers of prompts to draw.

    Raises:
        MissingDependencyError: without matplotlib.
    """
    rows = table.where(protocol=protocol)
    models = _names(rows.model)
    steps = sorted(steps)
    start = _start(rows[np.isin(rows.step, steps)].iou)
    title = f"{protocol}: share of objects with at least this IoU"
    with axes_of(title) as plot:
        lines = []
        for index, model in enumerate(models):
            for step in steps:
                ious = rows.where(model=model, step=step).iou
                if not len(ious):
                    continue
                style = "-" if step == steps[-1] else (":" if step == steps[0] else "--")
                name = f"{model}, {_prompts(step)}" if len(steps) > 1 else model
                (line,) = plot.axes.step(*_reached(ious), style, where="pre", color=colour_of(index))
                lines.append((line, f"{name} (n={len(ious)})"))
        plot.axes.set(xlim=(start, 1.0), ylim=(0, 102), xlabel="IoU", ylabel="share (%)")
        plot.legend(lines, loc="lower left")
    alt = f"{title}; lines of {', '.join(models)}; the IoU axis runs from {start:g} to 1."
    return Plot(title, alt, plot.svg)


def iou_against_prompts(summaries: Sequence[Summary], protocol: str) -> Plot:
    """Draw the mean IoU against the number of prompts given, with its 95% interval, a line for each model.

    Args:
        summaries: of any protocols.
        protocol: whose to draw.

    Raises:
        MissingDependencyError: without matplotlib.
    """
    rows = [summary for summary in summaries if summary.protocol == protocol]
    models = list(dict.fromkeys(row.model for row in rows))
    title = f"{protocol}: mIoU against the number of prompts"
    with axes_of(title) as plot:
        lines = []
        for index, model in enumerate(models):
            of_model = sorted((row for row in rows if row.model == model), key=lambda row: row.step)
            steps = [row.step for row in of_model]
            (line,) = plot.axes.plot(
                steps, [row.mean for row in of_model], marker=marker_of(index), markersize=4, color=colour_of(index)
            )
            low, high = [row.interval.low for row in of_model], [row.interval.high for row in of_model]
            plot.axes.fill_between(steps, low, high, color=colour_of(index), alpha=0.2, linewidth=0)
            counts = sorted({row.num_objects for row in of_model})
            lines.append((line, f"{model} (n={'-'.join(str(count) for count in {counts[0]: 0, counts[-1]: 0})})"))
        plot.axes.set(xticks=sorted({row.step for row in rows}))
        plot.axes.set(xlabel="prompts given", ylabel="mIoU, band: 95% interval")
        plot.legend(lines, loc="lower right")
    last = {row.model: f"{row.model} {row.mean:.3f} after {row.step}" for row in sorted(rows, key=lambda row: row.step)}
    return Plot(title, f"{title}: {', '.join(last.values())}.", plot.svg)


def scatter(table: MeasurementTable, protocol: str, step: int, model: str, baseline: str) -> Plot:
    """Draw the IoU of one model against that of another, a dot for each object; hexagons where they are many.

    Where the axes do not start at 0, objects below their start are drawn at the edge, and their number is told.

    Args:
        table: measurements, of any protocols.
        protocol: whose to draw.
        step: number of prompts given.
        model: on the vertical axis.
        baseline: on the horizontal axis.

    Raises:
        MissingDependencyError: without matplotlib.
    """
    rows = table.where(protocol=protocol, step=step)
    x, y, area_bin = _paired(rows, model, baseline)
    by_area = _names(rows.area_bin[np.argsort(rows.area_px, kind="stable")])
    mean = f"{np.mean(y - x):+.4f}" if len(x) else "none"
    title = f"{protocol}, {_prompts(step)}: {model} against {baseline}, mean difference {mean}, n={len(x)}"
    start = _start(np.minimum(x, y))
    num_below = int(np.count_nonzero(np.minimum(x, y) < start))
    below = f" ({num_below} below {start:g}, at the edge)" if num_below else ""
    x, y = np.maximum(x, start), np.maximum(y, start)
    with axes_of(title) as plot:
        plot.axes.plot((start, 1), (start, 1), color=GREY, linewidth=0.8)
        if len(x) > _MAX_DOTS:
            extent = (start, 1, start, 1)
            hexagons = plot.axes.hexbin(x, y, gridsize=30, bins="log", mincnt=1, cmap="viridis", extent=extent)
            bar = plot.figure.colorbar(hexagons, label="objects", shrink=0.7, format="{x:.0f}")
            bar.ax.minorticks_off()
        else:
            dots = []
            for index, name in enumerate(by_area):
                is_in = area_bin == name
                (dot,) = plot.axes.plot(
                    x[is_in], y[is_in], marker_of(index), markersize=3.5, color=colour_of(index), alpha=0.55,
                    markeredgewidth=0, rasterized=True, clip_on=False,
                )  # fmt: skip
                dots.append((dot, f"{name or 'any size'} (n={is_in.sum()})"))
            plot.legend(dots, loc="upper left")
        margin = 0.02 * (1 - start)
        limits = (start - margin, 1 + margin)
        plot.axes.set(
            xlim=limits,
            ylim=limits,
            xlabel=f"IoU of {shortened(baseline)}{below}",
            ylabel=f"IoU of {shortened(model)}",
            aspect="equal",
        )
    return Plot(title, f"{title}; dots above the diagonal are objects on which {model} is better.", plot.svg)


@dataclass(frozen=True)
class TimedRecall:
    """What one way to segment everything found of the annotated objects, and its seconds for a picture."""

    name: str
    seconds: float
    recall: float
    interval: Interval


def recall_against_seconds(runs: Sequence[TimedRecall], recall: str) -> Plot:
    """Draw the average recall of ways to segment everything against their seconds, with its 95% interval.

    Args:
        runs: in the order of their colours.
        recall: which, such as "AR@1000".

    Raises:
        MissingDependencyError: without matplotlib.
    """
    title = f"{recall} against seconds for a picture"
    with axes_of(title) as plot:
        dots = []
        for index, run in enumerate(runs):
            ends = (run.interval.low, run.interval.high)
            plot.axes.plot((run.seconds, run.seconds), ends, color=colour_of(index), linewidth=1.2, alpha=0.6)
            (dot,) = plot.axes.plot(run.seconds, run.recall, marker_of(index), color=colour_of(index))
            dots.append((dot, run.name))
        plot.axes.set(xlabel="seconds, median of the pictures", ylabel=f"{recall}, line: 95% interval")
        plot.axes.set_xlim(left=0)
        plot.legend(dots, below=True)
    values = ", ".join(f"{run.name} {run.recall:.3f} in {run.seconds:.3g} s" for run in runs)
    return Plot(title, f"{title}: {values}.", plot.svg)


def area_bars(summaries: Sequence[Summary], protocol: str, step: int) -> Plot:
    """Draw the mean IoU by area bin, bars side by side for the models, with the number of objects.

    Args:
        summaries: of any protocols.
        protocol: whose to draw.
        step: number of prompts given.

    Raises:
        MissingDependencyError: without matplotlib.
    """
    rows = [summary for summary in summaries if summary.protocol == protocol and summary.step == step]
    bins = list(dict.fromkeys(name for row in rows for name in row.by_bin))
    title = f"{protocol}, {_prompts(step)}: mIoU by area of the object"
    width = 0.8 / max(1, len(rows))
    with axes_of(title) as plot:
        bars = []
        for index, row in enumerate(rows):
            means = [row.by_bin[name].mean if name in row.by_bin else np.nan for name in bins]
            places = np.arange(len(bins)) + (index - (len(rows) - 1) / 2) * width
            drawn = plot.axes.bar(places, np.nan_to_num(means), width * 0.94, color=colour_of(index))
            if len(rows) <= 4:
                names = ["" if np.isnan(mean) else f"{mean:.3f}" for mean in means]
                plot.axes.bar_label(drawn, names, fontsize=7, padding=1)
            bars.append((drawn, row.model))
        plot.axes.set(ylim=(0, 1.02), ylabel="mIoU", xlabel="area of the object")
        plot.axes.set_xticks(range(len(bins)), [f"{name}\nn={_counts(rows, name)}" for name in bins])
        plot.axes.grid(visible=False, axis="x")
        plot.legend(bars, below=True)
    values = "; ".join(
        f"{row.model}: " + ", ".join(f"{name} {entry.mean:.3f}" for name, entry in row.by_bin.items()) for row in rows
    )
    return Plot(title, f"{title}. {values}.", plot.svg)


def calibration(table: MeasurementTable, protocol: str, step: int) -> Plot | None:
    """Draw the mean IoU against the mean IoU that the model predicted, each dot a tenth of its objects.

    The bias is the mean of predicted minus measured IoU.

    Args:
        table: measurements, of any protocols.
        protocol: whose to draw.
        step: number of prompts given.

    Returns:
        The plot, or None where no model predicts.

    Raises:
        MissingDependencyError: without matplotlib.
    """
    rows = table.where(protocol=protocol, step=step)
    rows = rows[np.isfinite(rows.predicted_iou)]
    models = _names(rows.model)
    if not models:
        return None
    title = f"{protocol}, {_prompts(step)}: IoU against predicted IoU"
    with axes_of(title) as plot:
        lines = []
        highest = 1.0
        for index, model in enumerate(models):
            of_model = rows.where(model=model)
            tenths = np.array_split(np.argsort(of_model.predicted_iou, kind="stable"), min(10, len(of_model)))
            predicted = [float(of_model.predicted_iou[tenth].mean()) for tenth in tenths]
            actual = [float(of_model.iou[tenth].mean()) for tenth in tenths]
            highest = max(highest, *predicted)
            style = "-" if len(of_model) >= _FEW_OBJECTS else ""  # between means of a few, a line is but noise
            (line,) = plot.axes.plot(
                predicted, actual, style, marker=marker_of(index), markersize=4, color=colour_of(index)
            )
            bias = float((of_model.predicted_iou - of_model.iou).mean())
            lines.append((line, f"{model} (n={len(of_model)}), bias {bias:+.3f}"))
        plot.axes.plot((0, highest), (0, highest), color=GREY, linewidth=0.8)
        plot.axes.set(xlim=(0, 1.03 * highest), ylim=(0, 1.03 * highest), aspect="equal")
        plot.axes.set(xlabel="predicted IoU, mean of a tenth of the objects", ylabel="IoU, mean")
        plot.legend(lines, loc="upper left")
    alt = f"{title} of {', '.join(models)}; above the diagonal masks are better than predicted."
    return Plot(title, alt, plot.svg)


def _paired(
    table: MeasurementTable, model: str, baseline: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.str_]]:
    """IoU of the baseline and of the model, and the area bin, (N,) each, of the objects that both have."""
    theirs, ours = table.where(model=baseline), table.where(model=model)
    right, left = ours.paired_with(theirs)
    return theirs.iou[left], ours.iou[right], ours.area_bin[right]


def _reached(ious: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """IoUs from 0 to 1, and the percentage of objects that reach each: (K,) both, K being some hundreds at most."""
    rising = np.sort(ious)
    ranks = np.linspace(0, len(rising) - 1, min(_MAX_POINTS, len(rising))).astype(np.int64)
    values = np.unique(np.concatenate(([0.0], rising[ranks], [1.0])))
    return values, 100 * (1 - np.searchsorted(rising, values, "left") / len(rising))


def _start(ious: NDArray[np.float64]) -> float:
    """Where an axis of IoU begins: at 0, or where most are high, at what the lowest hundredth reaches."""
    low = float(np.percentile(ious, 1)) if len(ious) else 0.0
    return min(0.99, float(np.floor(low * 100) / 100)) if low > 0.5 else 0.0


def _counts(rows: Sequence[Summary], name: str) -> str:
    counts = sorted({row.by_bin[name].num_objects for row in rows if name in row.by_bin})
    return "-".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))


def _names(column: NDArray[np.str_]) -> list[str]:
    return list(dict.fromkeys(column.tolist()))


def _prompts(step: int) -> str:
    return "1 prompt" if step == 1 else f"{step} prompts"
