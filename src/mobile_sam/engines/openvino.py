"""The OpenVINO engine: the quickest on CPUs, above all those with bf16 or int8 arithmetic.

It reads the same graphs and weights as the default engine, or a folder of `mobile-sam export --to openvino`. What it
compiles is kept in a cache of the user's, so that the next start is quick.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.errors import WeightsError
from mobile_sam.core.manifest import OPENVINO_ENGINE, ExportManifest
from mobile_sam.core.prompts import LOW_RES_STRIDE, PromptBatch
from mobile_sam.core.weights import (
    ANY_SIZE_ENCODER_GRAPH,
    BUNDLED,
    DECODER_GRAPH,
    ENCODER_GRAPH,
    MANIFEST_FILE,
    bundled_folder,
    encoder_id,
    sha256_of_file,
    weights_file,
)
from mobile_sam.engines.base import Engine
from mobile_sam.engines.openvino_graphs import DecoderModels, read_graph
from mobile_sam.engines.weight_files import check_weights, weights_of_graph

CACHE_VARIABLE = "MOBILE_SAM_CACHE"
"""Environment variable: the folder of what is compiled; empty for none."""

HINTS = ("latency", "throughput")
ARITHMETIC = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "bf16"}
"""What OpenVINO computes in where nothing is quantized; fp16 is how weights are stored, CPUs do not compute in it."""


class OpenVinoEngine(Engine):
    """MobileSAM on OpenVINO.

    Args:
        weights: a folder of `mobile-sam export --to openvino`, a model folder, a safetensors file with the keys of the
            bundled one, or None for the bundled weights.
        precision: "fp32" or "bf16"; None for fp32 or, with an exported folder, for what it was exported in.
        num_threads: CPU threads; 0 lets OpenVINO choose.
        hint: "latency", one picture as soon as can be; or "throughput", several at once, each by fewer threads.
        device: "cpu", or what else OpenVINO has: "gpu", "npu", "auto".

    Raises:
        ValueError: a precision, hint or device that there is not.
        WeightsError: weights that are damaged or of another model. FileNotFoundError: no such file or folder.
    """

    name = "openvino"

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        precision: str | None = None,
        num_threads: int = 0,
        hint: str = "latency",
        device: str = "cpu",
    ) -> None:
        import openvino

        self._core = openvino.Core()
        self._device = _check_device(self._core, device)
        if hint not in HINTS:
            raise ValueError(f"hint must be one of {', '.join(HINTS)}, got {hint!r}")
        path = None if weights is None else Path(weights)
        folder = path if path is not None and path.is_dir() else bundled_folder()
        manifest = ExportManifest.read(folder) if is_openvino_folder(folder) else None
        self.precision = _check_precision(self._core, self._device, precision, manifest.precision if manifest else None)
        if manifest:
            manifest.check_files(folder)
        fingerprint = "" if manifest else check_weights(path)
        self._replaced = None if path is None or path.is_dir() else weights_of_graph(path)
        self._settings = compile_settings(self.precision, hint, num_threads, self._device)
        if "CACHE_DIR" in self._settings:  # OpenVINO's own key is blind to some changes of weights
            sha256 = BUNDLED.file_sha256 if path is None else sha256_of_file(weights_file(path))
            self._settings["CACHE_DIR"] += f"/{sha256[:16]}"
        graphs = manifest.graphs if manifest else {"encoder": ENCODER_GRAPH, "decoder": DECODER_GRAPH}
        self._encoder, self._input_side = self._make_encoder(folder / graphs["encoder"])
        self._decoder_models, (self._embed, self._judge, self._draw) = self._make_decoder(folder / graphs["decoder"])
        self._model_id = manifest.model_id if manifest else encoder_id(fingerprint, self._input_side)
        self._judge_with_mask: _Compiled | None = None  # rarely used, as the next
        self._any_size_graph = None if manifest else folder / ANY_SIZE_ENCODER_GRAPH
        self._any_size_encoder: _Compiled | None = None
        self._lock = threading.Lock()
        self._tokens: tuple[weakref.ref[Embedding], NDArray[np.float32]] | None = None
        self.images_at_once = self._encoder.num_at_once

    def _make_encoder(self, graph: Path) -> tuple[_Compiled, int]:
        """Read and compile the encoder; also return the side of its input."""
        with _reading(graph):
            model = read_graph(self._core, graph, self._replaced)
            _, channels, side, _ = model.inputs[0].partial_shape
            model.reshape([1, channels, side, side])
            return self._compile(model), int(side.get_length())

    def _make_decoder(self, graph: Path) -> tuple[DecoderModels, list[_Compiled]]:
        """Read the decoder, cut it, and compile what each click needs."""
        with _reading(graph):
            models = DecoderModels.read(self._core, graph, self._replaced)
            embed = self._compile(models.embed, is_decoder=True, INFERENCE_PRECISION_HINT="f32")
            return models, [embed, *(self._compile(one, is_decoder=True) for one in (models.judge, models.draw))]

    @property
    def input_side(self) -> int:
        """See `Engine.input_side`."""
        return self._input_side

    @property
    def model_id(self) -> str:
        """See `Engine.model_id`."""
        return self._model_id

    def encode_input(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine.encode_input`; with the hint "throughput" pictures are encoded side by side."""
        with self._encoder.run_all([[np.ascontiguousarray(one[None])] for one in model_input]) as answers:
            return np.concatenate([features for (features,) in answers])

    @property
    def takes_any_size(self) -> bool:
        """See `Engine.takes_any_size`: where there is a graph for it beside the others."""
        return self._any_size_graph is not None and self._any_size_graph.is_file()

    def encode_part(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine.encode_part`; the graph for it is read at the first call.

        Raises:
            ValueError: a folder without that graph. WeightsError: the graph is damaged.
        """
        if self._any_size_graph is None or not self.takes_any_size:
            raise ValueError(self._why_padded)
        with self._lock:
            if self._any_size_encoder is None:
                with _reading(self._any_size_graph):
                    graph = read_graph(self._core, self._any_size_graph, self._replaced)
                    self._any_size_encoder = self._compile(graph)
        with self._any_size_encoder.run([model_input]) as (features,):
            copied: NDArray[np.float32] = features.copy()
            return copied

    def _decode_some(
        self, embedding: Embedding, prompts: PromptBatch, mask_tokens: tuple[int, ...]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        logits, iou, _ = self._decode_worthy(embedding, prompts, mask_tokens, -np.inf)
        return logits, iou

    def _decode_worthy(
        self, embedding: Embedding, prompts: PromptBatch, mask_tokens: tuple[int, ...], min_iou: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        points = [prompts.coords_xy, prompts.labels]
        with (
            self._embed.run(points) as (point_tokens,),
            self._judged(embedding, prompts, [point_tokens, *points, np.array(mask_tokens, np.int64)]) as judged,
        ):
            iou_view, weights, tokens = judged
            iou = iou_view.copy()
            drawn = np.flatnonzero(~(iou.max(axis=1) < min_iou))  # so written, NaN is drawn
            if not len(drawn):
                side = embedding.input_side // LOW_RES_STRIDE
                return np.zeros((0, len(mask_tokens), side, side), np.float32), iou, drawn
            if len(drawn) < len(iou):
                tokens, weights = tokens[drawn], weights[drawn]
            with self._draw.run([tokens, weights]) as (logits,):
                return logits.copy(), iou, drawn

    def _judged(
        self, embedding: Embedding, prompts: PromptBatch, asked: list[NDArray[Any]]
    ) -> AbstractContextManager[list[NDArray[np.float32]]]:
        if prompts.mask_logits is None:
            return self._judge.run([*asked, self._image_tokens(embedding)])
        with self._lock:
            if self._judge_with_mask is None:
                with ONE_AT_A_TIME:
                    self._judge_with_mask = self._compile(self._decoder_models.judge_with_mask, is_decoder=True)
        has_mask = prompts.has_mask.astype(np.float32)
        return self._judge_with_mask.run([*asked, embedding.features, prompts.mask_logits, has_mask])

    def _image_tokens(self, embedding: Embedding) -> NDArray[np.float32]:
        """What prompts without masks see of a picture, (1, L, 256); kept for the picture that was asked about last."""
        kept = self._tokens
        if kept is not None and kept[0]() is embedding:
            return kept[1]
        flat = embedding.features.reshape(embedding.features.shape[1], -1)  # (C, L)
        tokens = np.ascontiguousarray((flat + self._decoder_models.no_mask_embed).T)[None]  # (1, L, C)
        self._tokens = (weakref.ref(embedding), tokens)
        return tokens

    def _compile(self, model: Any, *, is_decoder: bool = False, **further: Any) -> _Compiled:
        settings = self._settings | further
        if is_decoder:
            if self._device == "CPU":
                settings["SNIPPETS_MODE"] = "DISABLE"  # its fused attention is slower for so few tokens (docs/log.md)
            settings["PERFORMANCE_HINT"] = "LATENCY"
        return _Compiled(self._core.compile_model(model, self._device, settings))


class _Compiled:
    """A compiled model that any number of threads may run; each takes a request of its own."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self.num_at_once = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests: SimpleQueue[Any] = SimpleQueue()

    @contextmanager
    def run(self, inputs: list[NDArray[Any]]) -> Iterator[list[NDArray[Any]]]:
        """Run, and lend the outputs, which are not copied, for as long as the block lasts."""
        with self.run_all([inputs]) as (outputs,):
            yield outputs

    @contextmanager
    def run_all(self, rows: list[list[NDArray[Any]]]) -> Iterator[list[list[NDArray[Any]]]]:
        """Run several inputs side by side, and lend the outputs of each."""
        requests = [self._take() for _ in rows]
        for request, inputs in zip(requests, rows, strict=True):
            request.start_async(dict(enumerate(inputs)), share_inputs=True)
        for request in requests:
            request.wait()
        yield [[output.data for output in request.output_tensors] for request in requests]
        for request in requests:  # not after an error: what state a request is in then is not told
            self._requests.put(request)

    def _take(self) -> Any:
        try:
            return self._requests.get_nowait()
        except Empty:
            return self._compiled.create_infer_request()


ONE_AT_A_TIME = threading.Lock()
"""OpenVINO changes the process's locale while it reads a model, and puts it back. Two threads that do so at once leave
it at "C", after which Python takes text for ASCII."""


@contextmanager
def _reading(graph: Path) -> Iterator[None]:
    """Read and compile a graph, no other thread doing so; what OpenVINO raises is told in our words."""
    try:
        with ONE_AT_A_TIME:
            yield
    except (RuntimeError, IndexError, StopIteration) as error:
        reason = str(error).strip().rpartition("\n")[2]
        raise WeightsError(
            f"the graph {graph} or its weights are missing, damaged, or linked from outside their folder, which "
            f"OpenVINO refuses ({reason}); export the model again, or reinstall mobile-sam"
        ) from error


def is_openvino_folder(folder: Path) -> bool:
    """Tell whether a folder was written by `mobile-sam export --to openvino` for this engine."""
    return (folder / MANIFEST_FILE).is_file() and ExportManifest.read(folder).runtime == OPENVINO_ENGINE


def cache_folder() -> Path | None:
    """Where compiled models are kept: $MOBILE_SAM_CACHE, or the system's place for caches; None for nowhere."""
    named = os.environ.get(CACHE_VARIABLE)
    if named is not None:
        return Path(named) / "openvino" if named else None
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "mobile_sam" / "openvino"


def native_precisions(core: Any, device: str = "CPU") -> list[str]:
    """What a device computes in without emulation, as "fp32", "bf16", "int8"."""
    names = {"FP32": "fp32", "BF16": "bf16", "FP16": "fp16", "INT8": "int8"}
    told = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    return [name for capability, name in names.items() if capability in told]


def compile_settings(
    precision: str, hint: str = "latency", num_threads: int = 0, device: str = "CPU"
) -> dict[str, Any]:
    """Say how OpenVINO shall compile: what it computes in, for whom, and where it keeps the result."""
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": hint.upper(),
        "INFERENCE_PRECISION_HINT": ARITHMETIC[precision],
    }
    if num_threads and device == "CPU":
        settings["INFERENCE_NUM_THREADS"] = num_threads
        # Who takes a part of the cores leaves the others to somebody. Pinned, the threads of each process are bound to
        # the first cores: two processes of one thread on two cores encoded 1.9 pictures a second together, unpinned 4.
        settings["ENABLE_CPU_PINNING"] = False
    folder = cache_folder()
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return settings  # a home that cannot be written to: each start compiles anew
        if os.access(folder, os.W_OK):
            settings["CACHE_DIR"] = str(folder)
    return settings


def _check_device(core: Any, device: str) -> str:
    name = device.upper()
    there = [one.partition(".")[0] for one in core.available_devices]
    if name != "AUTO" and name not in there:
        known = ", ".join(sorted({one.lower() for one in there} | {"auto"}))
        raise ValueError(f"the openvino engine has no device {device!r} here; it has {known}")
    return name


def _check_precision(core: Any, device: str, precision: str | None, exported: str | None) -> str:
    """Settle what to compute in: what was asked for, else what was exported, else fp32."""
    if exported == "int8" or precision == "int8":
        if precision not in (None, "int8") or exported != "int8":
            raise ValueError(
                f"precision={precision!r} was asked for and the model was exported in {exported or 'fp32'}: int8 is a "
                "file of its own, made by `mobile-sam export --to openvino --precision int8 -o DIR`; name that folder"
            )
        return "int8"
    wanted = precision or exported or "fp32"
    if wanted not in ARITHMETIC or (wanted == "fp16" and exported != "fp16"):  # which is of stored weights only
        raise ValueError(f"the openvino engine runs fp32, bf16 and exported int8, got precision={precision!r}")
    if wanted == "bf16" and device == "CPU" and "bf16" not in native_precisions(core):
        raise ValueError("this CPU has no bf16 arithmetic; use precision='fp32'")
    return wanted
