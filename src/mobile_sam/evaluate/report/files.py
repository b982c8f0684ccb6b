"""Reports and measurements as files, whole or not at all."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mobile_sam.core.files import atomic_path
from mobile_sam.evaluate.measurements import COLUMNS, MeasurementTable
from mobile_sam.evaluate.report.content import Report


def write_json(report: Report, path: str | os.PathLike[str]) -> None:
    """Write a report as JSON, from which it can be read back and the evaluation run again.

    Raises:
        OSError: as `mobile_sam.core.files.atomic_path` does.
    """
    text = json.dumps(report.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")  # names that are not UTF-8


def read_json(path: str | os.PathLike[str]) -> Report:
    """Read a report that `write_json` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no report.
    """
    try:
        return Report.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{os.fspath(path)} is not a report that this version wrote: {error}") from error


def write_csv(table: MeasurementTable, path: str | os.PathLike[str]) -> None:
    """Write measurements as CSV, a row each; see `write_rows`."""
    write_rows(path, COLUMNS, zip(*(getattr(table, name).tolist() for name in COLUMNS), strict=True))


def write_rows(
    path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Sequence[str | int | float]]
) -> None:
    """Write rows as CSV in UTF-8: fractions with six significant digits, NaN as an empty field.

    Raises:
        OSError: as `mobile_sam.core.files.atomic_path` does.
    """
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_field(value) for value in row] for row in rows)


def _field(value: str | int | float) -> str | int:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value
