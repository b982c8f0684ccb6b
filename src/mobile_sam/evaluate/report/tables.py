"""The tables of a report, for the terminal and as Markdown; the page shows the same ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from mobile_sam.evaluate.report.content import NamedTable, Report, headline, measured_things, setting_text
from mobile_sam.evaluate.statistics import Difference, Interval, Summary

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group
    from rich.table import Table

_Columns: TypeAlias = "dict[str, list[str | int | float | None]]"  # cells by heading

_Row = TypeVar("_Row", Summary, Difference)

_MAX_FAILURES = 10  # in a table; all are in the JSON file
_LEAST_WORDS = 16  # characters that a column of words is left with


def result_tables(report: Report, report_steps: Sequence[int] | None = None) -> list[NamedTable]:
    """Make a table with a row for each protocol, model and number of prompts; then the report's own tables.

    Where all rows rest on the same objects, their number stands in the note and in the headings, else in each row.

    Args:
        report: whose summaries are shown.
        report_steps: the numbers of prompts to show; None for those that each protocol names, or all. A protocol that
            has none of them is shown by its last.
    """
    rows = [row for row in report.summaries if row.step in shown_steps(report, row.protocol, report_steps)]
    rows = _in_order(rows, report)
    return [*([_result_table(rows, report)] if rows else []), *report.tables]


def difference_tables(report: Report, report_steps: Sequence[int] | None = None) -> list[NamedTable]:
    """Make one table for each baseline, of the differences of each model's IoU to the baseline's."""
    rows = [row for row in report.differences if row.step in shown_steps(report, row.protocol, report_steps)]
    rows = _in_order(rows, report)
    return [
        _difference_table([row for row in rows if row.baseline == baseline], baseline)
        for baseline in dict.fromkeys(row.baseline for row in rows)
    ]


def omission_tables(report: Report) -> list[NamedTable]:
    """Make the tables of what was counted, what was wrong with the dataset, and what failed."""
    tables = []
    if report.counts:
        rows = tuple((name, count) for name, count in report.counts.items())
        tables.append(NamedTable("What was counted", ("What", "Number"), rows))
    if report.problems:
        tables.append(_problem_table(report.problems))
    if report.failures:
        shown = report.failures[:_MAX_FAILURES]
        num_more = len(report.failures) - len(shown)
        tables.append(
            NamedTable(
                f"What failed: {len(report.failures)}",
                ("Picture or model", "Reason"),
                tuple((failure["picture"], failure["reason"]) for failure in shown),
                note=f"... and {num_more} more, all of them in the JSON file." if num_more else "",
                num_text_columns=2,
            )
        )
    return tables


def setup_tables(report: Report) -> list[NamedTable]:
    """Make the tables of the protocols' choices, the dataset, the models, the machine and where the time went."""
    facts = [(f"protocol {protocol.get('name', '?')}", _settings(protocol, "name")) for protocol in report.protocols]
    facts += [(f"model {model.get('name', '?')}", _settings(model, "name")) for model in report.models]
    facts += [("dataset", _settings(report.dataset)), ("machine", _settings(report.machine))]
    facts += [("package", f"mobile-sam {report.package_version}"), ("created", report.created)]
    facts += [("command", report.command)]
    rows = tuple((name, text) for name, text in facts if text)
    tables = [NamedTable("What was evaluated, and where", ("What", "Which"), rows, num_text_columns=2)]
    total_s = sum(report.profile.values())
    if total_s > 0:
        stages = tuple((name, f"{took_s:.1f}", f"{took_s / total_s:.0%}") for name, took_s in report.profile.items())
        wall = "" if report.wall_s != report.wall_s else f"{report.wall_s:.1f} s from start to end."
        tables.append(NamedTable("Where the time went", ("Stage", "Seconds", "Share"), stages, note=wall))
    return tables


def all_tables(report: Report, report_steps: Sequence[int] | None = None) -> list[NamedTable]:
    """Make every table of a report, the results first."""
    return [
        *result_tables(report, report_steps),
        *difference_tables(report, report_steps),
        *omission_tables(report),
        *setup_tables(report),
    ]


def shown_steps(report: Report, protocol: str, report_steps: Sequence[int] | None = None) -> list[int]:
    """Return the numbers of prompts of a protocol that a report shows, rising; see `result_tables`."""
    measured = sorted({summary.step for summary in report.summaries if summary.protocol == protocol})
    wanted = report_steps
    if wanted is None:
        wanted = _config(report, protocol).get("report_steps", measured)
    return [step for step in measured if step in wanted] or measured[-1:]


def markdown(report: Report, report_steps: Sequence[int] | None = None) -> str:
    """Write a report as Markdown, for documents: the same tables as in the terminal.

    Args:
        report: what to write.
        report_steps: as for `result_tables`.
    """
    parts = [f"## {_escaped(report.title)}", _escaped(headline(report))]
    for table in all_tables(report, report_steps):
        parts += [f"### {_escaped(table.title)}", _markdown_table(table), _escaped(table.note)]
    parts += [f"- {_escaped(note)}" for note in report.notes]
    return "\n\n".join(part for part in parts if part) + "\n"


