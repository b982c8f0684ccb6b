"""What runs on the nodes of a cluster: a worker with its model, which takes one batch after another."""

from __future__ import annotations

import pickle
import platform
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mobile_sam._version import __version__
from mobile_sam.bulk.cluster_folder import ClusterFolder, StopWatcher
from mobile_sam.bulk.executor import WorkerLike
from mobile_sam.bulk.items import Batch, Failed, Report, RunStoppedError
from mobile_sam.bulk.local_jobs import WORKER_DIED
from mobile_sam.bulk.settings import BulkSettings

MAX_BATCH_DEATHS = 2
"""Workers that may die at a batch before its pictures are taken one by one."""
MAX_ITEM_DEATHS = 2
"""Workers that may die at a picture that is taken alone before it counts as failed."""
SEEN_WITHIN_S = 20.0


@dataclass(frozen=True)
class Order:
    """What an actor has to know.

    Attributes:
        settings: of the run.
        make_worker: what makes the worker of each actor.
        version: of mobile-sam on the driver.
    """

    settings: BulkSettings
    make_worker: Callable[[BulkSettings], WorkerLike]
    version: str = __version__


@dataclass(frozen=True)
class Answer:
    """What an actor says of a batch.

    Attributes:
        actor: its name, the same for all its answers.
        batch_number: of the batch.
        reports: what its worker told; what they name is on the disk, also where there is an error.
        error: what ended the work; the run has to end, too.
        was_begun: False for a batch that was not touched, as the run is to stop.
    """

    actor: str
    batch_number: int
    reports: tuple[Report, ...] = ()
    error: Exception | None = None
    was_begun: bool = True


class BatchActor:
    """One actor of the pool; the class that `map_batches` is given.

    Nothing here raises: an exception would end the dataset, and with it what others have in flight, or have Ray start
    one actor after another. It goes to the driver as a part of the answer.

    Args:
        folder: shared with the driver.
        order: an `Order`, pickled, as this machine may lack what it needs.
        name: of the actor; None for the one that Ray gave it.
    """

    def __init__(self, folder: ClusterFolder, order: bytes, name: str | None = None) -> None:
        self._folder = folder
        self._order = order
        self._name = name or _actor_id()
        self._worker: WorkerLike | None = None
        self._is_stopping = StopWatcher(folder)

    def __call__(self, rows: Any) -> Any:
        """Do the batch of a table with one row: a column "batch" in, a column "answer" out, both pickled."""
        import pyarrow

        (batch,) = (pickle.loads(cell.as_py()) for cell in rows["batch"])
        return pyarrow.table({"answer": [pickle.dumps(self.answer(batch))]})

    def answer(self, batch: Batch) -> Answer:
        """Do a batch."""
        if self._is_stopping():
            return Answer(self._name, batch.number, was_begun=False)
        reports: list[Report] = []
        error = None
        try:
            self._do(batch, self._ready_worker(), reports.append)
        except Exception as raised:  # noqa: BLE001 - goes to the driver, which raises it
            error = _portable(raised)
        return Answer(self._name, batch.number, tuple(reports), error)

    def _ready_worker(self) -> WorkerLike:
        """Make the worker when the first batch comes: what goes wrong with it then goes the way of all errors."""
        if self._worker is None:
            if not self._folder.is_seen(SEEN_WITHIN_S):
                raise RunStoppedError(
                    f"the machine {platform.node()} does not see the folder of the run, {self._folder.path.parent}, as "
                    "the one that started it does; it must be on a file system that all machines of the cluster share, "
                    "at the same path"
                )
            order: Order = pickle.loads(self._order)
            if order.version != __version__:
                raise RunStoppedError(
                    f"the machine {platform.node()} has mobile-sam {__version__}, the one that started the run "
                    f"{order.version}; install the same on all"
                )
            self._worker = order.make_worker(order.settings)
        return self._worker

    def _do(self, batch: Batch, worker: WorkerLike, tell: Callable[[Report], None]) -> None:
        """Do a batch at once, or picture by picture if workers died at it.

        Ray gives a batch whose worker died to another, without end. Here it has one: whoever begins something leaves a
        file, which stays if the process dies.
        """
        folder = self._folder
        if folder.count_deaths(f"batch-{batch.number}") < MAX_BATCH_DEATHS:
            with folder.begun(f"batch-{batch.number}"):
                worker.run([batch], tell, self._is_stopping)
            return
        for item in batch.items:
            if self._is_stopping():
                return
            name = f"item-{item.id}"
            if folder.count_deaths(name) >= MAX_ITEM_DEATHS:
                reason = (
                    f"the worker's process died {MAX_ITEM_DEATHS} times at this picture alone, out of memory or in a "
                    "library that reads pictures; look at the file, then run again with failed pictures retried"
                )
                tell(Report(batch.number, failed=(Failed(item.id, WORKER_DIED, reason),)))
                continue
            with folder.begun(name):
                worker.run([Batch(batch.number, (item,))], tell, self._is_stopping)
        tell(Report(batch.number, is_last=True))


def _actor_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_actor_id())


def _portable(error: Exception) -> Exception:
    """Give an exception that another process can read: itself, or if it cannot be pickled, what it says."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever its own class does wrong
        said = "".join(traceback.format_exception_only(error)).strip()
        return RunStoppedError(f"on the machine {platform.node()}: {said}")
    return error
