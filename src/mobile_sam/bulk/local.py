"""Batches done on this machine, by workers that each have a process, so that no picture can bring down the run."""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

from mobile_sam.bulk.executor import WorkerLike, make_worker
from mobile_sam.bulk.items import Batch, Report, RunStoppedError
from mobile_sam.bulk.local_child import Child, signals_held_back, wait_for_any
from mobile_sam.bulk.local_jobs import Jobs
from mobile_sam.bulk.local_process import Ended

if TYPE_CHECKING:
    from mobile_sam.bulk.settings import BulkSettings
    from mobile_sam.bulk.stopping import Stop

logger = logging.getLogger(__name__)

JOBS_PER_WORKER = 2
"""One that it works on, and one to read ahead from."""
SECONDS_BETWEEN_LOOKS = 0.25
"""How long a question to stop may go unnoticed while no worker says anything."""
MAX_LOST_STARTS = 3
"""Workers in a row that die before they are ready."""
MAX_LOST_WORKERS = 10
"""Workers in a row that die with no item done between, by any of them: no fault of a few pictures."""


class WorkerTraceback(Exception):
    """Where in a worker's process an error was raised, as text."""


class LocalExecutor:
    """Has batches done by processes on this machine.

    Args:
        settings: of the run, sent to each process.
        num_workers: processes, at least 1. As many are started as there are batches for.
        make_worker: called in each process; found by its module and name there, so no lambda.

    Raises:
        ValueError: no workers.
    """

    def __init__(
        self, settings: BulkSettings, num_workers: int, make_worker: Callable[[BulkSettings], WorkerLike] = make_worker
    ) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {num_workers}")
        self._settings = settings
        self._num_workers = num_workers
        self._make_worker = make_worker

    def run(self, batches: Iterator[Batch], stop: Stop) -> Generator[Report, None, None]:
        """Have all batches done.

        A worker that dies (out of memory, a crash in a library) is replaced, and what it had is tried once more, item
        by item; an item that ends its worker when alone is reported as failed. Read the iterator to its end or close it
        (`contextlib.closing`): when it is closed, also by KeyboardInterrupt, workers are killed at once.

        Args:
            batches: read as they are needed, never further than two for each worker.
            stop: looked at a few times a second. Asked, it lets workers finish what is in flight; urgent, it ends them.

        Yields:
            Reports, as they come.

        Raises:
            RunStoppedError: workers cannot be kept alive, or one raised it. What others had in flight is told first.
            ValueError, ImportError, OSError: as making a worker, or a worker, raises.
            KeyboardInterrupt: the stop is urgent.
        """
        crew = _Crew(self._make_worker, self._settings, self._num_workers, batches)
        atexit.register(crew.kill)  # before multiprocessing's own, which would wait for processes that ignore SIGTERM
        try:
            yield from crew.work(stop)
        finally:
            crew.kill()
            atexit.unregister(crew.kill)


