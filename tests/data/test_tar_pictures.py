"""Pictures read from tars by number, and every way in which one of them cannot be used."""

import json
import multiprocessing
import pickle

import numpy as np
import pytest

from mobile_sam.data.picture_set import SampleError, open_picture_set


@pytest.fixture
def open_tar(put_tar):
    """Open a tar of (name, content), or of numbers as SA-1B has them."""
    return lambda *members: open_picture_set(put_tar("sa.tar", *members))


def test_pictures_come_with_their_objects_when_these_are_asked_for(open_tar):
    pictures = open_tar(1, 200)
    sample = pictures.read(1)
    assert (sample.key, sample.image.shape, sample.image.dtype, sample.instances) == (
        "sa_200",
        (24, 32, 3),
        np.uint8,
        (),
    )
    assert (sample.image == 200).all()
    (instance,) = pictures.read(1, with_instances=True).instances
    assert (instance.id, instance.box_xyxy, instance.area_px) == ("300", (2, 3, 7, 8), 36)
    assert instance.point_xy == (4.5, 6.25)
    assert instance.mask[3:9, 2:8].all()
    assert instance.mask.sum() == 36


def broken(content, **changes):
    """SA-1B's file with other values in its header."""
    record = json.loads(content)
    return json.dumps({**record, "image": {**record["image"], **changes}}).encode()


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda text: None, "missing annotation", "no JSON file of its name"),
        (lambda text: text[:-20], "unusable annotation", "is not JSON"),
        (lambda text: b"[]", "unusable annotation", 'an object "image"'),
        (lambda text: b"\xff\x00", "unusable annotation", "is not JSON"),
        (lambda text: broken(text, width=None), "unusable annotation", "width None"),
        (lambda text: broken(text, width=24, height=32), "annotation of another size", "annotated as 32 x 24"),
        (
            lambda text: text.replace(b'"counts": "', b'"counts": "~'),
            "unusable annotation",
            "none of its 1 annotations",
        ),
    ],
)
def test_annotations_that_cannot_be_used_cost_their_picture_only_where_they_are_needed(
    open_tar, make_jpeg, make_json, change, kind, said
):
    text = change(make_json(7))
    pictures = open_tar(("sa_7.jpg", make_jpeg(7)), *([] if text is None else [("sa_7.json", text)]))
    assert pictures.read(0).key == "sa_7"
    with pytest.raises(SampleError, match=said) as caught:
        pictures.read(0, with_instances=True)
    assert (caught.value.key, caught.value.kind) == ("sa_7", kind)
    assert "sa.tar" in caught.value.message


def test_a_picture_without_objects_is_fine(open_tar, make_jpeg, make_json):
    text = json.dumps({**json.loads(make_json(7)), "annotations": []}).encode()
    assert open_tar(("sa_7.jpg", make_jpeg(7)), ("sa_7.json", text)).read(0, with_instances=True).instances == ()


@pytest.mark.parametrize("damage", [lambda content: content[:-200], lambda _: b"", lambda _: b"GIF? no"])
def test_a_corrupt_picture_is_named_with_its_tar(open_tar, make_jpeg, damage):
    pictures = open_tar(1, ("sa_2.jpg", damage(make_jpeg(2, (200, 300)))))
    assert pictures.read(0).key == "sa_1"
    with pytest.raises(SampleError) as caught:
        pictures.read(1)
    assert (caught.value.key, caught.value.kind) == ("sa_2", "corrupt picture")
    assert "sa.tar at byte" in str(caught.value)


def test_a_tar_that_was_cut_or_taken_away_later_costs_the_pictures_that_are_gone(put_tar):
    path = put_tar("sa.tar", 1, 2)
    pictures = open_picture_set(path)
    path.write_bytes(path.read_bytes()[:3200])
    assert pictures.read(0).key == "sa_1"
    with pytest.raises(SampleError, match="was it changed") as caught:
        pictures.read(1)
    assert caught.value.kind == "unreadable picture"
    path.unlink()
    with pytest.raises(SampleError, match="cannot be read") as caught:
        pictures.read(0)
    assert caught.value.kind == "unreadable picture"


def test_errors_and_sets_go_to_other_processes_and_back(open_tar, make_jpeg):
    pictures = open_tar(1, ("sa_2.jpg", b"broken"), 3)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(pictures.read, (2,)).key == "sa_3"
        with pytest.raises(SampleError) as caught:
            pool.apply(pictures.read, (1,))
    assert (caught.value.key, caught.value.kind) == ("sa_2", "corrupt picture")


def test_a_subset_keeps_the_order_it_is_given(open_tar):
    pictures = open_tar(1, 2, 3, 4)
    some = pictures.subset([3, 0])
    assert list(some.keys) == ["sa_4", "sa_1"]
    assert [(some.read(i).image[0, 0, 0], some.read(i, True).instances[0].id) for i in (0, 1)] == [
        (4, "104"),
        (1, "101"),
    ]
    assert some.name == pictures.name


def test_the_fingerprint_names_keys_and_sizes_and_no_place(put_tar):
    first = open_picture_set(put_tar("a/sa.tar", 1, 2)).fingerprint
    assert open_picture_set(put_tar("b/other.tar", 1, 2)).fingerprint == first
    assert open_picture_set(put_tar("c/sa.tar", 1, 3)).fingerprint != first
    assert open_picture_set(put_tar("d/sa.tar", 1, 2, 3)).subset([0, 1]).fingerprint == first
    assert open_picture_set(put_tar("e/sa.tar", 1, ("sa_2.jpg", b"short"))).fingerprint != first


def test_ten_thousand_pictures_cost_less_than_a_hundred_bytes_each(put_tar):
    pictures = open_picture_set(put_tar("sa.tar", *((f"sa_{number:06}.jpg", b"x") for number in range(10_000))))
    assert len(pictures) == 10_000
    assert len(pickle.dumps(pictures)) < 100 * len(pictures)
