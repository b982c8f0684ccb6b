"""What the server measures of itself, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

STAGES = ("read", "encode", "wait_encode", "decode", "wait_decode", "draw", "answer")
"""wait_encode and wait_decode: until a thread takes it; answer: what is sent is made of masks."""

QUEUES = ("encode", "decode", "everything")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_PROMPTS = (1, 2, 4, 8, 16, 32, 64, 128)


class ServeMetrics:
    """Counters of one server, in a registry of its own.

    Attributes:
        registry: where all of them are; more may be added.
        requests: answered, by route, method and status.
        errors: by kind. The service counts "picture" (cannot be read), "encode", "decode", "draw" and "everything"
            (crashed), and "queue_full".
        decode_batch_size: prompts decoded together.
        cache_hits: embeddings that were there when they were asked for.
        cache_misses: embeddings that were not.
        cache_evictions: embeddings that gave way to others.
        content_type: of what `render` returns.
    """

    content_type: str = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory and CPU time, on Linux
        self.requests = Counter(
            "mobile_sam_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self.errors = Counter("mobile_sam_errors", "Errors, by kind.", ["kind"], registry=registry)
        self.decode_batch_size = Histogram(
            "mobile_sam_decode_batch_size", "Prompts decoded together.", buckets=_PROMPTS, registry=registry
        )
        cache = "mobile_sam_embedding_cache"
        self.cache_hits = Counter(f"{cache}_hits", "Embeddings that were there.", registry=registry)
        self.cache_misses = Counter(f"{cache}_misses", "Embeddings that were not there.", registry=registry)
        self.cache_evictions = Counter(f"{cache}_evictions", "Embeddings that gave way.", registry=registry)
        self._cache_bytes = Gauge(f"{cache}_bytes", "Memory that embeddings take.", registry=registry)
        self._stage_seconds = Histogram(
            "mobile_sam_stage_seconds", "Time by stage.", ["stage"], buckets=_SECONDS, registry=registry
        )
        self._queue_depth = Gauge("mobile_sam_queue_depth", "What waits.", ["queue"], registry=registry)
        for stage in STAGES:  # each is there from the start, at 0
            self._stage_seconds.labels(stage=stage)

    def observe(self, stage: str, seconds: float) -> None:
        """Report that a stage, one of STAGES, took so long once."""
        assert stage in STAGES, stage
        self._stage_seconds.labels(stage=stage).observe(seconds)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Report how long the block takes, also if it raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.observe(stage, time.perf_counter() - started)

    def watch_queue(self, queue: str, num_waiting: Callable[[], int]) -> None:
        """Have a queue, one of QUEUES, asked for its length whenever metrics are rendered."""
        assert queue in QUEUES, queue
        self._queue_depth.labels(queue=queue).set_function(num_waiting)

    def watch_cache_bytes(self, num_bytes: Callable[[], int]) -> None:
        """Have the cache asked for its bytes whenever metrics are rendered."""
        self._cache_bytes.set_function(num_bytes)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
