"""`mobile-sam everything --boxes`: masks for the boxes of a detector."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from mobile_sam.cli.everything_boxes import match_detections
from mobile_sam.data.records import Picture


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
    incomplete = [{key: value for key, value in detection("cat").items() if key != "score"} for _ in range(2)]
    ended = run(cat, "--boxes", boxes_file(detection("cat"), *incomplete), "-o", "out")
    assert ended.exit_code == 0
    assert "2 x missing key, left out, such as entry 1: lacks score" in ended.err


def test_other_boxes_are_other_results(run, cat, boxes_file):
    run(cat, "--boxes", boxes_file(detection("cat")), "-o", "out")
    assert "done before" in run(cat, "--boxes", boxes_file(detection("cat")), "-o", "out").out
    ended = run(cat, "--boxes", boxes_file(detection("cat"), detection("cat")), "-o", "out")
    assert ended.exit_code == 2
    assert "boxes_file has changed" in ended.err


@pytest.mark.parametrize(
    ("image_ids", "files", "expected", "left"),
    [
        (["a.jpg", "b"], ["a.jpg", "b.png"], {"a.jpg": "a.jpg", "b.png": "b"}, []),
        (["a", "a.jpg"], ["a.jpg", "b.png"], {"a.jpg": "a.jpg"}, ["a"]),
        (["397133", "5"], ["000000397133.jpg"], {"000000397133.jpg": "397133"}, ["5"]),
        (["000397133", "5"], ["397133.jpg", "5.png"], {"397133.jpg": "000397133", "5.png": "5"}, []),
        (["999"], ["cat.png"], {"cat.png": "999"}, []),
        (["999"], ["cat.png", "dog.png"], {}, ["999"]),
        (["²", "-1"], ["2.png", "1.png"], {}, ["²", "-1"]),
    ],
)
def test_image_ids_are_names_stems_or_numbers(tmp_path, image_ids, files, expected, left):
    pictures = [Picture(name, tmp_path / name) for name in files]
    assert match_detections({image_id: image_id for image_id in image_ids}, pictures) == (expected, left)


def test_an_image_id_that_may_mean_two_pictures_is_refused(tmp_path):
    pictures = [Picture(name, tmp_path / name) for name in ("7.jpg", "007.jpg")]
    with pytest.raises(ValueError, match=r"image_id 7 may mean .*7.jpg or .*007.jpg"):
        match_detections({"7": None, "8": None}, pictures)
