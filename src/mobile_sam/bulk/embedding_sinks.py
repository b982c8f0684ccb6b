"""Embeddings onto the disk: shards as `distill train` reads them, and a safetensors file for each picture."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mobile_sam.bulk.items import Batch, Failed, Item, RunStoppedError
from mobile_sam.bulk.results import PictureEmbedding
from mobile_sam.bulk.shard_takeover import EarlierShard, ShardDamagedError
from mobile_sam.core.files import atomic_path, remove_abandoned
from mobile_sam.data.embedding_format import EmbeddingPlan, OtherTeacherError, TeacherRecord
from mobile_sam.data.embedding_writer import EmbeddingShardWriter
from mobile_sam.data.records import Problem

if TYPE_CHECKING:
    from mobile_sam.bulk.settings import BulkSettings
    from mobile_sam.engines import Engine

FOLDER = "embeddings"
"""Stem of the folder of embeddings in the folder of a run."""

SUFFIX = ".safetensors"
TENSOR = "features"


class EmbeddingSink(ABC):
    """A format of embeddings, written by workers at the same time."""

    @abstractmethod
    def write(self, batch: Batch, embedding: PictureEmbedding) -> None:
        """Write an embedding.

        Raises:
            OSError: as the disk does.
            RunStoppedError: what an earlier run wrote is damaged.
        """

    @abstractmethod
    def skip(self, batch: Batch, item: Item, failed: Failed) -> None:
        """Note a picture that has none; raises as `write`."""

    @abstractmethod
    def end(self) -> None:
        """End a batch: what was written before is on the disk then; raises as `write`."""

    @abstractmethod
    def abort(self) -> None:
        """Leave nothing of a batch that was begun, after an error."""


class ShardSink(EmbeddingSink):
    """A shard for each batch, in a folder with a plan, which `EmbeddingShards` reads.

    Nothing of a batch is on the disk before its end. What a finished shard has of pictures that are not done again,
    because the batch was begun in an earlier run, is taken over.

    Raises:
        RunStoppedError: there is no plan, or it is of another encoder than the engine's.
    """

    def __init__(self, settings: BulkSettings, engine: Engine) -> None:
        self._folder = settings.named(FOLDER)
        try:
            self._plan = EmbeddingPlan.read(self._folder)
        except (FileNotFoundError, ValueError) as error:
            raise RunStoppedError(f"the plan of the embeddings cannot be read: {error}; run the same again") from error
        if self._plan.teacher.model_id != engine.model_id:
            raise RunStoppedError(
                f"{self._folder} holds embeddings of the encoder {self._plan.teacher.model_id}, the engine runs "
                f"{engine.model_id}; is the model the same on all machines?"
            )
        self._writer: EmbeddingShardWriter | None = None
        self._opened = ExitStack()

    def write(self, batch: Batch, embedding: PictureEmbedding) -> None:
        """See `EmbeddingSink.write`."""
        self._open(batch).add(embedding.key, embedding.features, embedding.image_hw, embedding.input_hw)

    def skip(self, batch: Batch, item: Item, failed: Failed) -> None:
        """See `EmbeddingSink.skip`."""
        self._open(batch).skip(Problem(failed.kind, item.key, failed.reason))

    def end(self) -> None:
        """See `EmbeddingSink.end`."""
        self._writer = None
        self._opened.close()

    def abort(self) -> None:
        """See `EmbeddingSink.abort`."""
        if self._writer is not None:
            self._writer = None
            error = RunStoppedError("the shard is given up")
            with suppress(OSError):  # a full disk fails once more when what is buffered is written
                self._opened.__exit__(type(error), error, None)

    def _open(self, batch: Batch) -> EmbeddingShardWriter:
        if self._writer is not None:
            return self._writer
        try:
            earlier = EarlierShard.find(self._folder, batch.number, self._plan.teacher)
        except OtherTeacherError as error:
            raise RunStoppedError(str(error)) from error
        writer = self._opened.enter_context(EmbeddingShardWriter.open(self._folder, self._plan, batch.number))
        self._writer = writer
        if earlier is not None:
            done_again = {item.key for item in batch.items}
            try:
                for stored in earlier.embeddings(leaving_out=done_again):
                    writer.add(stored.key, stored.features, stored.image_hw, stored.input_hw)
            except ShardDamagedError as error:
                raise RunStoppedError(
                    f"embeddings of pictures that were done before cannot be read: {error}; bring the file back, or "
                    "begin again in another --out"
                ) from error
            for problem in earlier.skipped:
                if problem.where not in done_again:
                    writer.skip(problem)
        return writer


class SafetensorsSink(EmbeddingSink):
    """A file for each picture: "features" (256, S/16, S/16) float16, and sizes and encoder as metadata."""

    def __init__(self, settings: BulkSettings, engine: Engine) -> None:
        self._folder = settings.named(FOLDER)
        self._model_id = engine.model_id

    def write(self, batch: Batch, embedding: PictureEmbedding) -> None:
        """See `EmbeddingSink.write`."""
        from safetensors.numpy import save

        metadata = {
            "key": embedding.key,
            "image_hw": json.dumps(embedding.image_hw),
            "input_hw": json.dumps(embedding.input_hw),
            "model_id": self._model_id,
        }
        path = self._folder / f"{embedding.key}{SUFFIX}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(save({TENSOR: embedding.features}, metadata))

    def skip(self, batch: Batch, item: Item, failed: Failed) -> None:
        """See `EmbeddingSink.skip`: there is no file then."""

    def end(self) -> None:
        """See `EmbeddingSink.end`."""

    def abort(self) -> None:
        """See `EmbeddingSink.abort`."""


_SINKS: dict[str, type[ShardSink] | type[SafetensorsSink]] = {"shards": ShardSink, "safetensors": SafetensorsSink}


def make_embedding_sinks(settings: BulkSettings, engine: Engine) -> list[EmbeddingSink]:
    """Make what writes the formats of the task "embed".

    Raises:
        RunStoppedError: see `ShardSink`.
    """
    return [_SINKS[name](settings, engine) for name in settings.formats]


def describe_teacher(settings: BulkSettings, engine: Engine | None = None) -> TeacherRecord:
    """Say who makes the embeddings of a run.

    Args:
        settings: of the run.
        engine: where there is one already; one is made only for files that tell nothing without being loaded.

    Raises:
        WeightsError, FileNotFoundError: the model cannot be read.
    """
    from mobile_sam.core.weights import describe_checkpoint, find_checkpoint

    checkpoint = find_checkpoint(settings.model)
    name, sha256 = describe_checkpoint(checkpoint)
    model_id, input_side, precision = _encoder_of(settings, checkpoint, engine)
    return TeacherRecord("mobile_sam" if checkpoint is None else name, sha256, model_id, input_side, precision)


def _encoder_of(settings: BulkSettings, checkpoint: Path | None, engine: Engine | None) -> tuple[str, int, str]:
    """Name, input side and precision of the encoder."""
    from mobile_sam.core.geometry import INPUT_SIDE
    from mobile_sam.core.manifest import ExportManifest
    from mobile_sam.core.weights import MANIFEST_FILE, encoder_id
    from mobile_sam.engines import make_engine
    from mobile_sam.engines.weight_files import check_weights

    if checkpoint is not None and (checkpoint / MANIFEST_FILE).is_file():
        manifest = ExportManifest.read(checkpoint)
        return manifest.model_id, manifest.input_side, settings.precision or manifest.precision
    precision = settings.precision or "fp32"
    if engine is None and checkpoint is None:
        return encoder_id(check_weights(None), INPUT_SIDE), INPUT_SIDE, precision
    engine = engine or make_engine("auto", checkpoint, device="cpu")
    return engine.model_id, engine.input_side, precision


def write_plan(
    settings: BulkSettings, teacher: TeacherRecord, num_items: int, fingerprint: str, source_name: str
) -> EmbeddingPlan | None:
    """Prepare the folder of shards, once for each run and before any worker.

    What killed workers left half-written there is removed.

    Args:
        settings: of the run.
        teacher: see `describe_teacher`.
        num_items: of the run.
        fingerprint: of its pictures.
        source_name: of its pictures, for people.

    Returns:
        The plan; None where there are no shards to write.

    Raises:
        ValueError: the folder holds embeddings of another teacher, or in shards of another size.
    """
    if settings.task != "embed" or "shards" not in settings.formats or not num_items:
        return None
    folder = settings.named(FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    remove_abandoned(folder, ".tar")
    plan = EmbeddingPlan(teacher, source_name, fingerprint, num_items, settings.batch_size)
    try:
        found = EmbeddingPlan.read(folder)
    except FileNotFoundError:
        plan.write(folder)
        return plan
    changes = [f"teacher's {change}" for change in plan.teacher.differences(found.teacher)]
    if plan.shard_size != found.shard_size:
        changes.append(f"shard size is {plan.shard_size} here, {found.shard_size} there")
    if changes:
        raise ValueError(
            f"{folder} holds other embeddings than those asked for: {'; '.join(changes)}; name another --out"
        )
    if plan != found:  # as after pictures have been added
        plan.write(folder)
    return plan
