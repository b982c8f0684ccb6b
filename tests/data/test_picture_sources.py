"""Sets of pictures from whatever a user names: all of it, a share of it, a part held out."""

import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from mobile_sam.data import picture_sources
from mobile_sam.data.picture_set import SampleError, hold_out, open_picture_set


@pytest.fixture
def put_files(tmp_path, make_jpeg):
    """Write pictures, each in the grey of its number, at paths below the test's folder."""

    def put_all(*paths):
        for number, path in enumerate(paths, 1):
            target = tmp_path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(make_jpeg(number))

    return put_all


def kinds_of(pictures):
    return [problem.kind for problem in pictures.problems]


def test_patterns_ranges_folders_and_files_name_the_same_tars(put_tar, tmp_path, monkeypatch):
    for number in (8, 9, 10):
        put_tar(f"sa_{number:06}.tar", number)
    expected = ["sa_8", "sa_9", "sa_10"]
    for source in ("sa_*.tar", "sa_{000008..000010}.tar", "sa_0000??.tar", ""):
        assert list(open_picture_set(str(tmp_path / source)).keys) == expected
    monkeypatch.chdir(tmp_path)
    files = [tmp_path / f"sa_{number:06}.tar" for number in (10, 8, 9, 8)]  # in any order, twice
    assert list(open_picture_set([*files, "sa_{000008..000009}.tar"]).keys) == expected
    assert list(open_picture_set(files[0]).keys) == ["sa_10"]


def test_a_folder_is_taken_with_its_sub_folders_and_keys_tell_them_apart(put_files, tmp_path):
    put_files("a.jpg", "x/a.jpg", "x.y/b.c.JPG", "x/.hidden.jpg", ".git/d.jpg", "notes.txt")
    pictures = open_picture_set(tmp_path)
    assert list(pictures.keys) == ["a", "x.y/b_c", "x/a"]
    assert [pictures.read(index).image[0, 0, 0] for index in range(3)] == [1, 3, 2]
    assert pictures.problems == ()


def test_files_of_one_key_in_a_folder_are_a_problem(put_files, tmp_path):
    put_files("a.b.jpg", "a_b.jpg", "c.jpg", "c.jpeg")
    pictures = open_picture_set(tmp_path)
    assert list(pictures.keys) == ["a_b", "c"]
    assert [(p.kind, p.where) for p in pictures.problems] == [("repeated key", "a_b"), ("repeated key", "c")]
    assert pictures.where(0).endswith("a_b.jpg")  # since the key is its own name
    assert "a.b.jpg" in pictures.problems[0].message


def test_links_in_a_circle_end(put_files, tmp_path):
    put_files("x/a.jpg", "x/y/b.jpg")
    (tmp_path / "x" / "y" / "up").symlink_to(tmp_path / "x", target_is_directory=True)
    (tmp_path / "x" / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "linked").symlink_to(tmp_path / "x" / "y", target_is_directory=True)
    pictures = open_picture_set(tmp_path)
    assert len(pictures) == 2
    assert set(kinds_of(pictures)) == {"repeated folder", "missing picture"}


def test_a_picture_that_goes_while_the_folder_is_listed_costs_itself(put_files, tmp_path, monkeypatch):
    put_files("a.jpg", "b.jpg", "c.jpg")

    def size_unless_gone(path, getsize=os.path.getsize):
        if str(path).endswith("b.jpg"):
            raise FileNotFoundError(2, "No such file or directory")
        return getsize(path)

    monkeypatch.setattr(os.path, "getsize", size_unless_gone)
    pictures = open_picture_set(tmp_path)
    assert list(pictures.keys) == ["a", "c"]
    assert kinds_of(pictures) == ["missing picture"]


def test_sa1b_as_unpacked_gives_its_objects_and_a_picture_without_them_is_named(tmp_path, make_jpeg, make_json):
    for number in (1, 2):
        (tmp_path / f"sa_{number}.jpg").write_bytes(make_jpeg(number))
    (tmp_path / "sa_1.json").write_bytes(make_json(1))
    pictures = open_picture_set(tmp_path)
    assert [instance.id for instance in pictures.read(0, with_instances=True).instances] == ["101"]
    assert pictures.read(1).key == "sa_2"
    with pytest.raises(SampleError, match="no JSON file") as caught:
        pictures.read(1, with_instances=True)
    assert caught.value.kind == "missing annotation"


