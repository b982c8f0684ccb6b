"""CUDA graphs of the image encoder: its few hundred kernels recorded once and started together.

For one picture the kernels are shorter than what Python and the driver take to start each of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NUM_WARM_UPS = 3  # before recording: what libraries choose and allocate at their first calls must not be recorded


@dataclass(frozen=True)
class Recording:
    """One graph with the memory it reads from and writes to."""

    graph: torch.cuda.CUDAGraph
    model_input: Tensor  # (B, 3, S, S)
    features: Tensor  # (B, 256, S/16, S/16) float32


class RecordedEncoder:
    """Replays a function on the GPU, with a recording for each shape of its input; safe to call from several threads.

    A recording reads the weights where they were, so all are dropped when `version` changes. Each keeps its memory.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()  # for all, since they never run at once and results are copied out
        self._recordings: dict[tuple[int, ...], Recording] = {}
        self._version: Hashable = None
        self._lock = threading.Lock()

    def __call__(self, encode: Callable[[Tensor], Tensor], model_input: Tensor, version: Hashable) -> Tensor:
        """Return what `encode` returns for `model_input`.

        Args:
            encode: runs on the GPU alone; does not read its result back, nor depends on values.
            model_input: (B, 3, S, S) on a CUDA device, contiguous or channels last.
            version: names the weights that `encode` runs with.

        Returns:
            (B, 256, S/16, S/16), a copy that later calls leave alone.
        """
        with self._lock, torch.cuda.device(model_input.device):
            if version != self._version:
                self._recordings.clear()
                self._version = version
            shape = tuple(model_input.shape)
            if shape not in self._recordings:
                self._recordings[shape] = record(encode, model_input, self._pool)
            recording = self._recordings[shape]
            recording.model_input.copy_(model_input)
            recording.graph.replay()
            return recording.features.clone()


def record(encode: Callable[[Tensor], Tensor], model_input: Tensor, pool: Any) -> Recording:
    """Record the kernels that `encode` starts for inputs of this shape and memory layout."""
    static_input = model_input.clone()  # keeps the memory layout
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(NUM_WARM_UPS):
            encode(static_input)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # other threads may allocate meanwhile
        features = encode(static_input)
    return Recording(graph, static_input, features)
