"""Which files stand behind the names that a user gives as sources of pictures."""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mobile_sam.data.annotations import no_picture_message
from mobile_sam.data.file_pictures import FilePictures, from_dataset, from_files, list_pictures_below
from mobile_sam.data.folders import PICTURE_SUFFIXES, list_folder
from mobile_sam.data.joined_pictures import JoinedPictures, without_repeats
from mobile_sam.data.sources import folder_of_pictures, is_annotated, open_dataset
from mobile_sam.data.stored_pictures import StoredPictures
from mobile_sam.data.tar_index import index_tar
from mobile_sam.data.tar_pictures import TarPictures

PICTURE_SOURCES = (
    "expected tar files, a pattern of them (sa_*.tar, sa_{000000..000009}.tar), a folder of tars or of pictures, "
    "or a COCO or LVIS .json file"
)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_URL = re.compile(r"pipe:|[a-zA-Z][a-zA-Z0-9+.-]+://")


def is_url(source: str) -> bool:
    """Tell whether a source is a stream, not a file: https://..., pipe:..., and so on."""
    return _URL.match(source) is not None


def with_ranges(pattern: str) -> Iterator[str]:
    """Write out the ranges of numbers in a pattern, with as many digits as their first number.

    Raises:
        ValueError: a range that ends before it begins.

    >>> list(with_ranges("sa_{08..10}.tar"))
    ['sa_08.tar', 'sa_09.tar', 'sa_10.tar']
    """
    found = _RANGE.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    if int(first) > int(last):
        raise ValueError(f"{pattern} holds the range {found.group()}, expected the smaller number first")
    for number in range(int(first), int(last) + 1):
        yield from with_ranges(f"{pattern[: found.start()]}{number:0{len(first)}}{pattern[found.end() :]}")


def open_sources(
    sources: Sequence[str | Path], fraction: float, seed: int, index_folder: str | Path | None
) -> StoredPictures:
    """Do what `mobile_sam.data.picture_set.open_picture_set` says."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}; 0.01 is 1 %")
    paths = [path for source in sources for path in _paths_of(str(source))]
    if not paths:
        raise ValueError(f"no source of pictures was named; {PICTURE_SOURCES}")
    tars: list[Path] = []
    others: list[Path] = []
    for path in paths:
        found = list_folder(path, (".tar",)) if path.is_dir() else [path] if _is_tar(path) else []
        tars += found
        others += [] if found else [path]
    parts: list[StoredPictures] = [_open_tars(tars, fraction, seed, index_folder)] if tars else []
    pictures = [path for path in others if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()]
    listed = [from_files(_sorted(pictures))] if pictures else []
    listed += [_open_other(path) for path in _sorted(others) if path not in pictures]
    parts += [_some(part, fraction, seed) for part in listed]
    name = parts[0].name + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
    joined = parts[0] if len(parts) == 1 else JoinedPictures(name, parts)
    joined.name = name
    if not len(joined):
        raise ValueError(no_picture_message(paths[0], paths[0], joined.problems))
    return without_repeats(joined)


def _paths_of(source: str) -> list[Path]:
    """Paths that a source stands for, all of them there."""
    if is_url(source):
        raise ValueError(
            f"{source} is a stream, from which no picture can be read alone; download it (or read it once through, "
            "with mobile_sam.data.tar_stream.stream_samples)"
        )
    if os.path.exists(source):
        return [Path(source)]
    paths: list[Path] = []
    for pattern in with_ranges(source):
        if glob.has_magic(pattern):
            paths += map(Path, sorted(glob.glob(pattern, recursive=True)))
        elif os.path.exists(pattern):
            paths.append(Path(pattern))
        else:
            of_range = f", of the pattern {source}," if pattern != source else ""
            raise FileNotFoundError(
                f"nothing at {pattern}{of_range} (seen from {os.getcwd()}); check the spelling of the path"
            )
    if not paths:
        raise FileNotFoundError(f"no file fits the pattern {source} (seen from {os.getcwd()}); check its spelling")
    return paths


def _is_tar(path: Path) -> bool:
    suffixes = "".join(path.suffixes).lower()
    return re.search(r"\.(tar(\.(gz|bz2|xz|zst))?|tgz|tbz2?|txz|tzst)$", suffixes) is not None


def _sorted(paths: Sequence[Path]) -> list[Path]:
    """Each place once, by name and only then by folder, so that it makes no difference where a dataset lies."""
    return sorted({os.path.realpath(path): path for path in sorted(paths)}.values(), key=lambda p: (p.name, str(p)))


def _open_tars(tars: Sequence[Path], fraction: float, seed: int, index_folder: str | Path | None) -> TarPictures:
    """Open whole tars, drawn by the seed, and a part of one more, until the fraction is reached."""
    known = _sorted(tars)
    order = np.random.default_rng(seed).permutation(len(known))
    num_wanted = round(fraction * len(known), 9)
    chosen = {int(number): min(1.0, num_wanted - place) for place, number in enumerate(order) if num_wanted > place}
    paths = [known[number] for number in sorted(chosen)]
    shares = [chosen[number] for number in sorted(chosen)]
    indices = [index_tar(path, index_folder) for path in paths]
    pictures = TarPictures(paths, indices, paths[0].name)
    if min(shares) == 1:
        return pictures
    taken = []
    for number, share in enumerate(shares):
        of_tar = np.flatnonzero(pictures.tar_numbers == number)
        taken.append(of_tar[_drawn(len(of_tar), share, seed)])
    return pictures.subset(np.concatenate(taken).tolist())


def _open_other(path: Path) -> FilePictures:
    if path.is_dir() and (not is_annotated(path) or not (path / "masks").is_dir()):
        return list_pictures_below(path)
    if not is_annotated(path):
        raise ValueError(f"{path} is of no known form; {PICTURE_SOURCES}")
    return from_dataset(open_dataset(path), folder_of_pictures(path))


def _some(pictures: FilePictures, fraction: float, seed: int) -> StoredPictures:
    return pictures if fraction == 1 else pictures.subset(_drawn(len(pictures), fraction, seed).tolist())


def _drawn(num_pictures: int, share: float, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Draw a share of numbers, one at least, in their order; a larger share holds the smaller ones."""
    num_drawn = math.ceil(num_pictures * share) if num_pictures * share < 1 else round(num_pictures * share)
    return np.sort(np.random.default_rng(seed).permutation(num_pictures)[:num_drawn])
