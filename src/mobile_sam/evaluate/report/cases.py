"""Single objects as pictures: which to look at, and how they are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.draw import draw_prompts
from mobile_sam.core.masks import masks_to_boxes
from mobile_sam.evaluate.measurements import MeasurementTable

BOTH_RGB = (0, 190, 110)
PREDICTED_RGB = (235, 50, 160)
TRUTH_RGB = (40, 120, 255)
_TINT = 0.45  # opacity
_GAP_PX = 4
_LEAST_MARGIN_PX = 16  # of picture pixels around the object
_MARGIN = 0.25  # of the object's longer side


@dataclass(frozen=True, eq=False)
class Case:
    """An object with what a model made of it.

    Attributes:
        title: why it is shown, such as "worst"; cases of one title stand together.
        protocol: name of the protocol.
        model: name of the model.
        picture: id of the picture.
        object: id of the object.
        category: its category, or "".
        iou: of the two masks.
        predicted_iou: what the model said; NaN where it said nothing.
        image: (H, W, 3) uint8 RGB, the whole picture.
        truth: (H, W) bool, the true mask or the reference's.
        predicted: (H, W) bool, the model's.
        points_xy: (N, 2) clicks in picture pixels.
        labels: (N,) 1 foreground, 0 background.
        box_xyxy: (4,) in picture pixels, or None.
    """

    title: str
    protocol: str
    model: str
    picture: str
    object: str
    category: str
    iou: float
    predicted_iou: float
    image: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    predicted: NDArray[np.bool_]
    points_xy: NDArray[np.floating] | None = None
    labels: NDArray[np.integer] | None = None
    box_xyxy: NDArray[np.floating] | None = None

    @property
    def caption(self) -> str:
        """What the picture shows, in words."""
        of_category = f" ({self.category})" if self.category else ""
        said = "" if math.isnan(self.predicted_iou) else f", predicted {self.predicted_iou:.3f}"
        return f"{self.model}: IoU {self.iou:.3f}{said}; object {self.object}{of_category} of picture {self.picture}"


@dataclass(frozen=True, eq=False)
class ChosenRows:
    """Rows of a table to look at.

    Attributes:
        worst: (K,) int64, the least IoU first.
        best: (K,) int64, the highest first.
    """

    worst: NDArray[np.int64]
    best: NDArray[np.int64]


def choose_cases(table: MeasurementTable, protocol: str, model: str, step: int, num: int) -> ChosenRows:
    """Choose the worst and the best objects of a model; none twice, where there are few.

    Objects of equal IoU come in the order of their ids, so that a second run chooses the same.

    Args:
        table: measurements, of any protocols and models.
        protocol: name of the protocol.
        model: name of the model.
        step: number of prompts given.
        num: how many of each kind, at most.

    Returns:
        Rows of the table.

    Raises:
        ValueError: a number below 0.
    """
    _require_count(num)
    is_wanted = (table.protocol == protocol) & (table.model == model) & (table.step == step)
    rows = np.flatnonzero(is_wanted)
    order = rows[np.lexsort((table.object[rows], table.picture[rows], table.iou[rows]))]
    num_worst = min(num, (len(order) + 1) // 2)
    num_best = min(num, len(order) - num_worst)
    return ChosenRows(order[:num_worst], order[len(order) - num_best :][::-1])


def largest_differences(
    table: MeasurementTable, protocol: str, model: str, baseline: str, step: int, num: int
) -> NDArray[np.int64]:
    """Choose the objects on which two models differ most in IoU, either way.

    Args:
        table: measurements, of any protocols and models.
        protocol: name of the protocol.
        model: name of the one model.
        baseline: name of the other.
        step: number of prompts given.
        num: how many objects, at most.

    Returns:
        (K, 2) int64, for each object the row of the model and that of the baseline, the largest difference first.

    Raises:
        ValueError: a number below 0.
    """
    _require_count(num)
    is_wanted = (table.protocol == protocol) & (table.step == step)
    rows, baseline_rows = (np.flatnonzero(is_wanted & (table.model == name)) for name in (model, baseline))
    paired, paired_baseline = table[rows].paired_with(table[baseline_rows])
    pairs = np.stack([rows[paired], baseline_rows[paired_baseline]], axis=1)  # (K, 2)
    pairs = pairs[np.lexsort((table.object[pairs[:, 0]], table.picture[pairs[:, 0]]))]  # a second run chooses the same
    difference = np.abs(table.iou[pairs[:, 0]] - table.iou[pairs[:, 1]])
    return pairs[np.argsort(-difference, kind="stable")[:num]]


def compact(case: Case, max_side_px: int = 960) -> Case:
    """Keep of a large picture only what `draw_case` shows, and that no larger than it needs.

    Pictures up to `max_side_px` pixels a side are kept as they are.
    """
    if max(case.image.shape) <= max_side_px:
        return case
    from PIL import Image

    x1, y1, x2, y2 = crop_xyxy(case)
    step = -(-max(x2 - x1, y2 - y1) // max_side_px)  # rounded up
    shown, corner_xy = np.s_[y1:y2, x1:x2], np.array([x1, y1])
    box_xyxy = None if case.box_xyxy is None else (np.asarray(case.box_xyxy) - np.tile(corner_xy, 2)) / step
    return replace(
        case,
        image=np.asarray(Image.fromarray(case.image[shown]).reduce(step)),
        truth=case.truth[shown][::step, ::step].copy(),
        predicted=case.predicted[shown][::step, ::step].copy(),
        points_xy=None if case.points_xy is None else (case.points_xy - corner_xy) / step,
        box_xyxy=box_xyxy,
    )


def draw_case(case: Case, max_side_px: int = 480) -> NDArray[np.uint8]:
    """Draw the surroundings of an object twice: as they are with the prompts, and with both masks.

    Green is in both masks, magenta in the predicted only, blue in the true one only; the outlines are the true mask's
    in blue and the predicted one's in magenta. Small objects are enlarged.

    Args:
        case: what to draw.
        max_side_px: of the longer side of the result, at least 64.

    Returns:
        (h, w, 3) uint8 RGB, the two side by side, or one above the other where the surroundings are wide.

    Raises:
        ValueError: if the picture, the masks or the prompts do not fit together, or max_side_px is too small.
    """
    _require_case(case, max_side_px)
    import cv2

    x1, y1, x2, y2 = crop_xyxy(case)
    is_wide = x2 - x1 > y2 - y1
    along, across = (y2 - y1, x2 - x1) if is_wide else (x2 - x1, y2 - y1)
    scale = min((max_side_px - _GAP_PX) / (2 * along), max_side_px / across)
    size_wh = (max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale)))
    cut = np.ascontiguousarray(case.image[y1:y2, x1:x2])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    plain = np.asarray(cv2.resize(cut, size_wh, interpolation=how), np.uint8)
    truth, predicted = (
        np.asarray(cv2.resize(mask[y1:y2, x1:x2].view(np.uint8), size_wh, interpolation=cv2.INTER_NEAREST), np.uint8)
        for mask in (case.truth, case.predicted)
    )
    marked = _with_masks(plain, truth, predicted)
    origin_xy = np.array([x1, y1])
    scale_xy = np.array(size_wh) / (x2 - x1, y2 - y1)
    points_xy = None if case.points_xy is None else (np.asarray(case.points_xy) - origin_xy + 0.5) * scale_xy - 0.5
    box_xyxy = None
    if case.box_xyxy is not None:
        box_xyxy = (np.asarray(case.box_xyxy).reshape(2, 2) - origin_xy) * scale_xy
        box_xyxy = box_xyxy.reshape(4)
    plain = draw_prompts(plain, points_xy, case.labels, box_xyxy)
    gap_hw = (_GAP_PX, size_wh[0]) if is_wide else (size_wh[1], _GAP_PX)
    gap = np.full((*gap_hw, 3), 255, np.uint8)
    return np.concatenate((plain, gap, marked), axis=0 if is_wide else 1)


def crop_xyxy(case: Case) -> tuple[int, int, int, int]:
    """Choose what to show of a picture: the true mask and the prompts, what is near of the predicted one, a margin.

    A predicted mask that spills over the picture is shown as far as the object's longer side to each side, so that a
    small object stays visible.

    Returns:
        Box in picture pixels, x2 and y2 not included; the whole picture where there is neither mask nor prompt.
    """
    height, width = case.image.shape[:2]
    core = [box for box in (_mask_box(case.truth), _prompt_box(case)) if box is not None]
    predicted = _mask_box(case.predicted)
    if not core and predicted is None:
        return 0, 0, width, height
    boxes = np.array(core if predicted is None or core else [predicted], float)  # (K, 4)
    box = np.concatenate((boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)))
    side_px = max(box[2] - box[0], box[3] - box[1])
    if predicted is not None:
        reach = box + np.array([-1, -1, 1, 1]) * side_px
        near = np.concatenate((np.maximum(predicted[:2], reach[:2]), np.minimum(predicted[2:], reach[2:])))
        box = np.concatenate((np.minimum(box[:2], near[:2]), np.maximum(box[2:], near[2:])))
    margin_px = max(_LEAST_MARGIN_PX, _MARGIN * side_px)
    box += np.array([-1, -1, 1, 1]) * margin_px
    x1, y1 = np.clip(np.floor(box[:2]), 0, (width - 1, height - 1)).astype(int).tolist()
    x2, y2 = np.clip(np.ceil(box[2:]), (x1 + 1, y1 + 1), (width, height)).astype(int).tolist()
    return x1, y1, x2, y2


def _with_masks(panel: NDArray[np.uint8], truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Tint and outline two masks, (h, w) of 0 and 1, on a copy of a (h, w, 3) picture."""
    import cv2

    marked: NDArray[np.uint8] = panel.copy()
    for rgb, is_inside in (
        (BOTH_RGB, (truth & predicted) > 0),
        (PREDICTED_RGB, predicted > truth),
        (TRUTH_RGB, truth > predicted),
    ):
        tinted = np.rint(marked[is_inside] * (1 - _TINT) + np.array(rgb) * _TINT)  # (K, 3)
        marked[is_inside] = tinted.astype(np.uint8)
    for rgb, mask in ((PREDICTED_RGB, predicted), (TRUTH_RGB, truth)):
        outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(marked, outlines, -1, rgb, 1, cv2.LINE_AA)
    return marked


