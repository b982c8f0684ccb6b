"""ExecuTorch programs (`.pte`) on the runtime that its Python package brings, with XNNPACK."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.errors import WeightsError
from mobile_sam.core.manifest import EXPORT_ADVICE
from mobile_sam.engines.runtimes import Graph

PACKAGE = ("executorch", "'mobile-sam[export-executorch]'")


def open_graph(path: Path, *, num_threads: int, precision: str) -> Graph:
    """See `mobile_sam.engines.runtimes.open_graph`; all graphs of a process share one number of threads.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    if num_threads:
        portable_lib._unsafe_reset_threadpool(num_threads)  # the one way that there is; no graph may be running
    try:
        program = Runtime.get().load_program(path)
        method = program.load_method("forward")
    except RuntimeError as error:
        raise WeightsError(f"{path} is missing or damaged ({error}); {EXPORT_ADVICE}") from error
    assert method is not None
    lock = Lock()  # a method has one set of buffers

    def run(inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        tensors = [torch.from_numpy(np.ascontiguousarray(one)) for one in inputs]
        with lock:
            return [one.numpy().copy() for one in method.execute(tensors)]

    return run
