"""Files of boxes and points, and the pictures that they are for."""

import hashlib
import json
import math

import numpy as np
import pytest

from mobile_sam.bulk.items import Item, Place
from mobile_sam.bulk.prompt_values import boxes_of, objects_of
from mobile_sam.bulk.prompts import match_prompts, read_prompts


@pytest.fixture
def write(tmp_path):
    def write_as(content, name="prompts.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write_as


def box(image_id, box_xywh=(4, 5, 10, 8), **more):
    return {"image_id": image_id, "bbox": list(box_xywh), **more}


def item(number, file_name, source_id=None, prompts=None):
    key = file_name.rpartition(".")[0]
    return Item(number, key, file_name, Place(f"/data/{file_name}"), source_id, prompts)


def matched(task, path, items, **more):
    problems = []
    found = dict(match_prompts(read_prompts(task, path), items, problems.append, **more))
    return found, [(problem.kind, problem.message) for problem in problems]


def test_boxes_come_back_as_the_file_has_them(write):
    entries = [box("a", score=0.5, category_id=18), box("b"), box("a", (1.5, 2.25, 3, 4), category_id=2**53 + 1)]
    path = write(entries)
    read = read_prompts("boxes", path)
    assert (read.name, read.sha256) == ("prompts.json", hashlib.sha256(path.read_bytes()).hexdigest())
    ((number, text), _) = match_prompts(read, [item(1, "a.jpg"), item(2, "b.jpg")])
    assert "\n" not in text
    assert " " not in text
    found = boxes_of(item(number, "a.jpg", prompts=text))
    np.testing.assert_array_equal(found.boxes_xyxy, [[4, 5, 14, 13], [1.5, 2.25, 4.5, 6.25]])
    assert (found.facts(0), found.facts(1)) == ({"score": 0.5, "category_id": 18}, {"category_id": 2**53 + 1})
    assert math.isnan(found.scores[1])
    assert len(boxes_of(item(3, "c.jpg"))) == 0


def test_an_annotation_file_names_categories_and_pictures(write):
    content = {
        "images": [{"id": 5, "file_name": "x/cat.jpg"}, {"id": 7, "file_name": "dog.jpg"}, {"file_name": "odd"}],
        "annotations": [box(5), box(7, (1, 2, 3, 4))],
        "categories": [{"id": 18, "name": "dog"}, {"id": "no number", "name": "odd"}],
    }
    path = write(content)
    read = read_prompts("boxes", path)
    assert dict(read.categories) == {18: "dog"}
    assert [problem.kind for problem in read.problems] == ["malformed category"]
    found, _ = matched("boxes", path, [item(1, "cat.jpg"), item(2, "x/dog.jpg"), item(3, "7.jpg")])
    assert boxes_of(item(2, "", prompts=found[2])).boxes_xyxy.tolist() == [[1, 2, 4, 6]]
    assert set(found) == {1, 2}


@pytest.mark.parametrize(
    ("image_id", "file_name", "source_id", "is_meant"),
    [
        ("cats/tom.jpg", "cats/tom.jpg", None, True),
        ("tom.jpg", "cats/tom.jpg", None, True),
        ("cats/tom", "cats/tom.jpg", None, True),
        ("tom", "cats/tom.jpg", None, True),
        (397133, "val/000000397133.jpg", None, True),
        ("000397133", "397133.jpg", None, True),
        (139, "some.jpg", 139, True),
        ("some.jpg", "val/some.jpg", 139, True),
        (7, "000007.jpg", 139, False),  # 7 is another picture of the annotation file
        ("tom.png", "cats/tom.jpg", None, False),
        ("om.jpg", "cats/tom.jpg", None, False),
    ],
)
def test_pictures_are_meant_by_number_name_or_stem(write, image_id, file_name, source_id, is_meant):
    path = write([box(image_id), box("other.jpg")])
    found, _ = matched("boxes", path, [item(1, "other.jpg"), item(2, file_name, source_id)])
    assert (2 in found) == is_meant


def test_prompts_that_may_be_of_two_pictures_are_refused_by_name(write):
    prompts = read_prompts("boxes", write([box("1.jpg")]))
    with pytest.raises(ValueError, match=r"image_id 1.jpg may mean a/1.jpg \(/data/a/1.jpg\) or b/1.jpg \(/data/b"):
        list(match_prompts(prompts, [item(1, "a/1.jpg"), item(2, "b/1.jpg")]))
    found, _ = matched("boxes", write([box("a/1.jpg"), box("b/1.jpg")]), [item(1, "a/1.jpg"), item(2, "b/1.jpg")])
    assert set(found) == {1, 2}


def test_a_file_for_other_pictures_is_refused_with_examples_of_both(write):
    path = write([box(f"x{number}.jpg") for number in range(9)])
    with pytest.raises(ValueError, match=r"it names x0.jpg, x1.jpg, x2.jpg, the pictures are a.jpg, b.jpg; expected"):
        matched("boxes", path, [item(1, "a.jpg"), item(2, "b.jpg")])
    assert matched("boxes", path, [item(1, "a.jpg")], is_part=True) == ({}, [])
    assert matched("boxes", path, [])[0] == {}


def test_prompts_of_some_other_pictures_are_told_with_count_and_examples(write):
    path = write([box("a.jpg"), *(box(f"x{number}") for number in range(5))])
    found, problems = matched("boxes", path, [item(1, "a.jpg")])
    assert set(found) == {1}
    message = "5 of the 6 pictures that it names are not among those of the run: x0, x1, x2, ..."
    assert problems == [("prompts of other pictures", message)]


def test_a_file_without_boxes_is_an_answer_and_told(write):
    assert matched("boxes", write([]), [item(1, "a.jpg")]) == (
        {},
        [("no prompts", "it has no prompts, so there will be no masks")],
    )


POINTS = {"a.jpg": [{"points": [[1, 2], [3, 4]], "labels": [1, 0]}, {"points": [[5.5, 6]], "box": [1, 2, 3, 4]}]}


@pytest.mark.parametrize(
    "content",
    [
        POINTS,
        {"picture": "a.jpg", "objects": POINTS["a.jpg"]},
        [{"file_name": "a.jpg", "objects": POINTS["a.jpg"]}],
        "".join(json.dumps({"image_id": "a", "objects": [one]}) + "\n\n" for one in POINTS["a.jpg"]),
        "\ufeff" + json.dumps(POINTS),
    ],
)
def test_points_come_as_an_object_a_list_or_lines(write, content):
    found, problems = matched("points", write(content), [item(1, "a.jpg"), item(2, "b.jpg")])
    assert problems == []
    first, second = objects_of(item(1, "a.jpg", prompts=found[1]))
    assert (first.points_xy.tolist(), first.labels.tolist(), first.box_xyxy) == ([[1, 2], [3, 4]], [1, 0], None)
    assert (second.points_xy.tolist(), second.labels.tolist()) == ([[5.5, 6]], [1])
    assert second.box_xyxy.tolist() == [1, 2, 3, 4]
    assert objects_of(item(2, "b.jpg")) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"points": [[1, 2]], "labels": [1, 1]}, "labels must be (1,)"),
        ({"box": [5, 5, 1, 1]}, "swapped or equal corners"),
        ({"points": "left"}, "points must be numbers"),
        ({"point": [[1, 2]]}, "expected {"),
        ({}, "an empty prompt"),
        ([1, 2], "an object is [1, 2]"),
    ],
)
def test_a_malformed_object_costs_only_itself(write, value, message):
    path = write({"a.jpg": [value, {"points": [[1, 2]]}]})
    found, ((kind, told),) = matched("points", path, [item(1, "a.jpg")])
    assert len(objects_of(item(1, "a.jpg", prompts=found[1]))) == 1
    assert kind == "malformed object"
    assert message in told
    with pytest.raises(ValueError, match=r"has no object that can be used: a.jpg, object 0"):
        read_prompts("points", write({"a.jpg": [value]}))


