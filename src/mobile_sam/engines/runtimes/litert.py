"""LiteRT graphs (`.tflite`) on the interpreter of ai-edge-litert, with XNNPACK."""

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

PACKAGE = ("ai_edge_litert", "ai-edge-litert")


def open_graph(path: Path, *, num_threads: int, precision: str) -> Graph:
    """See `mobile_sam.engines.runtimes.open_graph`.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=str(path), num_threads=num_threads or None)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"{path} is missing or damaged ({error}); {EXPORT_ADVICE}") from error
    indices_in, indices_out = (
        [one["index"] for one in details]
        for details in (interpreter.get_input_details(), interpreter.get_output_details())
    )
    lock = Lock()  # an interpreter has one set of buffers

    def run(inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        with lock:
            for index, value in zip(indices_in, inputs, strict=True):
                interpreter.set_tensor(index, np.ascontiguousarray(value))
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in indices_out]

    return run
