"""label_studio.json, read by the description of Label Studio's format."""

import json
import tracemalloc
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mobile_sam.bulk.results import PictureMasks
from mobile_sam.bulk.sinks.base import SinkSettings
from mobile_sam.bulk.sinks.label_studio import LabelStudioSink
from mobile_sam.core.masks import encode_rle


def record(mask, **more):
    return {
        "segmentation": dict(encode_rle(mask)), "area": int(mask.sum()), "bbox": [0, 0, 1, 1], "predicted_iou": 0.75,
        "point_coords": [], "stability_score": 0.97, "crop_box": [0, 0, 1, 1], **more,
    }  # fmt: skip


def picture(item_id, *records, file_name="a.jpg", size_hw=(20, 30)):
    return PictureMasks(item_id, "a", file_name, size_hw, records)


def write(tmp_path, pictures, **settings):
    (path,) = LabelStudioSink(SinkSettings(tmp_path, **settings)).write(pictures)
    return path


def tasks(tmp_path, *pictures, **settings):
    return json.loads(write(tmp_path, pictures, **settings).read_bytes())


def brush_alpha(rle, size_hw):
    """(H, W): the fourth channel that the bytes of a brush region hold, a picture of RGBA row by row."""
    number = int.from_bytes(bytes(rle), "big")
    num_left = len(rle) * 8

    def take(num_bits):
        nonlocal num_left
        num_left -= num_bits
        assert num_left >= 0, "the bytes end too early"
        return number >> num_left & ((1 << num_bits) - 1)

    num_values, value_bits, *length_bits = take(32), take(5) + 1, *(take(4) + 1 for _ in range(4))
    values = []
    while len(values) < num_values:
        if take(1):
            num_equal = take(length_bits[take(2)]) + 1
            values += [take(value_bits)] * num_equal
        else:
            values += [take(value_bits) for _ in range(take(length_bits[take(2)]) + 1)]
    return np.array(values, np.uint8).reshape(*size_hw, 4)[..., 3]


@pytest.fixture
def masks():
    masks = np.zeros((3, 20, 30), bool)
    masks[0, 2:9, 3:20], masks[1, 10:15, 5:6], masks[2, :, 29:] = True, True, True
    return masks


def test_masks_are_unpacked_from_brush_regions(masks, tmp_path):
    first, second = tasks(tmp_path, picture(1, record(masks[0]), record(masks[1])), picture(2, record(masks[2])))
    regions = [region for task in (first, second) for region in task["predictions"][0]["result"]]
    for region, mask in zip(regions, masks, strict=True):
        assert region["value"]["format"] == "rle"
        assert_array_equal(brush_alpha(region["value"]["rle"], (20, 30)), np.where(mask, 255, 0))


def test_a_region_has_what_the_labelling_configuration_asks_for(masks, tmp_path):
    ((region,),) = [task["predictions"][0]["result"] for task in tasks(tmp_path, picture(1, record(masks[0])))]
    value = region.pop("value")
    assert set(value) == {"format", "rle", "brushlabels"}
    assert value["brushlabels"] == ["object"]
    assert region == {
        "id": "1-0",
        "from_name": "tag",  # as in the configuration in the docstring
        "to_name": "image",
        "type": "brushlabels",
        "original_width": 30,
        "original_height": 20,
        "image_rotation": 0,
        "score": 0.75,
        "readonly": False,
    }
    for text in ('<Image name="image" value="$image"', '<BrushLabels name="tag" toName="image">', 'value="object"'):
        assert text in LabelStudioSink.__doc__


def test_labels_are_the_names_of_categories(masks, tmp_path):
    found = picture(1, record(masks[0], category_id=18), record(masks[1], category_id=2), record(masks[2]))
    (task,) = tasks(tmp_path, found, categories={2: 'a "cat"'})
    labels = [region["value"]["brushlabels"] for region in task["predictions"][0]["result"]]
    assert labels == [["object 18"], ['a "cat"'], ["object"]]


