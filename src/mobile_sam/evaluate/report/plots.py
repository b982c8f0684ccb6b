"""Plots of measurements as SVG text, for pages of light or dark ground."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.errors import MissingDependencyError
from mobile_sam.evaluate.measurements import MeasurementTable
from mobile_sam.evaluate.statistics import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#2185C5", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C")
"""Okabe and Ito's colours, which colour-blind readers tell apart; the first blue lighter for dark ground, grey in place
of their black, and no yellow, which white ground swallows."""

_MARKERS = "osD^vP*"
_INK = "#010203"  # in the SVG it becomes the colour of the page's text
_GREY = "#808080"
_FEW_OBJECTS = 100
_MAX_POINTS = 400  # of a line
_MAX_DOTS = 5_000  # of a scatter; beyond, hexagons are counted
_STYLE: dict[str, Any] = {
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "grid.alpha": 0.25,
    "grid.color": _GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.fontsize": 8,
    "legend.framealpha": 0.0,
    "svg.fonttype": "none",
    "text.color": _INK,
    "text.parse_math": False,  # names may hold a $
    "xtick.color": _INK,
    "ytick.color": _INK,
}


@dataclass(frozen=True)
class Plot:
    """A plot for a page.

    Attributes:
        title: what it shows.
        alt: the same for who cannot see it, with the numbers that matter.
        svg: an <svg> element that asks for nothing from outside.
    """

    title: str
    alt: str
    svg: str


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
    with _axes(title) as plot:
        lines = []
        for index, model in enumerate(models):
            for step in steps:
                ious = rows.where(model=model, step=step).iou
                if not len(ious):
                    continue
                style = "-" if step == steps[-1] else (":" if step == steps[0] else "--")
                name = f"{model}, {_prompts(step)}" if len(steps) > 1 else model
                (line,) = plot.axes.step(*_reached(ious), style, where="pre", color=_colour(index))
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
    with _axes(title) as plot:
        lines = []
        for index, model in enumerate(models):
            of_model = sorted((row for row in rows if row.model == model), key=lambda row: row.step)
            steps = [row.step for row in of_model]
            (line,) = plot.axes.plot(
                steps, [row.mean for row in of_model], marker=_marker(index), markersize=4, color=_colour(index)
            )
            low, high = [row.interval.low for row in of_model], [row.interval.high for row in of_model]
            plot.axes.fill_between(steps, low, high, color=_colour(index), alpha=0.2, linewidth=0)
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
    with _axes(title) as plot:
        plot.axes.plot((start, 1), (start, 1), color=_GREY, linewidth=0.8)
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
                    x[is_in], y[is_in], _marker(index), markersize=3.5, color=_colour(index), alpha=0.55,
                    markeredgewidth=0, rasterized=True, clip_on=False,
                )  # fmt: skip
                dots.append((dot, f"{name or 'any size'} (n={is_in.sum()})"))
            plot.legend(dots, loc="upper left")
        margin = 0.02 * (1 - start)
        limits = (start - margin, 1 + margin)
        plot.axes.set(
            xlim=limits,
            ylim=limits,
            xlabel=f"IoU of {_short(baseline)}{below}",
            ylabel=f"IoU of {_short(model)}",
            aspect="equal",
        )
    return Plot(title, f"{title}; dots above the diagonal are objects on which {model} is better.", plot.svg)


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
    with _axes(title) as plot:
        bars = []
        for index, row in enumerate(rows):
            means = [row.by_bin[name].mean if name in row.by_bin else np.nan for name in bins]
            places = np.arange(len(bins)) + (index - (len(rows) - 1) / 2) * width
            drawn = plot.axes.bar(places, np.nan_to_num(means), width * 0.94, color=_colour(index))
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
    with _axes(title) as plot:
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
                predicted, actual, style, marker=_marker(index), markersize=4, color=_colour(index)
            )
            bias = float((of_model.predicted_iou - of_model.iou).mean())
            lines.append((line, f"{model} (n={len(of_model)}), bias {bias:+.3f}"))
        plot.axes.plot((0, highest), (0, highest), color=_GREY, linewidth=0.8)
        plot.axes.set(xlim=(0, 1.03 * highest), ylim=(0, 1.03 * highest), aspect="equal")
        plot.axes.set(xlabel="predicted IoU, mean of a tenth of the objects", ylabel="IoU, mean")
        plot.legend(lines, loc="upper left")
    alt = f"{title} of {', '.join(models)}; above the diagonal masks are better than predicted."
    return Plot(title, alt, plot.svg)


class _Canvas:
    """A figure with one pair of axes, and in the end its SVG."""

    def __init__(self, figure: Figure, axes: Axes) -> None:
        self.figure = figure
        self.axes = axes
        self.svg = ""

    def legend(self, entries: Sequence[tuple[Any, str]], loc: Any = "upper left", *, below: bool = False) -> None:
        """Name what was drawn, inside the axes, or below them where that needs room."""
        names = [_short(name) for _, name in entries]
        names = [f"\u200b{name}" if name.startswith("_") else name for name in names]  # else matplotlib hides it
        handles = [handle for handle, _ in entries]
        longest = max(map(len, names), default=0)
        if below or len(entries) > 4 or longest > 40:
            num_columns = min(len(entries), 2 if longest < 28 else 1)
            num_lines = -(-len(entries) // num_columns)
            self.figure.set_figheight(self.figure.get_figheight() + 0.17 * max(0, num_lines - 2))
            self.figure.legend(handles, names, loc="outside lower center", ncols=num_columns)
        elif entries:
            self.axes.legend(handles, names, loc=loc)


@contextmanager
def _axes(title: str) -> Iterator[_Canvas]:
    """Give axes to draw on; when the block ends, the canvas has the SVG. No state of matplotlib is left changed."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        advice = "plots need matplotlib; run: pip install 'mobile-sam[evaluate]'"
        raise MissingDependencyError(advice, name="matplotlib") from error
    plain = {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith("backend")}
    style: Any = {**plain, **_STYLE, "svg.hashsalt": title}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the browser has it, or says so
        figure = Figure(figsize=(4.6, 3.9), layout="constrained")
        canvas = _Canvas(figure, figure.add_subplot())
        yield canvas
        stream = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, dpi=160, metadata=nothing)
        canvas.svg = _embeddable(stream.getvalue())


def _embeddable(svg: str) -> str:
    """Take what a page needs of an SVG file: the element alone, in the colour of the page's text, of any width."""
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<defs>\s*<style[^>]*>[^<]*</style>\s*</defs>", "", svg, count=1)  # it would style the whole page
    svg = svg.replace("<svg ", '<svg style="stroke-linejoin: round; stroke-linecap: butt" ', 1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)  # nothing refers to these, and all plots have the same


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


def _colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def _marker(index: int) -> str:
    return _MARKERS[index % len(_MARKERS)]


def _short(name: str) -> str:
    """A name that fits into a plot."""
    return name if len(name) <= 52 else f"{name[:30]}...{name[-19:]}"


def _prompts(step: int) -> str:
    return "1 prompt" if step == 1 else f"{step} prompts"
