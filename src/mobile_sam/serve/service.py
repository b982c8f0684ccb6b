"""The service behind the server: encodes and decodes for many callers at once, and knows nothing of HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.prompts import Prompt
from mobile_sam.engines import Engine, choose_engine, make_engine
from mobile_sam.engines.openvino import is_openvino_folder
from mobile_sam.evaluate.machine import num_cores
from mobile_sam.everything.config import EverythingConfig
from mobile_sam.everything.found import Record
from mobile_sam.serve.embedding_store import Embedded, EmbeddingStore, UnknownEmbedding, embedding_id_of
from mobile_sam.serve.encoder_queue import EncoderQueue
from mobile_sam.serve.everything_queue import EverythingQueue
from mobile_sam.serve.metrics import ServeMetrics
from mobile_sam.serve.prompt_batcher import PromptBatcher
from mobile_sam.serve.prompt_call import Candidates, TokenPrediction
from mobile_sam.serve.settings import MIB, ServeSettings
from mobile_sam.serve.work_queue import QueueFull, ServiceClosed

MAX_MASK_BYTES = 1024 * MIB
"""Of the masks that one call of `submit_prompts` may ask for, a byte a pixel."""

Answer = TypeVar("Answer")

__all__ = [
    "Candidates",
    "Embedded",
    "QueueFull",
    "SegmentService",
    "ServiceClosed",
    "TokenPrediction",
    "UnknownEmbedding",
]


class SegmentService:
    """Encodes and decodes for many callers at once; safe to call from many threads.

    What it does runs in threads of its own. A future stays pending until its work is done and may be cancelled until
    then: work that nobody waits for is not begun, or not gone on with where it consists of parts.

    Args:
        engine: runs the networks.
        settings: limits, and how many work at once.

    Attributes:
        settings: as given.
        engine: as given.
        metrics: what it measures of itself.
    """

    def __init__(self, engine: Engine, settings: ServeSettings) -> None:
        self.settings, self.engine = settings, engine
        self.metrics = ServeMetrics()
        self._store = EmbeddingStore(settings.cache_bytes, self.metrics)
        self._encoder = EncoderQueue(engine, self._store, settings, self.metrics)
        self._batcher = PromptBatcher(engine, self.metrics, settings.timeout_s / 2)
        self._everything = EverythingQueue(engine, self.metrics, settings.timeout_s / 2)
        self._is_closed = False
        self.metrics.watch_cache_bytes(lambda: self._store.num_bytes)
        self.metrics.watch_queue("encode", lambda: self._encoder.queue.num_waiting)
        self.metrics.watch_queue("decode", lambda: self._batcher.num_waiting)
        self.metrics.watch_queue("everything", lambda: self._everything.queue.num_waiting)

    @classmethod
    def open(cls, settings: ServeSettings) -> SegmentService:
        """Make the engine that the settings name, and a service on it.

        Raises:
            ValueError, MissingDependencyError, WeightsError, FileNotFoundError: see `make_engine`.
        """
        engine = make_engine(
            settings.engine,
            settings.model,
            precision=settings.precision,
            num_threads=engine_threads(settings),
            hint="throughput" if settings.workers > 1 else "latency",
        )
        return cls(engine, settings)

    def submit_picture(self, body: bytes) -> Future[Embedded]:
        """Have a picture encoded, unless it was already or is being encoded for another caller.

        The bytes are hashed before this returns: some 20 ms for 32 MiB.

        Args:
            body: the picture's file.

        Returns:
            A future of its id and embedding. It fails with ImageReadError if the bytes are no picture or one of too
            many pixels; with ServiceClosed if the service was shut down first; with QueueFull if it waited for
            half of `timeout_s`, or if another caller's request for the same picture was turned away at the same moment;
            or with what the engine raised.

        Raises:
            QueueFull: too many pictures wait. ServiceClosed: no more are taken.
        """
        if self._is_closed:
            raise ServiceClosed("the service is shutting down and takes no more work")
        future, flight = self._store.join(embedding_id_of(self.engine.model_id, body))
        if flight is not None:
            try:
                with self._counting_full():
                    self._encoder.put(flight, body)
            except (QueueFull, ServiceClosed) as error:
                self._store.crash(flight, error)
                raise
        return future

    def find(self, embedding_id: str) -> Embedding:
        """Return an embedding by its id.

        Raises:
            UnknownEmbedding: it was never made, was forgotten, or gave way to others.
        """
        return self._store.find(embedding_id)

    def forget(self, embedding_id: str) -> bool:
        """Remove an embedding, and tell whether there was one; one that is being encoded is not kept."""
        return self._store.forget(embedding_id)

    def submit_prompts(
        self, embedding: Embedding, prompts: Sequence[Prompt], candidates: Candidates = "auto"
    ) -> Future[list[TokenPrediction]]:
        """Have prompts answered with masks of the picture's size.

        Calls for one embedding that arrive while the decoder is busy are decoded together.

        Args:
            embedding: of the picture.
            prompts: P of them.
            candidates: which masks each gets, see `Candidates`.

        Returns:
            A future of P predictions: masks (M, H, W) bool, predicted IoU (M,), low-resolution logits (M, 256, 256),
            and the mask tokens.

        Raises:
            ValueError: a prompt outside the picture; an embedding of another encoder; masks of more than MAX_MASK_BYTES
                in all, for which `submit_answers` is made.
            QueueFull: too many prompts wait. ServiceClosed: no more are taken.
        """
        return self._submit(embedding, prompts, candidates, lambda _, prediction: prediction, MAX_MASK_BYTES)

    def submit_answers(
        self,
        embedding: Embedding,
        prompts: Sequence[Prompt],
        candidates: Candidates,
        answer: Callable[[int, TokenPrediction], Answer],
    ) -> Future[list[Answer]]:
        """Have prompts answered with what `answer` makes of each one's masks, such as run lengths.

        It is called in the threads that draw, so masks of the picture's size are never there for all prompts at once:
        those of 64 prompts with 4 masks of 50 megapixels would take 13 GB.

        Args:
            embedding: of the picture.
            prompts: P of them.
            candidates: which masks each gets, see `Candidates`.
            answer: gets the prompt's row and prediction, as of `submit_prompts`; several threads call it at once. What
                it raises, the future fails with.

        Returns:
            A future of the P answers.

        Raises:
            ValueError, QueueFull, ServiceClosed: as `submit_prompts`, masks of any number of bytes excepted.
        """
        return self._submit(embedding, prompts, candidates, answer, None)

    def submit_everything(
        self,
        embedding: Embedding,
        config: EverythingConfig,
        tell: Callable[[int, int], None],
        is_cancelled: Callable[[], bool],
    ) -> Future[list[Record]]:
        """Have the masks of everything in a picture found.

        Args:
            embedding: of the picture.
            config: `crop_n_layers` must be 0; `output_mode` is taken for "coco_rle".
            tell: told in another thread, after each few points, how many are done with and how many there are.
            is_cancelled: asked each time before; where it says yes, the future is cancelled and the work stops.

        Returns:
            A future of records as `SamAutomaticMaskGenerator.generate` returns them; it fails with QueueFull if it
            waited for half of `timeout_s`.

        Raises:
            ValueError: settings with crops; an embedding of another encoder.
            QueueFull: too many wait. ServiceClosed: no more are taken.
        """
        with self._counting_full():
            return self._everything.submit(embedding, config, tell, is_cancelled)

    def is_ready(self) -> bool:
        """Tell whether work is taken."""
        return not self._is_closed

    def close(self, grace_s: float) -> None:
        """Take no more work, finish what was taken, and fail with ServiceClosed what is not done in time.

        All threads have ended then, unless the engine hangs. Closing twice does nothing more.

        Args:
            grace_s: how long work may go on, in seconds.
        """
        self._is_closed = True
        deadline = time.monotonic() + grace_s
        parts = (self._encoder.queue, self._everything.queue, self._batcher)
        for part in parts:
            part.stop()
        for part in parts:
            part.finish(deadline)

    def _submit(
        self,
        embedding: Embedding,
        prompts: Sequence[Prompt],
        candidates: Candidates,
        answer: Callable[[int, TokenPrediction], Answer],
        max_mask_bytes: int | None,
    ) -> Future[list[Answer]]:
        with self._counting_full():
            return self._batcher.submit(embedding, prompts, candidates, answer, max_mask_bytes)

    @contextmanager
    def _counting_full(self) -> Iterator[None]:
        try:
            yield
        except QueueFull:
            self.metrics.errors.labels(kind="queue_full").inc()
            raise


def engine_threads(settings: ServeSettings) -> int:
    """Return what `make_engine` is to be told of threads, so that each worker has its share of the cores.

    ONNX Runtime counts the threads of one picture, OpenVINO those of all pictures together; 0 is their own choice.
    """
    if settings.workers == 1:
        return settings.num_threads
    if _runs_on_openvino(settings):
        return settings.num_threads * settings.workers
    return settings.num_threads or max(num_cores() // settings.workers, 1)


def _runs_on_openvino(settings: ServeSettings) -> bool:
    if settings.engine != "auto":
        return settings.engine == "openvino"
    if settings.model is not None and is_openvino_folder(Path(settings.model)):
        return True
    return choose_engine(settings.model, None, settings.precision or "fp32")[0] == "openvino"
