"""Exact mode against SAM's rules written out plainly: every mask made, at full size, and tested one by one."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from mobile_sam import SamAutomaticMaskGenerator
from mobile_sam.core.masks import stability_score, upscale_logits
from mobile_sam.core.prompts import PromptBatch
from mobile_sam.core.rle import window_to_runs
from mobile_sam.everything import candidates
from mobile_sam.everything.config import EverythingConfig

NEAR_EDGE_PX = 20
DOUBTFUL = 1e-4  # logits so near to the threshold may be rounded to either side of it


class ReferenceMask:
    """A mask of the picture with SAM's facts, and the pixels of which float rounding may decide."""

    def __init__(self, logits, iou, stability, point_xy, crop_box, image_hw):
        x1, y1, x2, y2 = crop_box
        self.mask, self.doubtful = np.zeros(image_hw, bool), np.zeros(image_hw, bool)
        self.mask[y1:y2, x1:x2] = logits > 0
        self.doubtful[y1:y2, x1:x2] = np.abs(logits) < DOUBTFUL
        self.iou, self.stability, self.crop_box = iou, stability, crop_box
        self.point_xy = (point_xy[0] + x1, point_xy[1] + y1)

    @property
    def box(self):
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        return tuple(int(position) for position in (columns[0], rows[0], columns[-1], rows[-1]))


def reference_masks(engine, image, config):
    """What SAM answers (segment_anything/automatic_mask_generator.py), without its batches and without empty masks."""
    image_hw, found = image.shape[:2], []
    crops = reference_crops(image_hw, config.crop_n_layers, config.crop_overlap_ratio)
    for crop_box, layer in crops:
        found += reference_crop(engine, image, crop_box, reference_grid(config, layer), config)
    if len(crops) > 1:
        areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (mask.crop_box for mask in found)]
        found = suppressed(found, [1 / area for area in areas], config.crop_nms_thresh)
    if config.min_mask_region_area:
        changed = [reference_cleaning(mask, config.min_mask_region_area) for mask in found]
        found = suppressed(
            found, [0.0 if is_changed else 1.0 for is_changed in changed],
            max(config.box_nms_thresh, config.crop_nms_thresh),
        )  # fmt: skip
    return found


def reference_crops(image_hw, num_layers, overlap_ratio):
    (height, width), crops = image_hw, [((0, 0, image_hw[1], image_hw[0]), 0)]
    for layer in range(1, num_layers + 1):
        n = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / n))
        crop_w, crop_h = (math.ceil((overlap * (n - 1) + side) / n) for side in (width, height))
        for x in ((crop_w - overlap) * i for i in range(n)):
            for y in ((crop_h - overlap) * i for i in range(n)):
                crops.append(((x, y, min(x + crop_w, width), min(y + crop_h, height)), layer))
    return [crop for crop in crops if crop[0][0] < crop[0][2] and crop[0][1] < crop[0][3]]


def reference_grid(config, layer):
    if config.point_grids is not None:
        return config.point_grids[layer]
    n = int(config.points_per_side / config.crop_n_points_downscale_factor**layer)
    return np.array([[(column + 0.5) / n, (row + 0.5) / n] for row in range(n) for column in range(n)])


def reference_crop(engine, image, crop_box, grid, config):
    x1, y1, x2, y2 = crop_box
    (embedding,) = engine.encode([image[y1:y2, x1:x2].copy()])
    points = [(x * (x2 - x1), y * (y2 - y1)) for x, y in grid]
    decoded = engine.decode(embedding, PromptBatch.of_points(np.array(points), embedding.resize))
    found = []
    for point, three, ious in zip(points, decoded.low_res_logits, decoded.iou_predictions.tolist(), strict=True):
        for low_res, iou in zip(three, ious, strict=True):
            if config.pred_iou_thresh > 0 and not iou > config.pred_iou_thresh:
                continue
            logits = upscale_logits(low_res, embedding.input_hw, embedding.image_hw)
            stability = stability_score(logits, 0.0, config.stability_score_offset)
            if not stability >= config.stability_score_thresh or not (logits > 0).any():
                continue
            mask = ReferenceMask(logits, iou, stability, point, crop_box, image.shape[:2])
            edges = zip(mask.box, crop_box, (0, 0, image.shape[1], image.shape[0]), strict=True)
            if not any(is_cut(*edge) for edge in edges):
                found.append(mask)
    return suppressed(found, [mask.iou for mask in found], config.box_nms_thresh)


