"""What a run goes through: pictures by number, name and place, and the batches that workers take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where the encoded bytes of a picture lie.

    Attributes:
        path: of a file, as the operating system names it (`os.fsdecode`), or a URL of fsspec.
        start: where in the file the picture begins, in bytes, such as in a tar.
        size_bytes: of the picture; None for all that follows `start`.
    """

    path: str
    start: int = 0
    size_bytes: int | None = None


@dataclass(frozen=True)
class Listed:
    """A picture that a source lists.

    Attributes:
        key: what its outputs are called: a relative path without suffix, parts divided by "/", valid UTF-8, never
            leading out of a folder. Not yet unique.
        file_name: of the picture, with suffix, relative to its source, valid UTF-8: what other tools look for.
        place: where it is.
        identity: the same for two entries that are one picture, such as the real path of the file.
        source_id: its number in the annotation file that lists it, if one does.
    """

    key: str
    file_name: str
    place: Place
    identity: str
    source_id: int | None = None


@dataclass(frozen=True)
class Item:
    """A picture of a run.

    Attributes:
        id: from 1, in the order of the listing.
        key: as in `Listed`, unique in the run, also where upper and lower case are the same.
        file_name: as in `Listed`.
        place: where it is.
        source_id: as in `Listed`.
        prompts: of the tasks that need some: as `mobile_sam.bulk.prompts` keeps them, as JSON; None for others.
    """

    id: int
    key: str
    file_name: str
    place: Place
    source_id: int | None = None
    prompts: str | None = None


@dataclass(frozen=True)
class Batch:
    """What a worker takes at once: the items that are left of a fixed range of ids.

    Attributes:
        number: of the range, from 0: with a batch size of S, the ids from number * S + 1 to (number + 1) * S. Never are
            two batches of one number worked on at the same time.
        items: those of the range that are to be done, in the order of their ids; at least one.
    """

    number: int
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Done:
    """An item whose results are on the disk.

    Attributes:
        item_id: of the item.
        num_masks: found in it; 0 for embeddings.
        part: file in the spool that holds its masks as a line; "" where there is no spool.
        offset: where in that file its line begins, in bytes.
        size_bytes: of the line, with its end.
    """

    item_id: int
    num_masks: int = 0
    part: str = ""
    offset: int = 0
    size_bytes: int = 0


@dataclass(frozen=True)
class Failed:
    """An item that could not be done.

    Attributes:
        item_id: of the item.
        kind: a few words that stay the same for all failures of the kind, to count by: "unreadable picture", ...
        reason: what came, what was expected, what to do.
    """

    item_id: int
    kind: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What became of items, as a worker tells it; what it names is on the disk, and can be entered in the manifest.

    Attributes:
        done: items with their results.
        failed: items without.
        num_computed: how many items were computed since the last report, each counted once, at the latest in the report
            that names it: for progress only.
        is_last: whether the worker has ended the batch.
        batch_number: of the batch.
    """

    batch_number: int
    done: tuple[Done, ...] = ()
    failed: tuple[Failed, ...] = ()
    num_computed: int = 0
    is_last: bool = False


class RunStoppedError(RuntimeError):
    """Something is wrong that is no single picture's fault, such as a full disk: the run ends, and can go on later."""
