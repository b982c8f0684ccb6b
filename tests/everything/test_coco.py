"""COCO JSON of records, as pycocotools reads it."""

import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pycocotools.coco import COCO

from mobile_sam.core.masks import encode_rle
from mobile_sam.everything.coco import PictureRecords, coco_json, json_record


def record(mask, **more):
    rows, columns = np.nonzero(mask)
    box = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
    return {
        "segmentation": encode_rle(mask), "area": int(mask.sum()), "bbox": box, "predicted_iou": 0.9,
        "point_coords": [[1.5, 2.0]], "stability_score": 0.97, "crop_box": [0, 0, *mask.shape[::-1]], **more,
    }  # fmt: skip


@pytest.fixture
def masks():
    masks = np.zeros((3, 20, 30), bool)
    masks[0, 2:9, 3:20], masks[1, 10:15, 5:6], masks[2, :, 29:] = True, True, True
    return masks


def test_pycocotools_reads_masks_areas_and_boxes(masks, tmp_path):
    pictures = [PictureRecords("a.jpg", (20, 30), [record(masks[0]), record(masks[1])])]
    pictures.append(PictureRecords("b.jpg", (20, 30), [record(masks[2])]))
    (tmp_path / "coco.json").write_text(json.dumps(coco_json(pictures, {"version": "1"})))
    coco = COCO(tmp_path / "coco.json")
    assert [(coco.imgs[i]["file_name"], coco.imgs[i]["height"], coco.imgs[i]["width"]) for i in (1, 2)] == [
        ("a.jpg", 20, 30), ("b.jpg", 20, 30),
    ]  # fmt: skip
    assert coco.getAnnIds(imgIds=2) == [3]
    for annotation, mask in zip(coco.loadAnns([1, 2, 3]), masks, strict=True):
        assert_array_equal(coco.annToMask(annotation), mask)
        assert (annotation["area"], annotation["iscrowd"], annotation["category_id"]) == (mask.sum(), 0, 1)
        assert annotation["point_coords"] == [[1.5, 2.0]]
        assert annotation["crop_box"] == [0, 0, 30, 20]
    assert coco.dataset["categories"] == [{"id": 1, "name": "object"}]
    assert coco.dataset["info"]["version"] == "1"


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["000000397133.jpg", "17.png"], [397133, 17]),
        (["000000397133.jpg", "cat.png"], [1, 2]),
        (["a/7.jpg", "b/007.jpg"], [1, 2]),
        (["²³.jpg", "1" * 30 + ".jpg"], [1, 2]),
    ],
)
def test_pictures_keep_the_numbers_of_their_names_only_if_all_have_different_ones(names, ids):
    images = coco_json([PictureRecords(name, (2, 2), []) for name in names])["images"]
    assert [image["id"] for image in images] == ids


def test_masks_of_a_detectors_boxes_keep_its_categories_and_scores(masks):
    records = [record(masks[0], category_id=18, score=0.5), record(masks[1], category_id=1, score=0.75)]
    content = coco_json([PictureRecords("a.jpg", (20, 30), records)])
    assert [(entry["category_id"], entry["score"]) for entry in content["annotations"]] == [(18, 0.5), (1, 0.75)]
    assert [category["id"] for category in content["categories"]] == [1, 18]


def test_a_picture_without_masks_is_listed():
    content = coco_json([PictureRecords("a.jpg", (20, 30), [])])
    assert (len(content["images"]), content["annotations"]) == (1, [])
    assert content["categories"] == [{"id": 1, "name": "object"}]


def test_numbers_of_numpy_become_plain_ones():
    values = {"area": np.int64(3), "score": np.float32(0.5), "box": np.array([1.0, 2.0]), "deep": {"size": (1, 2)}}
    assert json.dumps(json_record(values)) == '{"area": 3, "score": 0.5, "box": [1.0, 2.0], "deep": {"size": [1, 2]}}'
