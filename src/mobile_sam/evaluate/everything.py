"""The `everything` protocol: what of the annotated objects is among the masks of everything, and what that costs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Protocol

from mobile_sam.core.images import ImageSource
from mobile_sam.data.records import Instance, Picture
from mobile_sam.engines import Engine
from mobile_sam.evaluate.average_recall import find_objects, overlaps
from mobile_sam.evaluate.everything_protocol import EverythingProtocol
from mobile_sam.evaluate.models import Model
from mobile_sam.evaluate.run import OpenedPicture, PixelsTask
from mobile_sam.evaluate.stopwatch import Stopwatch
from mobile_sam.everything.config import EverythingConfig

Record = Mapping[str, Any]
"""A mask as `SamAutomaticMaskGenerator` gives it: segmentation (COCO's run lengths), predicted_iou, ..."""


class Generator(Protocol):
    """What makes the masks of everything in a picture; `num_points`, where it has that, tells how many it decoded."""

    def generate(self, image: ImageSource) -> list[dict[str, Any]]:
        """Return a record for each mask."""


MakeGenerator = Callable[[EverythingConfig, Engine], Generator]


def make_sam_generator(config: EverythingConfig, engine: Engine) -> Generator:
    """Make this package's generator."""
    from mobile_sam.automatic_mask_generator import SamAutomaticMaskGenerator

    return SamAutomaticMaskGenerator.from_config(config, engine=engine)


@dataclass(frozen=True, eq=False)
class _Run:
    """One model with one protocol."""

    protocol: EverythingProtocol
    model: Model
    generator: Generator


@dataclass(frozen=True, eq=False)
class _Made:
    """What a run made of a picture."""

    records: Sequence[Record]
    seconds: float
    num_points: int | None


class EverythingTask(PixelsTask):
    """Segments everything in pictures, by each protocol with each model, and keeps what was found of the objects.

    On each picture all take turns, in an order that rotates from picture to picture, so that a slow spell of the
    machine meets all alike. Encoding the picture is part of each turn.

    Args:
        protocols: with unique names; the first, with the first model, is the baseline.
        models: with unique names.
        pictures: in order, from which the turns follow.
        make_generator: makes what segments everything.
    """

    def __init__(
        self,
        protocols: Sequence[EverythingProtocol],
        models: Sequence[Model],
        pictures: Sequence[Picture],
        make_generator: MakeGenerator = make_sam_generator,
    ) -> None:
        self.protocols = tuple(protocols)
        self.models = tuple(models)
        self._runs = tuple(
            _Run(protocol, model, make_generator(protocol.config, model.engine))
            for protocol in self.protocols
            for model in self.models
        )
        self._turn_of_picture = {picture.id: turn for turn, picture in enumerate(pictures)}
        self._sitting = datetime.now(timezone.utc).isoformat(timespec="microseconds")

    def entry_of_pixels(self, opened: OpenedPicture, stopwatch: Stopwatch, left_out: Counter[str]) -> dict[str, Any]:
        """See `PixelsTask.entry_of_pixels`.

        Returns:
            `sitting` (when this process began), `objects` [id, category, annotated area] and `runs`: by protocol and
            model `found` (`Found.to_row` of each object), `num_masks`, `num_points`, `seconds`, and in all but the
            baseline's `partners`, see `_partners`.
        """
        made = self._make(opened, stopwatch)
        with stopwatch.stage("compare"):
            objects = _objects(opened, left_out)
            runs: dict[str, dict[str, Any]] = {protocol.name: {} for protocol in self.protocols}
            for run, of_run in zip(self._runs, made, strict=True):
                result = _result(run.protocol, objects, of_run)
                if run is not self._runs[0]:
                    result["partners"] = _partners(made[0].records, of_run.records, run.protocol.partner_iou)
                runs[run.protocol.name][run.model.name] = result
        described = [[instance.id, instance.category, instance.area_px] for instance in objects]
        return {"sitting": self._sitting, "objects": described, "runs": runs}

    def _make(self, opened: OpenedPicture, stopwatch: Stopwatch) -> list[_Made]:
        """Segment everything in a picture by each run: in the order of the runs, whosever turn was first."""
        made: dict[int, _Made] = {}
        first = self._turn_of_picture[opened.picture.id]
        for turn in range(len(self._runs)):
            index = (first + turn) % len(self._runs)
            run = self._runs[index]
            with stopwatch.stage(f"{run.protocol.name} {run.model.name}"):
                started = time.perf_counter()
                records = run.generator.generate(opened.pixels)
                seconds = time.perf_counter() - started
            num_points = getattr(run.generator, "num_points", None)
            made[index] = _Made(records, seconds, None if num_points is None else int(num_points))
        return [made[index] for index in range(len(self._runs))]


def _objects(opened: OpenedPicture, left_out: Counter[str]) -> list[Instance]:
    """Return the objects to be found; others are counted."""
    height, width = opened.pixels.shape[:2]
    fit = []
    for instance in opened.picture.instances:
        if instance.is_crowd:
            left_out["crowd mask"] += 1
        elif tuple(instance.rle["size"]) != (height, width):
            left_out["mask of another size"] += 1
        else:
            fit.append(instance)
    return fit


def _result(protocol: EverythingProtocol, objects: Sequence[Instance], made: _Made) -> dict[str, Any]:
    rles = [record["segmentation"] for record in made.records]
    scores = [_score(record, protocol.rank_by) for record in made.records]
    return {
        "found": [found.to_row() for found in find_objects(objects, rles, scores, protocol.area_bins)],
        "num_masks": len(made.records),
        "num_points": made.num_points,
        "seconds": made.seconds,
    }


def _score(record: Record, rank_by: str) -> float:
    if rank_by == "product":
        return float(record["predicted_iou"]) * float(record["stability_score"])
    return float(record[rank_by])


def _partners(baseline: Sequence[Record], others: Sequence[Record], least_iou: float) -> list[float]:
    """Look for the baseline's masks among others: how many there are, how many are found again, sum of best IoUs."""
    ious = overlaps([one["segmentation"] for one in baseline], [one["segmentation"] for one in others])
    best_ious = ious.max(axis=1, initial=0.0)
    return [len(baseline), int((best_ious >= least_iou).sum()), float(best_ious.sum())]
