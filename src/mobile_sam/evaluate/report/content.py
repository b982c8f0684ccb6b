"""What a report says: one value that is stored as JSON, and that every table and page is made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime, timezone
from os import PathLike, fspath
from typing import Any

import numpy as np

from mobile_sam._version import __version__
from mobile_sam.evaluate.statistics import BinMean, Difference, Interval, Summary

KINDS = ("prompts", "agreement", "boxes", "everything", "latency")

_SEQUENCES = ("models", "protocols", "failures", "problems", "summaries", "differences", "tables", "notes")

FORMAT = "mobile-sam evaluation 1"
"""Stands in every JSON file; the number rises when files of before can no longer be read."""


@dataclass(frozen=True)
class NamedTable:
    """A table as any report shows it.

    Attributes:
        title: what it is about.
        columns: headings, with units.
        rows: of as many cells as there are columns; NaN and None are shown as missing.
        note: what the numbers rest on, such as their denominators.
        num_text_columns: columns from the left that hold words; the others hold numbers.
        num_digits: decimals of fractions; None for four significant digits.

    Raises:
        ValueError: a row has another number of cells.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]
    note: str = ""
    num_text_columns: int = 1
    num_digits: int | None = None

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r} has {len(self.columns)} columns, got a row of {len(row)}: {row}"
                )

    @property
    def texts(self) -> tuple[tuple[str, ...], ...]:
        """The cells as they are shown."""
        return tuple(tuple(cell_text(cell, self.num_digits) for cell in row) for row in self.rows)


