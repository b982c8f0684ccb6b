"""Average precision against pycocotools run directly, also on datasets whose pictures are really copied."""

import contextlib
import copy
import io
import math

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mobile_sam.core.masks import encode_rle
from mobile_sam.evaluate.average_precision import METRICS, bootstrap_ap, evaluate_ap

SIZE_HW = (120, 160)
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 7, "name": "never seen"}]


def rectangle_item(image_id, box_xywh, category_id=3, **more):
    """An annotation or result whose mask fills its box of whole pixels."""
    x, y, width, height = box_xywh
    mask = np.zeros(SIZE_HW, bool)
    mask[y : y + height, x : x + width] = True
    segmentation = encode_rle(mask)
    common = {"image_id": image_id, "category_id": category_id, "segmentation": segmentation}
    return {**common, "bbox": list(box_xywh), **more}


def truth_item(image_id, box_xywh, category_id=3, **more):
    return rectangle_item(image_id, box_xywh, category_id, area=box_xywh[2] * box_xywh[3], **more)


def content(image_ids, annotations):
    images = [{"id": image_id, "height": SIZE_HW[0], "width": SIZE_HW[1]} for image_id in image_ids]
    numbered = [{"id": number, "iscrowd": 0, **item} for number, item in enumerate(annotations, start=1)]
    return {"images": images, "annotations": numbered, "categories": CATEGORIES}


def random_dataset(seed, num_pictures=9):
    """Objects of all sizes, some of them crowds, and detections near them: some missed, doubled or of nothing, with
    few different scores; pictures without objects, without detections and without either are among them."""
    rng = np.random.default_rng(seed)
    image_ids = (10 * rng.permutation(num_pictures) + 100).tolist()
    annotations, results = [], []

    def box(max_side):
        width, height = rng.integers(4, max_side, 2).tolist()
        return [int(rng.integers(SIZE_HW[1] - width)), int(rng.integers(SIZE_HW[0] - height)), width, height]

    for index, image_id in enumerate(image_ids):
        boxes = [box(int(rng.choice([20, 60, 115]))) for _ in range(rng.integers(0, 6))] if index != 1 else []
        for box_xywh in boxes:
            category_id = int(rng.choice([1, 3]))
            annotations.append(truth_item(image_id, box_xywh, category_id, iscrowd=int(rng.random() < 0.2)))
            for _ in range(rng.integers(0, 4)) if index != 0 else ():
                x, y, width, height = np.array(box_xywh) + rng.integers(-2, 3, 4)
                near = [int(max(0, x)), int(max(0, y)), int(max(2, width)), int(max(2, height))]
                found_id = category_id if rng.random() < 0.9 else 4 - category_id
                results.append(rectangle_item(image_id, near, found_id, score=float(rng.integers(1, 8) / 8)))
        for _ in range(rng.integers(0, 3)) if index != 0 else ():
            wrong_id = int(rng.choice([1, 3]))
            results.append(rectangle_item(image_id, box(60), wrong_id, score=float(rng.integers(1, 8) / 8)))
    order = rng.permutation(len(results))
    return content(image_ids, annotations), [results[index] for index in order]


