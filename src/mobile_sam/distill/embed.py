"""Encode a set of pictures with the teacher, once for all training runs, in shards that can be made apart."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mobile_sam.core.files import remove_abandoned
from mobile_sam.data.embedding_format import MANIFEST_JSON, EmbeddingPlan, ShardRecord, shard_name
from mobile_sam.data.embedding_shards import StoredEmbedding, read_finished
from mobile_sam.data.embedding_writer import EmbeddingShardWriter
from mobile_sam.data.picture_set import PictureSet, SampleError
from mobile_sam.data.records import Problem
from mobile_sam.distill.guard import are_too_many
from mobile_sam.distill.processes import told_of_dead_readers
from mobile_sam.distill.read_ahead import ResizedPicture, read_ahead
from mobile_sam.distill.teacher import Teacher

MIB, GIB = 1 << 20, 1 << 30
TAR_BYTES_PER_PICTURE = 4 * 512 + 256  # beside the values: headers, KEY.json, and its share of the shard's .json
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class EmbedReport:
    """What a run of `embed` did.

    Attributes:
        plan: of the folder.
        num_shards: of this part.
        num_kept: how many of these were there before.
        num_embedded: pictures encoded by this run.
        skipped: pictures of this part that could not be used, now or before; `where` is the key.
        seconds: from the first picture to the last.
    """

    plan: EmbeddingPlan
    num_shards: int
    num_kept: int
    num_embedded: int
    skipped: tuple[Problem, ...]
    seconds: float

    @property
    def pictures_per_s(self) -> float:
        """Pace of this run; 0 where there was nothing to do."""
        return self.num_embedded / self.seconds if self.num_embedded else 0.0


@dataclass(frozen=True)
class EmbedOptions:
    """How embeddings are made; none of it changes which, but for the last bit of some, which a batch size may turn.

    Attributes:
        part: number of this part, from 0, and how many there are: shard k is of part k % count.
        batch_size: pictures encoded together; None for what suits the teacher and its device.
        num_workers: processes that read pictures; 0 for none.
        max_skipped: share of the pictures read so far that may be unusable, in [0, 1]; a few always may.
        verify: whether finished shards are read again and, where their sha256 is wrong, made anew.
        tell: is told lines for the user.
        progress: is told how many pictures of this part are done, how many of these were skipped, how many there are.
    """

    part: tuple[int, int] = (0, 1)
    batch_size: int | None = None
    num_workers: int = 4
    max_skipped: float = 0.01
    verify: bool = False
    tell: Callable[[str], None] = lambda line: None
    progress: Callable[[float, int, float], None] = lambda num_done, num_failed, num_all: None

    def __post_init__(self) -> None:
        index, count = self.part
        if not 0 <= index < count:
            raise ValueError(f"part must be (index, count) with index from 0 to count - 1, got {self.part}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be 0 or more, got {self.num_workers}")
        if not 0 <= self.max_skipped <= 1:
            raise ValueError(f"max_skipped must be a share in [0, 1], got {self.max_skipped}")


def embed(
    pictures: PictureSet,
    teacher: Teacher,
    out: str | Path,
    *,
    shard_size: int = 500,
    options: EmbedOptions | None = None,
) -> EmbedReport:
    """Write the teacher's embeddings of all pictures of a part, as float16, to shards in a folder.

    Shards that are finished are kept, so that the same call goes on where an earlier one was stopped, and other
    processes and machines may make other parts in the same folder meanwhile. The bytes do not depend on who made what.

    Args:
        pictures: the set, all of it, in every part.
        teacher: whose embeddings.
        out: folder, made if it is not there.
        shard_size: pictures in a shard.
        options: see `EmbedOptions`.

    Raises:
        ValueError: the folder is of another teacher or of other pictures, or too many pictures cannot be used.
        OSError: the disk is full, or would be; or a process that reads was killed.
    """
    options = options or EmbedOptions()
    out = Path(out)
    plan = EmbeddingPlan(teacher.record, pictures.name, pictures.fingerprint, len(pictures), shard_size)
    _claim(out, plan)
    remove_abandoned(out, ".tar")
    index, count = options.part
    shards = range(index, plan.num_shards, count)
    kept = _finished(out, plan, pictures, shards, options)
    job = _Job(pictures, teacher, out, plan, shards, kept, options)
    job.announce()
    with told_of_dead_readers("Finished shards stay: run the same command again, with fewer --workers"):
        return job.run()


def part_from_environment() -> tuple[int, int]:
    """Take the part from what `torchrun` sets (RANK, WORLD_SIZE): this process's number and how many there are."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


