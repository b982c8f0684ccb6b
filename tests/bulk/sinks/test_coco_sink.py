"""coco.json as pycocotools and supervision read it."""

import json
import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pycocotools.coco import COCO

from mobile_sam.bulk.results import PictureMasks
from mobile_sam.bulk.sinks.base import SinkSettings
from mobile_sam.bulk.sinks.coco import CocoSink
from mobile_sam.core.masks import encode_rle
from mobile_sam.everything.coco import PictureRecords, coco_json

HEIGHT, WIDTH = 20, 30


def record(mask, **more):
    rows, columns = np.nonzero(mask)
    box = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
    return {
        "segmentation": dict(encode_rle(mask)), "area": int(mask.sum()), "bbox": box, "predicted_iou": 0.9,
        "point_coords": [[1.5, 2.0]], "stability_score": 0.97, "crop_box": [0, 0, WIDTH, HEIGHT], **more,
    }  # fmt: skip


def picture(item_id, *records, file_name=None, source_id=None):
    name = file_name or f"p{item_id}.jpg"
    return PictureMasks(item_id, name.rpartition(".")[0], name, (HEIGHT, WIDTH), records, source_id)


def write(tmp_path, pictures, **settings):
    (path,) = CocoSink(SinkSettings(tmp_path, **settings)).write(pictures)
    return path


def written(tmp_path, pictures, **settings):
    return json.loads(write(tmp_path, pictures, **settings).read_bytes())


@pytest.fixture
def masks():
    masks = np.zeros((3, HEIGHT, WIDTH), bool)
    masks[0, 2:9, 3:20], masks[1, 10:15, 5:6], masks[2, :, 29:] = True, True, True
    return masks


@pytest.fixture
def two(masks):
    """Two pictures with masks and one without."""
    return [picture(1, record(masks[0]), record(masks[1])), picture(2), picture(4, record(masks[2]))]


def test_pycocotools_reads_masks_areas_and_boxes(two, masks, tmp_path):
    coco = COCO(write(tmp_path, two))
    assert {number: (image["file_name"], image["height"], image["width"]) for number, image in coco.imgs.items()} == {
        1: ("p1.jpg", HEIGHT, WIDTH), 2: ("p2.jpg", HEIGHT, WIDTH), 4: ("p4.jpg", HEIGHT, WIDTH),
    }  # fmt: skip
    assert [coco.getAnnIds(imgIds=number) for number in (1, 2, 4)] == [[1, 2], [], [3]]
    for annotation, mask in zip(coco.loadAnns([1, 2, 3]), masks, strict=True):
        assert_array_equal(coco.annToMask(annotation), mask)
        assert (annotation["area"], annotation["iscrowd"], annotation["category_id"]) == (mask.sum(), 0, 1)
    assert coco.loadCats(coco.getCatIds()) == [{"id": 1, "name": "object"}]


def test_annotations_serve_as_results_for_pycocotools(masks, tmp_path):
    pictures = [picture(1, record(masks[0], score=0.5, category_id=3)), picture(2, record(masks[1], score=0.25))]
    coco = COCO(write(tmp_path, pictures))
    results = coco.loadRes(coco.dataset["annotations"])
    assert [(found["score"], found["image_id"]) for found in results.loadAnns([1, 2])] == [(0.5, 1), (0.25, 2)]
    assert_array_equal(results.annToMask(results.loadAnns(2)[0]), masks[1])


def test_supervision_reads_the_masks(two, masks, tmp_path):
    supervision = pytest.importorskip("supervision")
    dataset = supervision.DetectionDataset.from_coco(str(tmp_path), str(write(tmp_path, two)), force_masks=True)
    found = {path.rpartition("/")[2]: detections for path, detections in dataset.annotations.items()}
    assert dataset.classes == ["object"]
    assert_array_equal(found["p1.jpg"].mask, masks[:2])
    assert_array_equal(found["p4.jpg"].mask, masks[2:])
    assert len(found["p2.jpg"]) == 0


def test_content_is_that_of_one_picture_after_the_other_in_memory(two, tmp_path):
    content = written(tmp_path, two, info={"tool": "t"})
    expected = coco_json([PictureRecords(found.file_name, found.size_hw, found.records) for found in two])
    for entries in (expected["images"], expected["annotations"]):
        for entry in entries:  # numbered from 1 there, by items here
            name = "image_id" if "image_id" in entry else "id"
            entry[name] = {3: 4}.get(entry[name], entry[name])
    assert {**content, "info": None} == {**expected, "info": None}
    assert content["info"]["tool"] == "t"


