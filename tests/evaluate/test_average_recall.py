"""Recall by hand for rectangles, and equality with what COCOeval.summarize says of random masks."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest

from mobile_sam.core.masks import encode_rle, rle_area
from mobile_sam.data.records import Instance
from mobile_sam.evaluate.average_recall import Found, find_objects, overlaps
from mobile_sam.evaluate.everything_protocol import MAX_MASKS
from mobile_sam.evaluate.protocols import COCO_BINS, AreaBin


@pytest.fixture
def bar(rectangle):
    """The RLE of so many of 100 columns at a height, each 10 pixels high; 100 columns are an object's whole mask."""
    return lambda columns, top=0: encode_rle(rectangle(0, top, columns, top + 10))


@pytest.fixture
def bar_object(make_instance, rectangle):
    return lambda top=0, **fields: make_instance(f"at {top}", rectangle(0, top, 100, top + 10), **fields)


@pytest.mark.parametrize(
    ("columns", "times"),
    [
        (100, 10),  # IoU 1: found at all of 0.50, 0.55, ... 0.95
        (95, 10),  # 0.95 is reached, not passed
        (94, 9),
        (72, 5),  # 0.50, 0.55, 0.60, 0.65, 0.70
        (50, 1),
        (49, 0),
    ],
)
def test_an_object_is_found_at_the_thresholds_that_its_mask_reaches(bar, bar_object, columns, times):
    [found] = find_objects([bar_object()], [bar(columns)], [0.9], COCO_BINS)
    assert found == Found((times,) * 3, (times,) * 3, pytest.approx(columns / 100))


def test_without_masks_nothing_is_found_and_without_objects_nothing_is_sought(bar, bar_object):
    assert find_objects([bar_object()], [], [], COCO_BINS) == [Found((0, 0, 0), (0, 0, 0), 0.0)]
    assert find_objects([], [bar(10)], [1.0], COCO_BINS) == []
    assert find_objects([], [], [], COCO_BINS) == []


def test_a_mask_is_for_one_object_only(bar, bar_object):
    twins = [bar_object(), replace(bar_object(), id="twin")]
    one = find_objects(twins, [bar(100)], [1.0], COCO_BINS)
    assert sorted(found.times[0] for found in one) == [0, 10]
    assert [found.best_iou for found in one] == [1.0, 1.0]
    two = find_objects(twins, [bar(100), bar(72)], [1.0, 0.5], COCO_BINS)
    assert sorted(found.times[0] for found in two) == [5, 10]


def test_a_better_mask_of_lower_rank_comes_too_late_but_is_the_best_iou(bar, bar_object):
    [found] = find_objects([bar_object()], [bar(100), bar(72)], [0.1, 0.9], COCO_BINS)
    assert found.times == (10, 10, 10)  # at 0.75 and more the first does not match, so that the second may
    assert found.best_iou == 1


@pytest.mark.parametrize(
    ("num_better", "times"),
    [(0, (10, 10, 10)), (9, (10, 10, 10)), (10, (0, 10, 10)), (99, (0, 10, 10)), (100, (0, 0, 10)), (1000, (0, 0, 0))],
)
def test_only_the_first_masks_by_rank_count(bar, bar_object, num_better, times):
    rles = [bar(100), *[bar(5, 200)] * num_better]
    [found] = find_objects([bar_object()], rles, [0.5] + [0.9] * num_better, COCO_BINS)
    assert found.times == found.times_in_bin == times
    assert found.best_iou == 1  # whatever its rank


def test_equals_stay_in_their_order(bar, bar_object):
    rles = [*[bar(5, 200)] * 10, bar(100)]
    [found] = find_objects([bar_object()], rles, [0.5] * 11, COCO_BINS)
    assert found.times == (0, 10, 10)


def test_a_mask_lost_to_an_object_of_another_size_counts_in_the_bin(make_instance, rectangle):
    wide, narrow = rectangle(0, 0, 100, 12), rectangle(0, 0, 80, 12)
    objects = [make_instance("wide", wide), make_instance("narrow", narrow)]  # 1200 px are medium, 960 small
    [of_wide, of_narrow] = find_objects(objects, [encode_rle(rectangle(0, 0, 91, 12))], [1.0], COCO_BINS)
    assert of_wide.times == of_wide.times_in_bin == (9, 9, 9)  # IoU 0.91
    assert of_narrow.times == (0, 0, 0)
    assert of_narrow.times_in_bin == (8, 8, 8)  # IoU 80 / 91 = 0.879: found, were there only small objects
    assert of_narrow.best_iou == pytest.approx(80 / 91)


@pytest.mark.parametrize(("area_px", "is_small"), [(1023, True), (1024, False), (9e9, False)])
def test_bins_go_by_the_annotated_area_and_each_object_has_one(bar, bar_object, area_px, is_small):
    bins = (AreaBin("small", 1024), AreaBin("rest"))
    twins = [bar_object(area_px=area_px), bar_object(area_px=1)]
    found = find_objects(twins, [bar(100)], [1.0], bins)
    assert sum(one.times[0] for one in found) == 10  # one mask finds one of the two
    assert sum(one.times_in_bin[0] for one in found) == (10 if is_small else 20)  # of each bin


