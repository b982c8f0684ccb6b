"""Where in a tar the pictures and their annotations lie, found by reading its headers once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.files import atomic_path
from mobile_sam.data.compact import Blobs, Names
from mobile_sam.data.folders import PICTURE_SUFFIXES
from mobile_sam.data.records import Problem
from mobile_sam.data.tar_members import COMPRESSED, TarDamageError, split_member_name, tar_members

logger = logging.getLogger(__name__)

_FORM = 1  # of the files that keep an index; another number has them made anew


@dataclass(frozen=True, eq=False)
class TarIndex:
    """The samples of a tar: pictures, and the JSON files of the same names.

    Attributes:
        keys: (N,) names of the samples, in the order of the tar.
        picture_spans: (N, 2) int64, where the file of each picture begins in the tar, and its size in bytes.
        suffix_numbers: (N,) uint8, which of `PICTURE_SUFFIXES` it has.
        annotation_spans: (N, 2) int64 of the JSON files, -1 where there is none.
        problems: what is wrong with the tar.
    """

    keys: Names
    picture_spans: NDArray[np.int64]
    suffix_numbers: NDArray[np.uint8]
    annotation_spans: NDArray[np.int64]
    problems: tuple[Problem, ...] = ()


def index_tar(path: str | os.PathLike[str], index_folder: str | os.PathLike[str] | None = None) -> TarIndex:
    """Find the pictures in a tar.

    Of a tar that is cut short or damaged the whole samples are there; of a key that comes twice the first is. Either is
    a problem: "truncated tar", "damaged tar", "unreadable tar", "repeated key", "sample without picture".

    Args:
        path: an uncompressed tar.
        index_folder: keeps indices for the next time; one that is of another size or time of change than the tar, or
            damaged, is made anew. It is made if it is not there.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is compressed, so that nothing in it can be read alone.
    """
    if index_folder is None:
        return _read_headers(path)
    state = os.stat(path)
    place = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:12]
    kept = Path(index_folder, f"{Path(path).name}.{place}.npz")
    stamp = f"{_FORM} {state.st_size} {state.st_mtime_ns}"
    index = _load(kept, stamp)
    if index is None:
        index = _read_headers(path)
        _save(index, kept, stamp)
    return index


@dataclass
class _Sample:
    picture: tuple[int, int] | None = None
    suffix_number: int = 0
    annotation: tuple[int, int] = (-1, -1)


def _read_headers(path: str | os.PathLike[str]) -> TarIndex:
    with open(path, "rb", buffering=0) as raw:
        file: BinaryIO = raw
        _refuse_compressed(file, path)
        samples: dict[str, _Sample] = {}
        problems = list(_collect(file, os.fspath(path), samples))
    for key, sample in samples.items():
        if sample.picture is None:
            message = f"{key} has no picture of its name in {path}; {', '.join(PICTURE_SUFFIXES)} are known"
            problems.append(Problem("sample without picture", key, message))
    usable = {key: sample for key, sample in samples.items() if sample.picture is not None}
    return TarIndex(
        Names.of(usable),
        _spans(sample.picture for sample in usable.values()),
        np.array([sample.suffix_number for sample in usable.values()], np.uint8),
        _spans(sample.annotation for sample in usable.values()),
        tuple(problems),
    )


def _spans(spans: Iterator[tuple[int, int] | None]) -> NDArray[np.int64]:
    return np.array(list(spans), np.int64).reshape(-1, 2)


def _refuse_compressed(file: BinaryIO, path: str | os.PathLike[str]) -> None:
    start = file.read(8)
    file.seek(0)
    for mark, name in COMPRESSED.items():
        if start.startswith(mark):
            raise ValueError(
                f"{path} is compressed ({name}), so that no picture in it can be read alone; unpack it first"
            )


def _collect(file: BinaryIO, path: str, samples: dict[str, _Sample]) -> Iterator[Problem]:
    """Take note of each file of the tar."""
    repeated: set[str] = set()
    try:
        for member in tar_members(file, os.path.getsize(path)):
            key, extension = split_member_name(member.name)
            suffix = f".{extension}"
            if key is None or suffix not in (*PICTURE_SUFFIXES, ".json"):
                continue
            sample = samples.setdefault(key, _Sample())
            span = (member.offset_data, member.size)
            is_taken = sample.annotation[0] >= 0 if suffix == ".json" else sample.picture is not None
            if is_taken:
                if key not in repeated:
                    yield Problem("repeated key", key, f"comes more than once in {path}; the first stays")
                repeated.add(key)
            elif suffix == ".json":
                sample.annotation = span
            else:
                sample.picture, sample.suffix_number = span, PICTURE_SUFFIXES.index(suffix)
    except TarDamageError as damage:
        cut_key = split_member_name(damage.member)[0] if damage.member else None
        if cut_key is not None and cut_key not in repeated:
            samples.pop(cut_key, None)
        last = next(reversed(samples), None)
        rest = "it holds no whole sample" if last is None else f"{len(samples)} samples up to {last} are used"
        yield Problem(damage.kind, path, f"{damage}; {rest}; was it copied or downloaded to the end?")


def _load(kept: Path, stamp: str) -> TarIndex | None:
    """Read an index back; None if there is none of this stamp that is whole."""
    try:
        with np.load(kept, allow_pickle=False) as arrays:
            if str(arrays["stamp"]) != stamp:
                return None
            keys = Names(Blobs(arrays["keys"].tobytes(), arrays["key_ends"]))
            problems = tuple(Problem(**record) for record in json.loads(str(arrays["problems"])))
            spans = arrays["picture_spans"], arrays["suffix_numbers"], arrays["annotation_spans"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("the index %s is damaged and made anew: %s", kept, error)
        return None
    return TarIndex(keys, *spans, problems)


def _save(index: TarIndex, kept: Path, stamp: str) -> None:
    arrays: dict[str, Any] = {
        "stamp": np.array(stamp),
        "keys": np.frombuffer(index.keys.blobs.content, np.uint8),
        "key_ends": index.keys.blobs.ends,
        "picture_spans": index.picture_spans,
        "suffix_numbers": index.suffix_numbers,
        "annotation_spans": index.annotation_spans,
        "problems": np.array(json.dumps([asdict(problem) for problem in index.problems])),
    }
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(kept) as temporary:
            np.savez(temporary, **arrays)
    except OSError as error:
        logger.warning("the index of a tar is not kept: %s", error)