@pytest.mark.parametrize(
    ("names", "source_ids", "expected"),
    [
        (["a.jpg", "b.jpg", "c.jpg"], [None] * 3, [11, 12, 13]),
        (["000000397133.jpg", "x/17.png", "0.jpg"], [None] * 3, [397133, 17, 0]),
        (["7.jpg", "8.jpg", "cat.jpg"], [None] * 3, [11, 12, 13]),
        (["a/7.jpg", "b/8.jpg", "c/007.jpg"], [None] * 3, [11, 12, 13]),
        (["7.jpg", "8.jpg", "9.jpg"], [31, 5, 30], [31, 5, 30]),
        (["7.jpg", "8.jpg", "9.jpg"], [31, 5, None], [7, 8, 9]),
        (["7.jpg", "8.jpg", "9.jpg"], [31, 5, 31], [7, 8, 9]),
        (["7.jpg", "8.jpg", "a.jpg"], [31, 5, 31], [11, 12, 13]),
    ],
)
def test_pictures_have_the_best_numbers_that_all_of_them_have(names, source_ids, expected, masks, tmp_path):
    pictures = [
        picture(11 + place, record(masks[0]), file_name=name, source_id=source_id)
        for place, (name, source_id) in enumerate(zip(names, source_ids, strict=True))
    ]
    content = written(tmp_path, pictures)
    assert [image["id"] for image in content["images"]] == expected
    assert [annotation["image_id"] for annotation in content["annotations"]] == expected
    assert [annotation["id"] for annotation in content["annotations"]] == [1, 2, 3]


@pytest.mark.parametrize("num_pictures", [3, 4, 5, 64, 65])
@pytest.mark.parametrize("is_last", [True, False])
def test_a_number_that_comes_twice_is_noticed_wherever(num_pictures, is_last, tmp_path):
    names = [f"{number}.jpg" for number in range(num_pictures)]
    names[-1 if is_last else 1] = "d/0.jpg"
    content = written(tmp_path, [picture(50 + place, file_name=name) for place, name in enumerate(names)])
    assert [image["id"] for image in content["images"]] == list(range(50, 50 + num_pictures))


def test_an_iterator_is_refused_before_anything_is_written(two, tmp_path):
    with pytest.raises(ValueError, match="more than once"):
        write(tmp_path, iter(two))
    assert list(tmp_path.iterdir()) == []


def test_categories_are_those_that_are_used_by_their_names(masks, tmp_path):
    pictures = [picture(1, record(masks[0], category_id=18), record(masks[1], category_id=2), record(masks[2]))]
    content = written(tmp_path, pictures, categories={2: 'a "cat"', 5: "not there"})
    assert content["categories"] == [
        {"id": 1, "name": "object"},
        {"id": 2, "name": 'a "cat"'},
        {"id": 18, "name": "object 18"},
    ]
    assert [annotation["category_id"] for annotation in content["annotations"]] == [18, 2, 1]


def test_no_pictures_and_no_masks_are_a_file_too(tmp_path):
    for pictures in ([], [picture(1)]):
        content = written(tmp_path, pictures)
        assert (len(content["images"]), content["annotations"]) == (len(pictures), [])
        assert content["categories"] == [{"id": 1, "name": "object"}]
        assert list(content) == ["info", "annotations", "images", "categories"]


@pytest.mark.parametrize("name", ['q"uo\\te.jpg', "new\nline.jpg", "Käse/日本.jpg", "\u2028.jpg", "😀.jpg"])
def test_any_file_name_comes_back(name, tmp_path):
    (image,) = written(tmp_path, [picture(1, file_name=name)])["images"]
    assert image["file_name"] == name


def test_a_part_of_the_pictures_has_a_file_of_its_own(two, tmp_path):
    assert write(tmp_path, two, shard=(1, 8)) == tmp_path / "coco-2-of-8.json"


def test_same_masks_give_the_same_bytes(two, tmp_path):
    first = write(tmp_path, two).read_bytes()
    assert write(tmp_path, two).read_bytes() == first


def failing(two):
    class Failing(list):
        def __iter__(self):
            yield from two
            raise OSError(28, "No space left on device")

    return Failing()


def test_an_error_leaves_the_earlier_file_and_no_other(two, masks, tmp_path):
    before = write(tmp_path, two).read_bytes()
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, failing(two))
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path, [picture(1, record(masks[0], score=float("nan")))])
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("coco.json", before)]


def test_a_full_disk_leaves_no_part_of_a_file(masks, tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    pictures = [picture(number, record(masks[0])) for number in range(1, 1000)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"\[Errno"):
            write(tmp_path, pictures)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_by_more_than_a_few_numbers_a_picture(masks, tmp_path):
    template = record(masks[0])

    class Many:
        def __init__(self, num_pictures):
            self.num_pictures = num_pictures

        def __iter__(self):
            return (picture(number + 1, dict(template)) for number in range(self.num_pictures))

    def peak_bytes(num_pictures):
        tracemalloc.start()
        try:
            write(tmp_path, Many(num_pictures))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    write(tmp_path, Many(1))  # what is imported when it is first used
    assert peak_bytes(20_000) - peak_bytes(2_000) < 18_000 * 48