def test_malformed_lines_cost_only_themselves(write):
    good = json.dumps({"picture": "a", "objects": POINTS["a.jpg"]})
    path = write(f'{good}\n{{"picture": \n{{"objects": []}}\n[1]\n')
    read = read_prompts("points", path)
    assert [(problem.kind, problem.where) for problem in read.problems] == [
        ("malformed entry", f"line {number}") for number in (2, 3, 4)
    ]
    assert list(read.prompts) == ["a"]


@pytest.mark.parametrize("content", ["", "no json", "17", '{"a.jpg": [', "\n\n"])
def test_no_file_of_points_is_refused(write, content):
    with pytest.raises(ValueError, match=r"prompts.json .*expected"):
        read_prompts("points", write(content))


def test_a_missing_file_and_a_task_without_prompts_are_refused(tmp_path):
    for task in ("boxes", "points"):
        with pytest.raises(FileNotFoundError, match=r"none.json"):
            read_prompts(task, tmp_path / "none.json")
    with pytest.raises(ValueError, match="takes no prompts"):
        read_prompts("embed", tmp_path / "none.json")


def test_a_hundred_thousand_pictures_are_matched_as_they_come(write):
    path = write([box(number) for number in range(0, 1000, 10)])
    items = (item(number + 1, f"{number:012d}.jpg") for number in range(100_000))
    found = match_prompts(read_prompts("boxes", path), items)
    assert next(found)[0] == 1
    assert [number for number, _ in found] == [number + 1 for number in range(10, 1000, 10)]
