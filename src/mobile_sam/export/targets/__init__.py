"""Targets of export, a module each.

Each has the same three functions:

    spec() -> TargetSpec                                      what it is and what it takes; imports nothing heavy
    write(sam, options, folder) -> Written                    writes the files; sam is in eval mode, on the CPU, fp32
    open_runner(folder, num_threads) -> Runner | None         runs them, as the target's users do; None: cannot be run

A new target is a new module here; it is found by being here.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Protocol, cast

from mobile_sam.export.target import ExportOptions, TargetSpec, Written

if TYPE_CHECKING:
    from mobile_sam.export.runner import Runner
    from mobile_sam.modeling.sam import Sam


class Target(Protocol):
    """What each module here has."""

    def spec(self) -> TargetSpec:
        """Say what the target is and what it takes."""

    def write(self, sam: Sam, options: ExportOptions, folder: Path) -> Written:
        """Write the files of the target to a folder, which is there and empty."""

    def open_runner(self, folder: Path, num_threads: int = 0) -> Runner | None:
        """Make what runs the exported files; None where they cannot be run here."""


def target_names() -> list[str]:
    """List the targets, as in `--to`."""
    return sorted(module.name.replace("_", "-") for module in iter_modules(__path__))


def get_target(name: str) -> Target:
    """Return a target by its name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in target_names():
        raise ValueError(f"unknown target {name!r}; expected one of {', '.join(target_names())}")
    return cast(Target, import_module(f"{__name__}.{name.replace('-', '_')}"))
