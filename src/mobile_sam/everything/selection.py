"""From candidates to masks: the original's tests at the picture's size, for as few masks as it takes.

The original makes every candidate's mask, tests its stability and its place, and suppresses those whose box overlaps a
better one's. The result is the same if candidates are taken by falling predicted IoU and each is first asked whether
its box, of which the low-resolution mask gives bounds, must overlap a mask that is kept already. Only where that is
open is the mask made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.grids import are_near_crop_edge
from mobile_sam.core.masks import mask_window
from mobile_sam.core.regions import remove_small_holes_and_islands
from mobile_sam.core.rle import window_to_runs
from mobile_sam.core.selection import box_areas, box_ious, nms_boxes
from mobile_sam.everything.candidates import Candidate, Candidates, must_overlap
from mobile_sam.everything.found import Box, FoundMask


def select(
    candidates: Candidates,
    points_xy: NDArray[np.float64],
    crop_box: Box,
    image_hw: tuple[int, int],
) -> list[FoundMask]:
    """Keep the best of the masks of one crop.

    Args:
        candidates: of the crop.
        points_xy: (P, 2) the crop's prompts, in its pixels.
        crop_box: x1, y1, x2, y2 in the picture.
        image_hw: height and width of the picture.

    Returns:
        The masks, by falling predicted IoU.
    """
    kept = _KeptBoxes(candidates.config.box_nms_thresh)
    found = []
    for candidate in candidates.by_predicted_iou():
        if kept.surely_suppress(candidate):
            continue
        mask = candidates.mask(candidate)
        if not candidates.passes(mask):
            continue
        box = np.array([mask.box_xyxy]) + np.tile(crop_box[:2], 2)  # (1, 4) in the picture
        if are_near_crop_edge(box, crop_box, (0, 0, image_hw[1], image_hw[0]))[0]:
            continue
        if kept.add(mask.box_xyxy):
            x, y = points_xy[candidate.prompt_row].tolist()
            found.append(FoundMask.of(mask, candidate.predicted_iou, (x, y), crop_box, image_hw))
    return found


class _KeptBoxes:
    """Boxes that are kept, none of which overlaps another by more than a threshold."""

    def __init__(self, iou_threshold: float) -> None:
        self.iou_threshold = iou_threshold
        self._boxes = np.zeros((0, 4), np.float32)

    def surely_suppress(self, candidate: Candidate) -> bool:
        """Tell whether a candidate overlaps one of the boxes too much, whatever its box is within its bounds."""
        return must_overlap(self._boxes, candidate, self.iou_threshold)

    def add(self, box_xyxy: Box) -> bool:
        """Keep a box if it overlaps none too much, and tell whether it is kept."""
        box = np.array(box_xyxy, np.float32)
        if (box_ious(self._boxes, box) > self.iou_threshold).any():
            return False
        self._boxes = np.concatenate([self._boxes, box[None]])
        return True


def select_between_crops(found: Sequence[FoundMask], iou_threshold: float) -> list[FoundMask]:
    """Of masks of different crops whose boxes overlap, keep that of the smaller crop; smaller crops come first."""
    if not found:
        return []
    crops = np.array([mask.crop_box for mask in found], np.float32)
    return [found[index] for index in nms_boxes(_boxes(found), 1 / box_areas(crops), iou_threshold)]


def clean_regions(found: Sequence[FoundMask], min_area_px: int, iou_threshold: float) -> list[FoundMask]:
    """Fill small holes and remove small islands, then drop what has become like another; unchanged masks come first."""
    if not found:
        return []
    results = [without_small_regions(mask, min_area_px) for mask in found]
    cleaned = [mask for mask, _ in results]
    scores = np.array([0.0 if is_changed else 1.0 for _, is_changed in results])
    return [cleaned[index] for index in nms_boxes(_boxes(cleaned), scores, iou_threshold)]


def without_small_regions(mask: FoundMask, min_area_px: int) -> tuple[FoundMask, bool]:
    """Fill holes and remove islands of fewer pixels; also tell whether there were any."""
    if not mask.area_px:
        return mask, False
    pixels, is_changed = remove_small_holes_and_islands(mask.mask(), min_area_px)
    if not is_changed:
        return mask, False
    (x, y), window = mask_window(pixels)
    box_xyxy = (x, y, x + window.shape[1] - 1, y + window.shape[0] - 1)
    return replace(mask, runs=window_to_runs(window, (x, y), mask.image_hw), box_xyxy=box_xyxy), True


def _boxes(found: Sequence[FoundMask]) -> NDArray[np.float64]:
    return np.array([mask.box_xyxy for mask in found], np.float64)
