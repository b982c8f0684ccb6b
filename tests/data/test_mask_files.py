"""Masks and boxes that other tools left in JSON files."""

import hashlib
import json
import math

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pycocotools import mask as coco_mask

from mobile_sam.core.masks import decode_rle
from mobile_sam.data.mask_files import NO_CATEGORY, read_detections, read_mask_file

MASK = np.zeros((6, 9), bool)
MASK[1:4, 2:7] = True
RLE = {"size": [6, 9], "counts": coco_mask.encode(np.asfortranarray(MASK, np.uint8))["counts"].decode()}


def entry(**changes):
    whole = {"image_id": 7, "segmentation": RLE, "score": 0.5} | changes
    return {key: value for key, value in whole.items() if value is not ...}


def detection(**changes):
    whole = {"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5} | changes
    return {key: value for key, value in whole.items() if value is not ...}


@pytest.fixture
def write(tmp_path):
    def write(content):
        (tmp_path / "results.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path / "results.json"

    return write


def kinds_of(file):
    return [(problem.kind, problem.where, problem.is_left_out) for problem in file.problems]


def test_coco_results_are_masks_by_picture(write):
    path = write([entry(), entry(image_id="b"), entry(score=0.25)])
    file = read_mask_file(path)
    assert {picture: [mask.score for mask in masks] for picture, masks in file.masks.items()} == {
        "7": [0.5, 0.25],
        "b": [0.5],
    }
    assert (file.name, file.problems) == ("results.json", ())
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    mask = file.masks["7"][0]
    assert_array_equal(decode_rle(mask.rle), MASK)
    assert (mask.id, mask.point_xy, mask.box_xyxy) == ("", None, None)


def test_records_of_sa1b_belong_to_the_picture_of_their_file(write):
    record = entry(image_id=..., score=..., id=3, predicted_iou=0.9, point_coords=[[4, 2.5]], bbox=[2, 1, 4, 2])
    file = read_mask_file(write({"image": {"image_id": 12, "file_name": "sa_12.jpg"}, "annotations": [record]}))
    (mask,) = file.masks["12"]
    assert (mask.id, mask.score, mask.point_xy, mask.box_xyxy) == ("3", 0.9, (4, 2.5), (2, 1, 6, 3))


def test_the_picture_may_be_named_in_several_ways(write):
    entries = [entry(image_id=..., picture="a.jpg"), entry(image_id=None, picture=5), entry(image_id=1, picture="b")]
    assert list(read_mask_file(write({"annotations": entries})).masks) == ["a.jpg", "5", "1"]
    content = {"image": {"file_name": "c.jpg"}, "annotations": [entry(image_id=...), entry(image_id="d.jpg")]}
    assert list(read_mask_file(write(content)).masks) == ["c.jpg", "d.jpg"]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ({"prompt_id": "p", "annotation_id": 4, "id": 9}, "p"),
        ({"annotation_id": 4, "id": 9}, "4"),
        ({"prompt_id": None, "id": 9}, "9"),
        ({"prompt_id": [1], "id": 9.0}, "9"),
        ({}, ""),
    ],
)
def test_a_mask_is_named_after_its_prompt_first(write, ids, expected):
    assert read_mask_file(write([entry(**ids)])).masks["7"][0].id == expected