def test_scores_must_be_one_for_each_mask_and_masks_of_one_size(bar, bar_object):
    with pytest.raises(ValueError, match=r"scores must be one for each of 1 masks, got shape \(2,\)"):
        find_objects([bar_object()], [bar(9)], [1.0, 2.0], COCO_BINS)
    with pytest.raises(ValueError, match=r"one size, got \(5, 5\), \(256, 256\)"):
        find_objects([bar_object()], [encode_rle(np.ones((5, 5), bool))], [1.0], COCO_BINS)


def test_overlaps_are_counted_on_run_lengths(bar):
    assert overlaps([bar(100), bar(50)], [bar(100), bar(25), bar(9, 99)]) == pytest.approx(
        np.array([[1, 0.25, 0], [0.5, 0.5, 0]])
    )
    assert overlaps([], [bar(1)]).shape == (0, 1)
    assert overlaps([bar(1)], []).shape == (1, 0)


def test_what_was_found_is_a_row_of_json():
    found = Found((1, 2, 3), (4, 5, 6), 0.5)
    assert found.to_row() == [1, 2, 3, 4, 5, 6, 0.5]
    assert Found.from_row(found.to_row()) == found


# COCOeval


def blob(rng, size_hw):
    """An ellipse anywhere, (H, W) bool, of 1 px at least."""
    height, width = size_hw
    y, x = np.mgrid[:height, :width]
    cy, cx = rng.uniform(0, height), rng.uniform(0, width)
    ry, rx = np.exp(rng.uniform(1, 5, 2))
    mask = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
    mask[min(int(cy), height - 1), min(int(cx), width - 1)] = True
    return mask


def random_pictures(num_pictures, seed):
    """For each picture its objects, and masks with scores: objects that were shifted, and others; some have none."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(num_pictures):
        size_hw = (120, 150)
        truths = [blob(rng, size_hw) for _ in range(rng.integers(0, 9))]
        masks = [np.roll(mask, rng.integers(-6, 7, 2), (0, 1)) for mask in truths for _ in range(rng.integers(0, 4))]
        masks += [blob(rng, size_hw) for _ in range(rng.integers(0, 300))]
        masks = [] if index % 7 == 3 else masks
        scores = np.round(rng.random(len(masks)), 1)  # many are equal
        truths_of = [
            Instance(f"{index}-{number}", encode_rle(mask), (0, 0, 1, 1), float(mask.sum()) + 0.25)
            for number, mask in enumerate(truths)
        ]
        made.append((truths_of, [encode_rle(mask) for mask in masks], scores))
    return made


def average_recall_of_coco(pictures):
    """AR@10, AR@100, AR@1000, then small, medium and large at 1000, as COCOeval.summarize prints them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = [{"id": number, "height": 120, "width": 150} for number in range(1, len(pictures) + 1)]
    objects = [(n, o) for n, (found, _, _) in enumerate(pictures, 1) for o in found]
    truth, results = COCO(), []
    truth.dataset = {
        "images": images,
        "categories": [{"id": 1}],
        "annotations": [
            {"id": i, "image_id": n, "category_id": 1, "iscrowd": 0, "area": o.area_px, "segmentation": o.rle}
            for i, (n, o) in enumerate(objects, 1)
        ],
    }
    truth.createIndex()
    for number, (_, rles, scores) in enumerate(pictures, 1):
        results += [
            {"image_id": number, "category_id": 1, "segmentation": rle, "score": score, "area": rle_area(rle)}
            for rle, score in zip(rles, scores.tolist(), strict=True)
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = [10, 100, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[6:12]


@pytest.mark.parametrize("seed", [0, 1])
def test_means_over_objects_are_cocoevals_average_recall(seed):
    pictures = random_pictures(20, seed)
    found = [found for objects, rles, scores in pictures for found in find_objects(objects, rles, scores, COCO_BINS)]
    area_px = np.array([one.area_px for objects, _, _ in pictures for one in objects])
    times = np.array([one.times for one in found]) / 10
    in_bin = np.array([one.times_in_bin for one in found])[:, -1] / 10
    of_size = [area_px < 32**2, (area_px >= 32**2) & (area_px < 96**2), area_px >= 96**2]
    assert min(np.count_nonzero(is_in) for is_in in of_size) > 0
    ours = [*times.mean(axis=0), *(in_bin[is_in].mean() for is_in in of_size)]
    assert ours == pytest.approx(average_recall_of_coco(pictures).tolist(), abs=1e-12)
    assert 0.01 < ours[0] < ours[1] < ours[2] < 0.9
    assert times.shape == (len(area_px), len(MAX_MASKS))
