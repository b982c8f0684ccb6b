"""SA-1B as unpacked: a JSON file beside each picture."""

import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pycocotools import mask as coco_mask

from mobile_sam.core.images import write_image
from mobile_sam.data.sa1b import read_sa1b

HEIGHT, WIDTH = 12, 16


def mask_of(x1, y1, x2, y2):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def annotation(annotation_id, mask=None, **changes):
    """As SA-1B writes them."""
    code = coco_mask.encode(np.asfortranarray(mask_of(2, 3, 8, 9) if mask is None else mask, np.uint8))
    return {
        "id": annotation_id,
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": code["counts"].decode()},
        "bbox": [2.0, 3.0, 5.0, 5.0],
        "area": 36,
        "predicted_iou": 0.97,
        "stability_score": 0.98,
        "crop_box": [0.0, 0.0, WIDTH, HEIGHT],
        "point_coords": [[4.5, 6.25]],
    } | changes


@pytest.fixture
def put(tmp_path):
    """Write picture number N, `sa_N.jpg` and `sa_N.json`."""

    def put(number, annotations, **changes):
        header = {"image_id": number, "width": WIDTH, "height": HEIGHT, "file_name": f"sa_{number}.jpg"} | changes
        write_image(tmp_path / f"sa_{number}.jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        (tmp_path / f"sa_{number}.json").write_text(json.dumps({"image": header, "annotations": annotations}))

    return put


def kinds_of(dataset):
    return [(problem.kind, problem.where, problem.is_left_out) for problem in dataset.problems]


def test_masks_come_with_their_clicks_boxes_and_areas(tmp_path, put):
    put(7, [annotation(532, mask_of(1, 1, 3, 4)), annotation(533)])
    put(8, [annotation(600)])
    dataset = read_sa1b(tmp_path)
    assert (dataset.kind, dataset.problems, dataset.num_instances) == ("sa-1b", (), 3)
    first = dataset.pictures[0]
    assert (first.id, first.path, first.size_hw) == ("7", tmp_path / "sa_7.jpg", (HEIGHT, WIDTH))
    assert_array_equal(first.instances[0].mask, mask_of(1, 1, 3, 4))
    instance = first.instances[1]
    assert (instance.id, instance.box_xyxy, instance.area_px) == ("533", (2, 3, 7, 8), 36)
    assert (instance.point_xy, instance.category, instance.is_crowd) == ((4.5, 6.25), "", False)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "unreadable annotation file"),
        ('{"image": {', "unreadable annotation file"),
        ("[]", "unreadable annotation file"),
        ("{}", "unreadable annotation file"),
        ('{"image": [], "annotations": []}', "unreadable annotation file"),
        ('{"image": {"image_id": 1, "width": 5, "height": 5}}', "unreadable annotation file"),
        ('{"image": {"image_id": 1, "width": 5, "height": 5}, "annotations": {}}', "unreadable annotation file"),
        ("[" * 200_000, "unreadable annotation file"),
        ('{"image": {"width": 5, "height": 5}, "annotations": []}', "missing key"),
        ('{"image": {"image_id": [], "width": 5, "height": 5}, "annotations": []}', "missing key"),
        ('{"image": {"image_id": 1, "width": 0, "height": 5}, "annotations": []}', "malformed picture size"),
        ('{"image": {"image_id": 7, "width": 5, "height": 5}, "annotations": []}', "repeated picture id"),
    ],
)
def test_a_broken_file_costs_its_own_picture_only(tmp_path, put, text, kind):
    put(7, [annotation(1)])
    put(8, [annotation(2)])
    (tmp_path / "sa_8.json").write_text(text)
    dataset = read_sa1b(tmp_path)
    assert kinds_of(dataset) == [(kind, "sa_8.json", True)]
    assert [(picture.id, len(picture.instances)) for picture in dataset.pictures] == [("7", 1)]


