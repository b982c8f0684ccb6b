"""What every benchmark writes: medians, facts about the machine, a CSV with a header of comments, a printed table."""

from __future__ import annotations

import csv
import importlib.util
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PACKAGES = (
    "mobile-sam",
    "mobilesam-mirror",
    "torch",
    "torchvision",
    "timm",
    "onnxruntime",
    "openvino",
    "numpy",
    "pillow",
    "opencv-python-headless",
)
LIST_VERSIONS = """
import importlib.metadata as m, json, platform, sys
versions = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try: versions[name] = m.version(name)
    except m.PackageNotFoundError: pass
print(json.dumps(versions))
"""

Row = Mapping[str, Any]


def machine_module() -> ModuleType:
    """mobile_sam/evaluate/machine.py of this checkout, by its file: with --original `mobile_sam` is the original."""
    path = HERE.parent / "src" / "mobile_sam" / "evaluate" / "machine.py"
    spec = importlib.util.spec_from_file_location("machine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MACHINE = machine_module()
MachineWatch = MACHINE.MachineWatch


@dataclass(frozen=True)
class Summary:
    """Middle and spread of repeated measurements."""

    median: float
    iqr: float
    n: int


def summarise(values: Sequence[float]) -> Summary:
    """Median and interquartile range (0 for a single value) of at least one measurement."""
    if not values:
        raise ValueError("no measurement to summarise; ask for at least one round")
    if len(values) == 1:
        return Summary(values[0], 0.0, 1)
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Summary(median, upper - lower, len(values))


def git_commit() -> str:
    """The commit of this checkout, with `+changes` where the package or the benchmarks differ from it."""

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=False)
        return run.stdout.strip() if run.returncode == 0 else ""

    commit = git("rev-parse", "--short=12", "HEAD") or "none"
    return commit + ("+changes" if git("status", "--porcelain", "--", "../src", "../pyproject.toml", "*.py") else "")


def versions(python: str | Path = sys.executable) -> dict[str, str]:
    """Versions of the packages that matter, as installed for that interpreter."""
    command = [str(python), "-c", LIST_VERSIONS, *PACKAGES]
    found: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def command_line() -> str:
    """The command as it was given, the folders of files outside this repository left out."""
    repository = HERE.parent

    def shown(argument: str) -> str:
        path = Path(argument)
        if not path.is_absolute() and ".." not in path.parts:
            return argument
        path = path.resolve()
        return str(path.relative_to(repository)) if path.is_relative_to(repository) else f"PATH/{path.name}"

    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(shown, sys.argv[1:])])


def facts(environments: Mapping[str, str | Path] | None = None) -> dict[str, str]:
    """What a reader needs beside the numbers; `environments` maps a name to the interpreter whose packages to list."""
    lines = {**MACHINE.machine_facts(), "commit": git_commit(), "command": command_line()}
    for name, python in (environments or {"here": sys.executable}).items():
        lines[f"packages ({name})"] = ", ".join(f"{key} {value}" for key, value in versions(python).items())
    return lines


def shown(value: Any) -> str:
    """A cell: numbers with four significant digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return str(value)


def write_csv(path: Path, rows: Sequence[Row], header: Mapping[str, str]) -> None:
    """Write rows that share their keys below `# key: value` lines (pandas: read_csv(path, comment="#"))."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in header.items())
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: shown(value) for key, value in row.items()} for row in rows)


def print_table(rows: Sequence[Row]) -> None:
    """Print rows that share their keys as an aligned table."""
    columns = list(rows[0])
    cells = [columns, *([shown(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def publish(name: str, rows: Sequence[Row], header: Mapping[str, str], folder: Path = RESULTS) -> None:
    """Write `folder/NAME.csv` and print the same as a table."""
    path = folder / f"{name}.csv"
    write_csv(path, rows, header)
    for key, value in header.items():
        print(f"{key}: {value}")
    print()
    print_table(rows)
    print(f"\nwritten: {path}")