@dataclass(frozen=True)
class Report:
    """Everything that an evaluation found, and everything needed to run it again.

    Attributes:
        kind: one of KINDS.
        title: a few words.
        created: time in UTC, ISO 8601.
        command: as it was typed, or "".
        package_version: of this package.
        machine: what it ran on, by name.
        dataset: name, kind, sha256, selection, num_pictures, num_objects, ...
        models: for each: name, engine, engine_version, precision, device, checkpoint, weights_sha256, model_id, ...
        protocols: for each: all fields of its config, `name` among them.
        counts: pictures and objects that were evaluated, that failed and that were left out, by reason.
        failures: for each picture or model that could not be evaluated: picture (its name), reason.
        problems: for each problem of the dataset: kind, where, message, is_left_out.
        summaries: one for each protocol, model and number of prompts.
        differences: one for each of these but the baseline's.
        tables: of the protocols whose results are not masks' IoU.
        details: numbers behind these tables, ready for JSON.
        profile: seconds by stage.
        wall_s: seconds from start to end.
        notes: sentences that a reader should know.

    Raises:
        ValueError: an unknown kind.
    """

    kind: str
    title: str
    created: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    command: str = ""
    package_version: str = __version__
    machine: Mapping[str, str] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    models: Sequence[Mapping[str, Any]] = ()
    protocols: Sequence[Mapping[str, Any]] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    failures: Sequence[Mapping[str, str]] = ()
    problems: Sequence[Mapping[str, Any]] = ()
    summaries: Sequence[Summary] = ()
    differences: Sequence[Difference] = ()
    tables: Sequence[NamedTable] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, float] = field(default_factory=dict)
    wall_s: float = math.nan
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"the kind of a report must be one of {', '.join(KINDS)}, got {self.kind!r}")
        for name in _SEQUENCES:
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def to_json(self) -> dict[str, Any]:
        """Return all fields as what JSON has: NaN and infinities become None, tuples become lists."""
        return {"format": FORMAT, **_plain(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Report:
        """Return the report that `to_json` described.

        Raises:
            ValueError: it is not such a report, or of another version.
        """
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            found = values.get("format") if isinstance(values, Mapping) else type(values).__name__
            raise ValueError(f"expected a report with format {FORMAT!r}, got {found!r}; evaluate anew")
        stored = {known.name: values[known.name] for known in fields(cls) if known.name in values}
        stored["summaries"] = [_summary(entry) for entry in stored.get("summaries", ())]
        stored["differences"] = [_difference(entry) for entry in stored.get("differences", ())]
        stored["tables"] = [_table(entry) for entry in stored.get("tables", ())]
        stored["wall_s"] = _number(stored.get("wall_s"))
        return cls(**stored)


def headline(report: Report) -> str:
    """Say in one sentence what was measured, of what, on what."""
    subject = {
        "prompts": "IoU with the annotated masks",
        "agreement": "IoU with the reference's masks for the same prompts",
        "boxes": "COCO AP of the masks for given boxes",
        "everything": "recall of annotated objects by masks of everything",
        "latency": "latency and memory",
    }[report.kind]
    models = ", ".join(str(model.get("name", "?")) for model in report.models) or "no model"
    dataset = report.dataset
    keys = ("name",) if dataset.get("kind") == "pictures" else ("kind", "name")
    name = " ".join(str(dataset[key]) for key in keys if dataset.get(key)) or "no dataset"
    if dataset.get("selection"):
        name += f" ({dataset['selection']})"
    sizes = [(summary.num_objects, summary.num_pictures) for summary in report.summaries]
    num_objects, num_pictures = max(sizes, default=(dataset.get("num_objects"), dataset.get("num_pictures")))
    num_objects = report.counts.get(f"{measured_things(report)} measured", num_objects)
    counted = [f"{num_objects} {measured_things(report)}"] if num_objects else []
    counted += [f"{num_pictures} pictures"] if num_pictures is not None else []
    return f"{models}: {subject}, on {' in '.join(counted)}{' of ' if counted else ''}{name}."


def measured_things(report: Report) -> str:
    """Say what one measurement is of."""
    return "prompts" if report.kind == "agreement" else "objects"


def cell_text(value: str | int | float | None, num_digits: int | None = None) -> str:
    """Write one cell: words and counts as they are, "-" for none, other numbers to four significant digits or as told.

    >>> [cell_text(value) for value in ("box", 707, 0.73314, 1234567.0, float("nan"), None)]
    ['box', '707', '0.7331', '1234567', '-', '-']
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float) and num_digits is not None:
        return f"{value:.{num_digits}f}"
    if isinstance(value, float):
        return f"{value:.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"
    return str(value)


def setting_text(value: Any) -> str:
    """Write one setting of a config in words.

    >>> setting_text([{"name": "small", "below_px": 1024}, {"name": "large", "below_px": None}])
    'small below 1024 px, large'
    """
    if isinstance(value, Mapping) and set(value) == {"name", "below_px"}:
        return f"{value['name']}" if value["below_px"] is None else f"{value['name']} below {value['below_px']:g} px"
    if isinstance(value, Mapping):
        return "; ".join(f"{str(key).replace('_', ' ')}: {setting_text(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(setting_text(entry) for entry in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None or value == "" else str(value)


def _plain(value: Any) -> Any:
    """Turn a value into what `json.dumps(..., allow_nan=False)` writes."""
    if is_dataclass(value) and not isinstance(value, type):
        return {known.name: _plain(getattr(value, known.name)) for known in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return fspath(value) if isinstance(value, PathLike) else value


def _number(value: Any) -> Any:
    """NaN for what JSON has no number for."""
    return math.nan if value is None else value


def _interval(values: Mapping[str, float | None]) -> Interval:
    return Interval(low=_number(values["low"]), high=_number(values["high"]))


def _summary(values: Mapping[str, Any]) -> Summary:
    by_bin = {name: BinMean(entry["num_objects"], _number(entry["mean"])) for name, entry in values["by_bin"].items()}
    known: dict[str, Any] = {name: _number(value) for name, value in values.items()}
    return Summary(**{**known, "by_bin": by_bin, "interval": _interval(values["interval"])})


def _difference(values: Mapping[str, Any]) -> Difference:
    known: dict[str, Any] = {name: _number(value) for name, value in values.items()}
    return Difference(**{**known, "interval": _interval(values["interval"])})


def _table(values: Mapping[str, Any]) -> NamedTable:
    rows = tuple(tuple(row) for row in values["rows"])
    return NamedTable(**{**values, "columns": tuple(values["columns"]), "rows": rows})
