"""Which of many masks to keep, and in what order: records sorted and limited, boxes thinned out.

Records are mappings with the keys of Segment Anything: `area` in pixels, `bbox` (x, y, width, height), `predicted_iou`,
`stability_score` and whatever else; only the keys that a function names are looked at, and records come out as they
came in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Record = TypeVar("Record", bound=Mapping[str, Any])
SortKey = Literal["area", "predicted_iou", "stability_score", "position"]


def sort_records(records: Iterable[Record], by: SortKey, descending: bool = True) -> list[Record]:
    """Sort records; equal ones keep their order.

    Args:
        records: each with the key `by`, or with `bbox` for "position".
        by: "area", "predicted_iou", "stability_score", or "position": upper left corners of the boxes in the order of
            reading, by rows and within a row from the left.
        descending: largest first, and of positions the lowest; False for the order of reading.

    Returns:
        A new list of the same records.

    Raises:
        ValueError: if there is no such order, or a record lacks the key.

    >>> sort_records([{"area": 3}, {"area": 8}], "area")
    [{'area': 8}, {'area': 3}]
    """
    if by not in _SORT_KEYS:
        raise ValueError(f"by must be one of {', '.join(_SORT_KEYS)}, got {by!r}")
    return sorted(records, key=_SORT_KEYS[by], reverse=descending)


def limit_records(
    records: Iterable[Record],
    *,
    max_masks: int | None = None,
    min_area_px: float = 0,
    max_area_share: float = 1.0,
    image_hw: tuple[int, int] | None = None,
) -> list[Record]:
    """Leave out masks that are too small or too large, and then all after the first so many.

    Args:
        records: in the order of preference (`sort_records`), each with `area` if an area is limited.
        max_masks: how many to keep at most; None for all.
        min_area_px: masks of fewer pixels are left out.
        max_area_share: masks of more than this share of the picture are left out, from 0 to 1.
        image_hw: height and width of the picture; needed only if the share is below 1.

    Returns:
        A new list, in the same order.

    Raises:
        ValueError: if a limit is out of its range, the picture's size is missing, or a record lacks the area.

    >>> limit_records([{"area": 3}, {"area": 90}, {"area": 8}], max_area_share=0.5, image_hw=(10, 10), max_masks=1)
    [{'area': 3}]
    """
    if max_masks is not None and max_masks < 0:
        raise ValueError(f"max_masks must not be negative, got {max_masks}; use None for all masks")
    if not min_area_px >= 0:
        raise ValueError(f"min_area_px must be a number of pixels from 0 on, got {min_area_px}")
    if not 0 <= max_area_share <= 1:
        raise ValueError(f"max_area_share must be within [0, 1], got {max_area_share}")
    if max_area_share < 1 and image_hw is None:
        raise ValueError(f"max_area_share {max_area_share} is a share of the picture; pass its image_hw, too")
    kept = list(records)
    if min_area_px > 0:
        kept = [record for record in kept if _value(record, "area") >= min_area_px]
    if max_area_share < 1 and image_hw is not None:
        max_area_px = max_area_share * image_hw[0] * image_hw[1]
        kept = [record for record in kept if _value(record, "area") <= max_area_px]
    return kept[:max_masks]


def nms_boxes(boxes_xyxy: ArrayLike, scores: ArrayLike, iou_threshold: float) -> NDArray[np.int64]:
    """Leave out boxes that overlap a better one, as `torchvision.ops.nms` does on the CPU.

    Areas are widths times heights, without a pixel for the edges; overlaps are computed in float32 and compared in
    float64. The time grows with boxes times boxes kept, the memory with boxes.

    Args:
        boxes_xyxy: (N, 4), read as float32.
        scores: (N,), read as float32.
        iou_threshold: boxes whose IoU with a better box that is kept is larger than this are left out. A box without
            area overlaps nothing.

    Returns:
        (K,) int64 indices of the boxes kept, the best score first; of equal ones the first goes first.

    Raises:
        ValueError: if a shape is not as above, or a number is not finite.

    >>> nms_boxes([[0, 0, 9, 9], [0, 0, 9, 10], [20, 0, 29, 9]], [0.5, 0.9, 0.7], iou_threshold=0.7)
    array([1, 2])
    """
    boxes, ranks = np.asarray(boxes_xyxy, np.float32), np.asarray(scores, np.float32)
    if boxes.size == 0 and ranks.size == 0:
        return np.zeros(0, np.int64)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise ValueError(f"boxes_xyxy must be finite and (N, 4), got {boxes.shape}; use boxes[None] for a single box")
    if ranks.shape != (len(boxes),) or not np.isfinite(ranks).all():
        raise ValueError(f"scores must be finite and ({len(boxes)},), one for each box, got {ranks.shape}")
    if not np.isfinite(iou_threshold):
        raise ValueError(f"iou_threshold must be a number from 0 to 1, got {iou_threshold}")
    rest = np.argsort(-ranks, kind="stable")  # (N,)
    sorted_boxes = boxes[rest]  # (N, 4), thinned out with the rest
    kept: list[int] = []
    while rest.size:
        kept.append(int(rest[0]))
        stays = box_ious(sorted_boxes[1:], sorted_boxes[0]) <= iou_threshold  # (N - 1,)
        rest, sorted_boxes = rest[1:][stays], sorted_boxes[1:][stays]
    return np.array(kept, np.int64)


def box_ious(boxes_xyxy: NDArray[np.float32], box_xyxy: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union of boxes (K, 4) with one (4,): (K,); 0 where neither has an area.

    It is computed in float32 and returned in float64, to be compared as torchvision's `nms` does on the CPU.
    """
    shared = shared_areas(boxes_xyxy, box_xyxy)  # (K,)
    union = box_areas(boxes_xyxy) + box_areas(box_xyxy) - shared
    return (shared / np.where(union > 0, union, np.float32(1))).astype(np.float64)


def box_areas(boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Width times height, without a pixel for the edges: (..., 4) -> (...)."""
    return (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])


def shared_areas(boxes_xyxy: NDArray[np.float32], box_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Area that boxes (K, 4) have in common with one (4,): (K,)."""
    widths = np.minimum(boxes_xyxy[:, 2], box_xyxy[2]) - np.maximum(boxes_xyxy[:, 0], box_xyxy[0])  # (K,)
    heights = np.minimum(boxes_xyxy[:, 3], box_xyxy[3]) - np.maximum(boxes_xyxy[:, 1], box_xyxy[1])  # (K,)
    shared: NDArray[np.float32] = np.maximum(widths, np.float32(0)) * np.maximum(heights, np.float32(0))
    return shared


def _value(record: Mapping[str, Any], key: str) -> Any:
    if key not in record:
        raise ValueError(f"record must have {key!r}, got the keys {', '.join(map(repr, record)) or 'none'}")
    return record[key]


def _position(record: Mapping[str, Any]) -> tuple[float, float]:
    x, y, *_ = _value(record, "bbox")
    return y, x


def _by_value(key: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda record: _value(record, key)


_SORT_KEYS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "area": _by_value("area"),
    "predicted_iou": _by_value("predicted_iou"),
    "stability_score": _by_value("stability_score"),
    "position": _position,
}
