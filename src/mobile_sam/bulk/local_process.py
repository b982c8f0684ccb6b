"""What runs in a process of the local executor: one worker, batches in and reports out through pipes."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobile_sam.bulk.items import Batch, Report, RunStoppedError
from mobile_sam.bulk.stopping import SIGNALS

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from mobile_sam.bulk.executor import WorkerLike
    from mobile_sam.bulk.settings import BulkSettings

STOP = "stop"
"""Sent in place of a batch: begin nothing new. None says that there are no more batches."""
LEFT_BEHIND_CODE = 3
"""Exit code of a process whose parent is gone."""


@dataclass(frozen=True)
class Ready:
    """The worker is made and can take batches."""


@dataclass(frozen=True)
class Ended:
    """The worker has returned; nothing follows.

    Attributes:
        error: that it raised.
        trace: where, as text, since a traceback cannot be sent.
    """

    error: Exception | None = None
    trace: str = ""


Answer = Ready | Report | Ended


class Tasks:
    """Batches as they come from the parent; a thread waits for them, and ends the process when the parent is gone.

    The parent's end of the pipe closes with its process, however that ends; waiting for it in a thread of its own finds
    out also while the worker computes.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()  # the parent sends two at most
        self._stopping = threading.Event()
        threading.Thread(target=self._receive, name="bulk tasks", daemon=True).start()

    def is_stopping(self) -> bool:
        """Return whether nothing new is to be begun."""
        return self._stopping.is_set()

    def __iter__(self) -> Iterator[Batch]:
        while (batch := self._batches.get()) is not None and not self.is_stopping():
            yield batch

    def _receive(self) -> None:
        try:
            while True:
                message = self._pipe.recv()
                if message == STOP:
                    self._stopping.set()
                self._batches.put(None if message == STOP else message)
        except (EOFError, OSError):
            os._exit(LEFT_BEHIND_CODE)


def serve_worker(
    make_worker: Callable[[BulkSettings], WorkerLike], settings: BulkSettings, tasks: Connection, answers: Connection
) -> None:
    """Make a worker and let it do what comes; the main function of the process.

    Args:
        make_worker: called once.
        settings: of the run.
        tasks: batches, None at their end, `STOP` before.
        answers: `Ready`, then reports, then `Ended`.
    """
    leave_signals_to_the_parent()
    received = Tasks(tasks)
    lock = threading.Lock()  # reports come from any thread of the worker

    def tell(answer: Answer) -> None:
        with lock:
            try:
                answers.send(answer)
            except OSError:  # nobody reads it any more
                os._exit(LEFT_BEHIND_CODE)

    try:
        worker = make_worker(settings)
        tell(Ready())
        worker.run(received, tell, received.is_stopping)
    except Exception as error:  # noqa: BLE001 - raised in the parent
        tell(Ended(sendable(error), traceback.format_exc()))
    else:
        tell(Ended())


def leave_signals_to_the_parent() -> None:
    """Ignore what asks a run to stop: a terminal sends Ctrl-C to all processes, and the parent decides."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "win32":  # the parent held them back while this process started
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def sendable(error: Exception) -> Exception:
    """Return an error that arrives whole in another process: itself, or where it does not, what it says."""
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:  # noqa: BLE001 - whatever an error's own code raises
        pass
    return RunStoppedError(f"{type(error).__name__}: {error}")
