"""Picture ids of other tools' files, and the pictures that they mean."""

import pytest

from mobile_sam.data.records import Picture
from mobile_sam.everything.detections import ImageIds, match_detections


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


def test_ids_that_mean_no_picture_are_left_in_the_order_of_the_file():
    image_ids = ImageIds(["c", "a", "b", "d"])
    assert image_ids.take(("x", "a"), "", "a.png") == "a"
    assert image_ids.take(("x",), "x", "x.png") is None
    assert (image_ids.num_left, image_ids.left(2), image_ids.left()) == (3, ["c", "b"], ["c", "b", "d"])


def test_a_number_counts_only_where_it_is_offered():
    assert ImageIds(["7"]).take(("007",), "", "7.jpg") is None
    assert ImageIds(["7"]).take(("007",), "007", "7.jpg") == "7"
    assert ImageIds(["0"]).take((), "000", "0.jpg") == "0"
