import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from mobile_sam.core.masks import decode_rle

CLICK = {"points": [[32, 24]]}


def discs(radius_px):
    """The mask of a disc around the middle of 64 x 48: `DiscEngine` draws it with 16 model pixels to one."""
    y, x = np.mgrid[:48, :64] + 0.5
    return np.hypot(x - 32, y - 24) < radius_px


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def ask(client, image, objects, **options):
    answer = client.post("/v1/segment", json={"image": image, "objects": objects, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_click_gets_the_best_of_three_masks_and_a_box_the_single_one(client, embedding_id):
    answer = ask(client, embedding_id, [CLICK, {"box": [16, 12, 48, 36], "name": "it"}])
    assert (answer["id"], answer["width"], answer["height"], answer["model_id"]) == (embedding_id, 64, 48, "disc")
    click, box = answer["objects"]
    assert [mask["token"] for mask in click["masks"]] == [3]  # DiscEngine's scores rise with the token
    assert [mask["token"] for mask in box["masks"]] == [0]
    assert ("name" in click, box["name"]) == (False, "it")
    assert click["masks"][0]["score"] == pytest.approx(0.8)
    assert iou(decode_rle(click["masks"][0]["rle"]), discs(10.0)) > 0.9  # 40 * (3 + 1) / 16
    assert iou(decode_rle(box["masks"][0]["rle"]), discs(2.5)) > 0.6


@pytest.mark.parametrize(
    ("candidates", "tokens"), [("auto", [3]), ("single", [0]), ("three", [1, 2, 3]), ("all", [0, 1, 2, 3])]
)
def test_candidates_choose_the_tokens(client, embedding_id, candidates, tokens):
    (found,) = ask(client, embedding_id, [CLICK], candidates=candidates)["objects"]
    assert [mask["token"] for mask in found["masks"]] == tokens


def test_area_and_box_are_those_of_the_mask(client, embedding_id):
    (mask,) = ask(client, embedding_id, [CLICK])["objects"][0]["masks"]
    pixels = decode_rle(mask["rle"])
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    assert mask["area"] == pixels.sum()
    assert mask["bbox"] == [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]


def test_all_outputs_are_the_same_mask(client, embedding_id):
    def mask(**options):
        return ask(client, embedding_id, [CLICK], **options)["objects"][0]["masks"][0]

    expected = decode_rle(mask()["rle"])
    plain = mask(counts_format="plain")["rle"]
    assert isinstance(plain["counts"], list)
    np.testing.assert_array_equal(decode_rle(plain), expected)
    png = Image.open(io.BytesIO(base64.b64decode(mask(output="png")["png"])))
    assert (png.mode, png.size) == ("L", (64, 48))
    np.testing.assert_array_equal(np.asarray(png), np.where(expected, 255, 0))
    (polygon,) = mask(output="polygons")["polygons"]
    outline = np.array(polygon)
    rows, columns = np.nonzero(expected)
    assert (outline.min(0).tolist(), outline.max(0).tolist()) == (
        [columns.min(), rows.min()],
        [columns.max(), rows.max()],
    )


def test_an_empty_mask_is_an_answer_too(client, embedding_id):
    corner = {"points": [[0, 0], [64, 48]], "labels": [1, 0]}  # a disc of 2.5 px around a corner, or nothing at all
    (mask,) = ask(client, embedding_id, [corner], candidates="single")["objects"][0]["masks"]
    assert mask["area"] == decode_rle(mask["rle"]).sum()


def test_marks_of_samexporter_mean_the_same(client, embedding_id):
    ours = {"points": [[20, 20], [5, 5]], "labels": [1, 0], "box": [10, 10, 40, 40]}
    marks = [
        {"type": "point", "data": [20, 20], "label": 1},
        {"type": "rectangle", "data": [10, 10, 40, 40]},
        {"type": "point", "data": [5, 5], "label": 0},
    ]
    answer = ask(client, embedding_id, [ours, {"prompt": marks}])
    assert answer["objects"][0] == answer["objects"][1]


def test_a_picture_can_come_along(client, picture, picture_json, embedding_id):
    by_id = ask(client, embedding_id, [CLICK])
    by_json = ask(client, picture_json, [CLICK])
    by_data_url = ask(client, {"base64": "data:image/png;base64," + picture_json["base64"]}, [CLICK])
    form = {"image": ("a.png", picture, "image/png"), "request": (None, json.dumps({"objects": [CLICK]}))}
    by_form = client.post("/v1/segment", files=form).json()
    for answer in (by_json, by_data_url, by_form):
        assert (answer["id"], answer["objects"]) == (embedding_id, by_id["objects"])


@pytest.mark.parametrize(
    ("objects", "where", "what"),
    [
        ([], "objects", "at least 1"),
        ([{}], "objects[0]", "needs points, a box or both"),
        ([CLICK, {"points": [[64.5, 5]]}], "objects[1]", "outside the picture of 64 x 48"),
        ([{"points": [[-1, 5]]}], "objects[0]", "outside"),
        ([{"box": [30, 30, 20, 40]}], "objects[0]", "swapped"),
        ([{"points": [[1, 2]], "labels": [1, 0]}], "objects[0]", "labels must be as many as points"),
        ([{"points": [[1, 2]], "labels": [2]}], "objects[0].labels[0]", "0 or 1"),
        ([{"points": [[1, 2, 3]]}], "objects[0].points[0]", ""),
        ([{"points": [["1", 2]]}], "objects[0].points[0][0]", "number"),
        ([{"box": [0, 0, 9]}], "objects[0].box[3]", ""),
        ([{"points": [[1, 2]], "colour": "red"}], "objects[0].colour", "not permitted"),
        ([{"prompt": [{"type": "point", "data": [1, 2, 3]}]}], "objects[0].prompt[0]", "must be 2 numbers"),
        ([{"prompt": [{"type": "point", "data": [1, 2], "label": 7}]}], "objects[0].prompt[0]", "got 7"),
        ([{"prompt": 2 * [{"type": "rectangle", "data": [1, 1, 2, 2]}]}], "objects[0]", "several rectangles"),
        ([{**CLICK, "prompt": [{"type": "point", "data": [1, 2]}]}], "objects[0]", "in their place"),
    ],
)
def test_wrong_prompts_are_named_by_their_place(client, embedding_id, is_problem, objects, where, what):
    answer = client.post("/v1/segment", json={"image": embedding_id, "objects": objects})
    errors = is_problem(answer, 422)["errors"]
    assert where in [error["where"] for error in errors]
    assert any(what in error["what"] for error in errors)


def test_limits_on_objects_and_points(serve, picture_json, is_problem):
    client = serve(max_objects=2, max_points=3)
    most = 2 * [{"points": 3 * [[1, 1]]}]
    assert client.post("/v1/segment", json={"image": picture_json, "objects": most}).status_code == 200
    too_many = client.post("/v1/segment", json={"image": picture_json, "objects": 3 * [CLICK]})
    assert "at most 2 objects" in is_problem(too_many, 422)["detail"]
    too_long = client.post("/v1/segment", json={"image": picture_json, "objects": [{"points": 4 * [[1, 1]]}]})
    assert is_problem(too_long, 422)["errors"][0]["what"] == "at most 3 points an object, got 4"


def test_an_unknown_id_is_not_found(client, is_problem):
    document = is_problem(client.post("/v1/segment", json={"image": "emb_" + 32 * "0", "objects": [CLICK]}), 404)
    assert "send the picture again" in document["detail"]


def test_other_types_than_json_and_multipart_are_refused(client, embedding_id, is_problem):
    body = json.dumps({"image": embedding_id, "objects": [CLICK]})
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):  # which pages of other sites may send
        is_problem(client.post("/v1/segment", content=body, headers={"Content-Type": content_type}), 415)


def test_a_mask_that_takes_too_long_is_given_up(serve, picture, gate, is_problem):
    client = serve(timeout_s=0.5)
    embedded = client.service.submit_picture(picture).result(10)
    held = gate(client.service.engine, "_decode_some")
    is_problem(client.post("/v1/segment", json={"image": embedded.id, "objects": [CLICK]}), 504)
    held.let(9)
