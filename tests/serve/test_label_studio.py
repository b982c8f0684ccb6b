"""The ML backend as Label Studio calls it: payloads as its server sends them (label_studio/ml/api_connector.py)."""

import asyncio
import base64
import io
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from mobile_sam import SamPredictor
from mobile_sam.core.brush_rle import mask_to_brush
from mobile_sam.serve.label_studio import label_studio_router
from mobile_sam.serve.label_studio_config import read_config
from mobile_sam.serve.label_studio_context import marked_objects
from mobile_sam.serve.label_studio_pictures import LabelStudioPictures, PictureRefused, PictureUnavailable
from mobile_sam.serve.label_studio_setup import ProjectSetup
from mobile_sam.serve.problems import add_problem_handlers
from mobile_sam.serve.service import QueueFull, SegmentService
from mobile_sam.serve.settings import ServeSettings

BRUSH = """
<View>
  <Image name="image" value="$photo" zoom="true"/>
  <BrushLabels name="tag" toName="image">
    <Label value="Banana" background="#FF0000"/>
    <Label value="Orange" background="#0d14d3"/>
  </BrushLabels>
  <KeyPointLabels name="tag2" toName="image" smart="true">
    <Label value="Banana" smart="true"/><Label value="Orange"/>
  </KeyPointLabels>
  <RectangleLabels name="tag3" toName="image" smart="true">
    <Label value="Banana"/><Label value="Orange"/>
  </RectangleLabels>
</View>
"""
POLYGON = BRUSH.replace("BrushLabels", "PolygonLabels")
RECTANGLE = BRUSH.replace("BrushLabels", "RectangleLabels")
IMAGE_HW = (100, 200)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (*IMAGE_HW, 3), np.uint8)


@pytest.fixture(scope="module")
def data_uri(pixels):
    return f"data:image/png;base64,{base64.b64encode(png(pixels)).decode()}"


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def service(disc_engine):
    made = SegmentService(disc_engine, ServeSettings(num_threads=1))
    yield made
    made.close(10)


def make_app(service, pictures=None):
    app = FastAPI()
    add_problem_handlers(app)
    app.include_router(label_studio_router(service, pictures), prefix="/label-studio")
    return TestClient(app)


@pytest.fixture
def app(service):
    return make_app(service, LabelStudioPictures(None, None, 10**6))


def keypoint(x, y, *, label="Banana", is_positive=True):
    """A mark as in the example of label-studio-ml-backend."""
    value = {"x": x, "y": y, "width": 0.3189792663476874, "labels": [label], "keypointlabels": [label]}
    return region("keypointlabels", "tag2", value) | {"is_positive": is_positive}


def rectangle(x, y, width, height, *, label="Banana", rotation=0):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation, "rectanglelabels": [label]}
    return region("rectanglelabels", "tag3", value)


def region(kind, from_name, value):
    return {
        "original_width": IMAGE_HW[1],
        "original_height": IMAGE_HW[0],
        "image_rotation": 0,
        "value": value,
        "id": "fBWv1t0S2L",
        "from_name": from_name,
        "to_name": "image",
        "type": kind,
        "origin": "manual",
    }


def payload(address, marks=None, label_config=BRUSH, **more):
    task = {"id": 7, "data": {"photo": address}, "meta": {}, "project": 1, "drafts": [], "annotations": []}
    context = None if marks is None else {"result": marks}
    params = {"login": None, "password": None, "context": context}
    return {"tasks": [task], "project": "1.1694809921", "label_config": label_config, "params": params, **more}


def ask(app, *args, **named):
    answer = app.post("/label-studio/predict", json=payload(*args, **named))
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def expected_mask(disc_engine, pixels, **prompt):
    predictor = SamPredictor(engine=disc_engine)
    predictor.set_image(pixels)
    masks, scores, _ = predictor.predict(**prompt)
    return masks[np.argmax(scores)], float(scores.max())


def test_a_click_is_answered_with_the_best_mask_as_brush(app, disc_engine, pixels, data_uri):
    (prediction,) = ask(app, data_uri, [keypoint(25, 40)])
    mask, score = expected_mask(disc_engine, pixels, point_coords=[[50, 40]], point_labels=[1])
    (found,) = prediction["result"]
    assert 0 < mask.mean() < 1
    assert found["value"] == {"format": "rle", "rle": mask_to_brush(mask), "brushlabels": ["Banana"]}
    assert (found["type"], found["from_name"], found["to_name"]) == ("brushlabels", "tag", "image")
    assert (found["original_width"], found["original_height"], found["image_rotation"]) == (200, 100, 0)
    assert found["score"] == prediction["score"] == pytest.approx(score)
    assert prediction["model_version"] == "mobile-sam disc"