@pytest.mark.parametrize("score", [..., None, "high", float("nan"), float("inf")])
def test_without_a_sound_score_there_is_none(write, score):
    assert math.isnan(read_mask_file(write([entry(score=score)])).masks["7"][0].score)


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (None, "missing key"),
        ([], "missing key"),
        (entry(segmentation=...), "missing key"),
        (entry(image_id=...), "missing key"),
        (entry(image_id=True), "missing key"),
        (entry(segmentation=[[1, 1, 5, 1, 5, 5]]), "malformed segmentation"),  # of what size?
        (entry(segmentation={"size": [6], "counts": "0"}), "malformed segmentation"),
        (entry(segmentation={"size": [6, 9], "counts": [9]}), "malformed segmentation"),
        (entry(segmentation={"size": [6, 9], "counts": None}), "malformed segmentation"),
        (entry(segmentation={"size": [0, 9], "counts": [0]}), "malformed segmentation"),
        (entry(segmentation={"size": [10**9, 10**9], "counts": [10**18]}), "malformed segmentation"),
        (entry(id="a"), "repeated annotation id"),
    ],
)
def test_a_broken_entry_is_left_out_and_counted(write, broken, kind):
    file = read_mask_file(write([entry(id="a", score=0.75), broken, entry(id="b")]))
    assert kinds_of(file) == [(kind, "entry 1", True)]
    assert [(mask.id, mask.score) for mask in file.masks["7"]] == [("a", 0.75), ("b", 0.5)]


def test_one_id_may_come_in_two_pictures_and_no_id_often(write):
    file = read_mask_file(write([entry(id=1), entry(id=1, image_id=8), entry(), entry()]))
    assert {picture: len(masks) for picture, masks in file.masks.items()} == {"7": 3, "8": 1}
    assert file.problems == ()


def test_an_empty_mask_is_an_answer(write):
    file = read_mask_file(write([entry(segmentation={"size": [6, 9], "counts": [54]}, bbox=[0, 0, 0, 0])]))
    assert kinds_of(file) == [("empty mask", "entry 0", False)]
    assert not decode_rle(file.masks["7"][0].rle).any()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"bbox": [1, 2, 0, 4]}, "malformed box"),
        ({"bbox": "all"}, "malformed box"),
        ({"point_coords": [1, 2]}, "malformed point"),
        ({"point_coords": [[1, None]]}, "malformed point"),
    ],
)
def test_a_malformed_box_or_point_is_dropped_and_the_mask_stays(write, changes, kind):
    file = read_mask_file(write([entry(**changes)]))
    assert kinds_of(file) == [(kind, "entry 0", False)]
    assert (file.masks["7"][0].box_xyxy, file.masks["7"][0].point_xy) == (None, None)


def test_detections_are_arrays_by_picture(write):
    path = write(
        [
            detection(),
            detection(image_id="b", score=1),
            detection(bbox=[0.5, 0, 2, 1.25], score=0.125, category_id=9.0, more=1),
        ]
    )
    detections = read_detections(path)
    found = detections.pictures["7"]
    assert_array_equal(found.boxes_xyxy, [[1, 2, 4, 6], [0.5, 0, 2.5, 1.25]])
    assert_array_equal(found.scores, [0.5, 0.125])
    assert_array_equal(found.category_ids, [3, 9])
    dtypes = {array.dtype.name for array in (found.boxes_xyxy, found.scores)}
    assert (dtypes, found.category_ids.dtype.name) == ({"float64"}, "int64")
    assert {picture: len(found) for picture, found in detections.pictures.items()} == {"7": 2, "b": 1}
    assert (detections.name, detections.problems) == ("results.json", ())
    assert detections.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_scores_that_are_whole_numbers_are_floats_all_the_same(write):
    assert read_detections(write([detection(score=1)])).pictures["7"].scores.dtype == np.float64


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        ("box", "missing key"),
        *((detection(**{key: missing}), "missing key") for key in detection() for missing in (..., None)),
        (detection(bbox=[1, 2, 3]), "malformed detection"),
        (detection(bbox=[1, 2, 3, "4"]), "malformed detection"),
        (detection(bbox=[1, 2, 3, float("nan")]), "malformed detection"),
        (detection(bbox=[1, float("-inf"), 3, 4]), "malformed detection"),
        (detection(score=float("inf")), "malformed detection"),
        (detection(score="0.5"), "malformed detection"),
        (detection(category_id="cat"), "malformed detection"),
        (detection(category_id=1.5), "malformed detection"),
        (detection(category_id=2**63), "malformed detection"),
        (detection(image_id=[]), "malformed detection"),
        (detection(bbox=[1, 2, 0, 4]), "box without area"),
        (detection(bbox=[1, 2, 3, -4]), "box without area"),
        (detection(bbox=[1e308, 2, 1e308, 4]), "box without area"),  # none that a float can hold
    ],
)
def test_a_broken_detection_is_left_out_and_counted(write, broken, kind):
    detections = read_detections(write([broken, detection(score=0.75)]))
    assert kinds_of(detections) == [(kind, "entry 0", True)]
    assert_array_equal(detections.pictures["7"].scores, [0.75])


