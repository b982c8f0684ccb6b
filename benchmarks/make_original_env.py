"""Makes a virtual environment with the original MobileSAM code: `python make_original_env.py FOLDER`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements-original.txt"


def interpreter_of(folder: Path) -> Path:
    """The Python of the virtual environment in a folder."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make_venv(folder: Path) -> Path:
    """Make an empty virtual environment; returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return interpreter_of(folder)


def make_original_env(folder: Path) -> Path:
    """Install requirements-original.txt into a new environment and see that it imports; returns its interpreter."""
    python = make_venv(folder)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS)], check=True)
    check = "import original_shim, mobile_sam; print(*sorted(mobile_sam.sam_model_registry))"
    subprocess.run([str(python), "-W", "ignore", "-c", check], check=True, cwd=HERE)
    return python


def main() -> None:
    """Parse the command line and make the environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to make it; must not exist yet")
    folder = parser.parse_args().folder
    if folder.exists():
        parser.error(f"{folder} exists; name a new folder or remove it first")
    print(f"interpreter: {make_original_env(folder)}")


if __name__ == "__main__":
    main()
