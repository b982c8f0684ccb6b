"""Everything mode takes as long as hundreds of clicks: few run at once, and not on when their callers have left."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from mobile_sam.automatic_mask_generator import SamAutomaticMaskGenerator
from mobile_sam.core.embedding import Embedding
from mobile_sam.engines import Engine
from mobile_sam.everything.config import EverythingConfig
from mobile_sam.everything.found import Record
from mobile_sam.serve.metrics import ServeMetrics
from mobile_sam.serve.work_queue import Job, Promise, WorkQueue

NUM_AT_ONCE = 1
MAX_WAITING = 8

Tell = Callable[[int, int], None]
"""Told, in another thread, how many points are done with and how many there are."""


class EverythingQueue:
    """A thread that finds the masks of everything.

    Args:
        engine: decodes; clicks use it meanwhile.
        metrics: told of errors.
        max_wait_s: for how long one may have to wait, going by how long others took lately.

    Attributes:
        queue: to be asked for its length, and finished.
    """

    def __init__(self, engine: Engine, metrics: ServeMetrics, max_wait_s: float = math.inf) -> None:
        self._engine, self._metrics = engine, metrics
        self.queue = WorkQueue("everything", NUM_AT_ONCE, MAX_WAITING, max_wait_s=max_wait_s)

    def submit(
        self, embedding: Embedding, config: EverythingConfig, tell: Tell, is_cancelled: Callable[[], bool]
    ) -> Future[list[Record]]:
        """Find the masks of everything in a picture; see `SegmentService.submit_everything`.

        Raises:
            ValueError: settings with crops, or an embedding of another encoder. QueueFull: too many wait.
            ServiceClosed: no more are taken.
        """
        if config.crop_n_layers:
            raise ValueError(
                f"crop_n_layers must be 0, got {config.crop_n_layers}: crops are encoded anew, and of this picture "
                "there is only the embedding; use SamAutomaticMaskGenerator with the picture itself"
            )
        self._engine.check_made_here(embedding)
        generator = SamAutomaticMaskGenerator.from_config(replace(config, output_mode="coco_rle"), self._engine)
        job = _EverythingJob(generator, embedding, tell, is_cancelled, self._metrics)
        self.queue.put(job)
        return job.promise.future


class _Stopped(Exception):
    """Nobody waits any more; raised out of the generator between two batches of points."""


class _EverythingJob(Job):
    """One picture."""

    def __init__(
        self,
        generator: SamAutomaticMaskGenerator,
        embedding: Embedding,
        tell: Tell,
        is_cancelled: Callable[[], bool],
        metrics: ServeMetrics,
    ) -> None:
        self._generator, self._embedding, self._metrics = generator, embedding, metrics
        self._tell, self._is_cancelled = tell, is_cancelled
        self.promise: Promise[list[Record]] = Promise()

    def run(self) -> None:
        try:
            records = self._generator.generate_from_embedding(self._embedding, self._progress)
        except _Stopped:
            return
        except Exception:
            self._metrics.errors.labels(kind="everything").inc()
            raise
        self.promise.answer(records)

    def fail(self, error: Exception) -> None:
        self.promise.fail(error)

    def is_wanted(self) -> bool:
        if self.promise.is_wanted and self._is_cancelled():
            self.promise.future.cancel()
        return self.promise.is_wanted

    def _progress(self, num_done: int, num_all: int) -> None:
        if not self.is_wanted():
            raise _Stopped
        self._tell(num_done, num_all)
