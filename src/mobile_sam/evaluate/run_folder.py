"""The folder of a run: what lies in it, and how it stays whole.

`measurements.jsonl` grows with each finished picture; from it come `report.json` (everything needed to run it again),
`measurements.csv` (one row for each mask) and `report.html`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from mobile_sam.core.errors import MissingDependencyError
from mobile_sam.evaluate.measurements import MeasurementTable
from mobile_sam.evaluate.report.cases import Case
from mobile_sam.evaluate.report.content import Report
from mobile_sam.evaluate.report.files import read_json, write_csv, write_json

logger = logging.getLogger(__name__)

JOURNAL, REPORT_JSON = "measurements.jsonl", "report.json"
MEASUREMENTS_CSV, REPORT_HTML = "measurements.csv", "report.html"


def check_run_folder(folder: Path, *, has_journal: bool) -> None:
    """Find out before the work that a run could write into a folder and would destroy nothing of others there.

    Args:
        folder: need not exist.
        has_journal: whether the run keeps a journal, which says itself whether it is the same run.

    Raises:
        ValueError: the folder is a file, holds files of these names that are not ours, or another kind of run.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder for the results")
    if (folder / JOURNAL).exists():
        if not has_journal:
            raise ValueError(f"{folder} holds another run, see its {JOURNAL}; name another folder")
    elif (files := written_files(folder)) and not _is_report(folder / REPORT_JSON):
        raise ValueError(f"{folder} holds {files[0].name}, which no evaluation wrote; name another folder")


def write_report(
    report: Report, folder: Path | None, table: MeasurementTable | None = None, cases: Sequence[Case] = ()
) -> None:
    """Write a report's files into a run's folder, if it has one; what a report of before left beside them is removed.

    Without the packages of `mobile-sam[evaluate]` there is no page, and a warning says so.
    """
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    stale = set(written_files(folder)) - {folder / REPORT_JSON}
    write_json(report, folder / REPORT_JSON)
    if table is not None:
        write_csv(table, folder / MEASUREMENTS_CSV)
        stale -= {folder / MEASUREMENTS_CSV}
    from mobile_sam.evaluate.report.page import write_page

    try:
        write_page(folder / REPORT_HTML, report, table, cases)
        stale -= {folder / REPORT_HTML}
    except MissingDependencyError as error:
        logger.warning("no %s: %s", REPORT_HTML, error)
    for path in stale:
        path.unlink()


def written_files(folder: Path) -> list[Path]:
    """Return the files that a run has written into its folder for people and programs to read."""
    return [path for name in (REPORT_JSON, MEASUREMENTS_CSV, REPORT_HTML) if (path := folder / name).exists()]


def _is_report(path: Path) -> bool:
    try:
        read_json(path)
    except (OSError, ValueError):
        return False
    return True