def test_broken_annotations_are_named_as_in_coco_files(tmp_path, put):
    other_size = {"size": [WIDTH, HEIGHT], "counts": [0, WIDTH * HEIGHT]}
    put(
        7,
        [
            annotation(1, mask_of(0, 0, 0, 0)),
            annotation(2, segmentation=other_size),
            annotation(3, bbox=[1, 1, 0, 0]),
            annotation(3),
            annotation(4, point_coords=[[1]]),
            annotation(5, point_coords=[]),
        ],
    )
    dataset = read_sa1b(tmp_path)
    assert kinds_of(dataset) == [
        ("empty mask", "annotation 1 of picture 7", True),
        ("mask of another size", "annotation 2 of picture 7", True),
        ("malformed box", "annotation 3 of picture 7", False),
        ("repeated annotation id", "annotation 3 of picture 7", True),
        ("malformed point", "annotation 4 of picture 7", False),
        ("malformed point", "annotation 5 of picture 7", False),
    ]
    assert [(i.id, i.point_xy) for i in dataset.pictures[0].instances] == [("3", (4.5, 6.25)), ("4", None), ("5", None)]


def test_ids_that_start_anew_in_each_file_are_told_apart_by_their_picture_and_are_no_problem(tmp_path, put):
    put(7, [annotation(0), annotation(1)])
    put(8, [annotation(0), annotation(2)])
    put(9, [annotation(0), annotation(5)])
    dataset = read_sa1b(tmp_path)
    assert [[instance.id for instance in picture.instances] for picture in dataset.pictures] == [
        ["0", "1"],
        ["8/0", "2"],
        ["9/0", "5"],
    ]
    assert dataset.problems == ()


def test_within_one_of_the_files_that_start_anew_the_first_of_an_id_stays(tmp_path, put):
    put(7, [annotation(0)])
    put(8, [annotation(0), annotation(0), annotation(1)])
    dataset = read_sa1b(tmp_path)
    assert kinds_of(dataset) == [("repeated annotation id", "annotation 0 of picture 8", True)]
    assert [instance.id for instance in dataset.pictures[1].instances] == ["8/0", "1"]


def test_a_picture_is_found_by_the_name_of_its_annotations_too(tmp_path, put):
    put(7, [annotation(1)], file_name="elsewhere/renamed.jpg")
    put(8, [annotation(2)], file_name=None)
    put(9, [annotation(3)], file_name="..")
    assert [picture.path.name for picture in read_sa1b(tmp_path).pictures] == ["sa_7.jpg", "sa_8.jpg", "sa_9.jpg"]


def test_what_lacks_its_other_half_is_counted(tmp_path, put):
    for number in (7, 8, 9):
        put(number, [annotation(number), annotation(10 * number)])
    (tmp_path / "sa_8.jpg").unlink()
    (tmp_path / "sa_9.json").unlink()
    (tmp_path / "holiday.jpg").touch()
    (tmp_path / "notes.json").write_text("{}")
    dataset = read_sa1b(tmp_path)
    assert kinds_of(dataset) == [
        ("missing picture", "sa_8.json", True),
        ("picture without masks", "sa_9.jpg", True),
    ]
    assert "its 2 annotations are left out" in dataset.problems[0].message
    assert [picture.id for picture in dataset.pictures] == ["7"]


def test_the_hash_changes_with_names_and_sizes(tmp_path, put):
    put(7, [annotation(1)])
    before = read_sa1b(tmp_path).sha256
    assert read_sa1b(tmp_path).sha256 == before
    put(8, [annotation(2)])
    with_more = read_sa1b(tmp_path).sha256
    put(8, [annotation(2), annotation(3)])
    assert len({before, with_more, read_sa1b(tmp_path).sha256}) == 3


def test_a_folder_with_nothing_to_use_is_refused(tmp_path, put):
    with pytest.raises(FileNotFoundError, match=r"no folder of SA-1B files at .*gone"):
        read_sa1b(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"holds no sa_\*.json"):
        read_sa1b(tmp_path)
    put(7, [annotation(1)])
    (tmp_path / "sa_7.jpg").unlink()
    with pytest.raises(ValueError, match=r"no picture that can be used.*1 x missing picture"):
        read_sa1b(tmp_path)
