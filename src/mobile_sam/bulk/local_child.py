"""A process of the local executor as its parent sees it."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

from mobile_sam.bulk.items import Batch, Report
from mobile_sam.bulk.local_jobs import Job
from mobile_sam.bulk.local_process import STOP, Answer, Ready, serve_worker
from mobile_sam.bulk.stopping import SIGNALS

if TYPE_CHECKING:
    from mobile_sam.bulk.executor import WorkerLike
    from mobile_sam.bulk.settings import BulkSettings

SECONDS_TO_END = 5.0
"""How long a process has to end after its worker has, before it is killed."""


class Child:
    """One worker in a process of its own.

    Attributes:
        jobs: given to it and not ended, in the order in which they were given.
        is_ready: whether the worker is made.
        is_leaving: whether it was told that nothing more comes.
    """

    def __init__(self, make_worker: Callable[[BulkSettings], WorkerLike], settings: BulkSettings, name: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.jobs: list[Job] = []
        self.is_ready = self.is_leaving = False
        received, self._tasks = context.Pipe(duplex=False)
        self._answers, sent = context.Pipe(duplex=False)
        arguments = (make_worker, settings, received, sent)
        self._process = context.Process(target=serve_worker, args=arguments, name=name, daemon=True)
        try:
            self._process.start()
        except BaseException:
            self._close_pipes()
            raise
        finally:
            received.close()  # else the end of the process would not be the end of the pipe
            sent.close()

    @property
    def name(self) -> str:
        """Of the process."""
        return self._process.name

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self._process.pid

    def give(self, job: Job) -> None:
        """Send a job."""
        self.jobs.append(job)
        self._send(job.batch)

    def leave(self, at_once: bool = False) -> None:
        """Tell the worker that nothing more comes.

        Args:
            at_once: whether it is to begin nothing new of what it has.
        """
        self._send(STOP if at_once else None)
        self.is_leaving = True

    def _send(self, message: Batch | str | None) -> None:
        with suppress(OSError):  # it has died, which its answers tell
            self._tasks.send(message)

    def answers(self) -> Iterator[Answer | None]:
        """Yield what has come, without waiting for more; None at the end, when the process can say nothing more."""
        try:
            while self._answers.poll():
                answer: Answer = self._answers.recv()
                yield answer
            if not self._process.is_alive() and not self._answers.poll():
                yield None
        except (EOFError, OSError):  # OSError: it ended in the middle of a message
            yield None

    def note(self, answer: Answer) -> Job | None:
        """Take an answer into account, and return the job that it ends, if it does."""
        if isinstance(answer, Ready):
            self.is_ready = True
        if not isinstance(answer, Report):
            return None
        job = next((job for job in self.jobs if job.batch.number == answer.batch_number), None)
        if job is None:
            return None
        job.note(answer)
        if not answer.is_last:
            return None
        self.jobs.remove(job)
        return job

    def close(self) -> None:
        """Wait for the process, which is to end by itself, and kill it when it does not."""
        self._process.join(SECONDS_TO_END)
        self.kill()

    def kill(self) -> None:
        """End the process at once, if it has not ended; it ignores gentler signals than this one."""
        self._process.kill()
        self._process.join()
        self._close_pipes()

    def _close_pipes(self) -> None:
        self._tasks.close()
        self._answers.close()

    def how_it_ended(self) -> str:
        """Say how the process ended, such as "with signal 11 (SIGSEGV)"; after `close`."""
        code = self._process.exitcode or 0
        if code >= 0:
            return f"with code {code}"
        names = {signal.SIGKILL: "SIGKILL, as when memory runs out"} if hasattr(signal, "SIGKILL") else {}
        try:
            known = signal.Signals(-code)
        except ValueError:
            return f"with signal {-code}"
        return f"with signal {-code} ({names.get(known, known.name)})"


def wait_for_any(children: Sequence[Child], seconds: float) -> list[Child]:
    """Wait until some have answers or have ended, and return those."""
    ends = [end for child in children for end in (child._answers, child._process.sentinel)]
    ready = set(map(id, wait(ends, seconds)))
    return [child for child in children if {id(child._answers), id(child._process.sentinel)} & ready]


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM, also in processes started meanwhile, which are to ignore them from the beginning.

    Does nothing where there is no such thing, as on Windows.
    """
    if sys.platform == "win32":
        yield
    else:
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # multiprocessing's own process, whose start would let the signals through
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
