"""The tables of the `everything` protocol."""

from __future__ import annotations

from collections.abc import Sequence

from mobile_sam.evaluate.everything_protocol import RECALLS
from mobile_sam.evaluate.everything_results import EverythingDifference, EverythingSummary, Mean
from mobile_sam.evaluate.report.content import NamedTable

_MOST = RECALLS[-1]

_Row = list["str | int | float | None"]


def everything_tables(
    summaries: Sequence[EverythingSummary], differences: Sequence[EverythingDifference]
) -> list[NamedTable]:
    """Make the tables: recall, masks and seconds, and where there are several runs, differences to the first."""
    tables = [_recall_table(summaries), _cost_table(summaries)]
    if differences:
        tables += [_difference_table(differences), _partner_table(differences)]
    return tables


def _recall_table(summaries: Sequence[EverythingSummary]) -> NamedTable:
    bins = list(dict.fromkeys(name for summary in summaries for name in summary.by_bin))
    counts = {name: max(s.by_bin[name][_MOST].num_objects for s in summaries if name in s.by_bin) for name in bins}
    rows: list[_Row] = [
        [
            summary.protocol,
            summary.model,
            *(summary.recall[name].mean for name in RECALLS),
            _interval(summary.recall[_MOST]),
            *(summary.by_bin[name][_MOST].mean if name in summary.by_bin else None for name in bins),
            summary.best_iou.mean,
            f"{summary.masks_mean:.1f}",
            _seconds(summary.median_s),
        ]
        for summary in summaries
    ]
    columns = [
        *("Mode", "Model", *RECALLS, "95% interval"),
        *(f"{name} (n={counts[name]})" for name in bins),
        *("best IoU", "masks", "s/picture"),
    ]
    note = (
        f"{summaries[0].num_objects} objects in {summaries[0].num_pictures} pictures. The interval and the sizes "
        f"are of {_MOST}. Best IoU: that of any mask, mean over the objects. Masks: mean of a picture. s/picture: "
        "median."
    )
    return _table("Average recall of annotated objects", columns, rows, note)


def _cost_table(summaries: Sequence[EverythingSummary]) -> NamedTable:
    rows: list[_Row] = [
        [
            *(summary.protocol, summary.model, f"{summary.masks_mean:.1f}", summary.masks_min, summary.masks_max),
            None if summary.points_mean != summary.points_mean else f"{summary.points_mean:.0f}",
            _seconds(summary.median_s),
            f"{summary.total_s:.1f}",
        ]
        for summary in summaries
    ]
    columns = ["Mode", "Model", "masks", "least", "most", "points", "s/picture", "s in all"]
    note = (
        f"{summaries[0].num_pictures} pictures, also those without objects. Masks and points (those decoded): mean "
        "of a picture. s/picture: median; encoding is part of it, reading the file is not."
    )
    return _table("Masks and seconds", columns, rows, note)


def _difference_table(differences: Sequence[EverythingDifference]) -> NamedTable:
    rows: list[_Row] = [
        [
            *(difference.protocol, difference.model),
            *(cell for name in RECALLS for cell in _difference_cells(difference.recall[name])),
            *_difference_cells(difference.best_iou),
        ]
        for difference in differences
    ]
    columns = ["Mode", "Model"]
    for name in (*RECALLS, "best IoU"):
        columns += [name, f"95% interval of {name}"]
    note = f"{differences[0].num_objects} objects, each with both."
    return _table(f"Differences to {differences[0].baseline}", columns, rows, note)


def _partner_table(differences: Sequence[EverythingDifference]) -> NamedTable:
    rows: list[_Row] = [
        [
            *(difference.protocol, difference.model),
            *(difference.masks_found.mean, _interval(difference.masks_found)),
            *(difference.masks_best_iou.mean, _interval(difference.masks_best_iou)),
            f"{difference.time_ratio:.3g}",
        ]
        for difference in differences
    ]
    columns = ["Mode", "Model", "found again", "95% interval", "best IoU", "95% interval of best IoU", "time ratio"]
    note = (
        f"{differences[0].num_baseline_masks} masks. Found again: the share that has a partner, a mask with an IoU of "
        "at least partner_iou. Time ratio: seconds by those of the baseline, median over the pictures."
    )
    return _table(f"The masks of {differences[0].baseline}", columns, rows, note)


def _table(title: str, columns: Sequence[str], rows: Sequence[_Row], note: str) -> NamedTable:
    cells = tuple(tuple(row) for row in rows)
    return NamedTable(title, tuple(columns), cells, note, num_text_columns=2, num_digits=3)


def _difference_cells(difference: Mean) -> tuple[str, str]:
    is_known = difference.mean == difference.mean
    return f"{difference.mean:+.4f}" if is_known else "-", _interval(difference, "+.4f")


def _interval(mean: Mean, form: str = ".3f") -> str:
    low, high = mean.interval.low, mean.interval.high
    return f"[{low:{form}}, {high:{form}}]" if low == low else "-"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds < 100 else f"{seconds:.0f}"