def terminal(report: Report, report_steps: Sequence[int] | None = None) -> Group:
    """Make what `rich.console.Console.print` shows of a report, at any width and on what is no terminal.

    The files of the report say more: every choice of the protocols, the models and their weights, the machine.

    Args:
        report: what to show.
        report_steps: as for `result_tables`.
    """
    from rich.console import Group
    from rich.text import Text

    shown = [
        *result_tables(report, report_steps),
        *difference_tables(report, report_steps),
        *omission_tables(report),
    ]
    parts: list[Any] = [Text(report.title, style="bold"), Text(headline(report)), Text()]
    for table in shown:
        parts += [Text(table.title, style="bold"), FittedTable(table)]
        parts += [Text(table.note, style="dim"), Text()] if table.note else []
    parts += [Text(f"Note: {note}") for note in report.notes]
    spent = ", ".join(f"{stage} {took_s:.1f}" for stage, took_s in report.profile.items() if took_s >= 0.05)
    parts += (
        [Text(f"{report.wall_s:.1f} s" + (f" ({spent})" if spent else ""))] if report.wall_s == report.wall_s else []
    )
    return Group(*parts)


def _result_table(rows: Sequence[Summary], report: Report) -> NamedTable:
    is_agreement = report.kind == "agreement"
    digits = 4 if is_agreement else 3
    columns = _key_columns(rows)
    columns["mIoU"] = [_fixed(row.mean, digits) for row in rows]
    columns["95% interval"] = [_interval(row.interval, digits) for row in rows]
    for name in _bins_in_order(rows, report):
        counts = {row.by_bin[name].num_objects if name in row.by_bin else 0 for row in rows}
        has_one_count = len(counts) == 1
        heading = f"{name} (n={min(counts)})" if has_one_count else f"{name} (n)"
        columns[heading] = [_bin(row, name, digits, has_count=not has_one_count) for row in rows]
    columns["median"] = [_fixed(row.median, digits) for row in rows]
    if is_agreement:
        columns["lowest 1%"] = [_fixed(row.percentile_1, digits) for row in rows]
        columns["minimum"] = [_fixed(row.minimum, digits) for row in rows]
    else:
        columns[">= 0.5"] = [_share(row.share_above_half) for row in rows]
    columns["by picture"] = [_fixed(row.mean_of_pictures, digits) for row in rows]
    sizes = {(row.num_objects, row.num_pictures) for row in rows}
    note = "By picture: the mean of the pictures' means."
    if len(sizes) == 1:
        num_objects, num_pictures = sizes.pop()
        note = f"Each row: {num_objects} {measured_things(report)} in {num_pictures} pictures. {note}"
    else:
        columns[measured_things(report)] = [row.num_objects for row in rows]
        columns["pictures"] = [row.num_pictures for row in rows]
    return _of_columns("Results", columns, note)


def _difference_table(rows: Sequence[Difference], baseline: str) -> NamedTable:
    columns = _key_columns(rows)
    written = [_signed(row.mean_difference, row.interval.low, row.interval.high) for row in rows]
    columns["mean"] = [mean for mean, _, _ in written]
    columns["95% interval"] = [f"[{low}, {high}]" for _, low, high in written]
    columns["better"] = [_share(row.share_better) for row in rows]
    columns["equal"] = [_share(row.share_equal) for row in rows]
    columns["worse"] = [_share(row.share_worse) for row in rows]
    note = f"IoU of the model less IoU of {baseline}, object by object; unpaired: measured for one of the two only."
    sizes = {(row.num_pairs, row.num_unpaired) for row in rows}
    if len(sizes) == 1:
        note = "Each row: {} pairs, {} unpaired. ".format(*sizes.pop()) + note
    else:
        columns["pairs"] = [row.num_pairs for row in rows]
        columns["unpaired"] = [row.num_unpaired for row in rows]
    return _of_columns(f"Differences to {baseline}", columns, note)


def _in_order(rows: list[_Row], report: Report) -> list[_Row]:
    """Sort by protocol and model, both in the order of the report, then by the number of prompts."""
    protocols = [str(protocol["name"]) for protocol in report.protocols]
    models = [str(model["name"]) for model in report.models]

    def place(row: _Row) -> tuple[int, int, int]:
        known = [
            names.index(name) if name in names else len(names)
            for names, name in ((protocols, row.protocol), (models, row.model))
        ]
        return known[0], known[1], row.step

    return sorted(rows, key=place)


def _bins_in_order(rows: Sequence[Summary], report: Report) -> list[str]:
    """Name the area bins that have objects, in the protocols' order."""
    known = [area_bin["name"] for protocol in report.protocols for area_bin in protocol.get("area_bins", ())]
    found = [name for row in rows for name in row.by_bin]
    return [name for name in dict.fromkeys([*known, *found]) if name in found]


