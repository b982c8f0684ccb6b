"""Programs of torch.export (`.pt2`) run by PyTorch, without the code of the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.errors import WeightsError
from mobile_sam.core.manifest import EXPORT_ADVICE
from mobile_sam.engines.runtimes import Graph

PACKAGE = ("torch", "'mobile-sam[torch]'")


def open_graph(path: Path, *, num_threads: int, precision: str) -> Graph:
    """See `mobile_sam.engines.runtimes.open_graph`; the number of threads holds for all of torch in this process.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    import torch

    if not is_zipfile(path):  # torch would try several readers, and tell of each at length
        raise WeightsError(f"{path} is missing or damaged (it is no .pt2 file); {EXPORT_ADVICE}")
    try:
        module = torch.export.load(path).module()
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise WeightsError(f"{path} is missing or damaged ({error}); {EXPORT_ADVICE}") from error
    if num_threads:
        torch.set_num_threads(num_threads)

    def run(inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        with torch.no_grad():
            answer = module(*(torch.from_numpy(np.ascontiguousarray(one)) for one in inputs))
        return [one.numpy() for one in (answer if isinstance(answer, tuple) else (answer,))]

    return run
