"""Pictures that annotation files list."""

import json
import os
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "instances.json"


@pytest.fixture
def coco(tmp_path):
    """Write a COCO file of some entries."""

    def write(*images, folder=None, **more):
        (tmp_path / "data").mkdir(exist_ok=True)
        for name in [folder] if folder else []:
            (tmp_path / "data" / name).mkdir(parents=True)
        path = tmp_path / "data" / "instances.json"
        path.write_text(json.dumps({"images": list(images), **more}))
        return path

    return write


def test_the_example_lists_its_pictures_with_their_numbers(listing):
    images = json.loads(EXAMPLE.read_text())["images"]
    found = listing(EXAMPLE)
    assert found.file_names == [image["file_name"] for image in images]
    assert [listed.source_id for listed in found.listed] == [image["id"] for image in images]
    assert found.paths == [str(EXAMPLE.parent / image["file_name"]) for image in images]
    assert all(os.path.isfile(path) for path in found.paths)
    assert (found.problems, len(images)) == ([], len(found.listed))


def test_annotations_are_not_needed_nor_looked_at(coco, listing):
    assert listing(coco({"id": 5, "file_name": "a.jpg"})).keys == ["a"]
    path = coco({"id": 5, "file_name": "a.jpg"}, annotations=[{"segmentation": [[1, 2]], "image_id": "nonsense"}, 7])
    assert listing(path).keys == ["a"]


def test_pictures_lie_in_images_beside_the_file_if_that_is_there(coco, listing, tmp_path):
    path = coco({"id": 1, "file_name": "a.jpg"}, folder="images")
    assert listing(path).paths == [str(tmp_path / "data" / "images" / "a.jpg")]


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ({"id": 2}, "missing key"),
        ({"id": 2, "file_name": 7}, "missing key"),
        ({"id": 2, "file_name": ""}, "missing key"),
        ({"id": 2, "file_name": "a\0.jpg"}, "missing key"),
        ({"id": 2, "coco_url": "http://host/.."}, "missing key"),
        ("2.jpg", "missing key"),
        (None, "missing key"),
        ({"id": 2, "file_name": "../x.jpg"}, "name outside the folder"),
        ({"id": 2, "file_name": "..\\x.jpg"}, "name outside the folder"),
        ({"id": 2, "file_name": "/etc/x.jpg"}, "name outside the folder"),
        ({"id": 2, "file_name": "C:/x.jpg"}, "name outside the folder"),
        ({"id": 1, "file_name": "b.jpg"}, "repeated picture id"),
    ],
)
def test_an_entry_without_a_usable_name_is_a_problem(coco, listing, entry, kind):
    found = listing(coco({"id": 1, "file_name": "a.jpg"}, entry, {"id": 3, "file_name": "c.jpg"}))
    assert (found.keys, found.kinds) == (["a", "c"], [kind])


def test_lvis_names_pictures_by_their_url(coco, listing, tmp_path):
    url = "http://images.cocodataset.org/train2017/000000391895.jpg"
    assert listing(coco({"id": 391895, "coco_url": url})).paths == [str(tmp_path / "data" / "000000391895.jpg")]
    path = coco({"id": 391895, "coco_url": url}, folder="train2017")
    assert listing(path).paths == [str(tmp_path / "data" / "train2017" / "000000391895.jpg")]


@pytest.mark.parametrize(
    ("given", "number"),
    [(7, 7), (7.0, 7), ("7", 7), ("007", None), ("seven", None), (None, None), (2**63 - 1, 2**63 - 1), (2**63, None)],
)
def test_ids_that_are_whole_numbers_are_kept(coco, listing, given, number):
    found = listing(coco({"id": given, "file_name": "a.jpg"}))
    assert [listed.source_id for listed in found.listed] == [number]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "expected an object with the list"),
        ('{"annotations": []}', "has no list 'images'"),
        ('{"images": {}}', "has no list 'images'"),
        ('{"images": [', "is not JSON"),
        ("[" * 200_000, "is not JSON"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, listing, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        listing(tmp_path / "x.json")


def test_no_picture_is_looked_for(coco, monkeypatch, listing):
    path = coco(*({"id": number, "file_name": f"sub/{number}.jpg"} for number in range(500)), folder="sub")
    asked = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, *a, **k: asked.append(str(path)) or stat(path, *a, **k))
    assert len(listing(path).keys) == 500
    assert not [path for path in asked if path.endswith(".jpg")]
