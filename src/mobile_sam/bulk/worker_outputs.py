"""Where a worker's results go: the sinks of its task behind one interface, and whose fault an error of theirs is."""

from __future__ import annotations

import errno
import logging
import math
import os
import platform
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from mobile_sam.bulk.embedding_sinks import ShardSink, make_embedding_sinks
from mobile_sam.bulk.items import Batch, Done, Failed, Item, RunStoppedError
from mobile_sam.bulk.results import PictureEmbedding, PictureMasks
from mobile_sam.bulk.settings import SPOOL
from mobile_sam.bulk.sinks import FORMATS, make_sink
from mobile_sam.bulk.sinks.base import PictureSink

if TYPE_CHECKING:
    from mobile_sam.bulk.settings import BulkSettings
    from mobile_sam.engines import Engine

logger = logging.getLogger(__name__)

SPOOL_FLUSH_S, TELL_S = 5.0, 0.25
"""How often results are brought to the disk, and told of where that costs nothing."""

Outcome = PictureMasks | PictureEmbedding | Failed

_OF_THE_PICTURE = (errno.ENAMETOOLONG, errno.EILSEQ, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)
"""Errors that a file's name may be to blame for."""


class Told(NamedTuple):
    """What is on the disk and was not told of yet."""

    done: tuple[Done, ...] = ()
    failed: tuple[Failed, ...] = ()


class Outputs(ABC):
    """Writes the results of one batch after the other; for one thread at a time.

    Attributes:
        take_s: after how many seconds `take` is worth its price; infinity for at the end of a batch only.
    """

    take_s = TELL_S

    def __init__(self) -> None:
        self._done: list[Done] = []
        self._failed: list[Failed] = []

    def put(self, batch: Batch, item: Item, outcome: Outcome) -> None:
        """Write what became of an item; an error that is its own fault is noted as what became of it.

        Raises:
            RunStoppedError: nothing more can be written, such as on a full disk.
        """
        failed = outcome if isinstance(outcome, Failed) else self._try_to_write(batch, item, outcome)
        if failed is not None:
            self._fail(batch, item, failed)
            self._failed.append(failed)

    def take(self, ends_batch: bool) -> Told:
        """Bring to the disk what can be, and give what was not given before; at the end of a batch that is all.

        Raises:
            RunStoppedError: as `put`.
        """
        try:
            self._flush(ends_batch)
        except OSError as error:
            raise stopped_by(error) from error
        told = Told(tuple(self._done), tuple(self._failed))
        self._done.clear()
        self._failed.clear()
        return told

    def _try_to_write(self, batch: Batch, item: Item, result: PictureMasks | PictureEmbedding) -> Failed | None:
        try:
            self._done.append(self._write(batch, result))
        except OSError as error:
            if error.errno not in _OF_THE_PICTURE:
                raise stopped_by(error) from error
            return Failed(item.id, "unwritable name", f"{item.key} cannot be written: {error}")
        except RunStoppedError:
            raise
        except Exception as error:
            logger.debug("writing %s failed", item.key, exc_info=True)
            return Failed(item.id, type(error).__name__, f"{item.key} cannot be written: {error}")
        return None

    def _fail(self, batch: Batch, item: Item, failed: Failed) -> None:  # noqa: B027 - most have nowhere to
        """Note a failure in what is written, too."""

    @abstractmethod
    def _write(self, batch: Batch, result: PictureMasks | PictureEmbedding) -> Done:
        """Write a result."""

    @abstractmethod
    def _flush(self, ends_batch: bool) -> None:
        """Bring to the disk what was written."""

    @abstractmethod
    def abort(self) -> None:
        """Leave nothing half-written, after an error."""


class MaskOutputs(Outputs):
    """Files for each picture, and the spool for formats that are written at the end."""

    def __init__(self, settings: BulkSettings) -> None:
        super().__init__()
        from mobile_sam.bulk.spool import SpoolWriter

        names = [name for name in settings.formats if not FORMATS[name].is_collected]
        sink_settings = settings.sink_settings()
        sinks = [make_sink(name, sink_settings) for name in names]
        self._sinks = [sink for sink in sinks if isinstance(sink, PictureSink)]
        prefix = f"{platform.node()}-{os.getpid()}"
        self._spool = SpoolWriter(settings.named(SPOOL), prefix) if settings.needs_spool else None
        self.take_s = SPOOL_FLUSH_S if settings.needs_spool else TELL_S

    def _write(self, batch: Batch, result: PictureMasks | PictureEmbedding) -> Done:
        assert isinstance(result, PictureMasks)
        for sink in self._sinks:
            sink.write(result)
        return self._spool.add(result) if self._spool else Done(result.item_id, len(result.records))

    def _flush(self, ends_batch: bool) -> None:
        if self._spool:
            self._spool.flush()

    def abort(self) -> None:
        """See `Outputs.abort`."""
        if self._spool:
            self._spool.close()


class EmbeddingOutputs(Outputs):
    """Shards or files of embeddings; with shards, failures too wait for the end of the batch, which notes them."""

    def __init__(self, settings: BulkSettings, engine: Engine) -> None:
        super().__init__()
        self._sinks = make_embedding_sinks(settings, engine)
        self._has_shards = any(isinstance(sink, ShardSink) for sink in self._sinks)
        self.take_s = math.inf if self._has_shards else TELL_S

    def _write(self, batch: Batch, result: PictureMasks | PictureEmbedding) -> Done:
        assert isinstance(result, PictureEmbedding)
        for sink in self._sinks:
            sink.write(batch, result)
        return Done(result.item_id)

    def _fail(self, batch: Batch, item: Item, failed: Failed) -> None:
        try:
            for sink in self._sinks:
                sink.skip(batch, item, failed)
        except OSError as error:
            raise stopped_by(error) from error

    def _flush(self, ends_batch: bool) -> None:
        assert ends_batch or not self._has_shards
        if ends_batch:
            for sink in self._sinks:
                sink.end()

    def abort(self) -> None:
        """See `Outputs.abort`."""
        for sink in self._sinks:
            sink.abort()


def make_outputs(settings: BulkSettings, engine: Engine) -> Outputs:
    """Make what writes the results of a run.

    Raises:
        MissingDependencyError: a format needs a package that is not installed.
        RunStoppedError: the folder of embeddings is not as it was prepared.
    """
    return EmbeddingOutputs(settings, engine) if settings.task == "embed" else MaskOutputs(settings)


_ADVICE = {
    errno.ENOSPC: "the disk is full; make room and run the same again",
    errno.EDQUOT: "the quota is used up; make room and run the same again",
    errno.EROFS: "the disk can only be read; mount it for writing and run the same again",
    errno.EACCES: "nothing may be written there; change the permission and run the same again",
    errno.EIO: "the disk has an error; check it, and run the same again",
}


def stopped_by(error: OSError) -> RunStoppedError:
    """Say what to do about an error of the disk."""
    advice = _ADVICE.get(error.errno or 0, "check the output folder, and run the same again")
    return RunStoppedError(f"results cannot be written: {error}: {advice}; what was done before stays")
