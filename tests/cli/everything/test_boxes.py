"""`mobile-sam everything --boxes`: masks for the boxes of a detector."""

import csv
import json

import numpy as np
import pytest
from PIL import Image


def detection(image_id, box_xywh=(4, 5, 10, 8), **more):
    return {"image_id": image_id, "category_id": 18, "bbox": list(box_xywh), "score": 0.75, **more}


@pytest.fixture
def boxes_file(tmp_path):
    def write(*detections):
        path = tmp_path / "boxes.json"
        path.write_text(json.dumps(detections))
        return path

    return write


def test_each_box_has_its_mask_in_the_order_of_the_file(run, cat, boxes_file, tmp_path):
    boxes = boxes_file(detection("cat", (40, 30, 5, 5), score=0.25), detection("cat"), detection("dog"))
    ended = run(cat, "--boxes", boxes, "-o", "out", "-o", "a.json")
    assert ended.exit_code == 0
    rows = list(csv.DictReader((tmp_path / "work" / "out" / "cat" / "metadata.csv").open()))
    assert [int(row["area"]) for row in rows] == [25, 80]
    assert {(row["point_input_x"], row["point_input_y"]) for row in rows} == {("", "")}
    first, second = json.loads((tmp_path / "work" / "a.json").read_text())["annotations"]
    assert (first["score"], second["score"], second["category_id"]) == (0.25, 0.75, 18)
    assert second["box"] == [4, 5, 14, 13]
    assert "left out the boxes of pictures that were not named (1): dog" in ended.err


def test_a_picture_without_boxes_has_no_masks_and_that_is_said(run, photos, boxes_file, tmp_path):
    ended = run(photos, "--boxes", boxes_file(detection("dog"), detection("mouse")), "-o", "out")
    cat, dog = ended.out.splitlines()
    assert ended.exit_code == 0
    assert cat.startswith("cat.png: 0 masks (no boxes), ")
    assert dog.startswith("dog.png: 1 mask, ")
    folder = tmp_path / "work" / "out" / "cat"
    assert len((folder / "metadata.csv").read_text().splitlines()) == 1
    assert not np.asarray(Image.open(folder / "labels.png")).any()


def test_what_is_wrong_with_the_file_is_counted_on_stderr(run, cat, boxes_file):
    incomplete = [{key: value for key, value in detection("cat").items() if key != "bbox"} for _ in range(2)]
    boxes = boxes_file(detection("cat"), *incomplete, detection("cat", category_id="a cat"))
    ended = run(cat, "--boxes", boxes, "-o", "out")
    assert (ended.exit_code, len(ended.err.splitlines())) == (0, 2)
    assert "2 x missing key, left out, such as entry 1: lacks bbox" in ended.err
    assert "1 x malformed score or category, dropped, the box stays, such as entry 3: its category_id" in ended.err
    assert ended.out.startswith("cat.png: 2 masks, ")


@pytest.mark.parametrize("content", [[], {"annotations": []}])
def test_a_detector_that_found_nothing_gives_no_masks_and_that_is_said(run, photos, tmp_path, content):
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(content))
    ended = run(photos, "--boxes", boxes, "-o", "a.json")
    assert (ended.exit_code, ended.err) == (0, f"{boxes}: it has no boxes, so there will be no masks\n")
    assert [line.split(",")[0] for line in ended.out.splitlines()[:2]] == [
        "cat.png: 0 masks (no boxes)",
        "dog.png: 0 masks (no boxes)",
    ]
    content = json.loads((tmp_path / "work" / "a.json").read_text())
    assert (len(content["images"]), content["annotations"]) == (2, [])


def test_boxes_need_neither_score_nor_category(run, cat, boxes_file, tmp_path):
    bare = {"image_id": "cat", "bbox": [4, 5, 10, 8]}
    boxes = boxes_file(bare, {**bare, "score": 0.5}, {**bare, "category_id": 18, "score": None}, detection("cat"))
    ended = run(cat, "--boxes", boxes, "-o", "out", "--convert-to-rle")
    assert (ended.exit_code, ended.err) == (0, "")
    records = json.loads((tmp_path / "work" / "out" / "cat.json").read_text())
    said = [{key: record[key] for key in ("score", "category_id") if key in record} for record in records]
    assert said == [{}, {"score": 0.5}, {"category_id": 18}, {"score": 0.75, "category_id": 18}]


@pytest.mark.parametrize(
    "box_xywh", [(70, 5, 10, 8), (4, 5, 65, 8), (-9, 5, 30, 8), (4, 5, 1e-9, 8), (1e300, 5, 9e300, 8)]
)
@pytest.mark.filterwarnings("error")
def test_a_box_outside_the_picture_or_without_area_costs_only_itself(run, cat, boxes_file, tmp_path, box_xywh):
    sticks_out = detection("cat", (60, 40, 7, 10), score=0.125)  # by less than 5 %, as detectors' boxes do
    ended = run(cat, "--boxes", boxes_file(detection("cat", box_xywh), sticks_out, detection("cat")), "-o", "a.json")
    assert ended.exit_code == 0
    (line,) = ended.err.splitlines()
    assert line.startswith("cat.png: 1 x unusable box, left out, such as number 1 of 3: box ")
    annotations = json.loads((tmp_path / "work" / "a.json").read_text())["annotations"]
    assert [(one["box"], one["score"]) for one in annotations] == [([60, 40, 67, 50], 0.125), ([4, 5, 14, 13], 0.75)]


def test_a_picture_of_whose_boxes_none_can_be_used_has_no_masks(run, photos, boxes_file):
    ended = run(photos, "--boxes", boxes_file(detection("cat", (70, 5, 10, 8)), detection("dog")), "-o", "out")
    assert (ended.exit_code, len(ended.err.splitlines())) == (0, 1)
    assert [line.split(",")[0] for line in ended.out.splitlines()] == ["cat.png: 0 masks", "dog.png: 1 mask"]


def test_masks_of_boxes_are_sorted_only_if_asked(run, cat, boxes_file, tmp_path):
    boxes = boxes_file(detection("cat", (4, 5, 2, 2)), detection("cat"))  # the second mask is the better one
    for flags, areas in ([], [4, 80]), (["--sort", "predicted_iou"], [80, 4]):
        assert run(cat, "--boxes", boxes, "-o", "a.json", *flags).exit_code == 0
        assert [one["area"] for one in json.loads((tmp_path / "work" / "a.json").read_text())["annotations"]] == areas


def test_other_boxes_are_other_results(run, cat, boxes_file):
    run(cat, "--boxes", boxes_file(detection("cat")), "-o", "out")
    assert "done before" in run(cat, "--boxes", boxes_file(detection("cat")), "-o", "out").out
    ended = run(cat, "--boxes", boxes_file(detection("cat"), detection("cat")), "-o", "out")
    assert ended.exit_code == 2
    assert "boxes_file has changed" in ended.err