def coco(size_hw=(24, 32)):
    """A file for two pictures, the first with one object."""
    height, width = size_hw
    annotation = {"id": 5, "image_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]], "bbox": [1, 1, 8, 8]}
    images = [
        {"id": number, "file_name": name, "height": height, "width": width}
        for number, name in ((1, "b.jpg"), (2, "sub/a.jpg"), (3, "gone.jpg"))
    ]
    return json.dumps({"images": images, "annotations": [annotation]})


def test_a_coco_file_gives_its_objects_under_the_keys_of_its_folder(put_files, tmp_path):
    put_files("images/b.jpg", "images/sub/a.jpg", "images/not listed.jpg")
    (tmp_path / "instances.json").write_text(coco())
    pictures = open_picture_set(tmp_path / "instances.json")
    assert list(pictures.keys) == ["b", "sub/a"]
    assert set(pictures.keys) < set(open_picture_set(tmp_path / "images").keys)
    assert kinds_of(pictures) == ["missing picture"]
    again = pickle.loads(pickle.dumps(pictures))
    assert [[i.id for i in again.read(index, with_instances=True).instances] for index in (0, 1)] == [["5"], []]
    assert [i.id for i in again.subset([1, 0]).read(1, with_instances=True).instances] == ["5"]


def test_a_coco_picture_of_another_size_than_annotated_is_named(put_files, tmp_path):
    put_files("b.jpg", "sub/a.jpg")
    (tmp_path / "instances.json").write_text(coco((32, 24)))
    pictures = open_picture_set(tmp_path / "instances.json")
    assert pictures.read(0).image.shape == (24, 32, 3)
    with pytest.raises(SampleError, match="annotated as 32 x 24") as caught:
        pictures.read(0, with_instances=True)
    assert caught.value.kind == "annotation of another size"


def test_a_folder_of_pictures_and_masks_gives_its_objects(put_files, tmp_path):
    put_files("images/a.jpg")
    (tmp_path / "masks").mkdir()
    mask = np.zeros((24, 32), np.uint8)
    mask[2:5, 3:7] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    pictures = open_picture_set(tmp_path)
    assert list(pictures.keys) == ["a"]
    (instance,) = pictures.read(0, with_instances=True).instances
    assert (instance.mask == (mask > 0)).all()


def test_several_sources_are_one_set_in_which_the_first_of_a_key_stays(put_tar, put_files, tmp_path):
    put_files("pictures/cat.jpg", "pictures/sa_1.jpg", "alone.jpg")
    tar = put_tar("sa.tar", 1, 2)
    pictures = open_picture_set([tmp_path / "pictures", tmp_path / "alone.jpg", tar])
    assert list(pictures.keys) == ["sa_1", "sa_2", "alone", "cat"]
    assert "sa.tar" in pictures.where(0)
    assert [(p.kind, p.where) for p in pictures.problems] == [("repeated key", "sa_1")]
    some = pickle.loads(pickle.dumps(pictures)).subset([3, 0])
    assert [some.read(index).key for index in (0, 1)] == ["cat", "sa_1"]
    assert [i.id for i in some.read(1, with_instances=True).instances] == ["101"]
    assert open_picture_set([tar, tmp_path / "alone.jpg", tmp_path / "pictures"]).fingerprint == pictures.fingerprint


def test_of_keys_in_several_tars_the_first_stays(put_tar, tmp_path):
    put_tar("a.tar", 1, 2)
    put_tar("b.tar", 2, 3)
    pictures = open_picture_set(tmp_path)
    assert list(pictures.keys) == ["sa_1", "sa_2", "sa_3"]
    assert kinds_of(pictures) == ["repeated key"]
    assert "b.tar" in pictures.problems[0].message


def test_a_broken_tar_among_others_is_a_problem(put_tar, tmp_path):
    put_tar("a.tar", 1)
    (tmp_path / "b.tar").write_bytes(b"")
    pictures = open_picture_set(tmp_path)
    assert (list(pictures.keys), kinds_of(pictures)) == (["sa_1"], ["unreadable tar"])


@pytest.mark.parametrize(
    ("fraction", "num_pictures", "num_tars"), [(0.04, 4, 1), (0.1, 10, 1), (0.25, 25, 3), (0.3, 30, 3), (1, 100, 10)]
)
def test_a_share_of_tars_is_whole_tars_and_a_part_of_one_and_no_other_is_opened(
    put_tar, tmp_path, monkeypatch, fraction, num_pictures, num_tars
):
    for number in range(10):
        put_tar(f"{number}.tar", *((f"{number}_{place}.jpg", b"x") for place in range(10)))
    opened = []
    index_tar = picture_sources.index_tar
    monkeypatch.setattr(picture_sources, "index_tar", lambda path, *_: opened.append(path) or index_tar(path))
    pictures = open_picture_set(tmp_path, fraction=fraction, seed=3)
    assert (len(pictures), len(opened)) == (num_pictures, num_tars)


def test_a_share_is_the_same_each_time_and_larger_ones_hold_smaller_ones(put_tar, tmp_path, monkeypatch):
    for number in range(5):
        put_tar(f"{number}.tar", *((f"{number}_{place}.jpg", b"x") for place in range(10)))
    share = set(open_picture_set(tmp_path, fraction=0.3, seed=1).keys)
    files = sorted(tmp_path.iterdir(), reverse=True)
    assert set(open_picture_set(files, fraction=0.3, seed=1).keys) == share
    assert set(open_picture_set(tmp_path, fraction=0.7, seed=1).keys) > share
    assert set(open_picture_set(tmp_path, fraction=0.3, seed=2).keys) != share


def test_a_share_of_a_folder_is_drawn_by_the_seed_and_is_one_picture_at_least(put_files, tmp_path):
    put_files(*(f"{number}.jpg" for number in range(20)))
    share = list(open_picture_set(tmp_path, fraction=0.25, seed=1).keys)
    assert len(share) == 5
    assert list(open_picture_set(tmp_path, fraction=0.25, seed=1).keys) == share == sorted(share)
    assert list(open_picture_set(tmp_path, fraction=0.25, seed=2).keys) != share
    assert len(open_picture_set(tmp_path, fraction=0.001)) == 1


def test_an_index_is_kept_where_it_is_wanted_and_nowhere_else(put_tar, tmp_path):
    path = put_tar("tars/sa.tar", 1)
    open_picture_set(path, index_folder=tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert os.listdir(tmp_path / "tars") == ["sa.tar"]


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("gone.tar", FileNotFoundError, "nothing at .*gone.tar"),
        ("sa_{0..2}.tar", FileNotFoundError, r"nothing at .*sa_1.tar, of the pattern .*sa_\{0\.\.2\}"),
        ("b_*.tar", FileNotFoundError, "no file fits the pattern"),
        ("sa_{2..0}.tar", ValueError, "smaller number first"),
        ("notes.txt", ValueError, "of no known form; expected tar files"),
        ("empty", ValueError, "no picture that can be used"),
        ("empty.tar", ValueError, "no picture that can be used.*1 x unreadable tar"),
        ("packed.tar.gz", ValueError, "is compressed .gzip."),
        ("https://example.org/sa.tar", ValueError, "is a stream"),
        ("pipe:cat sa.tar", ValueError, "is a stream"),
        ("broken.json", ValueError, "is not JSON"),
    ],
)
def test_what_cannot_be_opened_is_said(put_tar, tmp_path, monkeypatch, source, error, said):
    put_tar("sa_0.tar", 1)
    put_tar("sa_2.tar", 1)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.tar").touch()
    (tmp_path / "packed.tar.gz").write_bytes(b"\x1f\x8b\x08")
    (tmp_path / "broken.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        open_picture_set(source)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan")])
def test_a_share_must_be_one(put_tar, fraction):
    with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\]"):
        open_picture_set(put_tar("sa.tar", 1), fraction=fraction)


def test_nothing_named_is_said():
    with pytest.raises(ValueError, match="no source of pictures"):
        open_picture_set([])


def test_pictures_held_out_are_no_longer_in_the_others(put_tar):
    pictures = open_picture_set(put_tar("sa.tar", *((f"{number}.jpg", b"x") for number in range(20))))
    others, held_out = hold_out(pictures, 5, seed=0)
    assert (len(others), len(held_out)) == (15, 5)
    assert sorted([*others.keys, *held_out.keys]) == sorted(pictures.keys)
    assert list(hold_out(pictures, 5, seed=0)[1].keys) == list(held_out.keys)
    assert list(hold_out(pictures, 5, seed=1)[1].keys) != list(held_out.keys)
    for number in (-1, 20):
        with pytest.raises(ValueError, match="num_held_out must leave one"):
            hold_out(pictures, number, seed=0)


def test_places_in_a_set_are_numpys_too(put_tar):
    pictures = open_picture_set(put_tar("sa.tar", 1, 2))
    assert pictures.read(np.int64(1)).key == "sa_2"
