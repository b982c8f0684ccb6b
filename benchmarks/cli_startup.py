"""What the command costs beyond the network: CPU and wall seconds of `mobile-sam --help` and of `segment`.

`cpu_s` and `wall_s` are medians over fresh processes, from start to exit; `network_s` is what the command itself
reports in its JSON for encoding and decoding, `other_s` the rest of the wall time: starting, reading, loading, writing.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from report import MachineWatch, facts, publish, summarise


@dataclass(frozen=True)
class Cost:
    """One process from start to exit."""

    wall_s: float
    cpu_s: float
    milliseconds: dict[str, float] = field(default_factory=dict)  # what it reports: read, load, encode, decode, write


def cpu_of_finished_children_s() -> float:
    """User and system seconds of all child processes waited for so far (POSIX only)."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_once(command: list[str], report: Path | None = None) -> Cost:
    """Run a command to its end and read the JSON report it wrote, if it writes one."""
    before_s = cpu_of_finished_children_s()
    start = time.perf_counter()
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    wall_s = time.perf_counter() - start
    cpu_s = cpu_of_finished_children_s() - before_s
    if finished.returncode != 0:
        raise RuntimeError(f"{command[1:]} ended with {finished.returncode}: {finished.stderr.strip()[-2000:]}")
    return Cost(wall_s, cpu_s, json.loads(report.read_text())["milliseconds"] if report else {})


def measure(commands: dict[str, list[str]], report: Path, rounds: int) -> dict[str, list[Cost]]:
    """Alternate the commands; one run of each beforehand, which fills the file cache, does not count."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for round_index in range(rounds + 1):
        for name, command in commands.items():
            cost = run_once(command, report if name == "segment" else None)
            if round_index > 0:
                costs[name].append(cost)
    return costs


def tabulate(costs: dict[str, list[Cost]]) -> list[dict[str, Any]]:
    """One row per command; the parts that the command reports itself follow in milliseconds."""
    rows = []
    parts = ("read", "load", "encode", "decode", "write")
    for name, runs in costs.items():
        wall, cpu = summarise([run.wall_s for run in runs]), summarise([run.cpu_s for run in runs])
        row: dict[str, Any] = {"command": name, "wall_s": wall.median, "wall_iqr_s": wall.iqr}
        row |= {"cpu_s": cpu.median, "cpu_iqr_s": cpu.iqr, "n": wall.n, "network_s": None, "other_s": None}
        row |= dict.fromkeys((f"{part}_ms" for part in parts), None)
        reported = [run.milliseconds for run in runs if run.milliseconds]
        if reported:
            row |= {f"{part}_ms": summarise([found[part] for found in reported]).median for part in parts}
            network_s = [(found["encode"] + found["decode"]) / 1000 for found in reported]
            other_s = [run.wall_s - network for run, network in zip(runs, network_s, strict=True)]
            row |= {"network_s": summarise(network_s).median, "other_s": summarise(other_s).median}
        rows.append(row)
    return rows


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside_python = Path(sys.executable).parent / "mobile-sam"
    parser.add_argument("picture")
    parser.add_argument("--point", required=True, help="X,Y in pixels of the picture")
    parser.add_argument("--mobile-sam", default=str(beside_python), help="the command (default: beside this Python)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--name", default="cli_startup", help="writes results/NAME.csv")
    given = parser.parse_args()
    header, watch = facts(), MachineWatch()
    with tempfile.TemporaryDirectory() as folder:
        output, report = Path(folder) / "mask.png", Path(folder) / "report.json"
        segment = [given.mobile_sam, "segment", given.picture, "--point", given.point]
        segment += ["-o", str(output), "--json", str(report)]
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "--help": [given.mobile_sam, "--help"],
            "segment": segment,
        }
        rows = tabulate(measure(commands, report, given.rounds))
    publish(given.name, rows, {**header, **watch.facts()})


if __name__ == "__main__":
    main()
