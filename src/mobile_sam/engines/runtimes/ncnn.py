"""Graphs of ncnn, a `.ncnn.param` file with the `.ncnn.bin` file beside it, on the CPU.

ncnn's arrays have no batch axis: it is dropped from what goes in, and put before what comes out. Blobs are called in0,
in1, ... and out0, out1, ... in the order of `mobile_sam.export.modules`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.errors import WeightsError
from mobile_sam.engines.runtimes import Graph

PACKAGE = ("ncnn", "ncnn")

FP16_OPTIONS = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic")
BF16_OPTIONS = ("use_bf16_packed", "use_bf16_storage")


def open_graph(path: Path, *, num_threads: int, precision: str) -> Graph:
    """See `mobile_sam.engines.runtimes.open_graph`; `path` is that of the `.param` file."""
    import ncnn

    net = ncnn.Net()
    for name in FP16_OPTIONS:  # on by default, and at work on CPUs that have fp16 arithmetic
        setattr(net.opt, name, precision == "fp16")
    for name in BF16_OPTIONS:
        if hasattr(net.opt, name):
            setattr(net.opt, name, False)
    if num_threads:
        net.opt.num_threads = num_threads
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise WeightsError(f"{path} and the .bin beside it are no network that this version of ncnn reads")
    num_outputs = len(net.output_indexes())

    def run(inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        extractor = net.create_extractor()
        fed = [_without_batch(array) for array in inputs]  # an ncnn.Mat points into its array without keeping it alive
        for index, array in enumerate(fed):
            extractor.input(f"in{index}", ncnn.Mat(array).clone())  # cloned because ncnn needs rows padded as its own
        answers = [extractor.extract(f"out{index}") for index in range(num_outputs)]
        if any(failed for failed, _ in answers):
            raise RuntimeError(f"ncnn could not run {path} on inputs of shapes {[array.shape for array in inputs]}")
        return [np.array(answer, np.float32)[None] for _, answer in answers]

    return run


def _without_batch(array: NDArray[Any]) -> NDArray[np.float32]:
    """(1, ...) -> (...), and vectors and pixels (h, w, 3) as they are; float32."""
    unbatched = array[0] if array.ndim > 1 and array.shape[0] == 1 else array
    return np.ascontiguousarray(unbatched, np.float32)
