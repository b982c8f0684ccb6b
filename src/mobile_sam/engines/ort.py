"""The default engine: ONNX Runtime, no PyTorch, fp32.

The graphs in the wheel hold no weights. Their initializers point into the safetensors file beside them, so the weights
of another file with the same keys (a fine-tuned MobileSAM) can be put in their place without PyTorch. Other models run
from a folder that has graphs of their own (`mobile_sam.export.model_folder`).
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.errors import WeightsError
from mobile_sam.core.prompts import LOW_RES_STRIDE, PromptBatch
from mobile_sam.core.weights import (
    ANY_SIZE_ENCODER_GRAPH,
    DECODER_GRAPH,
    ENCODER_GRAPH,
    bundled_folder,
    encoder_id,
)
from mobile_sam.engines.base import Engine
from mobile_sam.engines.ort_module import onnxruntime_module
from mobile_sam.engines.weight_files import check_weights, weights_of_graph

SPIN_DURATION_US = "200"
"""How long a session's threads keep a core busy while they wait for work. By ONNX Runtime's default they do so for long
enough to slow down the other session: a click after an encoding took 24 ms in place of 12 (docs/log.md)."""

PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "onnxruntime"),
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu"),
    "coreml": ("CoreMLExecutionProvider", "onnxruntime (on macOS)"),
    "directml": ("DmlExecutionProvider", "onnxruntime-directml"),
}
"""Our name for each provider: ONNX Runtime's, and the package that brings it."""


class OrtEngine(Engine):
    """MobileSAM on ONNX Runtime.

    Args:
        weights: a model folder; a safetensors file with the keys of the bundled one; None for the bundled weights.
        provider: "cpu", "cuda", "coreml" or "directml".
        num_threads: threads within one operator; 0 lets ONNX Runtime choose.

    Raises:
        ValueError: a provider that is unknown, or that the installed ONNX Runtime does not have.
        WeightsError: weights that are damaged or of another model, or that are not those of the folder's graphs.
        FileNotFoundError: no such file or folder.
    """

    name = "onnxruntime"

    def __init__(self, weights: str | Path | None = None, *, provider: str = "cpu", num_threads: int = 0) -> None:
        self._num_threads = num_threads
        path = None if weights is None else Path(weights)
        has_graphs = path is not None and path.is_dir()
        self._folder = path if path is not None and has_graphs else bundled_folder()
        self._replacing = None if has_graphs else path
        self._replacements: list[object] = []
        self._any_size_encoder: Any = None
        self._any_size_lock = threading.Lock()
        with ThreadPoolExecutor(3) as pool:  # the graphs load while the weights are checked
            checking = pool.submit(check_weights, path)
            self._provider = _check_provider(provider)
            encoder = pool.submit(self._session, ENCODER_GRAPH)
            decoder = pool.submit(self._session, DECODER_GRAPH)
        encoder_fingerprint = checking.result()
        self._encoder, self._decoder = encoder.result(), decoder.result()
        self._input_side = int(self._encoder.get_inputs()[0].shape[-1])
        self._model_id = encoder_id(encoder_fingerprint, self._input_side)

    @property
    def input_side(self) -> int:
        """See `Engine.input_side`."""
        return self._input_side

    @property
    def model_id(self) -> str:
        """See `Engine.model_id`."""
        return self._model_id

    def encode_input(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine.encode_input`."""
        (features,) = self._encoder.run(None, {"image": model_input})
        return features  # type: ignore[no-any-return]

    @property
    def takes_any_size(self) -> bool:
        """See `Engine.takes_any_size`: where there is a graph for it beside the others."""
        return (self._folder / ANY_SIZE_ENCODER_GRAPH).is_file()

    def encode_part(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine.encode_part`; the graph for it is loaded at the first call.

        Raises:
            ValueError: a model folder without that graph. WeightsError: the graph is damaged.
        """
        if not self.takes_any_size:
            raise ValueError(self._why_padded)
        with self._any_size_lock:
            if self._any_size_encoder is None:
                self._any_size_encoder = self._session(ANY_SIZE_ENCODER_GRAPH)
        (features,) = self._any_size_encoder.run(None, {"image": model_input})
        return features  # type: ignore[no-any-return]

    def _decode_some(
        self, embedding: Embedding, prompts: PromptBatch, mask_tokens: tuple[int, ...]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        logits, iou, _ = self._decode_worthy(embedding, prompts, mask_tokens, -np.inf)
        return logits, iou

    def _decode_worthy(
        self, embedding: Embedding, prompts: PromptBatch, mask_tokens: tuple[int, ...], min_iou: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        feed = _decoder_feed(embedding, prompts, mask_tokens) | {"min_iou": np.array(min_iou, np.float32)}
        logits, iou, drawn = self._decoder.run(None, feed)
        return logits, iou, drawn

    def _session(self, file_name: str) -> Any:
        onnxruntime = onnxruntime_module()

        path = self._folder / file_name
        options = session_options(self._num_threads)
        if self._provider == PROVIDERS["cpu"][0]:
            options.log_severity_level = 4  # what goes wrong is raised; on other devices its warnings say why
        if self._replacing is not None:
            self._replace_initializers(options, path, self._replacing)
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=[self._provider])
        except session_errors() as error:
            reason = str(error).partition("\n")[0]
            advice = "reinstall mobile-sam" if self._folder == bundled_folder() else "export the model again"
            raise WeightsError(
                f"the graph {path} or its weights are missing or damaged ({reason}); {advice}"
            ) from error
        if self._provider not in session.get_providers():  # else it runs on the CPU, with no more than a warning
            raise ValueError(f"{self._provider} could not be started; ONNX Runtime's warning above says why")
        return session

    def _replace_initializers(self, options: Any, graph: Path, file: Path) -> None:
        """Have a session take the weights that its graph refers to, by name, from another file."""
        onnxruntime = onnxruntime_module()

        weights = weights_of_graph(file, graph)
        values = {key: onnxruntime.OrtValue.ortvalue_from_numpy(value) for key, value in weights.items()}
        options.add_external_initializers(list(values), list(values.values()))
        self._replacements += [weights, values]  # which the session reads without copying them


def session_options(num_threads: int) -> Any:
    """Make the options that all sessions have: threads within one operator, 0 for ONNX Runtime's choice."""
    onnxruntime = onnxruntime_module()

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.enable_mem_pattern = False  # with it, the second picture takes 190 MB more (docs/log.md)
    options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_DURATION_US)
    return options


