"""COCO's average precision of masks or boxes, computed by pycocotools, with paired bootstrap intervals.

pycocotools finds which detection matches which object; that does not depend on what other pictures there are. So a
resample of the pictures needs no new matching: `ApResult.average_precision` counts each picture as often as it was
drawn and gives what pycocotools would give for a dataset with that many copies of it.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mobile_sam.evaluate.statistics import Interval, percentile_interval

IouType = Literal["segm", "bbox"]

METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100")
"""The first nine of pycocotools' twelve statistics, in its order."""

MATCH_KEYS = {"segm": "segmentation", "bbox": "bbox"}


@dataclass(frozen=True, eq=False)
class CategoryMatches:
    """Which detections of one category found an object: what is left of the pictures when scores are sorted.

    Detections are in order of descending score; ties stay in the order of the pictures. A run is a stretch of
    detections of one picture with one score: copies of the picture repeat it as a whole.

    Attributes:
        is_true: (T, D) bool, whether the detection found an object at each of T IoU thresholds.
        is_counted: (T, D) bool, whether it counts at all; one on a crowd does not.
        run_picture: (R,) int64, index of the run's picture.
        run_start: (R,) int64, its first detection.
        run_length: (R,) int64, its number of detections.
        num_objects: (I,) int64, objects of each picture, crowds left out.
    """

    is_true: NDArray[np.bool_]
    is_counted: NDArray[np.bool_]
    run_picture: NDArray[np.int64]
    run_start: NDArray[np.int64]
    run_length: NDArray[np.int64]
    num_objects: NDArray[np.int64]

    def repeat(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Detections of a dataset that holds each picture so many times: (I,) -> (D',) indices in order of score."""
        lengths = self.run_length * counts[self.run_picture]  # (R,)
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)  # (D',)
        first = np.repeat(self.run_start, lengths)  # (D',)
        return np.asarray(first + within % np.repeat(self.run_length, lengths), np.int64)

    def average_precision(self, counts: NDArray[np.int64], recall_thresholds: NDArray[np.float64]) -> float:
        """Mean over IoU and recall thresholds of the best precision at no less recall; NaN without objects."""
        num_objects = int(counts @ self.num_objects)
        if num_objects == 0:
            return float("nan")
        detections = self.repeat(counts)
        num_counted = np.cumsum(self.is_counted[:, detections], axis=1)  # (T, D')
        threshold, position = np.nonzero(self.is_true[:, detections])  # each (all true ones), threshold by threshold
        num_true = np.bincount(threshold, minlength=len(self.is_true))  # (T,)
        rank = np.arange(len(threshold)) - np.repeat(np.cumsum(num_true) - num_true, num_true)
        precision = np.zeros((len(self.is_true), num_objects))  # at the first, second, ... found object; 0 if not found
        precision[threshold, rank] = (rank + 1) / (num_counted[threshold, position] + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        needed = np.searchsorted(np.arange(num_objects + 1) / num_objects, recall_thresholds)  # objects to be found
        return float(envelope[:, np.maximum(needed, 1) - 1].mean())


@dataclass(frozen=True, eq=False)
class ApResult:
    """Average precision of one model's detections, and what resampling its pictures needs.

    Attributes:
        iou_type: "segm" for masks or "bbox" for boxes.
        metrics: the numbers of pycocotools by the names in `METRICS`, 0 to 1; NaN where there is no object to find.
        picture_ids: of all pictures, ascending.
        categories: the matches of each category that has detections or objects.
        recall_thresholds: (101,) float64.
    """

    iou_type: IouType
    metrics: dict[str, float]
    picture_ids: tuple[Any, ...]
    categories: tuple[CategoryMatches, ...]
    recall_thresholds: NDArray[np.float64]

    def average_precision(self, counts: ArrayLike | None = None) -> float:
        """AP of a dataset that holds each picture so many times; copies stand next to each other.

        Args:
            counts: (I,) whole numbers in the order of `picture_ids`; all 1 if None, which gives `metrics["AP"]`.

        Returns:
            AP over all areas with at most 100 detections a picture; NaN where there is no object to find.

        Raises:
            ValueError: if the counts are not (I,) whole numbers, or negative.
        """
        times = np.asarray(np.ones(len(self.picture_ids), np.int64) if counts is None else counts)
        if times.shape != (len(self.picture_ids),) or times.dtype.kind not in "iu" or (times < 0).any():
            raise ValueError(
                f"counts must be whole numbers, one for each of {len(self.picture_ids)} pictures and none negative,"
                f" got {times.shape} {times.dtype}"
            )
        of_categories = [
            category.average_precision(times.astype(np.int64), self.recall_thresholds) for category in self.categories
        ]
        known = [value for value in of_categories if not math.isnan(value)]
        return float(np.mean(known)) if known else float("nan")


@dataclass(frozen=True)
class ApComparison:
    """AP of a model and how it differs from the baseline's, with intervals from resampling pictures.

    Attributes:
        model: its name.
        baseline: the name of the model that it is compared with.
        ap: average precision, 0 to 1.
        interval: of the AP.
        difference: the model's AP minus the baseline's; 0 for the baseline itself.
        difference_interval: of the difference, both models having the same resamples.
    """

    model: str
    baseline: str
    ap: float
    interval: Interval
    difference: float
    difference_interval: Interval


def evaluate_ap(annotations: Mapping[str, Any], results: Sequence[Mapping[str, Any]], iou_type: IouType) -> ApResult:
    """Average precision of detections by pycocotools, with the default settings of COCO.

    Neither argument is changed. Annotations are numbered anew, since pycocotools takes an object whose id is 0 for
    missing. For masks a "bbox" beside the mask is ignored, and for boxes a mask: pycocotools would take the sizes that
    small, medium and large go by from the box whenever there is one.

    Args:
        annotations: the content of a COCO annotation file, of the chosen pictures only; "iscrowd" may be missing.
        results: the content of a COCO results file, for those pictures; may be empty. Masks are compressed RLE.
        iou_type: "segm" to compare masks, "bbox" to compare boxes.

    Raises:
        ValueError: if the IoU type is none of the two, keys or all pictures are missing, or an item is of an
            unknown picture.
    """
    if iou_type not in MATCH_KEYS:
        raise ValueError(f"iou_type must be 'segm' or 'bbox', got {iou_type!r}")
    _require_content(annotations, results, MATCH_KEYS[iou_type])
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints at every step
        truth = COCO()
        truth.dataset = dict(annotations) | {"annotations": _numbered(annotations["annotations"])}
        truth.createIndex()
        evaluation = COCOeval(truth, _load_results(truth, results, iou_type), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = np.asarray(evaluation.stats, np.float64)[: len(METRICS)]
    values[values < 0] = np.nan  # -1 stands for no object to find
    return ApResult(
        iou_type=iou_type,
        metrics=dict(zip(METRICS, values.tolist(), strict=True)),
        picture_ids=tuple(np.asarray(evaluation.params.imgIds).tolist()),
        categories=_categories(evaluation),
        recall_thresholds=np.asarray(evaluation.params.recThrs, np.float64),
    )


def bootstrap_ap(
    results: Mapping[str, ApResult], baseline: str, num_resamples: int = 500, seed: int = 0, level: float = 0.95
) -> list[ApComparison]:
    """Compare the AP of models with a baseline's, with percentile intervals from resampling the pictures.

    Every resample draws as many pictures as there are, with replacement, the same for all models.

    Args:
        results: by the name of the model, all over the same pictures; the baseline's among them.
        baseline: name of the model to compare the others with.
        num_resamples: how many APs to take the percentiles of.
        seed: of the resampling.
        level: share of the resamples inside the intervals.

    Returns:
        One comparison for each model, in the order given; intervals are of NaN where there is only one picture.

    Raises:
        ValueError: if the baseline is missing, the models are not over the same pictures and of one IoU type, or a
            number is out of its range.
    """
    if baseline not in results:
        raise ValueError(f"the baseline must be one of the models {', '.join(results) or '(none)'}, got {baseline!r}")
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples}")
    picture_ids, iou_type = results[baseline].picture_ids, results[baseline].iou_type
    for model, result in results.items():
        if result.picture_ids != picture_ids or result.iou_type != iou_type:
            raise ValueError(f"{model} and {baseline} must be over the same pictures and of one IoU type; redo one")
    samples = {model: np.full(num_resamples, np.nan) for model in results}
    if len(picture_ids) > 1:
        rng = np.random.default_rng(seed)
        for index in range(num_resamples):
            drawn = rng.integers(len(picture_ids), size=len(picture_ids))
            counts = np.bincount(drawn, minlength=len(picture_ids))  # (I,)
            for model, result in results.items():
                samples[model][index] = result.average_precision(counts)
    aps = {model: result.average_precision() for model, result in results.items()}
    return [
        ApComparison(
            model=model,
            baseline=baseline,
            ap=aps[model],
            interval=percentile_interval(samples[model], level),
            difference=aps[model] - aps[baseline],
            difference_interval=percentile_interval(samples[model] - samples[baseline], level),
        )
        for model in results
    ]


def _require_content(annotations: Mapping[str, Any], results: Sequence[Mapping[str, Any]], match_key: str) -> None:
    """Refuse what pycocotools would stumble over with a message that names no place."""
    for key in ("images", "annotations", "categories"):
        if key not in annotations:
            raise ValueError(f"COCO annotations must have {key!r}, got {sorted(annotations)}")
    if not annotations["images"]:
        raise ValueError("COCO annotations must have at least one picture in 'images', got none")
    _require_keys("picture", annotations["images"], ("id", "height", "width"))
    _require_keys("annotation", annotations["annotations"], ("image_id", "category_id", "area", match_key))
    _require_keys("result", results, ("image_id", "category_id", "score", match_key))
    known_ids = {image["id"] for image in annotations["images"]}
    for kind, items in (("annotation", annotations["annotations"]), ("result", results)):
        for index, item in enumerate(items):
            if item["image_id"] not in known_ids:
                raise ValueError(
                    f"{kind} {index} is of picture {item['image_id']!r}, which is none of the {len(known_ids)} chosen;"
                    " drop what belongs to other pictures"
                )


def _require_keys(kind: str, items: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    for index, item in enumerate(items):
        missing = [key for key in keys if key not in item]
        if missing:
            raise ValueError(f"{kind} {index} lacks {', '.join(missing)}; it has {', '.join(item) or 'nothing'}")


def _numbered(annotations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"iscrowd": 0, **annotation, "id": number} for number, annotation in enumerate(annotations, start=1)]


def _load_results(truth: Any, results: Sequence[Mapping[str, Any]], iou_type: IouType) -> Any:
    """Detections as a COCO object of their own; pycocotools' `loadRes` cannot load an empty list."""
    from pycocotools.coco import COCO

    if results:
        keys = ("image_id", "category_id", "score", MATCH_KEYS[iou_type])
        return truth.loadRes([{key: result[key] for key in keys} for result in results])
    nothing = COCO()
    nothing.dataset = truth.dataset | {"annotations": []}
    nothing.createIndex()
    return nothing


def _categories(evaluation: Any) -> tuple[CategoryMatches, ...]:
    """Matches over all areas from the evaluated pictures, which are in order of category, area range, picture."""
    num_pictures, num_areas = len(evaluation.params.imgIds), len(evaluation.params.areaRng)
    by_category = [
        evaluation.evalImgs[start : start + num_pictures]  # area range 0 is "all"
        for start in range(0, len(evaluation.evalImgs), num_areas * num_pictures)
    ]
    return tuple(_category(pictures) for pictures in by_category if any(picture is not None for picture in pictures))


def _category(pictures: Sequence[dict[str, Any] | None]) -> CategoryMatches:
    """Join the matches of one category, one item for each picture; None where it has neither object nor detection."""
    there = [(index, picture) for index, picture in enumerate(pictures) if picture is not None]
    num_objects = np.zeros(len(pictures), np.int64)
    for index, picture in there:
        num_objects[index] = np.count_nonzero(picture["gtIgnore"] == 0)
    picture_index = np.repeat([index for index, _ in there], [len(picture["dtScores"]) for _, picture in there])
    scores = np.concatenate([np.asarray(picture["dtScores"], np.float64) for _, picture in there])
    order = np.argsort(-scores, kind="stable")
    is_counted = ~np.concatenate([picture["dtIgnore"] for _, picture in there], axis=1).astype(bool)[:, order]
    is_matched = np.concatenate([picture["dtMatches"] for _, picture in there], axis=1).astype(bool)[:, order]
    scores, picture_index = scores[order], picture_index[order]
    is_new = np.ones(len(scores), bool)
    is_new[1:] = (scores[1:] != scores[:-1]) | (picture_index[1:] != picture_index[:-1])
    run_start = np.flatnonzero(is_new)
    return CategoryMatches(
        is_true=is_matched & is_counted,
        is_counted=is_counted,
        run_picture=picture_index[run_start].astype(np.int64),
        run_start=run_start,
        run_length=np.diff(run_start, append=len(scores)),
        num_objects=num_objects,
    )
