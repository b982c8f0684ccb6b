"""Tar shards read once from beginning to end, from wherever webdataset can open them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobile_sam.core.errors import ImageReadError, MissingDependencyError
from mobile_sam.core.images import read_image
from mobile_sam.data.folders import PICTURE_SUFFIXES
from mobile_sam.data.picture_set import PictureSample, SampleError
from mobile_sam.data.picture_sources import is_url, with_ranges
from mobile_sam.data.records import Problem
from mobile_sam.data.sa1b import read_sample_annotations
from mobile_sam.data.tar_members import ForwardReader, TarDamageError, split_member_name, tar_members


def stream_samples(
    urls: str | Path | Sequence[str | Path],
    on_problem: Callable[[Problem], None],
    *,
    with_instances: bool = False,
    rank: int = 0,
    world_size: int = 1,
    worker: int = 0,
    num_workers: int = 1,
) -> Iterator[PictureSample]:
    """Read the pictures of tar shards in one pass.

    Whatever is wrong is reported with shard and key, and passed over: "unreachable tar", "truncated tar", "damaged
    tar", "unreadable tar", "repeated key" (among the shards of this process and worker), "corrupt picture", "sample
    without picture", and what is wrong with annotations. A compressed tar needs its program: pipe:gzip -dc FILE.

    Args:
        urls: files, https://..., pipe:COMMAND, and what else webdataset opens; ranges {000000..000009} are written out.
        on_problem: is told of each problem when it is met.
        with_instances: whether to read the JSON files beside the pictures.
        rank: of this process; with the worker it says which shards are its own.
        world_size: number of processes.
        worker: of this process, from 0.
        num_workers: of each process.

    Raises:
        MissingDependencyError: webdataset is not installed.
        ValueError: a URL that needs a program of its own, as s3:// does, or a rank or worker out of range.
    """
    if not (0 <= rank < world_size and 0 <= worker < num_workers):
        raise ValueError(
            f"rank must be below world_size and worker below num_workers, got {rank} of {world_size}, "
            f"{worker} of {num_workers}"
        )
    listed = [urls] if isinstance(urls, (str, Path)) else list(urls)
    shards = [shard for url in listed for shard in with_ranges(str(url))]
    for shard in shards:
        if shard.startswith("s3:"):
            raise ValueError(f"{shard} cannot be opened; put the program that reads it: 'pipe:aws s3 cp {shard} -'")
    return _stream(shards[rank * num_workers + worker :: world_size * num_workers], on_problem, with_instances)


def _stream(
    shards: Sequence[str], on_problem: Callable[[Problem], None], with_instances: bool
) -> Iterator[PictureSample]:
    seen: set[str] = set()
    for shard in shards:
        for sample in _samples(shard, on_problem):
            key = sample["__key__"]
            if key in seen:
                on_problem(Problem("repeated key", key, f"comes again in {shard}; the first stays"))
                continue
            seen.add(key)
            try:
                picture = _decoded(sample, shard, with_instances)
            except SampleError as error:
                on_problem(Problem(error.kind, key, error.message))
                continue
            yield picture


def _decoded(sample: dict[str, Any], shard: str, with_instances: bool) -> PictureSample:
    key = sample["__key__"]
    content = next((sample[suffix[1:]] for suffix in PICTURE_SUFFIXES if suffix[1:] in sample), None)
    if content is None:
        raise SampleError(key, "sample without picture", f"has no picture of its name in {shard}")
    try:
        image = read_image(content)
    except ImageReadError as error:
        raise SampleError(key, "corrupt picture", f"{error} (in {shard})") from error
    if not with_instances:
        return PictureSample(key, image)
    height, width, _ = image.shape
    return PictureSample(key, image, read_sample_annotations(sample.get("json"), key, (height, width), f"in {shard}"))


def _samples(shard: str, on_problem: Callable[[Problem], None]) -> Iterator[dict[str, Any]]:
    """Samples of one shard that are whole, as webdataset groups them."""
    try:
        from webdataset.gopen import gopen
        from webdataset.tariterators import group_by_keys
    except ImportError as error:
        raise MissingDependencyError(
            "reading tars as streams needs webdataset; run: pip install 'mobile-sam[train]'", name="webdataset"
        ) from error

    state = _State()

    def note_repeated(error: Exception) -> bool:
        key, _ = split_member_name(state.member)
        on_problem(
            Problem("repeated key", str(key), f"{state.member} comes more than once in {shard}; the first stays")
        )
        return True

    wanted = {suffix[1:] for suffix in PICTURE_SUFFIXES} | {"json"}
    try:
        stream = gopen(shard if is_url(shard) else str(Path(shard)))
    except (OSError, ValueError) as error:
        on_problem(Problem("unreachable tar", shard, f"cannot be opened: {error}"))
        return
    last_key = ""
    try:
        files = _files(stream, shard, state)
        for sample in group_by_keys(files, split_member_name, suffixes=wanted, handler=note_repeated):
            is_cut = state.damage and split_member_name(state.damage.member or "")[0] == sample["__key__"]
            if not is_cut and any(suffix in sample for suffix in wanted):
                last_key = sample["__key__"]
                yield sample
    finally:
        ended = _close(stream)
    if state.damage:
        after = f"after {last_key}" if last_key else "before any sample"
        why = "; ".join(filter(None, (str(state.damage), ended)))
        on_problem(Problem(state.damage.kind, shard, f"{why}; this was {after}; what follows is lost"))


@dataclass
class _State:
    """How far a shard was read.

    Attributes:
        member: name of the latest file.
        damage: what ended it too early.
    """

    member: str = ""
    damage: TarDamageError | None = None


def _files(stream: Any, shard: str, state: _State) -> Iterator[dict[str, Any]]:
    """Files of a tar as webdataset's functions pass them on."""
    file = ForwardReader(stream)
    try:
        for member in tar_members(file):
            content = file.read(member.size)
            if len(content) < member.size:
                raise TarDamageError("truncated tar", f"it ends within {member.name}", member.name)
            state.member = member.name
            yield {"fname": member.name, "data": content, "__url__": shard}
    except OSError as error:
        state.damage = TarDamageError("unreadable tar", f"it cannot be read: {error}")
    except TarDamageError as damage:
        state.damage = damage


def _close(stream: Any) -> str:
    """Close a stream; what its program said, if it failed."""
    try:
        stream.close()
    except Exception as error:  # noqa: BLE001 - webdataset's pipes raise what they like
        return str(error)
    return ""
