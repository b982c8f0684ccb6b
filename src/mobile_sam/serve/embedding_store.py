"""Embeddings in memory, those used last; found by the picture's content, encoded once however many ask."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from mobile_sam.core.embedding import Embedding
from mobile_sam.serve.metrics import ServeMetrics
from mobile_sam.serve.work_queue import Promise

ENTRY_OVERHEAD_BYTES = 2048  # of an embedding beside its features: objects, the id, places in dictionaries


class UnknownEmbedding(KeyError):
    """There is no embedding of this id: it was never made, was forgotten, or gave way to others."""

    def __init__(self, embedding_id: str) -> None:
        super().__init__(embedding_id)
        self.embedding_id = embedding_id

    def __str__(self) -> str:
        """Say it as a sentence, where a KeyError would show the key alone."""
        return f"there is no embedding {self.embedding_id!r} here, or no more; send the picture again"


@dataclass(frozen=True, eq=False)
class Embedded:
    """A picture that was encoded.

    Attributes:
        id: by which `SegmentService.find` knows it.
        embedding: what the encoder says of it.
        was_cached: whether it was there already.
        seconds: what it took, by stage: "wait_encode", "read", "encode"; empty if it was cached.
    """

    id: str
    embedding: Embedding
    was_cached: bool
    seconds: Mapping[str, float]


class Flight:
    """An encode under way, and all who wait for it."""

    def __init__(self, embedding_id: str) -> None:
        self.embedding_id = embedding_id
        self.promises: list[Promise[Embedded]] = []


class EmbeddingStore:
    """Embeddings by id, bounded in bytes: those unused for longest give way. Safe to call from many threads.

    Args:
        max_bytes: that all of them may take; an embedding that is larger alone is not kept.
        metrics: told of hits (embeddings that were there), misses, evictions and bytes.
    """

    def __init__(self, max_bytes: int, metrics: ServeMetrics) -> None:
        self._max_bytes, self._metrics = max_bytes, metrics
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, Embedding] = OrderedDict()  # the first was not used for longest
        self._flights: dict[str, Flight] = {}
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """Memory that the embeddings take."""
        return self._num_bytes

    def find(self, embedding_id: str) -> Embedding:
        """Return an embedding, which then was used last.

        Raises:
            UnknownEmbedding: it is not here.
        """
        with self._lock:
            embedding = self._used(embedding_id)
        if embedding is None:
            raise UnknownEmbedding(embedding_id)
        return embedding

    def join(self, embedding_id: str) -> tuple[Future[Embedded], Flight | None]:
        """Wait for an embedding.

        Returns:
            A future of it; and a flight, if nobody encodes it yet, to be ended by `land` or `crash`.
        """
        promise: Promise[Embedded] = Promise()
        with self._lock:
            embedding = self._used(embedding_id)
            new_flight = None
            if embedding is None:
                flight = self._flights.get(embedding_id)
                if flight is None:
                    flight = new_flight = self._flights[embedding_id] = Flight(embedding_id)
                flight.promises.append(promise)
        if embedding is not None:
            promise.answer(Embedded(embedding_id, embedding, True, {}))
        return promise.future, new_flight

    def is_wanted(self, flight: Flight) -> bool:
        """Tell whether anyone still waits; if not, the flight is off, and who comes now begins another."""
        with self._lock:
            if any(promise.is_wanted for promise in flight.promises):
                return True
            self._take_off_list(flight)
            return False

    def land(self, flight: Flight, embedding: Embedding, seconds: Mapping[str, float]) -> None:
        """End a flight: keep the embedding, unless it was forgotten meanwhile, and hand it to all who wait."""
        with self._lock:
            if self._take_off_list(flight):
                self._keep(flight.embedding_id, embedding)
            promises = list(flight.promises)
        for promise in promises:
            promise.answer(Embedded(flight.embedding_id, embedding, False, seconds))

    def crash(self, flight: Flight, error: Exception) -> None:
        """End a flight without an embedding: all who wait get the error, and nothing is left of it."""
        with self._lock:
            self._take_off_list(flight)
            promises = list(flight.promises)
        for promise in promises:
            promise.fail(error)

    def forget(self, embedding_id: str) -> bool:
        """Remove an embedding.

        One that is being encoded goes to those who wait for it already and is not kept; who asks for it from now on has
        it encoded anew.

        Returns:
            Whether there was one, or one under way.
        """
        with self._lock:
            embedding = self._entries.pop(embedding_id, None)
            if embedding is not None:
                self._num_bytes -= num_bytes_of(embedding)
            flight = self._flights.pop(embedding_id, None)
        return embedding is not None or flight is not None

    def _used(self, embedding_id: str) -> Embedding | None:
        embedding = self._entries.get(embedding_id)
        if embedding is None:
            self._metrics.cache_misses.inc()
        else:
            self._entries.move_to_end(embedding_id)
            self._metrics.cache_hits.inc()
        return embedding

    def _keep(self, embedding_id: str, embedding: Embedding) -> None:
        num_bytes = num_bytes_of(embedding)
        if num_bytes > self._max_bytes:
            return
        while self._num_bytes + num_bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._num_bytes -= num_bytes_of(oldest)
            self._metrics.cache_evictions.inc()
        self._entries[embedding_id] = embedding
        self._num_bytes += num_bytes

    def _take_off_list(self, flight: Flight) -> bool:
        """Let nobody join any more; tell whether the flight was on the list, which a forgotten one is not."""
        if self._flights.get(flight.embedding_id) is not flight:
            return False
        del self._flights[flight.embedding_id]
        return True


def num_bytes_of(embedding: Embedding) -> int:
    """Memory that an embedding takes in the store."""
    return embedding.features.nbytes + ENTRY_OVERHEAD_BYTES


def embedding_id_of(model_id: str, content: bytes) -> str:
    """Name the embedding that an encoder makes of a picture's bytes.

    >>> embedding_id_of("tiny", b"")
    'emb_8950abfda7b727630760dd35bcf5c3da'
    """
    digest = hashlib.sha256(model_id.encode())
    digest.update(content)
    return f"emb_{digest.hexdigest()[:32]}"
