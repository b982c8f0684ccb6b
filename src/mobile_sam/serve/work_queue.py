"""Work for threads: jobs that wait in a bounded queue, and answers that are given once."""

from __future__ import annotations

import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Answer = TypeVar("Answer")

FIRST_GUESS_S = 0.5  # of how long a job takes, before one was done
NEWEST_SHARE = 0.2  # of the newest job in the running mean of how long jobs take
LAST_WAIT_S = 10.0  # for threads whose jobs were given up; a job cannot be stopped in the middle of a network

logger = logging.getLogger(__name__)


class QueueFull(Exception):
    """Too much waits already; ask again later.

    Attributes:
        retry_after_s: seconds after which there is probably room.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServiceClosed(Exception):
    """The service takes no more work, or has given up what was left of it."""


class Promise(Generic[Answer]):
    """A future that is answered once, by whoever is first, and that its owner may cancel until then.

    Attributes:
        future: what the caller gets; it stays pending while its work is done, which is why it can be cancelled.
    """

    def __init__(self) -> None:
        self.future: Future[Answer] = Future()
        self._lock = threading.Lock()
        self._is_settled = False

    @property
    def is_wanted(self) -> bool:
        """Whether someone still waits: it is neither answered nor cancelled."""
        return not self.future.done()

    def answer(self, value: Answer) -> None:
        """Give the answer, if there is none yet and someone waits for it."""
        if self._is_first():
            self.future.set_result(value)

    def fail(self, error: Exception) -> None:
        """Give an error as the answer, if there is none yet and someone waits for it.

        It loses its traceback, whose frames would keep what they worked on, such as a picture, in memory.
        """
        if self._is_first():
            self.future.set_exception(_without_frames(error))

    def _is_first(self) -> bool:
        with self._lock:
            if self._is_settled:
                return False
            self._is_settled = True
        return self.future.set_running_or_notify_cancel()


class Job(ABC):
    """Something to do for someone who waits for it.

    Attributes:
        num_bytes: memory that it takes while it waits.
        put_at: when it began to wait, by `time.monotonic`; the queue's to set.
    """

    num_bytes: int = 0
    put_at: float = 0.0

    @abstractmethod
    def run(self) -> None:
        """Do it; an exception goes to `fail`."""

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """Tell who waits that nothing will come of it; does nothing if there was an answer already."""

    @abstractmethod
    def is_wanted(self) -> bool:
        """Tell whether someone still waits for it; once it is not wanted, it never is again."""


class WorkQueue:
    """Threads that do jobs in the order in which they come.

    Args:
        name: of the threads.
        num_threads: jobs done at once.
        max_waiting: jobs that may wait beside those being done.
        max_waiting_bytes: that waiting jobs may take; one is taken however large it is.
        max_wait_s: for how long a job may wait. One that would wait longer, going by how long jobs took lately, is
            turned away at once unless it is the only one; one that did wait longer fails with QueueFull.
    """

    def __init__(
        self,
        name: str,
        num_threads: int,
        max_waiting: float = math.inf,
        max_waiting_bytes: float = math.inf,
        max_wait_s: float = math.inf,
    ) -> None:
        self._name, self._num_threads = name, num_threads
        self._max_waiting, self._max_waiting_bytes, self._max_wait_s = max_waiting, max_waiting_bytes, max_wait_s
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._recent_s = FIRST_GUESS_S
        self._is_closed = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{index}", daemon=True) for index in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def num_waiting(self) -> int:
        """Jobs that wait, those being done left out."""
        with self._changed:
            return len(self._waiting)

    def put(self, job: Job) -> None:
        """Let a job wait for its turn.

        Raises:
            QueueFull: too many wait. ServiceClosed: `stop` was called.
        """
        with self._changed:
            if self._is_closed:
                raise ServiceClosed("the service is shutting down and takes no more work")
            if not self._has_room(job):
                self._waiting = deque(one for one in self._waiting if one.is_wanted())
            if not self._has_room(job):
                raise QueueFull(f"{len(self._waiting)} jobs wait for {self._name} already", self._retry_after_s())
            job.put_at = time.monotonic()
            self._waiting.append(job)
            self._changed.notify()

    def stop(self) -> None:
        """Take no more jobs; those that were taken will be done."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def finish(self, deadline: float) -> None:
        """Stop, wait for the jobs that were taken, fail those that are left at the deadline, and end the threads.

        Args:
            deadline: as `time.monotonic` tells time, in seconds.
        """
        self.stop()
        end_threads(self._threads, deadline, self._give_up)

    def _give_up(self, error: ServiceClosed) -> None:
        """Fail the jobs that are left."""
        with self._changed:
            left = [*self._running, *self._waiting]
            self._waiting.clear()
            self._changed.notify_all()
        for job in left:
            job.fail(error)

    def _has_room(self, job: Job) -> bool:
        num_waiting, num_running = len(self._waiting), len(self._running)
        num_idle = self._num_threads - num_running
        if num_waiting >= num_idle + self._max_waiting:
            return False
        if num_waiting <= num_idle:  # it is the only one that has to wait, if it has to at all
            return True
        num_bytes = sum(one.num_bytes for one in self._waiting) + job.num_bytes
        wait_s = self._recent_s * (num_waiting + num_running) / self._num_threads
        return num_bytes <= self._max_waiting_bytes and wait_s <= self._max_wait_s

    def _retry_after_s(self) -> float:
        """Say when half of what there is will be done: there is room then, and the threads are not idle yet."""
        num_jobs = len(self._waiting) + len(self._running)
        return self._recent_s * max(num_jobs / 2, 1) / self._num_threads

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                if job.is_wanted():
                    self._do(job)
            except Exception as error:  # one job of many: the thread lives on
                logger.exception("a job of %s failed", self._name)
                job.fail(error)
            finally:
                with self._changed:
                    self._running.remove(job)
                del job  # not kept while the thread waits for the next

    def _do(self, job: Job) -> None:
        started = time.monotonic()
        if started - job.put_at > self._max_wait_s:
            with self._changed:
                retry_after_s = self._retry_after_s()
            job.fail(QueueFull(f"{self._name} is too busy: this waited for {self._max_wait_s:g} s", retry_after_s))
            return
        job.run()
        seconds = time.monotonic() - started
        with self._changed:
            self._recent_s += NEWEST_SHARE * (seconds - self._recent_s)

    def _next(self) -> Job | None:
        """Wait for a job; None when there is none left and none will come."""
        with self._changed:
            while not self._waiting:
                if self._is_closed:
                    return None
                self._changed.wait()
            job = self._waiting.popleft()
            self._running.append(job)
            return job


def end_threads(threads: Sequence[threading.Thread], deadline: float, give_up: Callable[[ServiceClosed], None]) -> None:
    """Wait for threads that were told to stop, and from the deadline on for no more than what they are at.

    Args:
        threads: end when there is nothing left to do.
        deadline: as `time.monotonic` tells time, in seconds.
        give_up: fails, with the error that it gets, what is not done by then.
    """
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    give_up(ServiceClosed("the service was shut down before this was done"))
    for thread in threads:
        thread.join(LAST_WAIT_S)
        if thread.is_alive():
            logger.error("thread %s still runs a job that was given up", thread.name)


def _without_frames(error: Exception) -> Exception:
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error
