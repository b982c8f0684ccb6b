"""Many machines: Ray Data hands batches to actors, each with a model of its own, and starts again what dies.

Only the driver can read the manifest, which may have hundreds of thousands of batches. So they go in *windows*: a
dataset of a thousand batches or more, each a block of its own, is mapped by a pool of actors, and answers are taken as
they come. A window is large enough for the start of its actors not to count, and small enough for the driver's memory.
Ray Data has no source that asks the driver for the next batch; an actor in its place would be a queue of our own, lost
with its node.
"""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any, cast

from mobile_sam.bulk.cluster_actor import Answer, BatchActor, Order
from mobile_sam.bulk.cluster_folder import ClusterFolder
from mobile_sam.bulk.cluster_session import RayOptions, choose_pool, joined, quiet_context
from mobile_sam.bulk.executor import WorkerLike, make_worker
from mobile_sam.bulk.items import Batch, Report, RunStoppedError
from mobile_sam.bulk.settings import BulkSettings
from mobile_sam.bulk.stopping import Stop

__all__ = ["RayExecutor", "RayOptions"]

logger = logging.getLogger(__name__)

MIN_WINDOW_BATCHES = 1024
ACTOR_WINDOW_BATCHES = 64
"""For each actor: the last batches, when some have nothing left to do, are then about 1 % of the window's time."""
WATCH_S = 0.2


class RayExecutor:
    """Runs batches on the actors of a Ray cluster.

    A worker, an actor or a node that dies costs what it had in flight, which Ray gives to another. Batches end in any
    order, each with one report.
    """

    def __init__(
        self,
        settings: BulkSettings,
        options: RayOptions,
        make_worker: Callable[[BulkSettings], WorkerLike] = make_worker,
    ) -> None:
        self._settings = settings
        self._options = options
        self._make_worker = make_worker

    def run(self, batches: Iterator[Batch], stop: Stop) -> Generator[Report, None, None]:
        """Do all batches, and say what became of them.

        If `stop` asks, actors finish the pictures that they have begun, which are reported, and then this ends. What is
        in flight when the caller gives this up, or at a KeyboardInterrupt, is dropped, and done again by the next run.

        Args:
            batches: read as they are needed, a window of some thousand at once.
            stop: asks for the end.

        Yields:
            What became of pictures, about a report for each batch.

        Raises:
            MissingDependencyError: Ray, or what a worker needs, is not installed.
            ValueError: there is no cluster, or no room in it.
            RunStoppedError: a machine does not see the folder of the run; or as workers raise it; or Ray has given up.
        """
        folder = ClusterFolder.make(self._settings.named("cluster"))
        try:
            with joined(self._options) as ray, _passed_on(stop, folder):
                while not folder.is_asked_to_stop:
                    pool = choose_pool(self._options, ray.nodes())
                    window = list(islice(batches, max(MIN_WINDOW_BATCHES, ACTOR_WINDOW_BATCHES * pool[-1])))
                    if not window:
                        return
                    with closing(self._answers(window, folder, pool)) as answers:
                        yield from _reports(answers, folder)
        finally:
            folder.remove()

    def _answers(
        self, window: list[Batch], folder: ClusterFolder, pool: tuple[int, int, int]
    ) -> Generator[Answer, None, None]:
        """Map the batches of a window."""
        import pyarrow
        from ray import cloudpickle, data
        from ray.exceptions import RayError

        order = Order(self._settings, self._make_worker)
        least, first, most = pool
        with data.DataContext.current(quiet_context()):
            blocks = [pyarrow.table({"batch": [pickle.dumps(batch)]}) for batch in window]
            # Ray Data starts dead actors and their batches again without end, unless it is told not to.
            dataset = data.from_arrow(blocks).map_batches(
                BatchActor,
                fn_constructor_args=(folder, cloudpickle.dumps(order)),
                batch_size=1,
                batch_format="pyarrow",
                compute=data.ActorPoolStrategy(
                    min_size=least, initial_size=first, max_size=most, max_tasks_in_flight_per_actor=2
                ),
                num_cpus=self._options.num_cpus,
                num_gpus=self._options.num_gpus or None,
            )
            tables = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        try:
            # Closed while Ray is there: the dataset has to be ended, too, when its answers are given up.
            with closing(cast(Generator[Any, None, None], iter(tables))) as rows:
                for table in rows:
                    for cell in table["answer"]:
                        yield pickle.loads(cell.as_py())
        except RayError as error:
            raise RunStoppedError(f"Ray has given up ({type(error).__name__}): {error}") from error


def _reports(answers: Iterator[Answer], folder: ClusterFolder) -> Iterator[Report]:
    """Give the reports of answers; at an error, or when asked to stop, wait for what is in flight, and for no more.

    Raises:
        Exception: the first error of a worker, after the reports.
    """
    seen: set[str] = set()
    idle: set[str] = set()
    error: Exception | None = None
    for answer in answers:
        yield from _merged(answer)
        if answer.error is not None and error is None:
            error = answer.error
            folder.ask_to_stop()
        seen.add(answer.actor)
        if not answer.was_begun:
            idle.add(answer.actor)
            if idle >= seen:
                break
    if error is not None:
        raise error


def _merged(answer: Answer) -> Iterator[Report]:
    """Give an answer's reports as one, since they come together."""
    done = tuple(done for report in answer.reports for done in report.done)
    failed = tuple(failed for report in answer.reports for failed in report.failed)
    is_last = any(report.is_last for report in answer.reports)
    if done or failed or is_last:
        yield Report(answer.batch_number, done, failed, is_last=is_last)


@contextmanager
def _passed_on(stop: Stop, folder: ClusterFolder) -> Iterator[None]:
    """Pass the wish to stop on to the actors, also while this thread waits for an answer."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(WATCH_S):
            if stop.is_asked:
                folder.ask_to_stop()
                return

    watcher = threading.Thread(target=watch, name="bulk-stop", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
