"""Batches in the hands of the local executor, and what becomes of those whose worker died."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mobile_sam.bulk.items import Batch, Failed, Item, Report

WORKER_DIED = "worker died"
"""`Failed.kind` of an item that ended its worker's process."""


@dataclass(eq=False)
class Job:
    """A batch, or what is left of one, that goes to a worker.

    Attributes:
        batch: as the worker gets it.
        is_alone: whether the worker must have no other job at the same time, since a worker that had it died.
        is_one_by_one: whether the batch was split because its worker died; `batch` then has a single item.
        rest: of a batch that was split: the items that follow.
    """

    batch: Batch
    is_alone: bool = False
    is_one_by_one: bool = False
    rest: tuple[Item, ...] = ()

    def __post_init__(self) -> None:
        self._unfinished = {item.id: item for item in self.batch.items}

    @property
    def unfinished(self) -> tuple[Item, ...]:
        """Items that no report has named yet, in the order of their ids."""
        return tuple(self._unfinished.values())

    def note(self, report: Report) -> None:
        """Take the items that a report names off the unfinished ones."""
        for item_id in [done.item_id for done in report.done] + [failed.item_id for failed in report.failed]:
            self._unfinished.pop(item_id, None)


def one_by_one(number: int, items: Sequence[Item]) -> Job:
    """Make a job of the first of some items, which the others follow."""
    return Job(Batch(number, (items[0],)), is_alone=True, is_one_by_one=True, rest=tuple(items[1:]))


class Jobs:
    """Takes batches from where they come, as few as keep the workers busy, and gives them out as jobs.

    Args:
        batches: read lazily.
        max_in_hand: batches that were read and are not ended, at most.
    """

    def __init__(self, batches: Iterator[Batch], max_in_hand: int) -> None:
        self._batches = batches
        self._max_in_hand = max_in_hand
        self._has_more = True
        self._waiting: deque[Job] = deque()
        self._again: deque[Job] = deque()  # each is given to an idle worker only
        self._num_given = 0

    @property
    def num_in_hand(self) -> int:
        """Jobs that were read and are not ended: given out or not."""
        return self._num_given + self.num_to_give

    @property
    def num_to_give(self) -> int:
        """Jobs that no worker has."""
        return len(self._waiting) + len(self._again)

    def read(self) -> None:
        """Read batches, up to what may be in hand."""
        while self._has_more and self.num_in_hand < self._max_in_hand:
            batch = next(self._batches, None)
            if batch is None:
                self._has_more = False
            else:
                self._waiting.append(Job(batch))

    def give(self, held: Sequence[Job], num_idle: int) -> Job | None:
        """Choose a job for a worker, if there is one for it.

        Args:
            held: jobs that it has: with none it gets any, with one another to read ahead, unless one must be alone.
            num_idle: workers without a job, this one not counted: what is enough for them only is left to them.
        """
        if not held and self._again:
            job = self._again.popleft()
        elif self._waiting and (not held or self._may_add(held, num_idle)):
            job = self._waiting.popleft()
        else:
            return None
        self._num_given += 1
        return job

    def _may_add(self, held: Sequence[Job], num_idle: int) -> bool:
        return len(held) == 1 and not held[0].is_alone and self.num_to_give > num_idle

    def end(self, job: Job) -> None:
        """Take a job as ended: its worker has told the last of it. What follows of a split batch is to be given."""
        self._num_given -= 1
        if job.rest:
            self._again.appendleft(one_by_one(job.batch.number, job.rest))

    def lose(self, held: Sequence[Job], how: str) -> list[Report]:
        """Take back the jobs of a worker that died.

        The first is what it worked on: it is tried once more, item by item. The others may have been begun by reading
        ahead, and are tried again whole, but alone. An item that was alone already is given up.

        Args:
            held: in the order in which they were given.
            how: the worker's process ended, for the reason.

        Returns:
            Reports of items that are given up.
        """
        self._num_given -= len(held)
        reports, again = [], []
        for place, job in enumerate(held):
            left, number = job.unfinished, job.batch.number
            if place == 0 and job.is_one_by_one:
                failed = tuple(Failed(item.id, WORKER_DIED, _why_given_up(how)) for item in left)
                reports.append(Report(number, failed=failed, is_last=True))
                left = job.rest
            if left and place == 0:
                again.append(one_by_one(number, left))
            elif left:
                again.append(Job(Batch(number, left), is_alone=True))
        self._again.extendleft(reversed(again))
        return reports


def _why_given_up(how: str) -> str:
    return (
        f"its worker process ended {how}, twice at this picture; the picture may need more memory than there is, or "
        "bring a library down: try fewer workers, or convert the picture to PNG or JPEG with another tool"
    )