def is_cut(position, crop_edge, image_edge):
    return abs(position - crop_edge) <= NEAR_EDGE_PX and not abs(position - image_edge) <= NEAR_EDGE_PX


def suppressed(masks, scores, threshold):
    """torchvision's nms: float32 overlaps, compared in float64; equals in the order in which they come."""
    kept, boxes = [], [mask.box for mask in masks]
    for index in sorted(range(len(masks)), key=lambda index: -np.float32(scores[index])):
        if not any(float(box_iou(boxes[index], boxes[other])) > threshold for other in kept):
            kept.append(index)
    return [masks[index] for index in kept]


def box_iou(box, other):
    width = max(min(box[2], other[2]) - max(box[0], other[0]), 0)
    height = max(min(box[3], other[3]) - max(box[1], other[1]), 0)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (box, other)]
    shared, both = np.float32(width * height), np.float32(sum(areas) - width * height)
    return shared / both if both else np.float32(0)


def reference_cleaning(mask, min_area):
    """Change the mask in place, as SAM's remove_small_regions for holes, then islands; tell whether it changed."""
    before = mask.mask.copy()
    has_small = False
    for is_island in (False, True):
        _, labels, stats, _ = cv2.connectedComponentsWithStats(
            (mask.mask == is_island).astype(np.uint8), connectivity=8
        )
        areas = stats[1:, cv2.CC_STAT_AREA]
        small = [index + 1 for index, area in enumerate(areas) if area < min_area]
        if not small:
            continue
        has_small = True
        if is_island:
            large = [index + 1 for index in range(len(areas)) if index + 1 not in small]
            mask.mask = np.isin(labels, large or [1 + int(np.argmax(areas))])
        else:
            mask.mask = before | np.isin(labels, small)
    return has_small


def assert_as_reference(engine, image, **options):
    generator = SamAutomaticMaskGenerator(engine=engine, **options)
    records = generator.generate(image)
    expected = reference_masks(engine, image, generator.config)
    assert len(records) == len(expected)
    for record, wanted in zip(records, expected, strict=True):
        differs = record["segmentation"] != wanted.mask
        assert not (differs & ~wanted.doubtful).any()
        x1, y1, x2, y2 = wanted.crop_box
        assert record["crop_box"] == [x1, y1, x2 - x1, y2 - y1]
        assert record["predicted_iou"] == wanted.iou
        assert record["point_coords"] == [[pytest.approx(value, abs=1e-9) for value in wanted.point_xy]]
        assert record["area"] == np.count_nonzero(record["segmentation"])
        if not wanted.doubtful.any():
            x1, y1, x2, y2 = wanted.box
            assert record["bbox"] == [x1, y1, x2 - x1, y2 - y1]
        assert record["stability_score"] == pytest.approx(float(wanted.stability), abs=2e-3)
    return records


GRIDS = [np.random.default_rng(layer).random((num, 2)) for layer, num in enumerate((20, 7))]
LENIENT = {"pred_iou_thresh": 0.7, "stability_score_thresh": 0.6}


