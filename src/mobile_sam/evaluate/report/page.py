"""One HTML file with everything, tables, plots, pictures of objects and configuration, that asks nothing of the net."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from importlib import resources
from itertools import groupby
from typing import TYPE_CHECKING

from mobile_sam.core.errors import MissingDependencyError
from mobile_sam.core.files import atomic_path
from mobile_sam.evaluate.everything_protocol import RECALLS
from mobile_sam.evaluate.measurements import MeasurementTable
from mobile_sam.evaluate.report import plots, tables
from mobile_sam.evaluate.report.canvas import Plot
from mobile_sam.evaluate.report.cases import BOTH_RGB, PREDICTED_RGB, TRUTH_RGB, Case, draw_case
from mobile_sam.evaluate.report.content import Report, headline, setting_text
from mobile_sam.evaluate.statistics import Interval

if TYPE_CHECKING:
    import jinja2

_JPEG_QUALITY = 80
_LEGEND = (("in both masks", BOTH_RGB), ("predicted only", PREDICTED_RGB))


def write_page(
    path: str | os.PathLike[str],
    report: Report,
    table: MeasurementTable | None = None,
    cases: Sequence[Case] = (),
    report_steps: Sequence[int] | None = None,
) -> None:
    """Write a report as one HTML file that needs no other file and no network.

    Args:
        path: file to write or replace; its folder must exist.
        report: what was found.
        table: the measurements, for plots; None for a report that has none.
        cases: objects to show as pictures; those with one protocol and title that follow each other stand together.
        report_steps: numbers of prompts to show, as for `mobile_sam.evaluate.report.tables.result_tables`.

    Raises:
        MissingDependencyError: without jinja2, or without matplotlib.
        OSError: as `mobile_sam.core.files.atomic_path` does.
        ValueError: if a case's masks are not of its picture's size.
    """
    require_page_packages()
    groups = [
        {
            "title": f"{protocol}: {title}",
            "cases": [{"caption": case.caption, "uri": _data_uri(case)} for case in group],
        }
        for (protocol, title), group in groupby(cases, key=lambda case: (case.protocol, case.title))
    ]
    other = "reference only" if report.kind == "agreement" else "true mask only"
    text = _template().render(
        report=report,
        headline=headline(report),
        results=tables.result_tables(report, report_steps),
        differences=tables.difference_tables(report, report_steps),
        omissions=tables.omission_tables(report),
        setup=tables.setup_tables(report),
        plots=_plots_of_everything(report) if table is None else draw_plots(report, table, report_steps),
        case_groups=groups,
        legend=[(name, "rgb({}, {}, {})".format(*rgb)) for name, rgb in (*_LEGEND, (other, TRUTH_RGB))],
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def draw_plots(
    report: Report, table: MeasurementTable, report_steps: Sequence[int] | None = None
) -> list[tuple[str, list[Plot]]]:
    """Draw the plots of each protocol: the protocol's name, and its plots.

    Raises:
        MissingDependencyError: without matplotlib.
    """
    drawn = []
    for protocol in dict.fromkeys(table.protocol.tolist()):
        of_protocol = table.where(protocol=protocol)
        steps = tables.shown_steps(report, protocol, report_steps) or sorted(set(of_protocol.step.tolist()))
        ends = sorted({steps[0], steps[-1]})
        figures = [plots.iou_distribution(of_protocol, protocol, ends)]
        if len(set(of_protocol.step.tolist())) > 1:
            figures.append(plots.iou_against_prompts(report.summaries, protocol))
        models = list(dict.fromkeys(of_protocol.model.tolist()))
        baselines = [entry.baseline for entry in report.differences if entry.protocol == protocol]
        baseline = next(iter(baselines), models[0])
        figures += [
            plots.scatter(of_protocol, protocol, step, model, baseline)
            for model in models
            if model != baseline
            for step in ends
        ]
        if report.kind != "agreement":
            figures += [plots.area_bars(report.summaries, protocol, step) for step in ends]
            calibrations = [plots.calibration(of_protocol, protocol, step) for step in ends]
            figures += [plot for plot in calibrations if plot is not None]
        drawn.append((protocol, figures))
    return drawn


def _plots_of_everything(report: Report) -> list[tuple[str, list[Plot]]]:
    """Draw what a report of kind "everything" found, for all protocols together; nothing for other kinds."""
    if report.kind != "everything":
        return []
    recall = RECALLS[-1]
    runs = [
        plots.TimedRecall(
            f"{run['protocol']} {run['model']}",
            seconds=run["median_s"],
            recall=run["recall"][recall]["mean"],
            interval=Interval(**run["recall"][recall]["interval"]),
        )
        for run in report.details["runs"]
    ]
    return [("", [plots.recall_against_seconds(runs, recall)])]


def can_write_page() -> bool:
    """Tell whether `write_page` has the packages that it needs."""
    try:
        require_page_packages()
    except MissingDependencyError:
        return False
    return True


def require_page_packages() -> None:
    """Find out whether a page can be written.

    Raises:
        MissingDependencyError: without jinja2, or without matplotlib.
    """
    for name in ("jinja2", "matplotlib"):
        try:
            __import__(name)
        except ImportError as error:
            advice = (
                f"the HTML page needs jinja2 and matplotlib, {name} is missing; run: pip install 'mobile-sam[evaluate]'"
            )
            raise MissingDependencyError(advice, name=name) from error


def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["setting"] = setting_text
    source = resources.files("mobile_sam.evaluate.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source)


def _data_uri(case: Case) -> str:
    """The drawn case as a JPEG inside an address."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(draw_case(case)).save(stream, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