def their_stats(annotations, results, iou_type):
    """The twelve numbers of pycocotools, used as its demonstration does."""
    keys = {"segm": "bbox", "bbox": "segmentation"}[iou_type]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(annotations)
        truth.createIndex()
        found = truth.loadRes([{k: v for k, v in copy.deepcopy(item).items() if k != keys} for item in results])
        evaluation = COCOeval(truth, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.where(evaluation.stats < 0, np.nan, evaluation.stats)


def with_copies(annotations, results, counts):
    """The dataset with each picture, in order of its id, so many times; copies get ids next to each other."""
    image_ids = sorted(image["id"] for image in annotations["images"])
    copies = {image_id: [image_id * 100 + i for i in range(n)] for image_id, n in zip(image_ids, counts, strict=True)}
    new_annotations = [
        {**item, "image_id": new_id} for item in annotations["annotations"] for new_id in copies[item["image_id"]]
    ]
    for number, item in enumerate(new_annotations, start=1):
        item["id"] = number
    new_results = [{**item, "image_id": new_id} for item in results for new_id in copies[item["image_id"]]]
    new_content = content([new_id for ids in copies.values() for new_id in ids], new_annotations)
    return new_content, new_results


ALL_SEEDS = pytest.mark.parametrize("seed", range(12))
BOTH_TYPES = pytest.mark.parametrize("iou_type", ["segm", "bbox"])


@ALL_SEEDS
@BOTH_TYPES
def test_all_numbers_are_those_of_pycocotools(seed, iou_type):
    annotations, results = random_dataset(seed)
    ours = evaluate_ap(annotations, results, iou_type)
    assert tuple(ours.metrics) == METRICS
    assert_array_equal(list(ours.metrics.values()), their_stats(annotations, results, iou_type)[:9])
    assert 0 < ours.metrics["AP"] < 1


@ALL_SEEDS
@BOTH_TYPES
def test_our_own_ap_with_every_picture_once_is_that_of_pycocotools(seed, iou_type):
    annotations, results = random_dataset(seed)
    ours = evaluate_ap(annotations, results, iou_type)
    assert ours.average_precision() == pytest.approx(ours.metrics["AP"], abs=1e-12)
    assert ours.average_precision(np.ones(9, int)) == ours.average_precision()


@ALL_SEEDS
def test_counted_pictures_give_what_pycocotools_gives_for_copied_pictures(seed):
    annotations, results = random_dataset(seed)
    ours = evaluate_ap(annotations, results, "segm")
    for counts in np.random.default_rng(seed).integers(0, 4, (3, 9)):
        theirs = their_stats(*with_copies(annotations, results, counts), "segm")[0]
        assert ours.average_precision(counts) == pytest.approx(theirs, abs=1e-12, nan_ok=True)


def test_ties_within_a_picture_are_repeated_picture_by_picture_as_in_real_copies():
    """A right and a wrong box of one score: copied they alternate, which two rights before two wrongs would not."""
    annotations = content([1, 2], [truth_item(1, [10, 10, 20, 20]), truth_item(2, [10, 10, 20, 20])])
    results = [
        rectangle_item(1, [80, 80, 20, 20], score=0.5),
        rectangle_item(1, [10, 10, 20, 20], score=0.5),
        rectangle_item(2, [10, 10, 20, 20], score=0.25),
    ]
    ours = evaluate_ap(annotations, results, "bbox")
    for counts in ([1, 1], [3, 1], [2, 0], [5, 2]):
        theirs = their_stats(*with_copies(annotations, results, counts), "bbox")[0]
        assert ours.average_precision(np.array(counts)) == pytest.approx(theirs, abs=1e-12)
    assert ours.average_precision(np.array([2, 0])) == pytest.approx(0.5)  # wrong, right, wrong, right: 1/2 and 2/4


SQUARE = [10, 10, 20, 20]
HALF_OVER = [
    10,
    10,
    20,
    14,
]  # IoU 14 / 20 = 0.7 with the square: right at 0.50, 0.55, ... 0.70, wrong at 0.75 and above
KNOWN = {
    "found exactly": ([SQUARE], [(SQUARE, 0.9)], 1.0),
    "found with an IoU of 0.7": ([SQUARE], [(HALF_OVER, 0.9)], 0.5),
    "one of two found, 51 of 101 recall thresholds": ([SQUARE, [80, 50, 30, 30]], [(SQUARE, 0.9)], 51 / 101),
    "found after a mistake": ([SQUARE], [([90, 60, 20, 20], 0.9), (SQUARE, 0.8)], 0.5),
    "found before a mistake": ([SQUARE], [([90, 60, 20, 20], 0.7), (SQUARE, 0.8)], 1.0),
    "found twice, the second is a mistake after": ([SQUARE], [(SQUARE, 0.9), (SQUARE, 0.8)], 1.0),
    "not found": ([SQUARE], [([90, 60, 20, 20], 0.9)], 0.0),
}


@BOTH_TYPES
@pytest.mark.parametrize(("objects", "found", "expected"), KNOWN.values(), ids=KNOWN.keys())
def test_ap_worked_out_by_hand_for_an_object(objects, found, expected, iou_type):
    annotations = content([1], [truth_item(1, box_xywh) for box_xywh in objects])
    results = [rectangle_item(1, box_xywh, score=score) for box_xywh, score in found]
    result = evaluate_ap(annotations, results, iou_type)
    assert result.metrics["AP"] == pytest.approx(expected)
    assert result.average_precision() == pytest.approx(expected)


def test_sizes_are_apart_and_a_size_without_objects_has_no_number():
    annotations = content([1], [truth_item(1, [0, 0, 10, 10]), truth_item(1, [20, 0, 110, 110])])
    result = evaluate_ap(annotations, [rectangle_item(1, [20, 0, 110, 110], score=0.9)], "segm")
    assert result.metrics["AP_small"] == 0
    assert result.metrics["AP_large"] == pytest.approx(1)
    assert math.isnan(result.metrics["AP_medium"])


def test_without_detections_ap_is_zero_and_without_objects_unknown():
    nothing_found = evaluate_ap(content([1, 2], [truth_item(1, SQUARE)]), [], "segm")
    assert nothing_found.metrics["AP"] == nothing_found.metrics["AR100"] == nothing_found.average_precision() == 0
    nothing_there = evaluate_ap(content([1, 2], []), [rectangle_item(1, SQUARE, score=0.5)], "segm")
    assert all(math.isnan(value) for value in nothing_there.metrics.values())
    assert math.isnan(nothing_there.average_precision())
    assert math.isnan(evaluate_ap(content([1], []), [], "bbox").average_precision())
    only_crowds = content([1], [truth_item(1, SQUARE, iscrowd=1)])
    assert math.isnan(evaluate_ap(only_crowds, [rectangle_item(1, SQUARE, score=0.5)], "segm").metrics["AP"])


def test_a_box_beside_a_mask_does_not_change_by_which_size_the_mask_counts():
    """Wrong masks of 100 pixels are ignored among large objects, even if their boxes are said to be large."""
    annotations = content([1], [truth_item(1, [20, 0, 110, 110])])
    wrong = rectangle_item(1, [0, 0, 10, 10], score=0.95) | {"bbox": [0, 0, 119, 119]}
    results = [wrong, rectangle_item(1, [20, 0, 110, 110], score=0.9)]
    assert evaluate_ap(annotations, results, "segm").metrics["AP_large"] == pytest.approx(1)


def test_an_object_with_id_0_counts_and_crowds_need_not_be_marked():
    annotations = content([1], [truth_item(1, SQUARE)])
    annotations["annotations"][0]["id"] = 0
    del annotations["annotations"][0]["iscrowd"]
    assert evaluate_ap(annotations, [rectangle_item(1, SQUARE, score=0.5)], "segm").metrics["AP"] == pytest.approx(1)


def test_evaluating_prints_nothing_and_changes_nothing(capsys):
    annotations, results = random_dataset(0)
    before = copy.deepcopy((annotations, results))
    evaluate_ap(annotations, results, "segm")
    assert (annotations, results) == before
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a, r: a.pop("categories"), "must have 'categories'"),
        (lambda a, r: a["images"].clear(), "at least one picture"),
        (lambda a, r: a["images"][0].pop("height"), "picture 0 lacks height"),
        (lambda a, r: a["annotations"][0].pop("area"), "annotation 0 lacks area"),
        (lambda a, r: r[1].pop("score"), "result 1 lacks score"),
        (lambda a, r: r[1].pop("segmentation"), "result 1 lacks segmentation; it has image_id"),
        (lambda a, r: r[0].update(image_id=99), "result 0 is of picture 99, which is none of the 1 chosen"),
        (lambda a, r: a["annotations"][0].update(image_id="1"), "annotation 0 is of picture '1'"),
    ],
)
def test_content_that_cannot_be_evaluated_is_refused_with_its_place(spoil, message):
    annotations, results = content([1], [truth_item(1, SQUARE)]), [rectangle_item(1, SQUARE, score=0.5)] * 2
    results = [dict(item) for item in results]
    spoil(annotations, results)
    with pytest.raises(ValueError, match=message):
        evaluate_ap(annotations, results, "segm")


