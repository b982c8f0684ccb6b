from dataclasses import replace

import numpy as np
import pytest
import supervision as sv
import yaml
from numpy.testing import assert_array_equal
from PIL import Image, ImageDraw

from mobile_sam.bulk.sinks.base import SinkSettings
from mobile_sam.bulk.sinks.yolo import YoloSink

CATEGORIES = {7: "dog", 3: "Kätzchen: \"a\"\u2028'b'"}


def write_all(folder, pictures, categories=None):
    sink = YoloSink(SinkSettings(folder, categories or {}))
    sink.begin()
    for picture in pictures:
        sink.write(picture)
    return folder / "yolo"


def labels_of(folder, key):
    """Class and corners in parts of the picture of each line."""
    lines = [line.split(" ") for line in (folder / "labels" / f"{key}.txt").read_text().splitlines()]
    return [(int(number), np.array(shares, float).reshape(-1, 2)) for number, *shares in lines]


def drawn(shares, size_hw):
    """Fill as ultralytics does: corners cut to whole pixels, the outline included."""
    height, width = size_hw
    image = Image.new("1", (width, height))
    ImageDraw.Draw(image).polygon([tuple(corner) for corner in (shares * (width, height)).tolist()], fill=1, outline=1)
    return np.asarray(image)


def iou(mask, other):
    return (mask & other).sum() / (mask | other).sum()


def test_supervision_loads_pictures_classes_and_masks(tmp_path, two_pictures, plain_masks):
    picture = two_pictures[1]
    folder = write_all(tmp_path, [picture], CATEGORIES)
    (folder / "images").mkdir()
    Image.new("RGB", (50, 40)).save(folder / "images" / "b.jpg")
    dataset = sv.DetectionDataset.from_yolo(
        images_directory_path=str(folder / "images"),
        annotations_directory_path=str(folder / "labels"),
        data_yaml_path=str(folder / "data.yaml"),
        force_masks=True,
    )
    assert dataset.classes == [CATEGORIES[3], "dog", "object"]
    (detections,) = dataset.annotations.values()
    assert detections.class_id.tolist() == [1, 0, 1]
    islands, pixel, whole = detections.mask
    assert iou(islands, plain_masks[1][0]) >= 0.95  # the way between the islands is drawn a pixel wide
    assert pixel[17, 31]
    assert pixel.sum() <= 4
    assert_array_equal(whole, plain_masks[1][2])


def test_polygons_drawn_back_are_the_masks(tmp_path, two_pictures, plain_masks):
    folder = write_all(tmp_path, two_pictures)
    (_, disc), (_, corner), _ = labels_of(folder, two_pictures[0].key)
    assert iou(drawn(disc, (60, 80)), plain_masks[0][0]) >= 0.98
    assert_array_equal(drawn(corner, (60, 80)), plain_masks[0][1])
    (_, islands), (_, pixel), (_, whole) = labels_of(folder, "b")
    assert not (plain_masks[1][0] & ~drawn(islands, (40, 50))).sum() > 4
    assert iou(drawn(islands, (40, 50)), plain_masks[1][0]) >= 0.95
    assert_array_equal(drawn(pixel, (40, 50)), plain_masks[1][1])
    assert_array_equal(drawn(whole, (40, 50)), plain_masks[1][2])


def test_a_hole_is_lost(tmp_path, two_pictures, plain_masks):
    disc, _, ring = labels_of(write_all(tmp_path, two_pictures), two_pictures[0].key)
    assert_array_equal(ring[1], disc[1])


def test_corners_are_parts_of_width_and_height_with_six_digits(tmp_path, two_pictures):
    folder = write_all(tmp_path, [two_pictures[1]])
    text = (folder / "labels" / "b.txt").read_text()
    assert text.endswith("\n")
    *_, whole = text.splitlines()
    # through the centres of the corner pixels of 50 x 40
    shares = sorted({float(share) for share in whole.split()[1:]})
    assert shares == pytest.approx([0.5 / 50, 0.5 / 40, 39.5 / 40, 49.5 / 50], abs=3e-4)
    assert all(len(share) == 8 for share in whole.split()[1:])


def test_without_names_all_is_object(tmp_path, two_pictures):
    folder = write_all(tmp_path, two_pictures)
    assert yaml.safe_load((folder / "data.yaml").read_text("utf-8"))["names"] == {0: "object"}
    for picture in two_pictures:
        assert [number for number, _ in labels_of(folder, picture.key)] == [0, 0, 0]


def test_masks_of_no_known_category_are_of_the_class_object(tmp_path, two_pictures):
    folder = write_all(tmp_path, two_pictures, {7: "dog", 90: "brush"})
    content = yaml.safe_load((folder / "data.yaml").read_text("utf-8"))
    assert content == {"train": "images", "val": "images", "names": {0: "dog", 1: "brush", 2: "object"}}
    assert [number for number, _ in labels_of(folder, "b")] == [0, 2, 0]
    assert [number for number, _ in labels_of(folder, two_pictures[0].key)] == [2, 2, 2]


def test_a_known_category_called_object_is_that_class(tmp_path, two_pictures):
    folder = write_all(tmp_path, two_pictures, {1: "object", 3: "cat", 7: "dog"})
    content = yaml.safe_load((folder / "data.yaml").read_text("utf-8"))
    assert content["names"] == {0: "object", 1: "cat", 2: "dog"}
    assert [number for number, _ in labels_of(folder, two_pictures[0].key)] == [0, 0, 0]


@pytest.mark.parametrize("name", ["a: b", '"', "\\", "#", "no", "1", "", " x ", "\x00\x7f\n\t", "日本", "🙂", "\ufeff"])
def test_any_name_comes_back_from_yaml(tmp_path, name):
    folder = write_all(tmp_path, [], {1: name})
    assert yaml.safe_load((folder / "data.yaml").read_bytes())["names"][0] == name


def test_a_lone_surrogate_in_a_name_does_no_harm(tmp_path):
    names = yaml.safe_load((write_all(tmp_path, [], {1: "\ud800x"}) / "data.yaml").read_bytes())["names"]
    assert names[0].endswith("x")


def test_data_yaml_is_the_same_for_any_order_of_categories(tmp_path):
    first = write_all(tmp_path / "a", [], {1: "a", 2: "b"})
    second = write_all(tmp_path / "b", [], {2: "b", 1: "a"})
    assert (first / "data.yaml").read_bytes() == (second / "data.yaml").read_bytes()


def test_an_empty_mask_is_left_out_and_a_picture_without_masks_is_background(tmp_path, two_pictures):
    empty = {**two_pictures[1].records[0], "segmentation": {"size": [40, 50], "counts": [2000]}, "area": 0}
    folder = write_all(tmp_path, [replace(two_pictures[1], records=[empty])])
    assert (folder / "labels" / "b.txt").read_bytes() == b""