def session_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises when it cannot make a session; its exceptions have no common base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile", "RuntimeException")
    return tuple(getattr(state, name) for name in names if hasattr(state, name))


def available_providers() -> list[str]:
    """List the providers that the installed ONNX Runtime has, by our names."""
    onnxruntime = onnxruntime_module()

    installed = onnxruntime.get_available_providers()
    return [name for name, (full_name, _) in PROVIDERS.items() if full_name in installed]


def _check_provider(provider: str) -> str:
    if provider not in PROVIDERS:
        raise ValueError(f"the onnxruntime engine has no device {provider!r}; expected one of {', '.join(PROVIDERS)}")
    full_name, package = PROVIDERS[provider]
    if provider not in available_providers():
        raise ValueError(
            f"device {provider!r} needs {full_name}, which the installed ONNX Runtime lacks (it has "
            f"{', '.join(available_providers())}); pip install {package} in place of onnxruntime"
        )
    return full_name


def _decoder_feed(
    embedding: Embedding, prompts: PromptBatch, mask_tokens: tuple[int, ...]
) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
    masks, has_mask = prompts.mask_logits, prompts.has_mask.astype(np.float32)
    if masks is None:  # one empty mask, shared by all prompts
        side = embedding.input_side // LOW_RES_STRIDE
        masks, has_mask = np.zeros((1, 1, side, side), np.float32), np.zeros(1, np.float32)
    return {
        "features": embedding.features,
        "point_coords": prompts.coords_xy,
        "point_labels": prompts.labels,
        "mask_input": masks,
        "has_mask_input": has_mask,
        "mask_tokens": np.array(mask_tokens, np.int64),
    }