def test_a_box_with_points_is_one_prompt(app, disc_engine, pixels, data_uri):
    marks = [rectangle(10, 20, 40, 60), keypoint(30, 50), keypoint(90, 90, is_positive=False)]
    ((found,),) = [prediction["result"] for prediction in ask(app, data_uri, marks)]
    mask, _ = expected_mask(
        disc_engine,
        pixels,
        point_coords=[[60, 50], [180, 90]],
        point_labels=[1, 0],
        box=[20, 20, 100, 80],
        multimask_output=False,
    )
    assert found["value"]["rle"] == mask_to_brush(mask)


def test_each_label_and_each_box_is_an_object(app, data_uri):
    marks = [rectangle(0, 0, 30, 40), rectangle(60, 50, 30, 40, label="Orange"), keypoint(50, 50, label="Orange")]
    marks.append(rectangle(60, 0, 30, 40))
    (prediction,) = ask(app, data_uri, marks)
    assert [found["value"]["brushlabels"] for found in prediction["result"]] == [["Banana"], ["Banana"], ["Orange"]]


def test_polygons_outline_the_mask_in_percent_of_the_picture(app, disc_engine, pixels, data_uri):
    (prediction,) = ask(app, data_uri, [keypoint(50, 50)], POLYGON)
    mask, _ = expected_mask(disc_engine, pixels, point_coords=[[100, 50]], point_labels=[1])
    (found,) = prediction["result"]
    assert found["type"] == "polygonlabels"
    assert found["value"]["polygonlabels"] == ["Banana"]
    points = np.array(found["value"]["points"]) * (2, 1)  # in pixels
    rows, columns = np.nonzero(mask)  # through the centres of the outermost pixels
    np.testing.assert_allclose(points.min(0), [columns.min() + 0.5, rows.min() + 0.5])
    np.testing.assert_allclose(points.max(0), [columns.max() + 0.5, rows.max() + 0.5])


def test_rectangles_hold_the_mask(app, disc_engine, pixels, data_uri):
    (prediction,) = ask(app, data_uri, [keypoint(50, 50)], RECTANGLE)
    mask, _ = expected_mask(disc_engine, pixels, point_coords=[[100, 50]], point_labels=[1])
    rows, columns = np.nonzero(mask)
    value = prediction["result"][0]["value"]
    assert (value["x"], value["y"]) == (columns.min() / 2, rows.min())
    assert value["width"] == (columns.max() + 1 - columns.min()) / 2
    assert value["height"] == rows.max() + 1 - rows.min()


def test_only_points_beside_an_object_are_answered_with_no_region(app, data_uri):
    # Label Studio takes an empty list of results for a broken backend.
    (prediction,) = ask(app, data_uri, [keypoint(50, 50, is_positive=False)])
    assert prediction["result"] == []


@pytest.mark.parametrize("params", [{"context": None}, {"context": {}}, {}, None])
def test_without_marks_nothing_is_predicted(app, data_uri, params):
    assert ask(app, data_uri, params=params) == []


def test_setup_can_ask_for_masks_of_everything(app, data_uri):
    setup = {"project": "1.1694809921", "schema": BRUSH, "hostname": "http://ls:8080", "access_token": "abc"}
    extra = json.dumps({"everything": True, "points_per_side": 4, "pred_iou_thresh": 0.0, "label": "Orange"})
    answer = app.post("/label-studio/setup", json={**setup, "extra_params": extra})
    assert (answer.status_code, answer.json()) == (200, {"model_version": "mobile-sam disc"})
    (prediction,) = ask(app, data_uri)
    assert len(prediction["result"]) >= 2
    assert {found["value"]["brushlabels"][0] for found in prediction["result"]} == {"Orange"}
    broken = {"id": 8, "data": {"photo": "data:image/png;base64,AAAA"}}
    tasks = [*payload(data_uri)["tasks"], broken]
    results = ask(app, data_uri, tasks=tasks)
    assert results[0]["result"]
    assert results[1] == []  # no prediction, where an empty one would be stored


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("{", "must be JSON"),
        ("[]", "must be a JSON object"),
        ('{"points": 3}', "unknown names"),
        ('{"output": "video"}', "output must be"),
        ('{"everything": true, "points_per_side": 500}', "points_per_side"),
        ('{"everything": "yes"}', "true or false"),
        ('{"mode": "slow"}', "mode must be"),
        (f'{{"min_mask_region_area": 1{"0" * 400}}}', ""),
        (f'{{"label": "{"a" * 501}"}}', "label must be"),
    ],
)
def test_setup_says_what_is_wrong_with_extra_parameters(app, extra, message):
    answer = app.post("/label-studio/setup", json={"project": "1.2", "schema": BRUSH, "extra_params": extra})
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


