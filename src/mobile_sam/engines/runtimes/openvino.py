"""Exported OpenVINO IR on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.errors import WeightsError
from mobile_sam.engines.runtimes import Graph

PACKAGE = ("openvino", "openvino")


def open_graph(path: Path, *, num_threads: int, precision: str) -> Graph:
    """See `mobile_sam.engines.runtimes.open_graph`."""
    import openvino

    from mobile_sam.engines.openvino import ONE_AT_A_TIME, compile_settings

    core = openvino.Core()
    settings = compile_settings(precision, num_threads=num_threads)
    settings.pop("CACHE_DIR", None)  # whose key is blind to some changes of weights
    try:
        with ONE_AT_A_TIME:
            compiled = core.compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        raise WeightsError(f"{path} cannot be read by OpenVINO; export the model again") from error

    def run(inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        request = compiled.create_infer_request()  # one for each call, so that several threads may call
        request.infer(dict(enumerate(inputs)), share_inputs=True)
        return [np.array(output.data) for output in request.output_tensors]

    return run