def test_an_unknown_iou_type_and_counts_that_are_none_are_refused():
    annotations = content([1, 2], [truth_item(1, SQUARE)])
    with pytest.raises(ValueError, match="'segm' or 'bbox', got 'keypoints'"):
        evaluate_ap(annotations, [], "keypoints")
    result = evaluate_ap(annotations, [], "segm")
    for counts in ([1], [1, -1], [0.5, 1.5]):
        with pytest.raises(ValueError, match="one for each of 2 pictures"):
            result.average_precision(np.array(counts))


def test_the_bootstrap_compares_models_on_the_same_resamples():
    annotations, results = random_dataset(5, num_pictures=20)
    good = evaluate_ap(annotations, results, "segm")
    same = evaluate_ap(annotations, [{**item, "score": item["score"] / 2} for item in results], "segm")
    none = evaluate_ap(annotations, [], "segm")
    compared = bootstrap_ap({"good": good, "same": same, "none": none}, baseline="good", num_resamples=60)
    assert [(c.model, c.baseline) for c in compared] == [("good", "good"), ("same", "good"), ("none", "good")]
    assert compared[0].interval.low < compared[0].ap < compared[0].interval.high
    for comparison in compared[:2]:
        assert comparison.interval == compared[0].interval
        assert (comparison.difference, comparison.difference_interval.low, comparison.difference_interval.high) == (
            0,
            0,
            0,
        )
    assert (compared[2].ap, compared[2].interval.low, compared[2].interval.high) == (0, 0, 0)
    assert compared[2].difference == -compared[0].ap
    assert compared[2].difference_interval.low == -compared[0].interval.high


