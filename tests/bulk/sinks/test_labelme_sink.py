import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, ImageDraw

from mobile_sam.bulk.sinks.base import SinkSettings
from mobile_sam.bulk.sinks.labelme import LabelmeSink
from mobile_sam.core.masks import encode_rle


def read(folder, picture, categories=None):
    LabelmeSink(SinkSettings(folder, categories or {})).write(picture)
    return json.loads((folder / "labelme" / f"{picture.key}.json").read_text("utf-8"))


def shape_to_mask(shape, size_hw):
    """What labelme makes of a shape: a polygon by Pillow, a mask in its box, whose corners are both inclusive."""
    height, width = size_hw
    if shape["shape_type"] == "mask":
        (x1, y1), (x2, y2) = np.array(shape["points"]).astype(int)
        mask = np.zeros(size_hw, bool)
        pixels = Image.open(io.BytesIO(base64.b64decode(shape["mask"], validate=True)))
        mask[y1 : y2 + 1, x1 : x2 + 1] = np.array(pixels).astype(bool)
        return mask
    assert shape["shape_type"] == "polygon"
    assert len(shape["points"]) >= 3
    image = Image.new("1", (width, height))
    ImageDraw.Draw(image).polygon([tuple(point) for point in shape["points"]], fill=1, outline=1)
    return np.asarray(image)


def iou(mask, other):
    return (mask & other).sum() / (mask | other).sum()


def test_shapes_drawn_back_are_the_masks(tmp_path, two_pictures, plain_masks):
    disc, corner, ring = read(tmp_path, two_pictures[0])["shapes"]
    assert iou(shape_to_mask(disc, (60, 80)), plain_masks[0][0]) >= 0.98
    assert_array_equal(shape_to_mask(corner, (60, 80)), plain_masks[0][1])
    assert_array_equal(shape_to_mask(ring, (60, 80)), plain_masks[0][2])
    assert [shape["shape_type"] for shape in (disc, corner, ring)] == ["polygon", "polygon", "mask"]
    first, second, pixel, whole = read(tmp_path, two_pictures[1])["shapes"]
    islands = shape_to_mask(first, (40, 50)) | shape_to_mask(second, (40, 50))
    assert iou(islands, plain_masks[1][0]) >= 0.98
    assert_array_equal(shape_to_mask(pixel, (40, 50)), plain_masks[1][1])
    assert_array_equal(shape_to_mask(whole, (40, 50)), plain_masks[1][2])


def test_polygons_of_one_mask_are_a_group(tmp_path, two_pictures):
    twice = replace(two_pictures[1], records=[*two_pictures[1].records, two_pictures[1].records[0]])
    groups = [shape["group_id"] for shape in read(tmp_path, twice)["shapes"]]
    assert groups == [0, 0, None, None, 3, 3]


def test_the_file_has_what_labelme_asks_for(tmp_path, two_pictures):
    content = read(tmp_path, two_pictures[0])
    shapes = content.pop("shapes")
    assert content.pop("version").startswith("5.")
    assert content == {
        "flags": {},
        "imagePath": "sa_1.png",
        "imageData": None,
        "imageHeight": 60,
        "imageWidth": 80,
    }
    for shape in shapes:
        assert set(shape) == {"label", "points", "group_id", "description", "shape_type", "flags", "mask"}
        assert (shape["flags"], shape["description"], shape["label"]) == ({}, "", "object")
        assert all(len(point) == 2 and all(type(value) is float for value in point) for point in shape["points"])


def test_labels_are_the_names_of_categories_as_far_as_they_are_known(tmp_path, two_pictures):
    shapes = read(tmp_path, two_pictures[1], {7: "Dög"})["shapes"]
    assert [shape["label"] for shape in shapes] == ["Dög", "Dög", "object 3", "Dög"]


def test_a_mask_without_category_is_no_category_one(tmp_path, two_pictures):
    assert {shape["label"] for shape in read(tmp_path, two_pictures[0], {1: "person"})["shapes"]} == {"object"}


@pytest.mark.parametrize(("hole_px", "shape_type"), [(9, "polygon"), (50, "mask")])
def test_a_mask_stays_a_polygon_unless_more_than_a_hundredth_is_holes(tmp_path, two_pictures, hole_px, shape_type):
    mask = np.ones((40, 50), bool)
    mask[20, 5:15] = [True, *[False] * 9] if hole_px == 9 else False
    if hole_px == 50:
        mask[16:21, 5:15] = False
    assert (~mask).sum() == hole_px
    record = {**two_pictures[1].records[2], "segmentation": encode_rle(mask), "area": int(mask.sum())}
    (shape,) = read(tmp_path, replace(two_pictures[1], records=[record]))["shapes"]
    assert shape["shape_type"] == shape_type


def test_an_empty_mask_is_left_out(tmp_path, two_pictures):
    empty = {**two_pictures[1].records[0], "segmentation": {"size": [40, 50], "counts": [2000]}, "area": 0}
    assert read(tmp_path, replace(two_pictures[1], records=[empty]))["shapes"] == []
