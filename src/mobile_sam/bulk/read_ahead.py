"""Pictures of batches, read and decoded ahead of whoever takes them, in order, within bounds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType

from mobile_sam.bulk.items import Batch, Failed, Item
from mobile_sam.bulk.pictures import LoadedPicture

POLL_S = 0.1
"""How often someone who waits looks up."""

_JOIN_S = 2.0


@dataclass(frozen=True, eq=False)
class Entry:
    """What is taken next: an item of a batch, or the end of the batch.

    Attributes:
        batch: it belongs to.
        loaded: the picture, or why it cannot be read; None for the end of the batch.
    """

    batch: Batch
    loaded: LoadedPicture | Failed | None
    item: Item | None = None


@dataclass(frozen=True, eq=False)
class _Begun:
    """An item that is being read, or the end of its batch."""

    batch: Batch
    item: Item | None = None
    loading: Future[LoadedPicture | Failed] | None = None


class ReadAhead:
    """Reads in threads; a context, at whose end the threads end, once they have read what they are about to.

    Args:
        batches: iterated in a thread of its own, so that it may wait as long as it likes.
        load: reads an item; called from several threads.
        num_readers: of these threads.
        num_ahead: pictures that wait at most.
        max_bytes: of the pixels that wait, about: one picture may always wait.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        load: Callable[[Item], LoadedPicture | Failed],
        *,
        num_readers: int = 1,
        num_ahead: int = 4,
        max_bytes: int = 1 << 28,
    ) -> None:
        self._batches, self._load = batches, load
        self._num_ahead, self._max_bytes = max(num_ahead, num_readers), max_bytes
        self._pool = ThreadPoolExecutor(num_readers, "bulk-read")
        self._feeder = threading.Thread(target=self._feed, name="bulk-batches", daemon=True)
        self._mail: SimpleQueue[_Begun | BaseException | None] = SimpleQueue()
        self._room = threading.Condition()
        self._num_waiting = self._waiting_bytes = 0
        self._is_closed = False
        self._begun: dict[int, Batch] = {}

    def __enter__(self) -> ReadAhead:
        self._feeder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._room:
            self._is_closed = True
            self._room.notify_all()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._feeder.join(_JOIN_S)  # it may wait for a batch for ever

    def entries(self, is_stopping: Callable[[], bool]) -> Iterator[Entry]:
        """Give items in order, and after the last of each batch its end.

        Args:
            is_stopping: asked before each entry, and again and again while it is waited for; then nothing more comes.

        Raises:
            RunStoppedError: as `load` does. Exception: as `batches` does.
        """
        while not is_stopping():
            try:
                begun = self._mail.get(timeout=POLL_S)
            except Empty:
                continue
            if begun is None:
                return
            if isinstance(begun, BaseException):
                raise begun
            if begun.loading is None:
                yield Entry(begun.batch, None)
                continue
            while not begun.loading.done():
                if is_stopping():
                    return
                wait([begun.loading], POLL_S)
            loaded = begun.loading.result()
            with self._room:
                self._num_waiting -= 1
                self._waiting_bytes -= _num_bytes(loaded)
                self._room.notify_all()
            yield Entry(begun.batch, loaded, begun.item)

    def end(self, batch: Batch) -> None:
        """Note that a batch is done with."""
        with self._room:
            del self._begun[batch.number]

    def take_unended(self) -> list[Batch]:
        """Take no more batches, and list those that were taken and not ended."""
        with self._room:
            self._is_closed = True
            self._room.notify_all()
            return list(self._begun.values())

    def _feed(self) -> None:
        """Begin to read the items of all batches."""
        try:
            for batch in self._batches:
                with self._room:
                    if self._is_closed:
                        return
                    self._begun[batch.number] = batch
                for item in batch.items:
                    if not self._wait_for_room():
                        return
                    self._mail.put(_Begun(batch, item, self._pool.submit(self._read, item)))
                self._mail.put(_Begun(batch))
            self._mail.put(None)
        except BaseException as error:  # noqa: BLE001 - raised where entries are taken
            self._mail.put(error)

    def _wait_for_room(self) -> bool:
        """Wait until another picture may be read; whether there will be room at all."""
        with self._room:
            while not self._is_closed and (
                self._num_waiting >= self._num_ahead or (self._num_waiting and self._waiting_bytes >= self._max_bytes)
            ):
                self._room.wait()
            self._num_waiting += 1
            return not self._is_closed

    def _read(self, item: Item) -> LoadedPicture | Failed:
        loaded = self._load(item)
        with self._room:
            self._waiting_bytes += _num_bytes(loaded)
        return loaded


def _num_bytes(loaded: LoadedPicture | Failed) -> int:
    return 0 if isinstance(loaded, Failed) else loaded.pixels.nbytes