def test_a_prediction_says_which_model_and_how_sure_it_is(masks, tmp_path):
    found = picture(1, record(masks[0], predicted_iou=0.5), record(masks[1], predicted_iou=1.0))
    (task,) = tasks(tmp_path, found, info={"version": "9.9"})
    (prediction,) = task["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("mobile-sam 9.9", 0.75)
    assert [region["score"] for region in prediction["result"]] == [0.5, 1.0]


@pytest.mark.parametrize("name", ["a/b c.jpg", "50%&x=1+2#3?.jpg", "Käse/日本.jpg", 'q"uo\\te.jpg', "a\nb.jpg"])
def test_label_studio_finds_the_file_by_the_query_of_the_address(name, tmp_path):
    (task,) = tasks(tmp_path, picture(1, file_name=name))
    address = urlsplit(task["data"]["image"])
    assert address.path == "/data/local-files/"
    assert parse_qs(address.query, strict_parsing=True) == {"d": [name]}
    assert address.fragment == ""


def test_a_picture_without_masks_is_a_task_without_regions(tmp_path):
    (task,) = tasks(tmp_path, picture(1))
    assert (task["predictions"][0]["result"], task["predictions"][0]["score"]) == ([], 0.0)


def test_a_mask_without_pixels_is_no_region_and_the_others_keep_their_numbers(masks, tmp_path):
    (task,) = tasks(tmp_path, picture(1, record(np.zeros((20, 30), bool)), record(masks[0])))
    assert [region["id"] for region in task["predictions"][0]["result"]] == ["1-1"]


def test_no_pictures_are_no_tasks(tmp_path):
    assert tasks(tmp_path) == []


def test_regions_of_a_task_have_different_ids(masks, tmp_path):
    (task,) = tasks(tmp_path, picture(12, *[record(masks[0])] * 20))
    assert len({region["id"] for region in task["predictions"][0]["result"]}) == 20


def test_a_part_of_the_pictures_has_a_file_of_its_own(tmp_path):
    assert write(tmp_path, [], shard=(1, 8)) == tmp_path / "label_studio-2-of-8.json"


def test_same_masks_give_the_same_bytes(masks, tmp_path):
    found = [picture(1, record(masks[0])), picture(2, record(masks[1]))]
    assert write(tmp_path, found).read_bytes() == write(tmp_path, found).read_bytes()


def test_an_error_leaves_the_earlier_file_and_no_other(masks, tmp_path):
    before = write(tmp_path, [picture(1)]).read_bytes()
    broken = record(masks[0], segmentation={"size": [20, 30], "counts": "22"})
    with pytest.raises(ValueError, match="fill 20 x 30"):
        write(tmp_path, [picture(1, record(masks[0])), picture(2, broken)])
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path, [picture(1, record(masks[0], predicted_iou=float("nan")))])
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("label_studio.json", before)]


def test_a_full_disk_leaves_no_part_of_a_file(masks, tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"\[Errno"):
            write(tmp_path, [picture(number, record(masks[0])) for number in range(1, 400)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_brush_mask_takes_what_the_docstring_says(tmp_path):
    """A disc crosses 2 r rows, with a run of mask and one of background in each: about 27 bits, 4 characters a byte."""
    rows, columns = np.mgrid[:1000, :1000]
    disc = (rows - 500) ** 2 + (columns - 500) ** 2 < 200**2
    num_bytes = len(json.dumps(tasks(tmp_path, picture(1, record(disc), size_hw=(1000, 1000))), separators=(",", ":")))
    expected = 400 * 2 * 27 / 8 * 3.6
    assert 0.8 * expected < num_bytes < 1.2 * expected


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    mask = np.zeros((4, 4), bool)
    mask[1:3] = True
    template = record(mask)

    def peak_bytes(num_pictures):
        pictures = (picture(number, dict(template), size_hw=(4, 4)) for number in range(num_pictures))
        tracemalloc.start()
        try:
            write(tmp_path, pictures)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_bytes(1)  # what is imported when it is first used
    assert peak_bytes(2_000) < peak_bytes(200) + 100_000  # a picture has more than 500 bytes
