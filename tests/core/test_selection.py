"""Records sorted and limited, and boxes thinned out."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mobile_sam.core.selection import limit_records, nms_boxes, sort_records

RECORDS = [
    {"name": "a", "area": 30, "predicted_iou": 0.9, "stability_score": 0.8, "bbox": [5, 7, 1, 1]},
    {"name": "b", "area": 10, "predicted_iou": 0.7, "stability_score": 0.9, "bbox": [9, 2, 1, 1]},
    {"name": "c", "area": 30, "predicted_iou": 0.8, "stability_score": 0.9, "bbox": [1, 7, 1, 1]},
    {"name": "d", "area": 20, "predicted_iou": 0.9, "stability_score": 0.7, "bbox": [5, 7, 9, 9]},
]


def names(records):
    return "".join(record["name"] for record in records)


@pytest.mark.parametrize(
    ("by", "falling", "rising"),
    [
        ("area", "acdb", "bdac"),
        ("predicted_iou", "adcb", "bcad"),
        ("stability_score", "bcad", "dabc"),
        ("position", "adcb", "bcad"),
    ],
)
def test_records_sort_and_equal_ones_keep_their_order(by, falling, rising):
    before = list(RECORDS)
    assert names(sort_records(RECORDS, by)) == falling
    assert names(sort_records(iter(RECORDS), by, descending=False)) == rising
    assert before == RECORDS


def test_only_the_key_in_question_is_needed():
    assert sort_records([{"area": 1}, {"area": 2}], "area") == [{"area": 2}, {"area": 1}]
    assert limit_records([{}, {}], max_masks=1) == [{}]
    assert sort_records([], "area") == limit_records([]) == []


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, "abcd"),
        ({"max_masks": 2}, "ab"),
        ({"max_masks": 0}, ""),
        ({"max_masks": 9}, "abcd"),
        ({"min_area_px": 20}, "acd"),
        ({"min_area_px": 20.5}, "ac"),
        ({"max_area_share": 0.2, "image_hw": (10, 10)}, "bd"),
        ({"max_area_share": 0, "image_hw": (10, 10)}, ""),
        ({"max_masks": 1, "min_area_px": 11, "max_area_share": 0.25, "image_hw": (10, 10)}, "d"),
    ],
)
def test_limits_leave_out_before_they_count(limits, expected):
    assert names(limit_records(RECORDS, **limits)) == expected


def test_records_come_out_as_they_came_in():
    assert all(kept is record for kept, record in zip(limit_records(RECORDS, max_masks=3), RECORDS, strict=False))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_masks": -1}, "use None for all"),
        ({"min_area_px": -1}, "min_area_px"),
        ({"min_area_px": np.nan}, "min_area_px"),
        ({"max_area_share": 1.5}, r"within \[0, 1\], got 1.5"),
        ({"max_area_share": 0.5}, "pass its image_hw"),
        ({"min_area_px": 5}, "record must have 'area', got the keys 'name'"),
    ],
)
def test_limits_that_are_none_are_refused(limits, words):
    with pytest.raises(ValueError, match=words):
        limit_records([{"name": "a"}], **limits)


def test_orders_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"by must be one of area, .* got 'size'"):
        sort_records(RECORDS, "size")
    with pytest.raises(ValueError, match="record must have 'bbox', got the keys none"):
        sort_records([{}], "position")


def pair_by_pair(boxes, scores, iou_threshold):
    """What torchvision's CPU kernel does, in float32 steps, with the comparison in double."""
    boxes, scores = np.asarray(boxes, np.float32), np.asarray(scores, np.float32)
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in boxes]
    kept, gone = [], set()
    for rank, i in enumerate(order):
        if i in gone:
            continue
        kept.append(i)
        for j in order[rank + 1 :]:
            width = max(np.float32(0), min(boxes[i][2], boxes[j][2]) - max(boxes[i][0], boxes[j][0]))
            height = max(np.float32(0), min(boxes[i][3], boxes[j][3]) - max(boxes[i][1], boxes[j][1]))
            with np.errstate(invalid="ignore"):
                iou = (width * height) / (areas[i] + areas[j] - width * height)
            assert isinstance(iou, np.float32)
            if float(iou) > iou_threshold:
                gone.add(j)
    return kept


