import json
from dataclasses import replace

import numpy as np
from numpy.testing import assert_array_equal
from PIL import Image
from pycocotools import mask as coco_mask

from mobile_sam.bulk.sinks.base import SinkSettings
from mobile_sam.bulk.sinks.sa1b import Sa1bSink
from mobile_sam.core.masks import decode_rle
from mobile_sam.data.sa1b import read_sa1b


def test_our_reader_of_sa1b_finds_picture_and_masks(tmp_path, two_pictures, plain_masks):
    Sa1bSink(SinkSettings(tmp_path)).write(two_pictures[0])
    folder = tmp_path / "sa1b" / "täglich" / "日本"
    Image.new("RGB", (80, 60)).save(folder / "sa_1.png")
    dataset = read_sa1b(folder)
    assert not dataset.problems
    (picture,) = dataset.pictures
    assert (picture.id, picture.path.name, picture.size_hw) == ("397133", "sa_1.png", (60, 80))
    assert [instance.id for instance in picture.instances] == ["1", "2", "3"]
    for instance, mask in zip(picture.instances, plain_masks[0], strict=True):
        assert_array_equal(decode_rle(instance.rle), mask)
        assert instance.area_px == mask.sum()
        y, x = np.nonzero(mask)
        assert instance.box_xyxy == (x.min(), y.min(), x.max(), y.max())
        assert instance.point_xy == (x[0] + 0.5, y[0] + 0.5)


def test_pycocotools_decodes_the_masks_as_they_are_in_the_file(tmp_path, two_pictures, plain_masks):
    Sa1bSink(SinkSettings(tmp_path)).write(two_pictures[1])
    content = json.loads((tmp_path / "sa1b" / "b.json").read_bytes())
    for annotation, mask in zip(content["annotations"], plain_masks[1], strict=True):
        assert_array_equal(coco_mask.decode(annotation["segmentation"]), mask)


def test_a_file_has_the_keys_of_sa1b_and_those_of_boxes(tmp_path, two_pictures):
    Sa1bSink(SinkSettings(tmp_path)).write(two_pictures[1])
    content = json.loads((tmp_path / "sa1b" / "b.json").read_bytes())
    assert content["image"] == {"image_id": 2, "width": 50, "height": 40, "file_name": "b.JPG"}
    islands, pixel, _ = content["annotations"]
    published = {"id", "segmentation", "bbox", "area", "predicted_iou", "stability_score", "crop_box", "point_coords"}
    assert set(islands) == published | {"box", "score", "category_id"}
    assert islands["segmentation"]["size"] == [40, 50]
    assert (pixel["bbox"], pixel["area"], pixel["box"]) == ([31, 17, 0, 0], 1, [31.0, 17.0, 32.0, 18.0])
    assert (pixel["score"], pixel["category_id"]) == (0.25, 3)


def test_the_number_that_a_source_gave_a_picture_stays_even_zero(tmp_path, two_pictures):
    Sa1bSink(SinkSettings(tmp_path)).write(replace(two_pictures[1], source_id=0))
    assert json.loads((tmp_path / "sa1b" / "b.json").read_bytes())["image"]["image_id"] == 0