def _mask_box(mask: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    """(4,) XYXY to the far edges; None for an empty mask."""
    return masks_to_boxes(mask[None])[0] + np.array([0.0, 0, 1, 1]) if mask.any() else None


def _prompt_box(case: Case) -> NDArray[np.float64] | None:
    """(4,) XYXY around the clicks and the box; None without any."""
    corners = [] if case.box_xyxy is None else [np.asarray(case.box_xyxy, float).reshape(2, 2)]
    if case.points_xy is not None and len(case.points_xy):
        corners += [np.asarray(case.points_xy, float), np.asarray(case.points_xy, float) + 1]
    if not corners:
        return None
    stacked = np.concatenate(corners)  # (K, 2)
    return np.concatenate((stacked.min(axis=0), stacked.max(axis=0)))


def _require_case(case: Case, max_side_px: int) -> None:
    if max_side_px < 64:
        raise ValueError(f"max_side_px must be at least 64, got {max_side_px}")
    if case.image.ndim != 3 or case.image.shape[2] != 3 or case.image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, got {case.image.shape} {case.image.dtype}; use read_image")
    for name, mask in (("truth", case.truth), ("predicted", case.predicted)):
        if mask.shape != case.image.shape[:2] or mask.dtype != np.bool_:
            raise ValueError(
                f"{name} must be bool of the picture's size {case.image.shape[:2]}, got {mask.shape} {mask.dtype}"
            )


def _require_count(num: int) -> None:
    if num < 0:
        raise ValueError(f"the number of cases must not be negative, got {num}")
