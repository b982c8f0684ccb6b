"""Pictures to train on, by number: whatever they are kept in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobile_sam.data.records import Instance, Problem


def without_dots(key: str) -> str:
    """Replace the dots of a picture's own name, where webdataset would end its key; folders keep theirs.

    >>> without_dots("2024.05/cat.1")
    '2024.05/cat_1'
    """
    folder, slash, name = key.rpartition("/")
    return folder + slash + name.replace(".", "_")


class SampleError(ValueError):
    """One picture of a set cannot be used.

    Attributes:
        key: of the picture.
        kind: a few words that stay the same for all errors of the kind, to count by.
        message: what came, what was expected, what to do.
    """

    def __init__(self, key: str, kind: str, message: str) -> None:
        super().__init__(key, kind, message)
        self.key, self.kind, self.message = key, kind, message

    def __str__(self) -> str:
        return f"{self.key}: {self.message}"


def other_size_error(key: str, annotated_hw: tuple[int, int], image_hw: tuple[int, int], where: str) -> SampleError:
    """Say that annotations are of another height and width than their picture."""
    annotated, found = (f"{height} x {width}" for height, width in (annotated_hw, image_hw))
    message = f"annotated as {annotated} (H x W), the picture is {found}, upright ({where})"
    return SampleError(key, "annotation of another size", message)


@dataclass(frozen=True, eq=False)
class PictureSample:
    """A picture that was read.

    Attributes:
        key: unique in its set.
        image: (H, W, 3) uint8 RGB, upright.
        instances: its annotated objects, where they were asked for.
    """

    key: str
    image: NDArray[np.uint8]
    instances: tuple[Instance, ...] = ()


class PictureSet(ABC):
    """Pictures in a fixed order, each readable by its number; cheap to send to another process.

    Attributes:
        name: for people.
        keys: the pictures' names.
        problems: what was wrong with the source.
    """

    name: str
    keys: Sequence[str]
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hexadecimal sha256 of what the set holds: keys and sizes in bytes."""

    @abstractmethod
    def read(self, index: int, with_instances: bool = False) -> PictureSample:
        """Read a picture.

        Raises:
            SampleError: it cannot be used.
        """

    @abstractmethod
    def subset(self, indices: Sequence[int]) -> PictureSet:
        """Keep some of the pictures, in the order given."""


def open_picture_set(
    sources: str | Path | Sequence[str | Path],
    *,
    fraction: float = 1.0,
    seed: int = 0,
    index_folder: str | Path | None = None,
) -> PictureSet:
    """Open pictures, whatever they are kept in.

    Sources are tar files of pictures, with SA-1B's JSON beside them or not; patterns of tars ("sa_*.tar",
    "sa_{000000..000009}.tar"); folders of tars (nothing else in them is taken), of pictures with all sub-folders, or of
    `images` and `masks`; COCO and LVIS files; picture files. The order in which they are named or listed makes no
    difference. Of a key that comes twice the first picture stays, the other is in `problems`.

    Args:
        sources: one or several.
        fraction: share of the pictures, in (0, 1]. Of tars whole ones are drawn by the seed, then a part of one more,
            so that the others are not even opened; of any other source pictures are drawn. A larger share holds the
            smaller ones.
        seed: of that draw.
        index_folder: keeps what is found in the tars, so that another run need not read all headers again.

    Raises:
        FileNotFoundError: a source is not there, or a pattern fits none.
        ValueError: a compressed tar, a URL, a source of no known form, a fraction out of range, or nothing can be used.
    """
    from mobile_sam.data.picture_sources import open_sources

    listed = [sources] if isinstance(sources, (str, Path)) else list(sources)
    return open_sources(listed, fraction, seed, index_folder)


def hold_out(pictures: PictureSet, num_held_out: int, seed: int) -> tuple[PictureSet, PictureSet]:
    """Set pictures aside, chosen by the seed.

    Returns:
        The others, and those that were set aside, each in the order of the set.

    Raises:
        ValueError: there would be none left, or the number is below 0.
    """
    if not 0 <= num_held_out < len(pictures):
        raise ValueError(f"num_held_out must leave one at least of the {len(pictures)} pictures, got {num_held_out}")
    order = np.random.default_rng(seed).permutation(len(pictures))
    held_out, others = np.sort(order[:num_held_out]), np.sort(order[num_held_out:])
    return pictures.subset(others.tolist()), pictures.subset(held_out.tolist())