def test_the_bootstrap_is_that_of_pycocotools_on_real_copies():
    """Two pictures, one found and one missed: the resamples have APs of 0, 51 / 101 (twice) and 1."""
    annotations = content([1, 2], [truth_item(1, SQUARE), truth_item(2, SQUARE)])
    result = evaluate_ap(annotations, [rectangle_item(1, SQUARE, score=0.5)], "segm")
    [whole] = bootstrap_ap({"m": result}, "m", num_resamples=200)
    assert (whole.interval.low, whole.interval.high) == pytest.approx((0, 1))
    [middle] = bootstrap_ap({"m": result}, "m", num_resamples=200, level=0.3)
    assert (middle.interval.low, middle.interval.high) == pytest.approx((51 / 101, 51 / 101))
    assert bootstrap_ap({"m": result}, "m", 20, seed=1) == bootstrap_ap({"m": result}, "m", 20, seed=1)


def test_one_picture_gives_no_interval():
    result = evaluate_ap(content([1], [truth_item(1, SQUARE)]), [rectangle_item(1, SQUARE, score=0.5)], "segm")
    [comparison] = bootstrap_ap({"m": result}, "m", num_resamples=10)
    assert comparison.ap == pytest.approx(1)
    assert math.isnan(comparison.interval.low)
    assert math.isnan(comparison.difference_interval.high)


def test_models_that_cannot_be_paired_are_refused():
    one = evaluate_ap(content([1], [truth_item(1, SQUARE)]), [], "segm")
    other = evaluate_ap(content([2], [truth_item(2, SQUARE)]), [], "segm")
    boxes = evaluate_ap(content([1], [truth_item(1, SQUARE)]), [], "bbox")
    for second in (other, boxes):
        with pytest.raises(ValueError, match="same pictures and of one IoU type"):
            bootstrap_ap({"one": one, "second": second}, "one")
    with pytest.raises(ValueError, match="one of the models one, got 'two'"):
        bootstrap_ap({"one": one}, "two")
    with pytest.raises(ValueError, match="num_resamples"):
        bootstrap_ap({"one": one}, "one", num_resamples=0)