class _Crew:
    """The processes of one run."""

    def __init__(
        self,
        make_worker: Callable[[BulkSettings], WorkerLike],
        settings: BulkSettings,
        num_workers: int,
        batches: Iterator[Batch],
    ) -> None:
        self._make_worker = make_worker
        self._settings = settings
        self._num_workers = num_workers
        self._jobs = Jobs(batches, num_workers * JOBS_PER_WORKER)
        self._children: list[Child] = []
        self._num_started = self._num_lost_starts = self._num_lost_workers = 0
        self._is_ending = False
        self._error: Exception | None = None

    def work(self, stop: Stop) -> Iterator[Report]:
        """Do all batches; see `LocalExecutor.run`."""
        while True:
            if stop.is_urgent:
                raise KeyboardInterrupt
            if stop.is_asked:
                self._end_soon()
            if not self._is_ending:
                self._jobs.read()
                self._start_children()
                self._give_jobs()
                if self._jobs.num_in_hand == 0:
                    self._dismiss()
            if not self._children:
                break
            for child in wait_for_any(self._children, SECONDS_BETWEEN_LOOKS):
                yield from self._listen_to(child)
        if self._error is not None:
            raise self._error

    def kill(self) -> None:
        """End all processes at once."""
        for child in self._children:  # left in the list until all are gone, should another signal come
            child.kill()
        self._children.clear()

    def _start_children(self) -> None:
        while len(self._children) < min(self._num_workers, self._jobs.num_in_hand):
            self._num_started += 1
            with signals_held_back():  # nor may one come between the start and the list
                child = Child(self._make_worker, self._settings, f"bulk worker {self._num_started}")
                self._children.append(child)

    def _give_jobs(self) -> None:
        """Give each worker that is ready what it can take; those that have nothing come first."""
        for child in sorted(self._children, key=lambda child: len(child.jobs)):
            while child.is_ready and not child.is_leaving:
                num_idle = sum(not other.jobs for other in self._children if other is not child)
                job = self._jobs.give(child.jobs, num_idle)
                if job is None:
                    break
                child.give(job)

    def _dismiss(self) -> None:
        """Let all go: nothing is left to do."""
        self._is_ending = True
        for child in self._children:
            child.leave()

    def _end_soon(self) -> None:
        """Let workers finish what is in flight and begin nothing new."""
        if self._is_ending:
            return
        self._is_ending = True
        for child in [child for child in self._children if not child.is_ready]:  # nothing of theirs can be lost
            self._children.remove(child)
            child.kill()
        for child in self._children:
            child.leave(at_once=True)

    def _listen_to(self, child: Child) -> Iterator[Report]:
        for answer in child.answers():
            if child not in self._children:  # it was killed meanwhile
                return
            if answer is None or (isinstance(answer, Ended) and answer.error is None):
                yield from self._take_leave(child, has_ended=answer is not None)
                return
            if isinstance(answer, Ended):
                self._note_error(child, answer)
                return
            job = child.note(answer)
            if job is not None:
                self._jobs.end(job)
            if isinstance(answer, Report):
                if answer.done:
                    self._num_lost_workers = 0
                yield answer
            else:
                self._num_lost_starts = 0

    def _note_error(self, child: Child, ended: Ended) -> None:
        """Keep a worker's error, to be raised when the others have finished."""
        self._children.remove(child)
        child.close()
        if self._error is not None or ended.error is None:
            logger.warning("%s ended, too: %s", child.name, ended.error)
        else:
            ended.error.__cause__ = WorkerTraceback("\n" + ended.trace)
            self._error = ended.error
        self._end_soon()

    def _take_leave(self, child: Child, has_ended: bool) -> Iterator[Report]:
        """Go on without a process: one that was to leave, or that died."""
        self._children.remove(child)
        child.close()
        if child.is_leaving and (has_ended or not child.jobs):
            return
        how, num_jobs = child.how_it_ended(), len(child.jobs)
        logger.warning("%s (process %s) ended %s with %d batches in its hands", child.name, child.pid, how, num_jobs)
        if self._is_ending:
            return
        if child.is_ready:
            self._num_lost_workers += 1
            yield from self._jobs.lose(child.jobs, how)
        else:
            self._num_lost_starts += 1
        self._error = self._why_hopeless(how)
        if self._error is not None:
            self._end_soon()

    def _why_hopeless(self, how: str) -> RunStoppedError | None:
        """Say why it makes no sense to start one more process; None where it does, maybe with fewer of them."""
        if self._num_lost_workers >= MAX_LOST_WORKERS:
            return RunStoppedError(
                f"{MAX_LOST_WORKERS} workers in a row ended {how} with no picture done between; try fewer workers or "
                "another engine, then run the same again: it goes on where it was"
            )
        if self._num_lost_starts < MAX_LOST_STARTS:
            return None
        num_ready = sum(child.is_ready for child in self._children)
        if num_ready:
            logger.warning("no more workers can be started; going on with %d", num_ready)
            self._num_workers, self._num_lost_starts = num_ready, 0
            return None
        return RunStoppedError(
            f"{MAX_LOST_STARTS} workers in a row ended {how} before they could take a picture; see what they wrote to "
            "stderr; is there enough memory for so many workers? In a program of your own, begin the run under "
            'if __name__ == "__main__":, since each worker imports the program'
        )
