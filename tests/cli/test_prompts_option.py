"""How prompts are written on the command line and in prompt files."""

import json

import pytest

from mobile_sam.cli.prompts import parse_prompts, read_prompt_file


def plain(prompts):
    """(points, labels, box) of each prompt."""
    records = [prompt.to_json() for prompt in prompts]
    return [(record["points"], record["labels"], record["box"]) for record in records]


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "prompts.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


@pytest.mark.parametrize(
    ("points", "boxes", "expected"),
    [
        (["3,4"], [], [([[3, 4]], [1], None)]),
        (["3,4,0"], [], [([[3, 4]], [0], None)]),
        (["3.5, 4e1,1"], [], [([[3.5, 40]], [1], None)]),
        (["-3,4"], [], [([[-3, 4]], [1], None)]),  # whether it lies in the picture is known later
        (["3,4", "5,6,0"], [], [([[3, 4], [5, 6]], [1, 0], None)]),
        ([], ["1,2,3,4"], [([], [], [1, 2, 3, 4])]),
        ([], ["1,2,3,4", "5,6,7,8"], [([], [], [1, 2, 3, 4]), ([], [], [5, 6, 7, 8])]),
        (["3,4"], ["1,2,5,6"], [([[3, 4]], [1], [1, 2, 5, 6])]),
    ],
)
def test_points_are_one_object_and_each_box_is_one(points, boxes, expected):
    assert plain(parse_prompts(points, boxes, None)) == expected


@pytest.mark.parametrize(
    ("points", "boxes", "words"),
    [
        ([], [], "no prompt: say what to cut out with --point X,Y"),
        (["3"], [], r"--point '3' is not of the form X,Y or X,Y,LABEL"),
        (["3,4,1,1"], [], "is not of the form"),
        (["a,b"], [], "is not of the form"),
        (["3 4"], [], "is not of the form"),
        ([""], [], "is not of the form"),
        (["3,"], [], "is not of the form"),
        (["3,4,2"], [], "label must be 1"),
        (["3,4,-1"], [], "label must be 1"),
        (["3,4,0.5"], [], "label must be 1"),
        (["3,4,nan"], [], "label must be 1"),
        (["nan,4"], [], "points must be finite"),
        (["3,-inf"], [], "points must be finite"),
        (["3,1e999"], [], "points must be finite"),
        ([], ["1,2,3"], r"--box '1,2,3' is not of the form X1,Y1,X2,Y2"),
        ([], ["1,2,3,4,5"], "is not of the form"),
        ([], ["1,2,nan,4"], "box must be finite"),
        ([], ["3,2,1,4"], "swapped or equal corners"),
        ([], ["1,2,3,2"], "swapped or equal corners"),
        (["3,4"], ["1,2,3,4", "1,2,3,4"], "not clear which box the points belong to; use --prompts"),
    ],
)
def test_malformed_options_are_refused_with_the_form_expected(points, boxes, words):
    with pytest.raises(ValueError, match=words):
        parse_prompts(points, boxes, None)


def test_a_prompt_file_beside_options_is_refused(written):
    with pytest.raises(ValueError, match="put all prompts into the file"):
        parse_prompts(["1,2"], [], written([{"box": [1, 2, 3, 4]}]))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([{"points": [[3, 4]]}], [([[3, 4]], [1], None)]),
        ([{"points": [3, 4]}], [([[3, 4]], [1], None)]),
        (
            [{"points": [[3, 4], [5, 6]], "labels": [1, 0], "box": [1, 2, 9, 9]}],
            [([[3, 4], [5, 6]], [1, 0], [1, 2, 9, 9])],
        ),
        ([{"box": [1, 2, 3, 4]}, {"points": [[3, 4]]}], [([], [], [1, 2, 3, 4]), ([[3, 4]], [1], None)]),
        ([{"points": None, "labels": None, "box": [1, 2, 3, 4]}], [([], [], [1, 2, 3, 4])]),
        ([{"type": "point", "data": [3, 4], "label": 0}], [([[3, 4]], [0], None)]),
        (
            [{"type": "point", "data": [3, 4]}, {"type": "rectangle", "data": [1, 2, 5, 6]}],
            [([[3, 4]], [1], [1, 2, 5, 6])],
        ),
        ([{"type": "rectangle", "data": [1, 2, 5, 6]}], [([], [], [1, 2, 5, 6])]),
    ],
)
def test_a_prompt_file_holds_objects_or_the_marks_of_one(written, content, expected):
    assert plain(read_prompt_file(written(content))) == expected


def test_a_prompt_file_may_begin_with_a_byte_order_mark(written):
    assert plain(read_prompt_file(written(b'\xef\xbb\xbf[{"points": [[3, 4]]}]'))) == [([[3, 4]], [1], None)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not JSON"),
        (b"[{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        ({}, "must hold a list of objects"),
        ([], "must hold a list of objects"),
        ([1, 2], "must hold a list of objects"),
        ([{}], "object 0 .* has the keys"),
        ([{"box": [1, 2, 3, 4]}, {"point": [1, 2]}], r"object 1 .* has the keys \['point'\]"),
        ([{"labels": [1]}], r"has the keys \['labels'\]"),
        ([{"points": None, "box": None}], "object 0 .* has the keys"),
        ([{"points": [[1, 2]], "labels": [1, 0]}], r"object 0 in .*labels must be \(1,\)"),
        ([{"points": [[1, 2, 3]]}], r"points must be \(N, 2\)"),
        ([{"points": []}], r"points must be \(N, 2\)"),
        ([{"points": [[1, 2], [3]]}], "points must be numbers in a rectangular array"),
        ([{"points": [["a", "b"]]}], "points must be numbers"),
        ([{"box": [[1, 2, 3, 4], [1, 2, 3, 4]]}], r"box must be \(4,\)"),
        (b'[{"points": [[NaN, 1]]}]', "points must be finite"),
        ([{"box": [9, 2, 3, 4]}], "object 0 in .*swapped"),
        ([{"type": "circle", "data": [1, 2]}], "at most one rectangle"),
        ([{"type": "rectangle", "data": [1, 2, 3, 4]}] * 2, "at most one rectangle"),
        ([{"type": "point"}], r"points must be"),
    ],
)
def test_a_malformed_prompt_file_is_refused_by_name_and_object(written, content, words):
    path = written(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_prompt_file(path)
    assert str(path) in str(caught.value)


def test_a_missing_prompt_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no prompt file at .*nowhere\.json"):
        read_prompt_file(tmp_path / "nowhere.json")
