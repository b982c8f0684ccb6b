"""Runtimes of exported graphs, a module each.

Each has two things:

    PACKAGE       what is imported, and what pip has to install for it
    open_graph    makes a `Graph` of a file

`ExportedEngine` turns graphs into an engine. A new runtime is a new module here, found by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from numpy.typing import NDArray

from mobile_sam.core.errors import MissingDependencyError

Graph = Callable[[Sequence[NDArray[Any]]], list[NDArray[Any]]]
"""Inputs in the order of `mobile_sam.export.modules`, outputs likewise."""


def open_graph(runtime: str, path: Path, *, num_threads: int = 0, precision: str = "fp32") -> Graph:
    """Open an exported graph.

    Args:
        runtime: name of a module here.
        path: the file.
        num_threads: CPU threads; 0 is the runtime's own choice.
        precision: what the file was exported in; a runtime that chooses its own arithmetic keeps to it.

    Raises:
        MissingDependencyError: the runtime is not installed. WeightsError: the file is damaged.
    """
    module = import_module(f"{__name__}.{runtime}")
    import_name, package = module.PACKAGE
    if find_spec(import_name) is None:
        raise MissingDependencyError(
            f"{path} runs on {import_name}, which is not installed; run: pip install {package}", name=import_name
        )
    return cast(Graph, module.open_graph(path, num_threads=num_threads, precision=precision))