def test_setup_refuses_a_configuration_that_no_answer_fits(app):
    config = '<View><Image name="image" value="$photo"/><Choices name="c" toName="image"/></View>'
    answer = app.post("/label-studio/setup", json={"project": "1.2", "schema": config})
    assert answer.status_code == 422
    assert "BrushLabels" in answer.json()["detail"]


def test_extra_parameters_choose_among_several_tags():
    both = BRUSH.replace(
        "</View>", '<PolygonLabels name="poly" toName="image"><Label value="Kiwi"/></PolygonLabels></View>'
    )
    assert read_config(both).from_name == "tag"
    output = read_config(both, kind=ProjectSetup.of({"output": "polygon"}).output)
    assert (output.from_name, output.data_key, output.label_for("Banana"), output.label_for("Kiwi")) == (
        "poly",
        "photo",
        "Kiwi",
        "Kiwi",
    )


def test_the_configuration_in_the_repository_is_one_that_is_answered():
    text = (Path(__file__).parents[2] / "integrations" / "label_studio" / "labelling_config.xml").read_text("utf-8")
    output = read_config(text)
    assert (output.kind, output.from_name, output.data_key, output.labels[0]) == (
        "brushlabels",
        "masks",
        "image",
        "Object",
    )


def test_health_webhook_and_versions_answer_as_label_studio_expects(app):
    assert app.get("/label-studio/health").json()["status"] == "UP"
    assert app.get("/label-studio/").json()["status"] == "UP"
    assert app.get("/label-studio/versions").json() == {"versions": ["mobile-sam disc"]}
    answer = app.post("/label-studio/webhook", json={"action": "ANNOTATION_CREATED", "project": {"id": 1}})
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")


@pytest.mark.parametrize(
    "change",
    [
        {"tasks": []},
        {"tasks": "no"},
        {"tasks": [{"id": 1}]},
        {"tasks": [{"id": 1, "data": {"photo": 5}}]},
        {"label_config": "<View>"},
        {"label_config": "<View/>"},
        {"label_config": '<!DOCTYPE a [<!ENTITY b "c">]><View/>'},
        {"label_config": 5},
        {"params": {"context": 5}},
        {"params": {"context": {"result": [5]}}},
        {"params": {"context": {"result": [keypoint("left", 5)]}}},
        {"params": {"context": {"result": [keypoint(None, 5)]}}},
        {"params": {"context": {"result": [keypoint(10**400, 5)]}}},
        {"params": {"context": {"result": [rectangle(5, 5, 1e300, 5)]}}},
        {"tasks": [{"id": 1, "data": {"photo": "/data/" + "a" * 5000}}]},
        {"project": "x" * 101},
        {"params": {"context": {"result": [keypoint(5, 5) | {"value": None}]}}},
        {"params": {"context": {"result": [keypoint(5, 5) | {"image_rotation": 90}]}}},
        {"params": {"context": {"result": [keypoint(5, 5) | {"to_name": "other"}]}}},
        {"params": {"context": {"result": [keypoint(5, 5)] * 65}}},
    ],
)
def test_what_is_wrong_with_a_request_is_said_as_422(app, data_uri, change):
    answer = app.post("/label-studio/predict", json={**payload(data_uri, [keypoint(5, 5)]), **change})
    assert answer.status_code == 422, answer.text


def test_a_broken_picture_is_400_and_a_full_queue_429_with_a_time(app, service, data_uri, monkeypatch):
    broken = app.post("/label-studio/predict", json=payload("data:image/png;base64,AAAA", [keypoint(5, 5)]))
    assert broken.status_code == 400

    def full(body):
        raise QueueFull("32 pictures wait", 2.0)

    monkeypatch.setattr(service, "submit_picture", full)
    answer = app.post("/label-studio/predict", json=payload(data_uri, [keypoint(5, 5)]))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")