@pytest.mark.parametrize(
    ("image_hw", "options", "least_masks"),
    [
        ((240, 320), {}, 7),
        ((240, 320), LENIENT | {"box_nms_thresh": 1.0}, 40),
        ((240, 320), LENIENT | {"box_nms_thresh": 0.0}, 1),
        ((240, 320), {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}, 30),
        ((240, 320), {"pred_iou_thresh": -1.0, "stability_score_thresh": 0.5}, 20),
        ((240, 320), {"pred_iou_thresh": 2.0}, 0),
        ((240, 320), LENIENT | {"stability_score_offset": 0.0, "stability_score_thresh": 1.0}, 30),
        ((240, 320), LENIENT | {"stability_score_offset": 4.0}, 10),
        ((240, 320), LENIENT | {"min_mask_region_area": 60}, 10),
        ((240, 320), LENIENT | {"min_mask_region_area": 100_000}, 1),
        ((300, 200), LENIENT | {"min_mask_region_area": 100, "crop_n_layers": 1}, 10),
        ((400, 300), LENIENT | {"crop_n_layers": 1}, 20),
        ((600, 400), LENIENT | {"crop_n_layers": 1, "crop_overlap_ratio": 0.0, "crop_nms_thresh": 0.3}, 5),
        ((600, 400), LENIENT | {"crop_n_layers": 2, "crop_n_points_downscale_factor": 2, "points_per_side": 5}, 20),
        ((350, 500), LENIENT | {"point_grids": GRIDS, "points_per_side": None, "crop_n_layers": 1}, 10),
        ((512, 1024), LENIENT | {"points_per_batch": 3}, 20),
        ((700, 3000), LENIENT | {"points_per_side": 4}, 5),
        ((3000, 30), LENIENT | {"points_per_side": 4}, 1),
        ((90, 60), LENIENT, 10),
        ((90, 60), LENIENT | {"crop_n_layers": 2, "points_per_side": 3}, 5),
        ((40, 1), LENIENT | {"points_per_side": 4, "crop_n_layers": 1}, 1),
        ((1, 40), LENIENT | {"points_per_side": 8}, 1),
        ((1, 1), LENIENT | {"points_per_side": 3, "crop_n_layers": 1}, 0),
    ],
)
def test_records_are_those_of_sams_rules(blob_engine, make_picture, image_hw, options, least_masks):
    records = assert_as_reference(blob_engine, make_picture(image_hw), **({"points_per_side": 6} | options))
    assert len(records) >= least_masks


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    image_hw=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    seed=st.integers(0, 1000),
    options=st.fixed_dictionaries({
        "points_per_side": st.integers(1, 5),
        "points_per_batch": st.integers(1, 70),
        "pred_iou_thresh": st.sampled_from([0.0, 0.7, 0.88]),
        "stability_score_thresh": st.sampled_from([0.0, 0.5, 0.8, 0.95]),
        "stability_score_offset": st.sampled_from([0.5, 1.0, 3.0]),
        "box_nms_thresh": st.sampled_from([0.1, 0.6, 0.7, 0.95]),
        "crop_n_layers": st.integers(0, 1),
        "min_mask_region_area": st.sampled_from([0, 0, 30]),
    }),
)  # fmt: skip
def test_records_are_those_of_sams_rules_whatever_the_settings(blob_engine, make_picture, image_hw, seed, options):
    assert_as_reference(blob_engine, make_picture(image_hw, seed), **options)


@pytest.mark.parametrize("max_bytes", [0, 300_000])
@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_masks_that_are_made_early_for_want_of_room_change_nothing(
    monkeypatch, blob_engine, make_picture, mode, max_bytes
):
    generator = SamAutomaticMaskGenerator(engine=blob_engine, points_per_side=6, mode=mode, crop_n_layers=1, **LENIENT)
    picture = make_picture((120, 160))
    expected, num_before = generator.generate(picture), blob_engine.num_decoded
    assert num_before == generator.num_points
    settled = []
    monkeypatch.setattr(candidates, "MAX_KEPT_BYTES", max_bytes)
    monkeypatch.setattr(candidates, "window_to_runs", lambda *mask: settled.append(mask) or window_to_runs(*mask))
    records = generator.generate(picture)
    assert 2 * num_before <= blob_engine.num_decoded < 2.2 * num_before  # few are decoded again
    assert len(settled) >= 15
    assert len(records) == len(expected) >= 15
    for record, wanted in zip(records, expected, strict=True):
        assert_array_equal(record.pop("segmentation"), wanted.pop("segmentation"))
        assert record == wanted


def test_the_defaults_are_sams():
    config = EverythingConfig()
    assert (config.points_per_side, config.pred_iou_thresh, config.stability_score_thresh) == (32, 0.88, 0.95)
    assert (config.stability_score_offset, config.box_nms_thresh, config.crop_n_layers) == (1.0, 0.7, 0)
    assert (config.crop_nms_thresh, config.crop_overlap_ratio, config.min_mask_region_area) == (0.7, 512 / 1500, 0)
    assert (config.crop_n_points_downscale_factor, config.point_grids, config.output_mode) == (1, None, "binary_mask")
