"""The best and the worst masks as pictures: their few pictures are measured once more, since masks are not kept."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import Embedding
from mobile_sam.data.embedding_store import EmbeddingStore
from mobile_sam.data.records import Picture
from mobile_sam.evaluate.agreement import AgreementTask
from mobile_sam.evaluate.measurements import Attempt, MeasurementTable
from mobile_sam.evaluate.prompts import PromptsTask
from mobile_sam.evaluate.report.cases import Case, choose_cases, compact, largest_differences
from mobile_sam.evaluate.run import Progress, embed, open_picture
from mobile_sam.evaluate.stopwatch import Stopwatch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Wanted:
    """A measurement to show, and why."""

    title: str
    protocol: str
    model: str
    picture: str
    object: str
    step: int


def make_cases(
    task: PromptsTask | AgreementTask,
    pictures: Sequence[Picture],
    table: MeasurementTable,
    num_cases: int,
    store: EmbeddingStore | None = None,
    progress: Progress | None = None,
) -> list[Case]:
    """Show the worst and the best masks of the first model, and where the second differs most from it.

    Each protocol is shown after its last prompt. A picture that can no longer be read is left out, with a warning.

    Args:
        task: what was measured.
        pictures: of the dataset.
        table: the measurements.
        num_cases: of each kind and protocol; 0 for none.
        store: embeddings on disk.
        progress: told after each picture.

    Returns:
        By protocol; worst, best, then differences.
    """
    stopwatch = Stopwatch()
    wanted = _choose(task, table, num_cases) if num_cases else []
    by_picture: dict[str, list[_Wanted]] = defaultdict(list)
    for want in wanted:
        by_picture[want.picture].append(want)
    made: dict[_Wanted, Case] = {}
    shown = [picture for picture in pictures if picture.id in by_picture]
    for index, picture in enumerate(shown):
        if progress:
            progress(index, 0, len(shown))
        try:
            opened = open_picture(picture)
            embeddings = embed(opened, task.models, store, stopwatch)
            for want, attempt in _again(task, picture, by_picture[picture.id], embeddings, stopwatch):
                made[want] = compact(_case(want.title, attempt, opened.pixels))
        except Exception as error:  # noqa: BLE001 - one picture of many, and the numbers are there
            logger.warning("cannot show picture %s: %s", picture.id, error)
    if progress and shown:
        progress(len(shown), 0, len(shown))
    return [made[want] for want in wanted if want in made]


def _choose(task: PromptsTask | AgreementTask, table: MeasurementTable, num_cases: int) -> list[_Wanted]:
    """Choose measurements by protocol and kind, the most telling first."""
    compared = task.others if isinstance(task, AgreementTask) else task.models
    wanted: list[_Wanted] = []

    def want(title: str, rows: NDArray[np.int64]) -> None:
        some = table[rows]
        columns = (some.protocol, some.model, some.picture, some.object, some.step)
        values = zip(*(column.tolist() for column in columns), strict=True)
        wanted.extend(_Wanted(title, *of_row) for of_row in values)

    for protocol in task.protocols:
        steps = table.step[table.protocol == protocol.name]
        if not len(steps):
            continue
        step, first = int(steps.max()), compared[0].name
        chosen = choose_cases(table, protocol.name, first, step, num_cases)
        want("worst", chosen.worst)
        want("best", chosen.best)
        if len(compared) > 1:
            pairs = largest_differences(table, protocol.name, compared[1].name, first, step, num_cases)
            want("largest differences", pairs.ravel())
    return wanted


def _again(
    task: PromptsTask | AgreementTask,
    picture: Picture,
    wanted: Sequence[_Wanted],
    embeddings: Mapping[str, Embedding],
    stopwatch: Stopwatch,
) -> Iterator[tuple[_Wanted, Attempt]]:
    """Measure a picture once more, for the masks."""
    for protocol in task.protocols:
        some = [want for want in wanted if want.protocol == protocol.name]
        if not some:
            continue
        models = {want.model for want in some}
        again: PromptsTask | AgreementTask
        if isinstance(task, PromptsTask):
            again = PromptsTask(
                [p for p in task.protocols if p is protocol], [m for m in task.models if m.name in models]
            )
            objects = {want.object for want in some}
            instances = tuple(instance for instance in picture.instances if instance.id in objects)
            picture_again = replace(picture, instances=instances)
        else:
            others = [model for model in task.others if model.name in models]
            again = AgreementTask([p for p in task.protocols if p is protocol], task.reference, others, task.pairing)
            picture_again = picture
        for attempt in again.attempts(picture_again, embeddings, stopwatch, Counter()):
            found = attempt.measurement
            for want in some:
                if (want.model, want.object, want.step) == (found.model, found.object, found.step):
                    yield want, attempt


def _case(title: str, attempt: Attempt, image: NDArray[np.uint8]) -> Case:
    found, prompt = attempt.measurement, attempt.prompt
    return Case(
        title=title,
        protocol=found.protocol,
        model=found.model,
        picture=found.picture,
        object=found.object,
        category=found.category,
        iou=found.iou,
        predicted_iou=found.predicted_iou,
        image=image,
        truth=attempt.truth,
        predicted=attempt.predicted,
        points_xy=prompt.points_xy,
        labels=prompt.labels,
        box_xyxy=prompt.box_xyxy,
    )
