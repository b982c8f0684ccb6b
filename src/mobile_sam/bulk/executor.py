"""What an executor is: it has the batches of a run done somewhere, and gives what became of their items."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mobile_sam.bulk.items import Batch, Report
    from mobile_sam.bulk.settings import BulkSettings
    from mobile_sam.bulk.stopping import Stop


class WorkerLike(Protocol):
    """What does batches, as `mobile_sam.bulk.worker.Worker` does: one model, and a pipeline around it."""

    def run(
        self, batches: Iterable[Batch], tell: Callable[[Report], None], is_stopping: Callable[[], bool] = ...
    ) -> None:
        """Do batches, and return when there are no more, or soon after `is_stopping` becomes true.

        Args:
            batches: waits until there is another; so a batch must be ended, and told of, while the next is waited for.
            tell: takes reports, from any thread; the last of each batch has `is_last`.
            is_stopping: whether nothing new is to be begun.

        Raises:
            RunStoppedError: the run cannot go on. Other errors end it, too.
        """


class Executor(Protocol):
    """Where batches are done: `mobile_sam.bulk.local.LocalExecutor`, or a cluster."""

    def run(self, batches: Iterator[Batch], stop: Stop) -> Generator[Report, None, None]:
        """Have all batches done.

        Args:
            batches: read as they are needed, in the thread that asks for reports.
            stop: once it is asked, no more batches are begun, and the reports end with those of what is in flight.

        Yields:
            Reports, as they come. Each item is in one of them, `done` or `failed`, unless the run is stopped.

        Raises:
            RunStoppedError: the run cannot go on.
        """


def make_worker(settings: BulkSettings) -> WorkerLike:
    """Make the worker of a run, with its engine; its module is imported here, in the process that works.

    Raises:
        ValueError, ImportError: as `make_engine` does.
    """
    from mobile_sam.bulk.worker import Worker

    return Worker(settings)
