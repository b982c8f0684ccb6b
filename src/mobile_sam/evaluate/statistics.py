"""From measured masks to numbers: means with bootstrap intervals, and paired differences between models.

Objects of one picture are not independent, so intervals come from resampling whole pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mobile_sam.evaluate.measurements import MeasurementTable

CHUNK_ELEMENTS = 1 << 21
"""Pictures drawn at a time in `cluster_bootstrap_mean`, which bounds its memory to some 50 MB."""

NUM_RESAMPLES = 2000
BOOTSTRAP = f"95% percentile intervals from {NUM_RESAMPLES} resamples of the pictures, seed 0"
"""What `summarise` and `compare` do, in words."""

EQUAL_WITHIN = 1e-12
"""Two IoUs that differ by no more than this are equal."""


@dataclass(frozen=True)
class Interval:
    """Two bounds between which a number is believed to be; NaN where nothing can be said."""

    low: float
    high: float


class BinMean(NamedTuple):
    """Number of objects in an area bin and their mean IoU."""

    num_objects: int
    mean: float


@dataclass(frozen=True)
class Summary:
    """What the masks of one model were like after one step of one protocol.

    Attributes:
        protocol: its name.
        model: its name.
        step: number of prompts given so far.
        num_objects: rows that the mean is over.
        num_pictures: pictures that they are from.
        mean: mean IoU over the objects, which others call mIoU.
        interval: of the mean, 95 %, by resampling pictures.
        mean_of_pictures: mean over the pictures of the means of their objects.
        median: of the IoUs.
        share_above_half: share of objects with an IoU of at least 0.5.
        minimum: the worst IoU.
        percentile_1: the IoU that 1 % of the objects stay below, interpolated.
        by_bin: number and mean of each area bin that has objects, from the smallest areas to the largest.
        calibration: mean of predicted minus measured IoU where there is a prediction; NaN where there is none.
    """

    protocol: str
    model: str
    step: int
    num_objects: int
    num_pictures: int
    mean: float
    interval: Interval
    mean_of_pictures: float
    median: float
    share_above_half: float
    minimum: float
    percentile_1: float
    by_bin: dict[str, BinMean]
    calibration: float


@dataclass(frozen=True)
class Difference:
    """How a model differs from the baseline, over the objects that both have, after one step of one protocol.

    Attributes:
        protocol: its name.
        model: its name.
        baseline: the name of the model that it is compared with.
        step: number of prompts given so far.
        num_pairs: objects that both have.
        num_unpaired: objects that only one of the two has; they are in no other number here.
        mean_difference: mean over the pairs of the model's IoU minus the baseline's; NaN without pairs.
        interval: of the mean difference, 95 %, by resampling pictures.
        share_better: share of pairs where the model's IoU is greater; NaN without pairs, as the next two.
        share_worse: share of pairs where it is smaller.
        share_equal: share of pairs where the two differ by no more than 1e-12.
    """

    protocol: str
    model: str
    baseline: str
    step: int
    num_pairs: int
    num_unpaired: int
    mean_difference: float
    interval: Interval
    share_better: float
    share_worse: float
    share_equal: float


def percentile_interval(samples: NDArray[np.float64], level: float = 0.95) -> Interval:
    """Bounds that leave out equal shares of the samples at either end; NaN samples are left out.

    Raises:
        ValueError: if the level is not between 0 and 1.

    >>> percentile_interval(np.arange(101.0), level=0.5)
    Interval(low=25.0, high=75.0)
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}; use 0.95 for 95 %")
    known = samples[~np.isnan(samples)]
    if not known.size:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(low, high)


