"""Exported ONNX files on ONNX Runtime's CPU provider."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mobile_sam.core.errors import WeightsError
from mobile_sam.engines.ort import session_errors, session_options
from mobile_sam.engines.ort_module import onnxruntime_module
from mobile_sam.engines.runtimes import Graph

PACKAGE = ("onnxruntime", "onnxruntime")


def open_graph(path: Path, *, num_threads: int, precision: str) -> Graph:
    """See `mobile_sam.engines.runtimes.open_graph`; the file itself says what precision it computes in.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    onnxruntime = onnxruntime_module()

    try:
        session = onnxruntime.InferenceSession(
            str(path), session_options(num_threads), providers=["CPUExecutionProvider"]
        )
    except session_errors() as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"{path} is missing or damaged ({reason}); make it again with `mobile-sam export`"
        ) from error
    names = [one.name for one in session.get_inputs()]

    def run(inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        return session.run(None, dict(zip(names, inputs, strict=True)))  # type: ignore[no-any-return]

    return run
