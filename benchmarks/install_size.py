"""What an installation costs: seconds, packages and megabytes (10^6 bytes) of a wheel in a fresh virtual environment.

The seconds include downloads unless pip's cache holds the files, so a second run shows the installation alone. Sizes
are of the installed files, compiled Python included; pip itself and setuptools are not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from make_original_env import REQUIREMENTS, make_venv
from report import MachineWatch, facts, publish

LIST_PACKAGES = """
import importlib.metadata as m, json
found = {}
for d in m.distributions():
    paths = {d.locate_file(f).resolve() for f in d.files or []}
    size = sum(p.stat().st_size for p in paths if p.is_file())
    found[d.metadata["Name"].lower()] = [d.version, size]
print(json.dumps(found))
"""
NOT_COUNTED = ("pip", "setuptools")


def packages_of(python: Path) -> dict[str, tuple[str, int]]:
    """Version and bytes of every package of an environment, compiled files included."""
    command = [str(python), "-I", "-c", LIST_PACKAGES]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {name: (version, size) for name, (version, size) in listed.items()}


def install(arguments: list[str], label: str, wheel: Path | None) -> list[dict[str, Any]]:
    """Rows of one `pip install ARGUMENTS` in a fresh environment: the whole first, then its packages by size."""
    with tempfile.TemporaryDirectory() as folder:
        python = make_venv(Path(folder) / "env")
        before = packages_of(python)
        start = time.perf_counter()
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *arguments], check=True)
        seconds = time.perf_counter() - start
        packages = {name: found for name, found in packages_of(python).items() if name not in {*before, *NOT_COUNTED}}
    wheel_mb = wheel.stat().st_size / 1e6 if wheel else None
    total_mb = sum(size for _, size in packages.values()) / 1e6
    rows: list[dict[str, Any]] = [
        {
            "install": label,
            "package": "TOTAL",
            "version": f"{len(packages)} packages",
            "size_mb": total_mb,
            "install_s": seconds,
            "wheel_mb": wheel_mb,
        }
    ]
    for name, (version, size) in sorted(packages.items(), key=lambda item: -item[1][1]):
        rows.append(
            dict.fromkeys(rows[0]) | {"install": label, "package": name, "version": version, "size_mb": size / 1e6}
        )
    return rows


def main() -> None:
    """Install, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="our wheel")
    parser.add_argument("--extras", nargs="*", default=[], help="install the wheel once more with each of these extras")
    parser.add_argument("--constraints", type=Path, help="pip constraints file")
    parser.add_argument("--original", action="store_true", help="also install what the original code needs")
    parser.add_argument("--name", default="install_size", help="writes results/NAME.csv")
    given = parser.parse_args()
    options = ["-c", str(given.constraints)] if given.constraints else []
    header, watch = facts(), MachineWatch()
    rows = install([*options, str(given.wheel)], "mobile-sam", given.wheel)
    for extra in given.extras:
        rows += install([*options, f"{given.wheel}[{extra}]"], f"mobile-sam[{extra}]", given.wheel)
    if given.original:
        rows += install(["-r", str(REQUIREMENTS)], "original", None)
    publish(given.name, rows, {**header, **watch.facts()})


if __name__ == "__main__":
    main()
