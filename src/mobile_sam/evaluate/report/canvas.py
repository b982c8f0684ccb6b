"""What plots are drawn on: axes whose SVG fits a page of light or dark ground, colours and markers."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mobile_sam.core.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#2185C5", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C")
"""Okabe and Ito's colours, which colour-blind readers tell apart; the first blue lighter for dark ground, grey in place
of their black, and no yellow, which white ground swallows."""

_MARKERS = "osD^vP*"
_INK = "#010203"  # in the SVG it becomes the colour of the page's text
GREY = "#808080"
_STYLE: dict[str, Any] = {
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "grid.alpha": 0.25,
    "grid.color": GREY,
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


class Canvas:
    """A figure with one pair of axes, and in the end its SVG."""

    def __init__(self, figure: Figure, axes: Axes) -> None:
        self.figure = figure
        self.axes = axes
        self.svg = ""

    def legend(self, entries: Sequence[tuple[Any, str]], loc: Any = "upper left", *, below: bool = False) -> None:
        """Name what was drawn, inside the axes, or below them where that needs room."""
        names = [shortened(name) for _, name in entries]
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
def axes_of(title: str) -> Iterator[Canvas]:
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
        canvas = Canvas(figure, figure.add_subplot())
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


def colour_of(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def marker_of(index: int) -> str:
    return _MARKERS[index % len(_MARKERS)]


def shortened(name: str) -> str:
    """A name that fits into a plot."""
    return name if len(name) <= 52 else f"{name[:30]}...{name[-19:]}"
