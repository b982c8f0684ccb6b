"""From what was found to numbers: average recall with bootstrap intervals, masks, seconds, paired differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.evaluate.average_recall import NUM_THRESHOLDS, Found
from mobile_sam.evaluate.everything_protocol import MAX_MASKS, RECALLS, EverythingProtocol
from mobile_sam.evaluate.protocols import bin_of
from mobile_sam.evaluate.statistics import BinMean, Interval, cluster_bootstrap_mean

Entries = Mapping[str, Mapping[str, Any]]
"""What `EverythingTask` gave for each picture that was measured, by its id."""


@dataclass(frozen=True)
class Mean:
    """A mean with its 95% interval by resampling pictures; NaN without values."""

    mean: float
    interval: Interval


@dataclass(frozen=True, eq=False)
class RunTable:
    """What one protocol and model gave, as columns: N objects, I pictures.

    Attributes:
        protocol: its name.
        model: its name.
        picture: (N,) id of each object's picture.
        object: (N,) id.
        category: (N,) name.
        area_px: (N,) annotated.
        area_bin: (N,) name of the area bin.
        recall: (N, 3) share of the thresholds at which it is found by the first MAX_MASKS masks.
        recall_in_bin: (N, 3) the same among the objects of its bin.
        best_iou: (N,) of any mask.
        pictures: (I,) ids.
        num_masks: (I,)
        num_points: (I,) decoded; NaN where the generator does not tell.
        seconds: (I,)
        partners: (I, 3) the baseline's masks, how many of them are found again, sum of best IoUs; NaN in the baseline.
    """

    protocol: str
    model: str
    picture: NDArray[np.str_]
    object: NDArray[np.str_]
    category: NDArray[np.str_]
    area_px: NDArray[np.float64]
    area_bin: NDArray[np.str_]
    recall: NDArray[np.float64]
    recall_in_bin: NDArray[np.float64]
    best_iou: NDArray[np.float64]
    pictures: NDArray[np.str_]
    num_masks: NDArray[np.int64]
    num_points: NDArray[np.float64]
    seconds: NDArray[np.float64]
    partners: NDArray[np.float64]


@dataclass(frozen=True)
class EverythingSummary:
    """One protocol and model.

    Attributes:
        protocol: its name.
        model: its name.
        num_objects: that were to be found.
        num_pictures: that masks and seconds are of, also those without objects.
        recall: by RECALLS.
        by_bin: number of objects and AR of each area bin that has objects, from the smallest areas on.
        best_iou: mean over the objects of the best IoU of any mask.
        masks_mean, masks_min, masks_max: masks of a picture.
        points_mean: points decoded for a picture; NaN where that is not known.
        median_s: seconds of a picture.
        total_s: seconds of all pictures.
    """

    protocol: str
    model: str
    num_objects: int
    num_pictures: int
    recall: dict[str, Mean]
    by_bin: dict[str, dict[str, BinMean]]
    best_iou: Mean
    masks_mean: float
    masks_min: int
    masks_max: int
    points_mean: float
    median_s: float
    total_s: float


@dataclass(frozen=True)
class EverythingDifference:
    """How a protocol and model differ from the baseline, over the same objects and pictures.

    Attributes:
        protocol: its name.
        model: its name.
        baseline: protocol and model of the baseline.
        num_objects: pairs.
        recall: mean difference of the objects' recall, by RECALLS.
        best_iou: mean difference of the objects' best IoUs.
        num_baseline_masks: masks of the baseline in all pictures.
        masks_found: share of these that have a mask of the run with an IoU of at least the protocol's partner_iou.
        masks_best_iou: mean of their best IoUs.
        time_ratio: median over the pictures of its seconds by the baseline's.
    """

    protocol: str
    model: str
    baseline: str
    num_objects: int
    recall: dict[str, Mean]
    best_iou: Mean
    num_baseline_masks: int
    masks_found: Mean
    masks_best_iou: Mean
    time_ratio: float


def run_tables(protocols: Sequence[EverythingProtocol], model_names: Sequence[str], entries: Entries) -> list[RunTable]:
    """Put what was measured into columns, for each protocol and model; the first is the baseline."""
    return [_run_table(protocol, name, entries) for protocol in protocols for name in model_names]


def _run_table(protocol: EverythingProtocol, model: str, entries: Entries) -> RunTable:
    runs = [entry["runs"][protocol.name][model] for entry in entries.values()]
    objects = [(picture, *described) for picture, entry in entries.items() for described in entry["objects"]]
    found = [Found.from_row(row) for run in runs for row in run["found"]]
    num = len(MAX_MASKS)
    return RunTable(
        protocol=protocol.name,
        model=model,
        picture=np.array([picture for picture, _, _, _ in objects], str),
        object=np.array([object_id for _, object_id, _, _ in objects], str),
        category=np.array([category for _, _, category, _ in objects], str),
        area_px=np.array([area_px for _, _, _, area_px in objects], np.float64),
        area_bin=np.array([bin_of(area_px, protocol.area_bins) for _, _, _, area_px in objects], str),
        recall=np.array([one.times for one in found], np.float64).reshape(-1, num) / NUM_THRESHOLDS,
        recall_in_bin=np.array([one.times_in_bin for one in found], np.float64).reshape(-1, num) / NUM_THRESHOLDS,
        best_iou=np.array([one.best_iou for one in found], np.float64),
        pictures=np.array(list(entries), str),
        num_masks=np.array([run["num_masks"] for run in runs], np.int64),
        num_points=np.array([run["num_points"] for run in runs], np.float64),  # None becomes NaN
        seconds=np.array([run["seconds"] for run in runs], np.float64),
        partners=np.array([run.get("partners", [np.nan] * 3) for run in runs], np.float64).reshape(-1, 3),
    )


def summarise_run(table: RunTable, protocol: EverythingProtocol) -> EverythingSummary:
    """Summarise a protocol and model; at least one picture was measured."""
    by_bin: dict[str, dict[str, BinMean]] = {}
    for area_bin in protocol.area_bins:
        is_in = table.area_bin == area_bin.name
        if is_in.any():
            means = table.recall_in_bin[is_in].mean(axis=0).tolist()  # (3,)
            by_bin[area_bin.name] = {k: BinMean(int(is_in.sum()), mean) for k, mean in zip(RECALLS, means, strict=True)}
    return EverythingSummary(
        protocol=table.protocol,
        model=table.model,
        num_objects=len(table.object),
        num_pictures=len(table.pictures),
        recall=_means(table.recall, table.picture),
        by_bin=by_bin,
        best_iou=_mean(table.best_iou, table.picture),
        masks_mean=float(table.num_masks.mean()),
        masks_min=int(table.num_masks.min()),
        masks_max=int(table.num_masks.max()),
        points_mean=float(table.num_points.mean()),
        median_s=float(np.median(table.seconds)),
        total_s=float(table.seconds.sum()),
    )


def compare_runs(table: RunTable, baseline: RunTable) -> EverythingDifference:
    """Compare a protocol and model with the baseline; both have the same objects in the same order."""
    num_masks, num_found, iou_sums = table.partners.T  # (I,) each
    return EverythingDifference(
        protocol=table.protocol,
        model=table.model,
        baseline=f"{baseline.protocol} {baseline.model}",
        num_objects=len(table.object),
        recall=_means(table.recall - baseline.recall, table.picture),
        best_iou=_mean(table.best_iou - baseline.best_iou, table.picture),
        num_baseline_masks=int(num_masks.sum()),
        masks_found=_mean_of_sums(num_found, num_masks, table.pictures),
        masks_best_iou=_mean_of_sums(iou_sums, num_masks, table.pictures),
        time_ratio=float(np.median(table.seconds / baseline.seconds)),
    )


def sittings(entries: Entries) -> dict[str, int]:
    """Count the pictures of each sitting, the earliest first: of each process that went on with the run."""
    counts = Counter(str(entry["sitting"]) for entry in entries.values())
    return dict(sorted(counts.items()))


def object_rows(tables: Sequence[RunTable]) -> Iterator[tuple[str | float, ...]]:
    """Yield a row for each object, protocol and model; see `OBJECT_COLUMNS`."""
    for table in tables:
        for row, (picture, object_id) in enumerate(zip(table.picture.tolist(), table.object.tolist(), strict=True)):
            recall, recall_in_bin = table.recall[row].tolist(), table.recall_in_bin[row].tolist()
            numbers = (*recall, *recall_in_bin, float(table.best_iou[row]), float(table.area_px[row]))
            words = (str(table.area_bin[row]), str(table.category[row]))
            yield (picture, object_id, table.protocol, table.model, *numbers, *words)


OBJECT_COLUMNS = (
    "picture", "object", "protocol", "model", *(f"recall_{k}" for k in MAX_MASKS),
    *(f"recall_in_bin_{k}" for k in MAX_MASKS), "best_iou", "area_px", "area_bin", "category",
)  # fmt: skip


def picture_details(tables: Sequence[RunTable]) -> dict[str, list[dict[str, Any]]]:
    """Say what each protocol and model gave for each picture, ready for JSON."""
    return {
        f"{table.protocol} {table.model}": [
            {"picture": picture, "num_masks": num_masks, "num_points": num_points, "seconds": seconds}
            for picture, num_masks, num_points, seconds in zip(
                table.pictures.tolist(),
                table.num_masks.tolist(),
                table.num_points.tolist(),
                table.seconds.tolist(),
                strict=True,
            )
        ]
        for table in tables
    }


def _means(values: NDArray[np.float64], pictures: NDArray[np.str_]) -> dict[str, Mean]:
    """Means of the columns of (N, 3) values, by RECALLS."""
    return {k: _mean(column, pictures) for k, column in zip(RECALLS, values.T, strict=True)}


def _mean(values: NDArray[np.float64], pictures: NDArray[np.str_]) -> Mean:
    mean = float(values.mean()) if values.size else float("nan")
    return Mean(mean, cluster_bootstrap_mean(values, pictures))


def _mean_of_sums(sums: NDArray[np.float64], counts: NDArray[np.float64], pictures: NDArray[np.str_]) -> Mean:
    """Mean of values of which only sum and number in each picture are known: the bootstrap needs no more."""
    times = counts.astype(np.int64)
    values = np.repeat(sums / np.maximum(times, 1), times)
    return _mean(values, np.repeat(pictures, times))