def _key_columns(rows: Sequence[Summary] | Sequence[Difference]) -> _Columns:
    """Name the rows; the numbers of prompts are left out where there is nothing but first prompts."""
    columns: _Columns = {"Protocol": [row.protocol for row in rows], "Model": [row.model for row in rows]}
    if {row.step for row in rows} != {1}:
        columns["Prompts"] = [row.step for row in rows]
    return columns


def _problem_table(problems: Sequence[Mapping[str, Any]]) -> NamedTable:
    keys = [(str(problem["kind"]), "left out" if problem["is_left_out"] else "kept") for problem in problems]
    first = dict(zip(reversed(keys), reversed(problems), strict=True))
    return NamedTable(
        "What was wrong with the dataset",
        ("Problem", "Item", "First case", "Number"),
        tuple(
            (*key, f"{first[key]['where']}: {first[key]['message']}", number)
            for key, number in Counter(keys).most_common()
        ),
        num_text_columns=3,
    )


def _of_columns(title: str, columns: _Columns, note: str) -> NamedTable:
    num_keys = 3 if "Prompts" in columns else 2
    return NamedTable(title, tuple(columns), tuple(zip(*columns.values(), strict=True)), note, num_keys)


def _bin(row: Summary, name: str, digits: int, has_count: bool) -> str:
    if name not in row.by_bin:
        return "- (0)" if has_count else "-"
    return _fixed(row.by_bin[name].mean, digits) + (f" ({row.by_bin[name].num_objects})" if has_count else "")


def _config(report: Report, protocol: str) -> Mapping[str, Any]:
    return next((config for config in report.protocols if config.get("name") == protocol), {})


def _settings(config: Mapping[str, Any], *left_out: str) -> str:
    return setting_text({key: value for key, value in config.items() if key not in left_out and value != ""})


def _fixed(value: float, digits: int) -> str:
    """Write a number; what is not quite 1 is not written as 1."""
    if value != value:
        return "-"
    text = f"{value:.{digits}f}"
    return f"{1 - 10**-digits:.{digits}f}+" if value < 1 and float(text) == 1 else text


def _signed(*values: float) -> list[str]:
    """Write differences with their signs: to four digits, or where they would show nothing, to two significant ones."""
    largest = max((abs(value) for value in values if value == value), default=0.0)
    form = "+.4f" if largest == 0 or largest >= 0.0005 else "+.1e"
    return ["-" if value != value else f"{value:{form}}" for value in values]


def _interval(interval: Interval, digits: int) -> str:
    return f"[{_fixed(interval.low, digits)}, {_fixed(interval.high, digits)}]"


def _share(share: float) -> str:
    return "-" if share != share else f"{share:.1%}"


def _escaped(text: str) -> str:
    """Keep Markdown from reading marks in names: code, emphasis, HTML, links, and the bars of a table."""
    text = re.sub(r"([\\`*<|&~])", r"\\\1", " ".join(text.split()))
    return re.sub(r"\](?=[(\[:])|(?<!\w)_|_(?!\w)", lambda mark: "\\" + mark[0], text)


def _markdown_table(table: NamedTable) -> str:
    marks = ["---" if index < table.num_text_columns else "---:" for index in range(len(table.columns))]
    lines = [[_escaped(heading) for heading in table.columns], marks]
    lines += [[_escaped(text) for text in row] for row in table.texts]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class FittedTable:
    """A table that a narrow terminal shows as several, one below the other, rather than with its numbers cut."""

    def __init__(self, table: NamedTable) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | str]:
        for columns in self.blocks(options.max_width):
            yield self.rich_table(columns)
            yield ""

    def blocks(self, width: int) -> list[list[int]]:
        """Columns of each part, the words at the left being repeated; words may be folded, numbers not."""
        num_words = self.table.num_text_columns
        headings = [self.heading(index) for index in range(len(self.table.columns))]
        widths = [
            max(len(line) for text in texts for line in text.split("\n"))
            for texts in zip(headings, *self.table.texts, strict=True)
        ]
        words = list(range(num_words))
        free = width - sum(min(widths[index], _LEAST_WORDS) + 2 for index in words)
        blocks = [list(words)]
        used = 0
        for index in range(num_words, len(widths)):
            if used and used + widths[index] + 2 > free:
                blocks.append(list(words))
                used = 0
            blocks[-1].append(index)
            used += widths[index] + 2
        return blocks

    def rich_table(self, columns: Sequence[int]) -> Table:
        """Some of the columns."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="", show_edge=False)
        for index in columns:
            is_words = index < self.table.num_text_columns
            heading = Text(self.heading(index))
            shown.add_column(heading, justify="left" if is_words else "right", overflow="fold", no_wrap=not is_words)
        for row in self.table.texts:
            shown.add_row(*(Text(row[index]) for index in columns))
        return shown

    def heading(self, index: int) -> str:
        """The heading of a column, of numbers over two lines, which keeps them narrow."""
        heading = self.table.columns[index]
        is_words = index < self.table.num_text_columns or heading.startswith(">")
        return heading if is_words else "\n".join(heading.rsplit(" ", 1))
