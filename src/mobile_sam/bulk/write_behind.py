"""Results written behind whoever makes them, in a thread, and told of once they are on the disk."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from queue import Empty, Full, Queue, SimpleQueue
from types import TracebackType

from mobile_sam.bulk.items import Batch, Item, Report
from mobile_sam.bulk.read_ahead import POLL_S
from mobile_sam.bulk.worker_outputs import TELL_S, Outcome, Outputs

NUM_BEHIND = 8
"""Results that wait at most."""

_JOIN_S = 5.0


@dataclass(frozen=True, eq=False)
class _Message:
    """What became of an item; or the end of its batch."""

    batch: Batch
    item: Item | None = None
    outcome: Outcome | None = None


class WriteBehind:
    """Writes results in a thread; a context, at whose end the thread ends, at once if by an error.

    Args:
        outputs: where the results go.
    """

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs
        self._inbox: Queue[_Message | None] = Queue(NUM_BEHIND)
        self._reports: SimpleQueue[Report] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="bulk-write", daemon=True)
        self._error: BaseException | None = None
        self._is_aborted = False
        self._batch_number = self._num_computed = 0
        self._told_s = self._taken_s = time.monotonic()

    def __enter__(self) -> WriteBehind:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_aborted = kind is not None
        self._end(_JOIN_S)

    def put(self, batch: Batch, item: Item, outcome: Outcome) -> None:
        """Have written what became of an item; waits while too much is to be written.

        Raises:
            RunStoppedError: something could not be written.
        """
        self._put(_Message(batch, item, outcome))

    def end_batch(self, batch: Batch) -> None:
        """Have the batch ended, and its last report made; raises as `put`."""
        self._put(_Message(batch))

    def take_reports(self) -> list[Report]:
        """Take the reports that were made since the last call."""
        reports = []
        while not self._reports.empty():
            reports.append(self._reports.get())
        return reports

    def finish(self) -> list[Report]:
        """Wait until all is written, or cannot be, and take the last reports."""
        self._end(None)
        return self.take_reports()

    def _put(self, message: _Message) -> None:
        while True:
            self.check()
            try:
                return self._inbox.put(message, timeout=POLL_S)
            except Full:
                continue

    def check(self) -> None:
        """Find out that all could be written so far; raises as `put`."""
        if self._error is not None:
            raise self._error

    def _end(self, timeout_s: float | None) -> None:
        until_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        is_told = False
        while self._thread.is_alive() and time.monotonic() < until_s:
            if not is_told:
                try:
                    self._inbox.put_nowait(None)
                    is_told = True
                except Full:
                    pass
            self._thread.join(POLL_S / 10)

    # In the thread

    def _run(self) -> None:
        try:
            while (message := self._next()) is not None:
                self._handle(message)
            if self._is_aborted:
                self._outputs.abort()
        except BaseException as error:  # noqa: BLE001 - raised where results are put
            self._error = error
            try:
                self._outputs.abort()
            finally:
                while self._inbox.get() is not None:  # so that nobody waits for room
                    pass

    def _next(self) -> _Message | None:
        """Wait for a message, and tell what is due meanwhile."""
        while not self._is_aborted:
            try:
                return self._inbox.get(timeout=TELL_S)
            except Empty:
                self._tell_if_due()
        return None

    def _handle(self, message: _Message) -> None:
        self._batch_number = message.batch.number
        if message.item is None or message.outcome is None:
            self._tell(is_last=True)
            return
        self._outputs.put(message.batch, message.item, message.outcome)
        self._num_computed += 1
        self._tell_if_due()

    def _tell_if_due(self) -> None:
        """Report what is on the disk if it is time to bring it there, else how much was computed."""
        now_s = time.monotonic()
        if now_s - self._taken_s >= self._outputs.take_s:
            self._tell(is_last=False)
        elif self._num_computed and now_s - self._told_s >= TELL_S:
            self._reports.put(Report(self._batch_number, num_computed=self._num_computed))
            self._num_computed, self._told_s = 0, now_s

    def _tell(self, is_last: bool) -> None:
        done, failed = self._outputs.take(is_last)
        if done or failed or self._num_computed or is_last:
            self._reports.put(Report(self._batch_number, done, failed, self._num_computed, is_last))
        self._num_computed, self._taken_s, self._told_s = 0, time.monotonic(), time.monotonic()
