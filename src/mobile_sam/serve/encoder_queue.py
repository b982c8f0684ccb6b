"""Pictures wait here to be read and encoded, a few at once."""

from __future__ import annotations

import time

from mobile_sam.core.errors import ImageReadError
from mobile_sam.core.images import read_image
from mobile_sam.engines import Engine
from mobile_sam.serve.embedding_store import EmbeddingStore, Flight
from mobile_sam.serve.metrics import ServeMetrics
from mobile_sam.serve.picture_formats import require_known_format
from mobile_sam.serve.settings import MIB, ServeSettings
from mobile_sam.serve.work_queue import Job, WorkQueue

MAX_WAITING_BYTES = 256 * MIB
"""Of pictures as they came, still compressed. Each is read by the thread that encodes it, so no more pictures than
workers are in memory as pixels: 64 of 50 megapixels would take 10 GB."""


class EncoderQueue:
    """Threads that read pictures and encode them for an `EmbeddingStore`.

    Args:
        engine: encodes.
        store: gets the embeddings.
        settings: `workers`, `max_waiting`, `max_pixels` and `timeout_s` count.
        metrics: told of stages and errors.

    Attributes:
        queue: to be asked for its length, and finished.
    """

    def __init__(self, engine: Engine, store: EmbeddingStore, settings: ServeSettings, metrics: ServeMetrics) -> None:
        self._engine, self._store, self._metrics = engine, store, metrics
        self._max_pixels = settings.max_pixels
        max_wait_s = settings.timeout_s / 2  # a request that would time out had better be turned away
        self.queue = WorkQueue("encoder", settings.workers, settings.max_waiting, MAX_WAITING_BYTES, max_wait_s)

    def put(self, flight: Flight, body: bytes) -> None:
        """Have a picture encoded, which ends the flight in one way or the other.

        Raises:
            QueueFull: too many wait. ServiceClosed: no more are taken. The flight is then still open.
        """
        self.queue.put(_EncodeJob(self._engine, self._store, self._metrics, flight, body, self._max_pixels))


class _EncodeJob(Job):
    """One picture."""

    def __init__(
        self,
        engine: Engine,
        store: EmbeddingStore,
        metrics: ServeMetrics,
        flight: Flight,
        body: bytes,
        max_pixels: int,
    ) -> None:
        self._engine, self._store, self._metrics = engine, store, metrics
        self._flight, self._body, self._max_pixels = flight, body, max_pixels
        self._put_at = time.perf_counter()
        self.num_bytes = len(body)

    def run(self) -> None:
        try:
            self._read_and_encode()
        except ImageReadError as error:  # the caller's mistake, which is not for the log
            self._metrics.errors.labels(kind="picture").inc()
            self.fail(error)
        except Exception:
            self._metrics.errors.labels(kind="encode").inc()
            raise

    def _read_and_encode(self) -> None:
        taken_at = time.perf_counter()
        require_known_format(self._body)
        image = read_image(self._body, max_pixels=self._max_pixels)  # (H, W, 3)
        read_at = time.perf_counter()
        if not self.is_wanted():
            return
        (embedding,) = self._engine.encode([image])
        encoded_at = time.perf_counter()
        seconds = {
            "wait_encode": taken_at - self._put_at,
            "read": read_at - taken_at,
            "encode": encoded_at - read_at,
        }
        for stage, duration_s in seconds.items():
            self._metrics.observe(stage, duration_s)
        self._store.land(self._flight, embedding, seconds)

    def fail(self, error: Exception) -> None:
        self._store.crash(self._flight, error)

    def is_wanted(self) -> bool:
        return self._store.is_wanted(self._flight)