@pytest.mark.parametrize("name", ["lol" * 400_000, "<a>" * 120_000 + "</a>" * 120_000])
def test_a_huge_or_deep_configuration_is_refused(name):
    with pytest.raises(ValueError, match="labelling configuration must"):
        read_config(f"<View>{name}</View>")


def test_marks_are_sorted_into_objects():
    marks = [
        rectangle(0, 0, 25, 50),
        rectangle(50, 0, 25, 50),
        keypoint(10, 10),
        keypoint(60, 10, is_positive=False),
        keypoint(90, 90),
        keypoint(1, 99, label="Orange", is_positive=False),
        region("brushlabels", "tag", {"format": "rle", "rle": [0]}),
    ]
    objects = marked_objects(marks, IMAGE_HW)
    assert [marked.box_xyxy for marked in objects] == [(0, 0, 50, 50), (100, 0, 150, 50), None]
    beside = ((2, 99), False)  # of a label with nothing else: it counts for all
    assert [marked.points for marked in objects] == [
        [((20, 10), True), beside],
        [((120, 10), False), beside],
        [((180, 90), True), beside],
    ]


def test_a_turned_rectangle_is_taken_by_the_box_around_it():
    # 20 x 10 px from (100, 50), turned by a quarter clockwise around that corner: to the left of it and below.
    (marked,) = marked_objects([rectangle(50, 50, 10, 10, rotation=90)], IMAGE_HW)
    np.testing.assert_allclose(marked.box_xyxy, [90, 50, 100, 70], atol=1e-9)


def test_an_ellipse_is_taken_by_the_box_around_it():
    value = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "rotation": 0, "ellipselabels": ["Banana"]}
    (marked,) = marked_objects([region("ellipselabels", "e", value)], IMAGE_HW)
    np.testing.assert_allclose(marked.box_xyxy, [80, 30, 120, 70])


class FakeLabelStudio:
    """Answers as a Label Studio at http://ls:8080, and notes who asked for what."""

    def __init__(self, picture):
        self.picture = picture
        self.asked = []

    def __call__(self, request):
        url = str(request.url)
        self.asked.append((url, request.headers.get("authorization")))
        path = request.url.path
        if path == "/api/token/refresh":
            return httpx.Response(200, json={"access": f"fresh for {json.loads(request.content)['refresh']}"})
        if path.endswith("/moved.png"):
            return httpx.Response(302, headers={"location": "/data/upload/1/a.png"})
        if path.endswith("/away.png"):
            return httpx.Response(302, headers={"location": "http://169.254.169.254/latest/meta-data"})
        if path.endswith("/login.png"):
            return httpx.Response(302, headers={"location": "/user/login/?next=/data"})
        if path.endswith("/circle.png"):
            return httpx.Response(302, headers={"location": "/data/circle.png"})
        if path.endswith("/missing.png"):
            return httpx.Response(404)
        if path.endswith("/slow.png"):
            raise httpx.ReadTimeout("slow")
        return httpx.Response(200, content=self.picture)

    def read(self, address, *, api_key="legacy", url="http://ls:8080", max_bytes=10**6, task_id=7):
        pictures = LabelStudioPictures(url, api_key, max_bytes, transport=httpx.MockTransport(self))
        return asyncio.run(pictures.read(address, task_id))


@pytest.fixture
def label_studio(pixels):
    return FakeLabelStudio(png(pixels))


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("/data/upload/1/a.png", "http://ls:8080/data/upload/1/a.png"),
        ("/upload/1/a.png", "http://ls:8080/data/upload/1/a.png"),
        ("/data/local-files/?d=set/a.png", "http://ls:8080/data/local-files/?d=set/a.png"),
        ("http://ls:8080/data/upload/1/a.png", "http://ls:8080/data/upload/1/a.png"),
        ("s3://bucket/a.png", "http://ls:8080/tasks/7/presign/?fileuri=czM6Ly9idWNrZXQvYS5wbmc="),
    ],
)
def test_label_studios_own_files_are_fetched_with_its_token(label_studio, address, asked):
    assert label_studio.read(address) == label_studio.picture
    assert label_studio.asked == [(asked, "Token legacy")]