@pytest.mark.parametrize("absent", [..., None])
def test_where_boxes_will_do_scores_and_categories_may_lack(write, absent):
    entries = [detection(), detection(score=absent), detection(category_id=absent), detection(image_id=absent)]
    detections = read_detections(write(entries), needs_scores=False)
    found = detections.pictures["7"]
    assert_array_equal(found.scores, [0.5, np.nan, 0.5])
    assert_array_equal(found.category_ids, [3, 3, NO_CATEGORY])
    assert [found.facts(row) for row in range(3)] == [
        {"score": 0.5, "category_id": 3},
        {"category_id": 3},
        {"score": 0.5},
    ]
    assert (found.scores.dtype, found.category_ids.dtype) == (np.float64, np.int64)
    assert kinds_of(detections) == [("missing key", "entry 3", True)]


@pytest.mark.parametrize(
    "changes",
    [{"score": "high"}, {"score": float("inf")}, {"category_id": "cat"}, {"category_id": 2**63}, {"category_id": True}],
)
def test_where_boxes_will_do_a_malformed_score_or_category_is_dropped(write, changes):
    detections = read_detections(write([detection(**changes)]), needs_scores=False)
    assert kinds_of(detections) == [("malformed score or category", "entry 0", False)]
    (dropped,) = changes
    assert detections.pictures["7"].facts(0).keys() == {"score", "category_id"} - {dropped}


def test_where_boxes_will_do_none_is_an_answer_but_none_usable_is_not(write):
    assert read_detections(write([]), needs_scores=False).pictures == {}
    with pytest.raises(
        ValueError, match=r"none of the 1 entries .* expected each to hold a box; the first: lacks bbox"
    ):
        read_detections(write([detection(bbox=...)]), needs_scores=False)


def test_rows_of_detections_are_detections(write):
    found = read_detections(write([detection(score=share) for share in (0.25, 0.5, 0.75)])).pictures["7"]
    assert_array_equal(found[[2, 0]].scores, [0.75, 0.25])
    assert (len(found[[2, 0]]), found[[]].boxes_xyxy.shape) == (2, (0, 4))


def test_detections_of_unknown_pictures_are_left_out_and_counted(write):
    detections = read_detections(write([detection(), detection(image_id=8), detection(image_id=8)]))
    known, problems = detections.check_pictures(["7", "9"])
    assert list(known.pictures) == ["7"]
    assert [(problem.kind, problem.where) for problem in problems] == [
        ("detections of an unknown picture", "picture 8")
    ]
    assert "2 detections" in problems[0].message
    assert list(detections.pictures) == ["7", "8"]


@pytest.mark.parametrize("read", [read_mask_file, read_detections])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("5", "holds no list of entries.*got 5"),
        ({"images": []}, "holds no list of entries"),
        ({"annotations": {}}, "holds no list of entries"),
        ([], "none of the 0 entries"),
        ([{}, {"a": 1}], "none of the 2 entries .*the first: lacks"),
    ],
)
def test_files_without_a_usable_entry_are_refused(write, read, content, message):
    with pytest.raises(ValueError, match=message):
        read(write(content))


@pytest.mark.parametrize("read", [read_mask_file, read_detections])
def test_a_file_that_is_not_there_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"gone\.json"):
        read(tmp_path / "gone.json")
