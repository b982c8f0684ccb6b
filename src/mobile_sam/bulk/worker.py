"""A worker: one model, and a pipeline around it that reads ahead, encodes and prompts, and writes behind.

Three kinds of threads: readers (`read_ahead`), the one that calls `run`, which has the model, and a writer
(`write_behind`). What lies between them is bounded, so that memory does not grow, and goes on from batch to batch, so
that none of them waits at a batch's end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobile_sam.bulk.items import Batch, Failed, Item, Report, RunStoppedError
from mobile_sam.bulk.pictures import NO_MEMORY, LoadedPicture, encode_pictures, load_picture
from mobile_sam.bulk.read_ahead import Entry, ReadAhead
from mobile_sam.bulk.tasks import TaskResult, make_task
from mobile_sam.bulk.worker_outputs import make_outputs
from mobile_sam.bulk.write_behind import WriteBehind
from mobile_sam.core.embedding import Embedding
from mobile_sam.data.json_values import ItemRejectedError

if TYPE_CHECKING:
    from mobile_sam.bulk.settings import BulkSettings
    from mobile_sam.engines import Engine

logger = logging.getLogger(__name__)

_MAX_READERS = 8


class Worker:
    """Does batches, one after the other; one worker for each engine.

    Args:
        settings: of the run.
        engine: that runs the networks; by default one is made as the settings say.

    Raises:
        ValueError, MissingDependencyError, WeightsError: as `make_engine`, or a format's package is missing.
        RunStoppedError: the folder of embeddings is not as `embedding_sinks.write_plan` leaves it.
    """

    def __init__(self, settings: BulkSettings, engine: Engine | None = None) -> None:
        self.settings = settings
        self.engine = engine if engine is not None else _make_engine(settings)
        self.task = make_task(settings, self.engine)
        self._outputs = make_outputs(settings, self.engine)

    def run(
        self,
        batches: Iterable[Batch],
        tell: Callable[[Report], None],
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Do batches until there are no more, or until it shall stop.

        Args:
            batches: iterated in a thread of its own, and ahead of what is done; it may wait for the reports of earlier
                batches.
            tell: takes reports, in the thread that called this. What a report names is on the disk. `num_computed` of
                all reports together counts each item once, at the latest in the report that names it. The last report
                of each batch that was taken has `is_last`, also where it was stopped.
            is_stopping: asked between pictures, and while one is waited for; then what was computed is written and
                reported, and nothing more is begun.

        Raises:
            RunStoppedError: nothing more can be read or written.
        """
        resize_to = None if self.task.needs_pixels else self.engine.input_side
        num_together = self.settings.encode_together
        num_unusable = self.task.num_unusable

        def load(item: Item) -> LoadedPicture | Failed:
            return load_picture(item, self.settings.roots, resize_to)

        ahead = ReadAhead(
            batches,
            load,
            num_readers=min(1 + num_together // 2, _MAX_READERS),
            num_ahead=max(4, 2 * num_together),
        )
        with ahead, WriteBehind(self._outputs) as behind:
            _Run(self, ahead, behind, tell, is_stopping).do_all()
        if self.task.num_unusable > num_unusable:
            logger.warning("%d prompts were left out in all", self.task.num_unusable - num_unusable)

    def compute(self, pictures: Sequence[LoadedPicture]) -> list[Embedding | Failed]:
        """Encode pictures together; if that fails, each alone, so that a failure costs the one at fault."""
        try:
            return list(encode_pictures(self.engine, pictures))
        except Exception as error:  # noqa: BLE001 - one picture of many
            if len(pictures) == 1:
                return [_failed(pictures[0].item, error)]
        return [made for picture in pictures for made in self.compute([picture])]

    def prompt(self, picture: LoadedPicture, embedding: Embedding | None) -> TaskResult | Failed:
        """Do the task with a picture."""
        try:
            return self.task.run(picture, embedding)
        except Exception as error:  # noqa: BLE001 - one picture of many
            return _failed(picture.item, error)


@dataclass(eq=False)
class _Run:
    """One call of `Worker.run`."""

    worker: Worker
    ahead: ReadAhead
    behind: WriteBehind
    tell: Callable[[Report], None]
    is_stopping: Callable[[], bool]
    is_stopped: bool = False

    def do_all(self) -> None:
        """Do all batches; what was done is written and told, whether all could be done or not."""
        problem: RunStoppedError | None = None
        try:
            self._do_entries()
        except RunStoppedError as error:
            problem = error
        with suppress(RunStoppedError):  # which is raised below
            for batch in self.ahead.take_unended():
                self.behind.end_batch(batch)
        for report in self.behind.finish():
            self.tell(report)
        self.behind.check()
        if problem is not None:
            raise problem

    def _do_entries(self) -> None:
        together: list[LoadedPicture] = []
        for entry in self.ahead.entries(self._pause):
            if isinstance(entry.loaded, LoadedPicture):
                together.append(entry.loaded)
            if together and (entry.loaded is None or len(together) >= self.worker.settings.encode_together):
                self._do_together(entry.batch, together)
                together = []
            if self.is_stopped:
                return
            self._do_rest(entry)

    def _do_rest(self, entry: Entry) -> None:
        """Pass on a failure, and the end of a batch."""
        if entry.loaded is None:
            self.behind.end_batch(entry.batch)
            self.ahead.end(entry.batch)
        elif isinstance(entry.loaded, Failed):
            assert entry.item is not None
            self.behind.put(entry.batch, entry.item, entry.loaded)

    def _do_together(self, batch: Batch, pictures: Sequence[LoadedPicture]) -> None:
        """Do the task with some pictures of a batch."""
        worker = self.worker
        needing = [picture for picture in pictures if worker.task.needs_embedding(picture.item)]
        made = iter(worker.compute(needing) if needing else ())
        for picture in pictures:
            embedding = next(made) if picture in needing else None
            outcome = embedding if isinstance(embedding, Failed) else worker.prompt(picture, embedding)
            self.behind.put(batch, picture.item, outcome)
            if self._pause():
                return

    def _pause(self) -> bool:
        """Tell what there is to tell; whether to stop."""
        for report in self.behind.take_reports():
            self.tell(report)
        self.behind.check()
        self.is_stopped = self.is_stopped or self.is_stopping()
        return self.is_stopped


def _make_engine(settings: BulkSettings) -> Engine:
    import cv2

    from mobile_sam.engines import make_engine

    if settings.num_threads:
        cv2.setNumThreads(settings.num_threads)  # else as many as there are cores, in each worker
    engine = make_engine(
        settings.engine,
        settings.model,
        device=settings.device,
        precision=settings.precision,
        num_threads=settings.num_threads,
    )
    engine.images_at_once = max(engine.images_at_once, settings.encode_together)
    return engine


def _failed(item: Item, error: Exception) -> Failed:
    """Say why a picture failed for which the model is at fault, or the memory."""
    logger.debug("%s failed", item.file_name, exc_info=error)
    if isinstance(error, MemoryError):
        return Failed(item.id, NO_MEMORY, f"{item.file_name} needs more memory than there is; use fewer workers")
    kind = error.kind if isinstance(error, ItemRejectedError) else type(error).__name__
    return Failed(item.id, kind, f"{item.file_name}: {error}")