def cluster_bootstrap_mean(
    values: ArrayLike, clusters: ArrayLike, num_resamples: int = NUM_RESAMPLES, seed: int = 0, level: float = 0.95
) -> Interval:
    """Percentile interval of a mean whose values come in clusters: objects in pictures.

    Each resample draws as many clusters as there are, with replacement, and takes the mean of all of their values.
    The order of the values does not matter, and equal clusters with equal seeds give the same resamples.

    Args:
        values: (N,) float.
        clusters: (N,) str or int, the cluster of each value.
        num_resamples: how many means to take the percentiles of.
        seed: of the resampling.
        level: share of the resamples inside the interval.

    Returns:
        The interval; of NaN where there are fewer than two clusters, since one says nothing of the others.

    Raises:
        ValueError: if lengths differ, a value is not finite, or a number is out of its range.

    >>> cluster_bootstrap_mean([0.5, 0.5, 0.5], ["a", "a", "b"])
    Interval(low=0.5, high=0.5)
    """
    numbers, names = np.asarray(values, np.float64), np.asarray(clusters)
    if numbers.ndim != 1 or names.shape != numbers.shape:
        raise ValueError(f"values and clusters must be (N,) both, got {numbers.shape} and {names.shape}")
    if not np.isfinite(numbers).all():
        raise ValueError(f"values must be finite, got {np.count_nonzero(~np.isfinite(numbers))} that are not")
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples}")
    _, index, counts = np.unique(names, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        return percentile_interval(np.array([]), level)
    sums = np.bincount(index.ravel(), weights=numbers)
    rng = np.random.default_rng(seed)
    means = np.empty(num_resamples)
    chunk = max(1, CHUNK_ELEMENTS // len(counts))
    for start in range(0, num_resamples, chunk):
        rows = min(chunk, num_resamples - start)
        drawn = rng.integers(len(counts), size=(rows, len(counts)))  # (rows, clusters)
        means[start : start + rows] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return percentile_interval(means, level)


def summarise(table: MeasurementTable) -> list[Summary]:
    """One summary for each protocol, model and step, in the order in which they first appear.

    >>> from mobile_sam.evaluate.measurements import Measurement
    >>> rows = [Measurement("p1", "a", "box", "tiny", 1, 0.9, 0.8, 0, 50.0, "small")]
    >>> rows += [Measurement("p1", "b", "box", "tiny", 1, 0.4, 0.8, 0, 5000.0, "medium")]
    >>> [summary] = summarise(MeasurementTable.of(rows))
    >>> round(summary.mean, 9), summary.share_above_half, round(summary.calibration, 9)
    (0.65, 0.5, 0.15)
    """
    return [
        _summary(table.where(protocol=protocol, model=model, step=step))
        for protocol, model, step in _in_order(table.protocol, table.model, table.step)
    ]


def compare(table: MeasurementTable, baseline: str) -> list[Difference]:
    """Pair each other model's objects with the baseline's, within each protocol and step, in order of appearance.

    Raises:
        ValueError: if no row is the baseline's, or an object is measured twice.

    >>> from mobile_sam.evaluate.measurements import Measurement
    >>> ious = {"tiny": (0.5, 0.7), "huge": (0.75, 0.7)}
    >>> rows = [Measurement(picture, "1", "box", model, 1, iou, 0.9, 0, 50.0, "small")
    ...     for model, pair in ious.items() for picture, iou in zip(["p1", "p2"], pair, strict=True)]
    >>> [difference] = compare(MeasurementTable.of(rows), baseline="tiny")
    >>> difference.mean_difference, difference.share_better, difference.share_equal
    (0.125, 0.5, 0.5)
    """
    models = [model for (model,) in _in_order(table.model)]
    if baseline not in models:
        raise ValueError(f"the baseline must be one of the models {', '.join(models) or '(none)'}, got {baseline!r}")
    differences = []
    for protocol, step in _in_order(table.protocol, table.step):
        rows = table.where(protocol=protocol, step=step)
        for (model,) in _in_order(rows.model):
            if model != baseline:
                differences.append(_difference(rows.where(model=model), rows.where(model=baseline), baseline))
    return differences


def _in_order(*columns: NDArray[Any]) -> Iterator[tuple[Any, ...]]:
    """Distinct combinations of values of the columns, in order of first appearance."""
    yield from dict.fromkeys(zip(*(column.tolist() for column in columns), strict=True))


def _summary(rows: MeasurementTable) -> Summary:
    """Summarise rows of one protocol, model and step; there is at least one."""
    _, picture_index, picture_counts = np.unique(rows.picture, return_inverse=True, return_counts=True)
    picture_means = np.bincount(picture_index.ravel(), weights=rows.iou) / picture_counts
    errors = rows.predicted_iou - rows.iou
    errors = errors[~np.isnan(errors)]
    return Summary(
        protocol=str(rows.protocol[0]),
        model=str(rows.model[0]),
        step=int(rows.step[0]),
        num_objects=len(rows),
        num_pictures=len(picture_counts),
        mean=float(rows.iou.mean()),
        interval=cluster_bootstrap_mean(rows.iou, rows.picture),
        mean_of_pictures=float(picture_means.mean()),
        median=float(np.median(rows.iou)),
        share_above_half=float((rows.iou >= 0.5).mean()),
        minimum=float(rows.iou.min()),
        percentile_1=float(np.percentile(rows.iou, 1)),
        by_bin=_by_bin(rows),
        calibration=_mean(errors),
    )


def _by_bin(rows: MeasurementTable) -> dict[str, BinMean]:
    bins = [rows.where(area_bin=name) for (name,) in _in_order(rows.area_bin)]
    bins.sort(key=lambda members: float(members.area_px.min()))
    return {str(members.area_bin[0]): BinMean(len(members), float(members.iou.mean())) for members in bins}


def _difference(model_rows: MeasurementTable, baseline_rows: MeasurementTable, baseline: str) -> Difference:
    """Compare rows of one protocol and step; those of the model are not empty, the baseline's may be."""
    model_index, baseline_index = model_rows.paired_with(baseline_rows)
    differences = model_rows.iou[model_index] - baseline_rows.iou[baseline_index]
    return Difference(
        protocol=str(model_rows.protocol[0]),
        model=str(model_rows.model[0]),
        baseline=baseline,
        step=int(model_rows.step[0]),
        num_pairs=len(differences),
        num_unpaired=len(model_rows) + len(baseline_rows) - 2 * len(differences),
        mean_difference=_mean(differences),
        interval=cluster_bootstrap_mean(differences, model_rows.picture[model_index]),
        share_better=_mean(differences > EQUAL_WITHIN),
        share_worse=_mean(differences < -EQUAL_WITHIN),
        share_equal=_mean(np.abs(differences) <= EQUAL_WITHIN),
    )


def _mean(values: NDArray[Any]) -> float:
    """Mean of (N,) numbers or claims; NaN where there are none."""
    return float(values.mean()) if values.size else float("nan")