@st.composite
def scored_boxes(draw):
    """Boxes on a coarse grid, so that IoU and scores tie and hit the thresholds often; some are without area."""
    num_boxes = draw(st.integers(0, 14))
    corners = draw(hnp.arrays(np.int64, (num_boxes, 2), elements=st.integers(0, 4)))
    sides = draw(hnp.arrays(np.int64, (num_boxes, 2), elements=st.integers(0, 10)))
    scores = draw(hnp.arrays(np.float32, num_boxes, elements=st.sampled_from([0.25, 0.5, 0.75, 0.9])))
    shrink = draw(st.sampled_from([1, 3, 7]))
    return np.concatenate([corners, corners + sides], axis=1) / shrink, scores


@given(scored_boxes(), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]))
def test_boxes_are_kept_as_pair_by_pair(boxes_and_scores, iou_threshold):
    boxes, scores = boxes_and_scores
    kept = nms_boxes(boxes, scores, iou_threshold)
    assert kept.dtype == np.int64
    assert kept.tolist() == pair_by_pair(boxes, scores, iou_threshold)


def test_an_iou_at_the_threshold_is_no_overlap():
    boxes = [[0, 0, 2, 2], [0, 0, 2, 1]]
    assert nms_boxes(boxes, [2, 1], 0.5).tolist() == [0, 1]
    assert nms_boxes(boxes, [2, 1], 0.4999).tolist() == [0]


@pytest.mark.parametrize(("tenths", "num_kept"), [(3, 1), (6, 1), (7, 2), (9, 2)])
def test_at_the_threshold_float32_is_compared_with_float64(tenths, num_kept):
    boxes = [[0, 0, 10, 1], [0, 0, tenths, 1]]  # the float32 next to 0.3 and 0.6 is larger, that of 0.7 and 0.9 smaller
    assert nms_boxes(boxes, [1, 1], tenths / 10).size == num_kept


def test_boxes_without_area_stay_even_if_they_are_the_same():
    assert nms_boxes([[1, 1, 1, 1]] * 3 + [[0, 0, 2, 2]], [1, 2, 3, 4], 0.0).tolist() == [3, 2, 1, 0]


def test_of_equal_scores_the_first_goes_first():
    assert nms_boxes([[0, 0, 4, 4]] * 3, [0.5, 0.5, 0.5], 0.5).tolist() == [0]
    assert nms_boxes([[0, 0, 1, 1], [5, 5, 6, 6], [9, 9, 10, 10]], [0.5, 0.9, 0.5], 0.5).tolist() == [1, 0, 2]


def test_no_boxes_keep_none():
    assert nms_boxes(np.zeros((0, 4)), np.zeros(0), 0.5).shape == (0,)
    assert nms_boxes([], [], 0.5).dtype == np.int64


def test_many_boxes_do_not_take_the_square_of_their_memory():
    random = np.random.default_rng(0)
    corners = random.uniform(0, 1000, (20_000, 2))
    boxes = np.concatenate([corners, corners + random.uniform(20, 300, (20_000, 2))], axis=1)
    scores = random.random(20_000)
    tracemalloc.start()
    kept = nms_boxes(boxes, scores, 0.5)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 20_000_000  # a byte for each pair would be 400,000,000
    assert 50 < kept.size < 5000


@pytest.mark.parametrize(
    ("boxes", "scores", "iou_threshold", "words"),
    [
        ([0, 0, 1, 1], [1], 0.5, r"got \(4,\); use boxes\[None\]"),
        ([[0, 0, 1]], [1], 0.5, r"\(N, 4\), got \(1, 3\)"),
        ([[0, 0, 1, np.nan]], [1], 0.5, "finite"),
        ([[0, 0, 1, 1]], [1, 2], 0.5, r"scores must be finite and \(1,\), one for each box, got \(2,\)"),
        ([[0, 0, 1, 1]], [np.inf], 0.5, "scores must be finite"),
        ([[0, 0, 1, 1]], [1], np.nan, "iou_threshold"),
        (np.zeros((0, 4)), [1], 0.5, "scores"),
    ],
)
def test_boxes_that_are_none_are_refused(boxes, scores, iou_threshold, words):
    with pytest.raises(ValueError, match=words):
        nms_boxes(boxes, scores, iou_threshold)
