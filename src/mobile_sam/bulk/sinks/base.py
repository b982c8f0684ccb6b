"""What a format of results is: a module with one class, of one of two kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobile_sam.bulk.results import PictureMasks
from mobile_sam.everything.coco import CATEGORY_ID, CATEGORY_NAME, category_name


@dataclass(frozen=True)
class SinkSettings:
    """What all formats may need to know; the same for each worker of a run.

    Attributes:
        out: folder of the run. A format writes into a folder or file of its own name in it.
        categories: names by number, as far as they are known.
        info: how the masks are made, as what JSON has: tool, version, model, task, settings.
        shard: (number from 0, count) of the part of the pictures that the run does.
    """

    out: Path
    categories: Mapping[int, str] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    shard: tuple[int, int] = (0, 1)

    @property
    def shard_name(self) -> str:
        """Name of the part: "" for the whole, else as in "2-of-8", counted from 1.

        It is in the names of files that hold the results of many pictures, so that the runs on the other parts write
        beside them.
        """
        number, count = self.shard
        return "" if count == 1 else f"{number + 1}-of-{count}"

    def category_of(self, record: Mapping[str, Any]) -> tuple[int, str]:
        """Give number and name of a mask's category.

        A mask without one is an "object": number 1 or, if that is another known category, one more than all known.
        """
        category_id = record.get("category_id")
        if category_id is not None:
            return category_id, category_name(category_id, self.categories)
        is_free = self.categories.get(CATEGORY_ID, CATEGORY_NAME) == CATEGORY_NAME
        return CATEGORY_ID if is_free else max(self.categories) + 1, CATEGORY_NAME

    def picture_number(self, masks: PictureMasks) -> int:
        """Number a picture among all parts of the run: as the annotation file that listed it, else by its item."""
        if masks.source_id is not None:
            return masks.source_id
        return self.item_number(masks)

    def item_number(self, masks: PictureMasks) -> int:
        """Number a picture by its item; the parts of a run, which all count from 1, take turns."""
        number, count = self.shard
        return (masks.item_id - 1) * count + number + 1

    def name(self, stem: str, suffix: str) -> str:
        """Name a file of many pictures' results: "coco.json", or with a shard "coco-2-of-8.json"."""
        return f"{stem}-{self.shard_name}{suffix}" if self.shard_name else f"{stem}{suffix}"


class PictureSink(ABC):
    """A format with files for each picture, written by workers, at the same time, on any machine.

    The same masks always give the same files, so that a picture may be written again.
    """

    def __init__(self, settings: SinkSettings) -> None:
        self.settings = settings

    @abstractmethod
    def write(self, masks: PictureMasks) -> None:
        """Write the files of one picture, each whole or not at all, in place of earlier ones.

        Raises:
            OSError: as the disk does.
        """

    def begin(self) -> None:  # noqa: B027 - most have nothing to begin
        """Write what all pictures share, such as the names of classes; called once in a run, before any `write`."""


class CollectedSink(ABC):
    """A format with files for many pictures, written at the end, in the order of the items, from the spool."""

    def __init__(self, settings: SinkSettings) -> None:
        self.settings = settings

    @abstractmethod
    def write(self, pictures: Iterable[PictureMasks]) -> list[Path]:
        """Write all, whole or not at all, in place of earlier files, holding a few pictures in memory at most.

        Args:
            pictures: in the order of their ids; there may be none.

        Returns:
            The files that were written.

        Raises:
            OSError: as the disk does.
        """