class _Job:
    """One run over the shards of a part: what is done and what was skipped so far."""

    def __init__(
        self,
        pictures: PictureSet,
        teacher: Teacher,
        out: Path,
        plan: EmbeddingPlan,
        shards: range,
        kept: dict[int, ShardRecord],
        options: EmbedOptions,
    ) -> None:
        self.pictures = pictures
        self.teacher = teacher
        self.out = out
        self.plan = plan
        self.shards = shards
        self.kept = kept
        self.options = options
        self.batch_size = options.batch_size or teacher.engine.images_at_once
        self.skipped = [problem for record in kept.values() for problem in record.skipped]
        self.num_pictures = sum(len(plan.pictures_of(shard)) for shard in shards)
        self.num_done = sum(len(plan.pictures_of(shard)) for shard in kept)
        self.num_before = self.num_done
        self.num_embedded = 0
        self.started_s = time.perf_counter()

    def announce(self) -> None:
        """Say what is about to be done, and whether the disk has room for it.

        Raises:
            OSError: it has not.
        """
        index, count = self.options.part
        num_bytes = _bytes_per_picture(self.plan)
        todo_bytes = (self.num_pictures - self.num_done) * num_bytes
        free_bytes = shutil.disk_usage(self.out).free
        part = f"; part {index + 1} of {count}: {self.num_pictures} pictures" if count > 1 else ""
        before = f", {self.num_done} of them done before" if self.num_done else ""
        self.options.tell(
            f"{self.plan.source_name}: {len(self.pictures)} pictures, {_size(len(self.pictures) * num_bytes)} in "
            f"{self.plan.num_shards} shards{part}{before}"
        )
        self.options.tell(f"to be written: {_size(todo_bytes)}; free in {self.out}: {_size(free_bytes)}")
        if todo_bytes > free_bytes:
            raise OSError(
                f"the embeddings need {_size(todo_bytes)} and {self.out} has {_size(free_bytes)} free, "
                f"{_size(todo_bytes - free_bytes)} too little; name another --out, a smaller --fraction, or a --part"
            )

    def run(self) -> EmbedReport:
        """Make the shards that are not there."""
        todo = [shard for shard in self.shards if shard not in self.kept]
        batches = [batch for shard in todo for batch in self._batches_of(shard)]
        side = self.teacher.record.input_side
        self.started_s = time.perf_counter()
        self.options.progress(self.num_done, len(self.skipped), self.num_pictures)
        read = read_ahead(self.pictures, batches, side, self.options.num_workers) if batches else iter(())
        for num_made, shard in enumerate(todo, 1):
            self._make(shard, read)
            self.options.tell(f"{shard_name(shard)}: {num_made} of {len(todo)} shards; {self._pace()}")
        return EmbedReport(
            plan=self.plan,
            num_shards=len(self.shards),
            num_kept=len(self.kept),
            num_embedded=self.num_embedded,
            skipped=tuple(self.skipped),
            seconds=time.perf_counter() - self.started_s,
        )

    def _batches_of(self, shard: int) -> list[range]:
        """Numbers of the pictures of each batch of a shard: none is of two, so that a shard's bytes are its own."""
        numbers = self.plan.pictures_of(shard)
        return [numbers[start : start + self.batch_size] for start in range(0, len(numbers), self.batch_size)]

    def _make(self, shard: int, read: Iterator[list[ResizedPicture | SampleError]]) -> None:
        """Write a shard; the disk takes one batch while the next one is encoded.

        Raises:
            OSError: the disk is full.
            ValueError: too many pictures were skipped.
        """
        try:
            with EmbeddingShardWriter.open(self.out, self.plan, shard) as writer, ThreadPoolExecutor(1) as pool:
                writing: Future[None] | None = None
                for _ in self._batches_of(shard):
                    rows = self._encode(next(read))
                    if writing is not None:
                        writing.result()
                    writing = pool.submit(_write, writer, rows)
                assert writing is not None  # no shard is empty
                writing.result()
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise OSError(
                f"the disk of {self.out} is full: {shard_name(shard)} was not written, the shards before it stay; "
                "make room and run the same command again"
            ) from error

    def _encode(self, items: Sequence[ResizedPicture | SampleError]) -> list[StoredEmbedding | Problem]:
        """Encode what can be used of a batch, and count; in the order of the batch.

        Raises:
            ValueError: too many pictures were skipped.
        """
        encoded = iter(self._embeddings([item for item in items if isinstance(item, ResizedPicture)]))
        rows: list[StoredEmbedding | Problem] = []
        for item in items:
            row = next(encoded) if isinstance(item, ResizedPicture) else item
            if isinstance(row, SampleError):
                self.options.tell(f"skipped {row}")
                problem = Problem(row.kind, row.key, row.message)
                self.skipped.append(problem)
                rows.append(problem)
            else:
                self.num_embedded += 1
                rows.append(row)
        self.num_done += len(items)
        self.options.progress(self.num_done, len(self.skipped), self.num_pictures)
        self._check_skipped()
        return rows

    def _embeddings(self, items: Sequence[ResizedPicture]) -> list[StoredEmbedding | SampleError]:
        """Encode pictures; the values of one may be more than a float16 holds, or not finite at all."""
        if not items:
            return []
        features = self.teacher.encode_resized([item.pixels for item in items]).to(torch.float16)  # (B, 256, h, w)
        is_finite = torch.isfinite(features).flatten(1).all(dim=1).tolist()  # (B,)
        arrays = features.cpu().numpy()
        message = f"the teacher's embedding in {self.teacher.record.precision} is not finite; use --precision fp32"
        return [
            StoredEmbedding(item.key, array, item.image_hw, item.input_hw)
            if fine
            else SampleError(item.key, "infinite embedding", message)
            for item, array, fine in zip(items, arrays, is_finite, strict=True)
        ]

    def _check_skipped(self) -> None:
        num_skipped = len(self.skipped)
        if are_too_many(num_skipped, self.num_done, self.options.max_skipped):
            raise ValueError(
                f"{num_skipped} of the first {self.num_done} pictures cannot be used, more than the share of "
                f"{self.options.max_skipped:g} that --max-skipped allows, such as {self.skipped[-1].where}: "
                f"{self.skipped[-1].message}; mend the source, or raise --max-skipped; finished shards stay"
            )

    def _pace(self) -> str:
        per_s = (self.num_done - self.num_before) / max(time.perf_counter() - self.started_s, 1e-9)
        left_s = round((self.num_pictures - self.num_done) / max(per_s, 1e-9))
        left = f"{left_s // 3600}:{left_s // 60 % 60:02d}:{left_s % 60:02d}"
        return f"{self.num_done} of {self.num_pictures} pictures, {per_s:.3g} pictures/s, {left} left"