def test_a_label_studio_below_a_path_is_asked_there(label_studio):
    for address in ("/data/upload/1/a.png", "/sub/data/upload/1/a.png"):
        label_studio.read(address, url="http://ls:8080/sub/")
    assert {url for url, _ in label_studio.asked} == {"http://ls:8080/sub/data/upload/1/a.png"}


def test_a_personal_access_token_is_changed_for_one_that_lasts_minutes(label_studio):
    label_studio.read("/data/upload/1/a.png", api_key="head.body.sign")
    assert label_studio.asked[-1][1] == "Bearer fresh for head.body.sign"


def test_a_redirect_within_label_studio_is_followed(label_studio):
    assert label_studio.read("/data/upload/1/moved.png") == label_studio.picture


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://ls:9000/data/upload/1/a.png",
        "https://ls:8080/data/upload/1/a.png",
        "http://ls:8080@evil/data/a.png",
        "http://ls:8080.evil/data/a.png",
        "http://ls:port/data/a.png",
        "http://[/data/a.png",
        "//evil/data/a.png",
        "file:///etc/passwd",
        "ftp://ls:8080/data/a.png",
        "gopher:x",
        "/etc/passwd",
        "/api/projects/",
        "/data/../api/users/",
        "/data/%2e%2e/api/users/",
        "/data/..\\api",
        "/user/login",
        "",
        "data:image/png,raw",
        "data:image/png;base64,!!!",
        "data:image/png;base64,AAA",
    ],
)
def test_other_hosts_and_other_paths_are_never_asked(label_studio, address):
    with pytest.raises(PictureRefused):
        label_studio.read(address)
    assert label_studio.asked == []


@pytest.mark.parametrize("name", ["away", "login"])
def test_redirects_elsewhere_are_not_followed(label_studio, name):
    with pytest.raises(PictureRefused):
        label_studio.read(f"/data/{name}.png")
    assert len(label_studio.asked) == 1


@pytest.mark.parametrize(("name", "message"), [("circle", "leads on"), ("missing", "404"), ("slow", "within 20 s")])
def test_what_label_studio_does_not_hand_out_is_said(label_studio, name, message):
    with pytest.raises(PictureUnavailable, match=message):
        label_studio.read(f"/data/{name}.png")


def test_pictures_of_too_many_bytes_are_refused(label_studio, data_uri):
    for address in ("/data/upload/1/a.png", data_uri):
        with pytest.raises(PictureRefused, match="more than the 100 bytes"):
            label_studio.read(address, max_bytes=100)


def test_without_an_address_of_label_studio_only_data_uris_are_read(label_studio, data_uri):
    assert label_studio.read(data_uri, url=None) == label_studio.picture
    with pytest.raises(PictureRefused, match="LABEL_STUDIO_URL"):
        label_studio.read("/data/upload/1/a.png", url=None)


def test_a_cloud_file_needs_the_number_of_its_task(label_studio):
    with pytest.raises(PictureRefused, match="number of its task"):
        label_studio.read("s3://bucket/a.png", task_id="1/../../api")


def test_clicks_on_one_picture_fetch_it_once(service, label_studio):
    pictures = LabelStudioPictures("http://ls:8080", "legacy", 10**6, transport=httpx.MockTransport(label_studio))
    app = make_app(service, pictures)
    for x in (20, 40, 60):
        assert ask(app, "/data/upload/1/a.png", [keypoint(x, 50)])[0]["result"]
    assert len(label_studio.asked) == 1
    missing = app.post("/label-studio/predict", json=payload("/data/missing.png", [keypoint(5, 5)]))
    assert missing.status_code == 502


def test_environment_says_where_label_studio_is(monkeypatch, label_studio):
    monkeypatch.setenv("LABEL_STUDIO_URL", "ls:8080")
    with pytest.raises(ValueError, match="LABEL_STUDIO_URL must be an http"):
        LabelStudioPictures.from_environment(10)


def test_tasks_that_a_long_request_has_no_time_for_get_no_prediction(app, data_uri, monkeypatch):
    extra = {"everything": True, "points_per_side": 2, "pred_iou_thresh": 0.0}
    assert app.post("/label-studio/setup", json={"project": "1.1694809921", "extra_params": extra}).status_code == 200
    tasks = payload(data_uri)["tasks"] * 2
    assert all(prediction["result"] for prediction in ask(app, data_uri, tasks=tasks))
    monkeypatch.setattr("mobile_sam.serve.label_studio.BATCH_S", 0.0)
    assert ask(app, data_uri, tasks=tasks) == [[], []]
