"""The default engine: ONNX Runtime, no PyTorch, fp32.

The graphs in the wheel hold no weights. Their initializers point into the safetensors file beside them, so the weights
of another file with the same keys (a fine-tuned MobileSAM) can be put in their place without PyTorch. Other models run
from a folder that has graphs of their own (`mobile_sam.export.model_folder`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.errors import WeightsError
from mobile_sam.core.geometry import INPUT_SIDE
from mobile_sam.core.prompts import LOW_RES_STRIDE, PromptBatch
from mobile_sam.core.weights import (
    DECODER_GRAPH,
    ENCODER_GRAPH,
    ENCODER_PREFIX,
    FOLDER_WEIGHTS,
    bundled_folder,
    bundled_weights_path,
    encoder_id,
    fingerprint_of_file,
    read_declaration,
    read_safetensors_header,
    sha256_of_file,
    verify_bundled_weights,
)
from mobile_sam.engines.base import Engine

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

_EXPORT_ADVICE = "make it again with `mobile-sam distill export STUDENT.safetensors -o FOLDER`"


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
        with ThreadPoolExecutor(3) as pool:  # the graphs load while the weights are checked
            checking = pool.submit(_check_weights, path)
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
        import onnxruntime

        path = self._folder / file_name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._num_threads
        options.enable_mem_pattern = False  # with it, the second picture takes 190 MB more (docs/log.md)
        if self._provider == PROVIDERS["cpu"][0]:
            options.log_severity_level = 4  # what goes wrong is raised; on other devices its warnings say why
        options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_DURATION_US)
        if self._replacing is not None:
            self._replace_initializers(options, path, self._replacing)
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=[self._provider])
        except _session_errors() as error:
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
        import onnxruntime
        from safetensors import safe_open

        content = graph.read_bytes()
        with safe_open(file, "numpy") as tensors:
            weights = {key: tensors.get_tensor(key) for key in tensors.keys() if _is_initializer(key, content)}  # noqa: SIM118
        values = {key: onnxruntime.OrtValue.ortvalue_from_numpy(value) for key, value in weights.items()}
        options.add_external_initializers(list(values), list(values.values()))
        self._replacements += [weights, values]  # which the session reads without copying them


def _session_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises when it cannot make a session; its exceptions have no common base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile", "RuntimeException")
    return tuple(getattr(state, name) for name in names if hasattr(state, name))


def available_providers() -> list[str]:
    """List the providers that the installed ONNX Runtime has, by our names."""
    import onnxruntime

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


def _check_weights(weights: Path | None) -> str:
    """Check the weights, the bundled ones if None, and return the fingerprint of their encoder."""
    if weights is None:
        verify_bundled_weights()
        return fingerprint_of_file(bundled_weights_path(), ENCODER_PREFIX)
    if weights.is_dir():
        _check_folder(weights)
        return fingerprint_of_file(weights / FOLDER_WEIGHTS, ENCODER_PREFIX)
    _check_same_layout(weights)
    return fingerprint_of_file(weights, ENCODER_PREFIX)


def _check_folder(folder: Path) -> None:
    """Check that a model folder is whole and that its graphs were made for its weights, whose sha256 they name."""
    missing = [name for name in (FOLDER_WEIGHTS, ENCODER_GRAPH, DECODER_GRAPH) if not (folder / name).is_file()]
    if missing:
        raise WeightsError(f"{folder} is no model folder: it has no {', '.join(missing)}; {_EXPORT_ADVICE}")
    weights = folder / FOLDER_WEIGHTS
    read_safetensors_header(weights)
    digest = sha256_of_file(weights).encode()
    for graph in (folder / ENCODER_GRAPH, folder / DECODER_GRAPH):
        if digest not in graph.read_bytes():
            raise WeightsError(f"{graph} was not made for {weights}, or one of them is damaged; {_EXPORT_ADVICE}")


def _check_same_layout(weights: Path) -> None:
    if not weights.is_file():
        raise FileNotFoundError(f"no weights at {weights}")
    advice = (
        f"`mobile-sam distill export {weights} -o FOLDER` makes a folder that this engine runs; else use engine='torch'"
    )
    found, _ = read_safetensors_header(weights)
    input_side = read_declaration(weights).input_side
    if input_side != INPUT_SIDE:
        raise WeightsError(
            f"{weights} is of a model for {input_side} px, not {INPUT_SIDE} px as the graphs here; {advice}"
        )
    expected, _ = read_safetensors_header(bundled_weights_path())
    for key, entry in expected.items():
        if key == "__metadata__":
            continue
        if key not in found or found[key]["shape"] != entry["shape"] or found[key]["dtype"] != entry["dtype"]:
            state = "is missing" if key not in found else f"is {found[key]['dtype']} {found[key]['shape']}"
            raise WeightsError(
                f"{weights} does not hold a MobileSAM (vit_t) in fp32: {key} {state}, expected "
                f"{entry['dtype']} {entry['shape']}; {advice}"
            )


def _is_initializer(key: str, graph: bytes) -> bool:
    """Tell whether an ONNX file holds an initializer of this name, without the onnx package to parse it.

    In protobuf a TensorProto's name is field 8, a string: the byte 8 << 3 | 2, the length, the text.
    """
    name = key.encode()
    length = bytes([len(name)]) if len(name) < 128 else bytes([len(name) & 127 | 128, len(name) >> 7])
    return bytes([8 << 3 | 2]) + length + name in graph


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
