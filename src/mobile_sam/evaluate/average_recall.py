"""Average recall of proposals, class-agnostic: pycocotools matches, each object keeps how often it was found.

COCO's AR is the mean over IoU thresholds 0.50, 0.55, ... 0.95 of the share of objects that are matched. With one class
that is the mean over objects of the share of thresholds at which the object is matched: a number for each object, which
can be paired between runs and resampled by picture.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mobile_sam.core.masks import Rle, rle_area
from mobile_sam.data.records import Instance
from mobile_sam.evaluate.everything_protocol import MAX_MASKS
from mobile_sam.evaluate.protocols import AreaBin, bin_of

NUM_THRESHOLDS, LEAST_THRESHOLD = 10, 0.5
"""IoU 0.50, 0.55, ... 0.95."""

_EVERYTHING, _MOST_PX = 1, 1e10
"""The one category, and more pixels than any object has."""


@dataclass(frozen=True)
class Found:
    """How often an object was found by the masks of its picture.

    Attributes:
        times: for each of MAX_MASKS, the number of thresholds, 0 to 10, at which one of the first so many masks is
            matched with it.
        times_in_bin: the same where only objects of its area bin have to be matched, as COCO's AR by size has it: no
            mask is then lost to an object of another size.
        best_iou: the highest IoU of any mask with it, whatever its rank; 0 without masks.
    """

    times: tuple[int, ...]
    times_in_bin: tuple[int, ...]
    best_iou: float

    def to_row(self) -> list[int | float]:
        """Return the numbers as a list for JSON."""
        return [
            number for value in asdict(self).values() for number in (value if isinstance(value, tuple) else [value])
        ]

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Found:
        """Return what `to_row` wrote."""
        num = len(MAX_MASKS)
        return cls(tuple(row[:num]), tuple(row[num : 2 * num]), row[2 * num])


def find_objects(
    instances: Sequence[Instance], rles: Sequence[Rle], scores: ArrayLike, area_bins: tuple[AreaBin, ...]
) -> list[Found]:
    """Match the masks of a picture with its objects as pycocotools does for AR with useCats=0.

    Args:
        instances: the objects, no crowds (pycocotools would ignore them). Their annotated areas tell their bins.
        rles: (D) masks of the picture's size, in COCO's compressed form.
        scores: (D,) what masks are ranked by, the highest first; equals stay in their order.
        area_bins: by rising limit, the last without.

    Returns:
        One for each object, in order.

    Raises:
        ValueError: if masks and scores are not of one number.
    """
    ranking = np.asarray(scores, np.float64)
    if ranking.shape != (len(rles),):
        raise ValueError(f"scores must be one for each of {len(rles)} masks, got shape {ranking.shape}")
    if not instances:
        return []
    ious = overlaps([instance.rle for instance in instances], rles)  # (G, D)
    order = np.argsort(-ranking, kind="stable")[: MAX_MASKS[-1]]
    ranks = np.flatnonzero((ious[:, order] >= LEAST_THRESHOLD).any(axis=0))  # of masks that can be matched at all
    over_all, *in_bins = _times_matched(instances, [rles[index] for index in order[ranks]], ranks, area_bins)
    times_in_bin = dict(zip((area_bin.name for area_bin in area_bins), in_bins, strict=True))
    best_ious = ious.max(axis=1, initial=0.0)  # (G,)
    return [
        Found(
            times=tuple(over_all[row].tolist()),
            times_in_bin=tuple(times_in_bin[bin_of(instance.area_px, area_bins)][row].tolist()),
            best_iou=float(best_ious[row]),
        )
        for row, instance in enumerate(instances)
    ]


def overlaps(rles_a: Sequence[Rle], rles_b: Sequence[Rle]) -> NDArray[np.float64]:
    """Return the IoU of each mask of one set with each of another: (N, M), counted on the run lengths.

    Raises:
        ValueError: masks of two sizes.
    """
    from pycocotools import mask as coco_mask

    sizes = {tuple(rle["size"]) for rle in (*rles_a, *rles_b)}
    if len(sizes) > 1:
        raise ValueError(f"masks must have one size, got {', '.join(map(str, sorted(sizes)))} (height, width)")
    if not rles_a or not rles_b:
        return np.zeros((len(rles_a), len(rles_b)))
    return np.asarray(coco_mask.iou(list(rles_a), list(rles_b), [0] * len(rles_b)), np.float64)


def _times_matched(
    instances: Sequence[Instance], rles: Sequence[Rle], ranks: NDArray[np.int64], area_bins: Sequence[AreaBin]
) -> list[NDArray[np.int64]]:
    """Count the thresholds at which objects are matched: (G, K) over all areas, then for each bin (0 outside of it)."""
    from pycocotools.cocoeval import COCOeval

    height, width = instances[0].rle["size"]
    objects = [{"segmentation": one.rle, "area": one.area_px} for one in instances]
    masks = [
        {"segmentation": rle, "area": rle_area(rle), "score": -rank}
        for rle, rank in zip(rles, ranks.tolist(), strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints at every step
        evaluation = COCOeval(_coco(objects, height, width), _coco(masks, height, width), "segm")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = list(MAX_MASKS)
        evaluation.params.areaRng = [[0, _MOST_PX], *_area_ranges(area_bins)]
        evaluation.params.areaRngLbl = ["all", *(area_bin.name for area_bin in area_bins)]
        evaluation.evaluate()
    return [_times_in_range(matches, ranks) for matches in evaluation.evalImgs]


def _times_in_range(matches: dict[str, Any], ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count for each object the thresholds at which one of the first masks is matched with it: (G, K)."""
    by_object = np.argsort(matches["gtIds"])  # those outside of the range came last
    mask_ids = matches["gtMatches"][:, by_object].astype(np.int64)  # (T, G), from 1, 0 for none
    rank_of_match = np.concatenate([[_MOST_PX], ranks])[mask_ids]  # (T, G)
    is_found = rank_of_match[..., None] < np.array(MAX_MASKS)  # (T, G, K)
    is_in_range = np.asarray(matches["gtIgnore"])[by_object] == 0  # (G,)
    return np.asarray((is_found & is_in_range[:, None]).sum(axis=0), np.int64)  # (G, K)


def _area_ranges(area_bins: Sequence[AreaBin]) -> list[list[float]]:
    """Limits as pycocotools has them, both ends within; here an object has one bin."""
    ends = [_MOST_PX if one.below_px is None else float(np.nextafter(one.below_px, 0)) for one in area_bins]
    starts = [0.0, *(float(one.below_px or 0) for one in area_bins[:-1])]
    return [[start, end] for start, end in zip(starts, ends, strict=True)]


def _coco(annotations: Sequence[dict[str, Any]], height: int, width: int) -> Any:
    """Return objects or masks of one picture as pycocotools holds them, numbered from 1: it takes 0 for none."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "images": [{"id": 1, "height": height, "width": width}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": _EVERYTHING, "iscrowd": 0, **annotation}
            for number, annotation in enumerate(annotations, 1)
        ],
        "categories": [{"id": _EVERYTHING}],
    }
    coco.createIndex()
    return coco
