"""What every annotation file becomes: pictures with instances, and a list of what was wrong with the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.masks import Rle, decode_rle, rle_area
from mobile_sam.data.folders import sha256_of_listing


@dataclass(frozen=True)
class Problem:
    """Something wrong with one item of a dataset.

    Attributes:
        kind: a few words that stay the same for all problems of the kind, to count by: "crowd mask", "empty mask".
        where: what it was about: "annotation 17 of picture 139".
        message: what came, what was expected, what to do.
        is_left_out: whether the item is missing from the dataset; else it is there, mended or as it came.
        num_objects: annotations that are lost with it, as with a picture that is missing.
    """

    kind: str
    where: str
    message: str
    is_left_out: bool = True
    num_objects: int = 0


OnProblem = Callable[[Problem], None]
"""Who is told of problems as they are found."""


@dataclass(frozen=True)
class Instance:
    """One annotated object.

    Attributes:
        id: unique in its dataset.
        rle: its mask, in COCO's compressed form, of the picture's size.
        box_xyxy: as annotated, or the mask's tight box, x2 and y2 being the far edges, so that x2 - x1 is the width.
        area_px: as annotated (COCO's is the polygon's), or the mask's number of pixels.
        category: its name, "" where there is none.
        category_id: its number in the annotation file, 0 where there is none.
        is_crowd: whether it is marked as a crowd: a region of many objects, not one.
        point_xy: the click that made the mask, where the file tells (SA-1B).
    """

    id: str
    rle: Rle
    box_xyxy: tuple[float, float, float, float]
    area_px: float
    category: str = ""
    category_id: int = 0
    is_crowd: bool = False
    point_xy: tuple[float, float] | None = None

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The mask, (H, W) bool, decoded anew on each access."""
        return decode_rle(self.rle)

    @property
    def mask_px(self) -> int:
        """The mask's number of pixels."""
        return rle_area(self.rle)


@dataclass(frozen=True)
class Picture:
    """A picture file and its annotated objects.

    Attributes:
        id: unique in its dataset.
        path: where the file is.
        instances: maybe none.
        size_hw: height and width in pixels as annotated; None where nothing tells.
    """

    id: str
    path: Path
    instances: tuple[Instance, ...] = ()
    size_hw: tuple[int, int] | None = None


@dataclass(frozen=True)
class Dataset:
    """Pictures in a fixed order, and what was wrong with those that are missing.

    Attributes:
        name: the annotation file's or the folder's name, without its path.
        kind: "coco", "lvis", "sa-1b", "mask folder" or "pictures"; "mask folder (binary)" or "mask folder (labels)"
            where that was said.
        sha256: of the annotation file, or of what the folder lists (names and sizes of its files).
        pictures: in the order of the file, or of their names.
        problems: in the order they were met.
        selection: how the pictures were chosen, in words.
        passed_over: ids of the pictures that were not chosen.
    """

    name: str
    kind: str
    sha256: str
    pictures: tuple[Picture, ...]
    problems: tuple[Problem, ...] = ()
    selection: str = "all pictures"
    passed_over: frozenset[str] = frozenset()

    @property
    def num_instances(self) -> int:
        """Number of annotated objects that are there."""
        return sum(len(picture.instances) for picture in self.pictures)

    @property
    def pictures_sha256(self) -> str:
        """Hash of the pictures' ids and the sizes of their files as they are now, -1 for those that are missing."""
        return sha256_of_listing((picture.id, picture.path) for picture in self.pictures)

    def count_problems(self) -> dict[str, int]:
        """Count the problems by kind, the most frequent first."""
        return dict(Counter(problem.kind for problem in self.problems).most_common())

    def some(self, num_pictures: int, seed: int | None = None) -> Dataset:
        """Keep some of the pictures: the first ones, or with a seed a random choice, in the order of the dataset.

        Raises:
            ValueError: a number below 1.
        """
        if num_pictures < 1:
            raise ValueError(f"the number of pictures must be at least 1, got {num_pictures}")
        if num_pictures >= len(self.pictures):
            return self
        if seed is None:
            chosen, selection = list(range(num_pictures)), f"the first {num_pictures} pictures"
        else:
            drawn = np.random.default_rng(seed).choice(len(self.pictures), num_pictures, replace=False)
            chosen, selection = sorted(drawn.tolist()), f"{num_pictures} pictures chosen with seed {seed}"
        pictures = tuple(self.pictures[index] for index in chosen)
        others = {picture.id for picture in self.pictures} - {picture.id for picture in pictures}
        return replace(self, pictures=pictures, selection=selection, passed_over=self.passed_over | others)