def _write(writer: EmbeddingShardWriter, rows: Sequence[StoredEmbedding | Problem]) -> None:
    for row in rows:
        if isinstance(row, Problem):
            writer.skip(row)
        else:
            writer.add(row.key, row.features, row.image_hw, row.input_hw)


def _claim(out: Path, plan: EmbeddingPlan) -> None:
    """Make the folder, or find out that it is one of the same plan.

    Raises:
        ValueError: it is of another, or holds other things.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder for the embeddings")
    out.mkdir(parents=True, exist_ok=True)
    try:
        found = EmbeddingPlan.read(out)
    except FileNotFoundError:
        plan.write(out)
        found = EmbeddingPlan.read(out)  # what another process may have written at the same time
    changes = plan.differences(found)
    if changes:
        raise ValueError(
            f"{out} holds other embeddings than those asked for: {'; '.join(changes)} (in its {MANIFEST_JSON}); "
            "name another --out, or ask for the same"
        )


def _finished(
    out: Path, plan: EmbeddingPlan, pictures: PictureSet, shards: range, options: EmbedOptions
) -> dict[int, ShardRecord]:
    """Read the tables of contents of the shards that need not be made."""
    finished = {}
    for shard in shards:
        found = read_finished(out, shard, plan.teacher, verify=options.verify)
        if isinstance(found, ShardRecord):
            in_shard = {*found.keys, *(problem.where for problem in found.skipped)}
            if in_shard == {pictures.keys[number] for number in plan.pictures_of(shard)}:
                finished[shard] = found
                continue
            found = Problem("other pictures", shard_name(shard), "it holds other pictures than the manifest says")
        if found.kind != "unfinished shard":
            options.tell(f"{found.where} is made anew: {found.message}")
    return finished


def _bytes_per_picture(plan: EmbeddingPlan) -> int:
    return 2 * int(np.prod(plan.teacher.feature_shape)) + TAR_BYTES_PER_PICTURE


def _size(num_bytes: int) -> str:
    """Name a number of bytes, as in "215 GiB".

    >>> _size(3 << 20), _size(215 << 30)
    ('3 MiB', '215 GiB')
    """
    amount, unit = (num_bytes / GIB, "GiB") if num_bytes >= GIB else (num_bytes / MIB, "MiB")
    return f"{amount:.3g} {unit}" if amount < 1000 else f"{amount:,.0f} {unit}"
