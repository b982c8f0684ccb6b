"""The client against a server made up of the API's description, and at the end against the real one."""

import asyncio
import hashlib
import io
import json

import httpx
import numpy as np
import pytest
from PIL import Image

from mobile_sam import Embedding, EverythingConfig, Prompt, SamAutomaticMaskGenerator, SamPredictor
from mobile_sam.core.masks import encode_rle
from mobile_sam.serve import client as client_module
from mobile_sam.serve import client_calls
from mobile_sam.serve.app import create_app
from mobile_sam.serve.client import AsyncClient, Client, RequestRefused, ServerError, ServerUnreachable
from mobile_sam.serve.service import SegmentService
from mobile_sam.serve.settings import ServeSettings

IMAGE_HW = (30, 40)


class FakeServer:
    """Keeps embeddings by their content, and answers prompts with the rectangle of their box.

    Attributes:
        asked: method and path of each request.
        bodies: their bodies.
        trouble: answers (or exceptions) to give first, before any of its own.
    """

    def __init__(self):
        self.kept = {}
        self.asked, self.bodies, self.tokens, self.trouble = [], [], [], []

    def __call__(self, request):
        path = request.url.path
        self.asked.append(f"{request.method} {path}")
        self.tokens.append(request.headers.get("authorization"))
        body = request.content
        self.bodies.append(body)
        if self.trouble:
            trouble = self.trouble.pop(0)
            if isinstance(trouble, Exception):
                raise trouble
            return trouble
        if path == "/v1/embeddings":
            return self.encode(body)
        if path.startswith("/v1/embeddings/"):
            return self.embedding(request, path.rpartition("/")[2])
        if path == "/v1/models":
            model = {"id": "vit", "engine": "onnxruntime", "input_side": 1024, "is_default": True, "new_field": 1}
            return httpx.Response(200, json={"models": [model], "version": "1"})
        if path == "/readyz":
            return httpx.Response(200, json={"status": "ok"})
        return self.decode(path, json.loads(body))

    def encode(self, body):
        try:
            Image.open(io.BytesIO(body)).verify()
        except OSError:
            return problem(400, "Bad Request", "the 3 bytes are no picture")
        name = "emb_" + hashlib.sha256(body).hexdigest()[:32]
        was_cached = name in self.kept
        self.kept[name] = Image.open(io.BytesIO(body)).size
        return httpx.Response(200 if was_cached else 201, json=self.about(name) | {"was_cached": was_cached})

    def about(self, name):
        width, height = self.kept[name]
        return {"id": name, "width": width, "height": height, "model_id": "vit", "was_cached": True, "milliseconds": {}}

    def embedding(self, request, name):
        if name not in self.kept:
            return problem(404, "Not Found", f"there is no embedding {name}")
        if request.method == "DELETE":
            del self.kept[name]
            return httpx.Response(204)
        if request.url.params.get("format") != "npy":
            return httpx.Response(200, json=self.about(name))
        buffer = io.BytesIO()
        np.save(buffer, np.full((1, 256, 64, 64), 0.5, np.float32))
        return httpx.Response(200, content=buffer.getvalue(), headers={"X-Image-Size": "40x30"})

    def decode(self, path, asked):
        if asked["image"] not in self.kept:
            return problem(404, "Not Found", "unknown embedding")
        if path == "/v1/everything":
            return self.everything()
        objects = [{"masks": [self.mask(item, token)]} for token, item in enumerate(asked["objects"])]
        answer = self.about(asked["image"]) | {"objects": objects}
        assert asked["output"] == "rle"
        return httpx.Response(200, json=answer)

    def mask(self, item, token):
        x1, y1, x2, y2 = (int(side) for side in item.get("box", (0, 0, 1, 1)))
        pixels = np.zeros(IMAGE_HW, bool)
        pixels[y1:y2, x1:x2] = True
        box = [x1, y1, x2 - x1, y2 - y1]
        return {"token": token, "score": 0.75, "area": int(pixels.sum()), "bbox": box, "rle": encode_rle(pixels)}

    def everything(self):
        found = {
            "rle": encode_rle(np.ones(IMAGE_HW, bool)),
            "bbox": [0, 0, 40, 30],
            "area": 1200,
            "predicted_iou": 0.9,
            "stability_score": 0.97,
            "point": [20.0, 15.0],
        }
        events = [{"event": "progress", "done": done, "total": 4 * (done > 0)} for done in (0, 2, 4)]
        return lines(*events, {"event": "result", "masks": [found], "milliseconds": {}})


def lines(*events):
    return httpx.Response(200, content="".join(json.dumps(event) + "\n" for event in events).encode())


def problem(status, title, detail, **headers):
    document = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "errors": [{"where": "box", "what": "swapped"}],
    }
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json=document, headers={"content-type": "application/problem+json", **headers})


@pytest.fixture
def server():
    return FakeServer()


@pytest.fixture
def client(server):
    with Client("http://127.0.0.1:8000", transport=httpx.MockTransport(server)) as made:
        yield made


@pytest.fixture
def waits(monkeypatch):
    """Seconds that the client waited, without waiting."""
    waited = []
    monkeypatch.setattr(client_module.time, "sleep", waited.append)
    return waited


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (*IMAGE_HW, 3), np.uint8)


def test_every_kind_of_picture_arrives_with_its_pixels(client, server, picture, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    content = path.read_bytes()
    for source in (path, str(path), content, path.open("rb"), picture, Image.fromarray(picture)):
        remote = client.embed(source)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(server.bodies[-1]))), picture)
        assert (remote.width, remote.height, remote.image_hw, remote.model_id) == (40, 30, IMAGE_HW, "vit")
    assert server.bodies[0] == content  # a file as it is, with its orientation and without new losses
    assert remote.was_cached


def test_masks_come_back_in_the_order_of_the_prompts(client, picture):
    remote = client.embed(picture)
    answers = client.segment(remote, [Prompt.of(box=[2, 3, 12, 10]), Prompt.of(box=[20, 20, 30, 25])])
    for answer, (x1, y1, x2, y2) in zip(answers, [(2, 3, 12, 10), (20, 20, 30, 25)], strict=True):
        expected = np.zeros((1, *IMAGE_HW), bool)
        expected[0, y1:y2, x1:x2] = True
        np.testing.assert_array_equal(answer.masks, expected)
        np.testing.assert_array_equal(answer.boxes_xywh, [[x1, y1, x2 - x1, y2 - y1]])
        assert (answer.scores.dtype, answer.scores.tolist(), answer.best) == (np.float32, [0.75], 0)
    assert [answer.tokens.tolist() for answer in answers] == [[0], [1]]


def test_points_and_box_are_one_prompt(client, server, picture):
    remote = client.embed(picture)
    (_,) = client.segment(remote, points=[[5, 6], [7, 8]], labels=[1, 0], box=[1, 2, 30, 20], candidates="all")
    sent = json.loads(server.bodies[-1])
    assert sent["objects"] == [{"points": [[5, 6], [7, 8]], "labels": [1, 0], "box": [1, 2, 30, 20]}]
    assert (sent["candidates"], sent["image"]) == ("all", remote.id)


def test_no_prompts_have_no_masks_and_ask_nothing(client, server, picture):
    assert client.segment(picture, []) == []
    assert server.asked == []


def test_an_id_alone_is_enough(client, picture):
    remote = client.embed(picture)
    assert len(client.segment(remote.id, box=[1, 1, 5, 5])) == 1
    assert client.embedding(remote.id).model_id == "vit"


def test_an_embedding_is_one_that_predictors_take(client, picture):
    embedding = client.embedding(client.embed(picture))
    assert isinstance(embedding, Embedding)
    assert (embedding.image_hw, embedding.input_hw, embedding.model_id) == (IMAGE_HW, (768, 1024), "vit")
    assert (embedding.features == 0.5).all()


def test_a_picture_that_the_server_dropped_is_sent_again(client, server, picture):
    remote = client.embed(picture)
    server.kept.clear()
    assert client.segment(remote, box=[1, 1, 5, 5])[0].masks.any()
    assert server.asked.count("POST /v1/embeddings") == 2
    server.kept.clear()
    assert len(client.everything(remote)) == 1
    server.kept.clear()
    assert client.embedding(remote).image_hw == IMAGE_HW


def test_an_id_that_the_server_dropped_is_refused(client, server, picture):
    remote = client.embed(picture)
    server.kept.clear()
    with pytest.raises(RequestRefused) as refused:
        client.segment(remote.id, box=[1, 1, 5, 5])
    assert refused.value.status == 404


def test_everything_tells_its_progress_and_gives_records_as_the_generator(client, server, picture):
    told = []
    config = EverythingConfig(mode="fast", points_per_side=8, pred_iou_thresh=0.5)
    (record,) = client.everything(picture, config, lambda done, total: told.append((done, total)))
    assert told == [(2, 4), (4, 4)]
    keys = ["segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"]
    assert list(record) == keys
    assert (record["point_coords"], record["crop_box"]) == ([[20.0, 15.0]], [0, 0, 40, 30])
    assert record["bbox"] == [0, 0, 39, 29]  # SAM's width is the last column minus the first
    settings = json.loads(server.bodies[-1])["settings"]
    assert (settings["mode"], settings["points_per_side"], settings["pred_iou_thresh"]) == ("fast", 8, 0.5)


def test_settings_that_cannot_be_sent_are_not_dropped_in_silence(client, server, picture):
    with pytest.raises(ValueError, match="crop_n_layers cannot be set over HTTP"):
        client.everything(picture, EverythingConfig(crop_n_layers=1))
    assert server.asked == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lines({"event": "progress", "done": 1, "total": 4}), "Cut short"),
        (
            lines({"event": "error", "problem": {"title": "Gateway Timeout", "status": 504, "detail": "late"}}),
            "504.*late",
        ),
        (httpx.Response(200, content=b'{"event": "prog'), "Not understood"),
    ],
)
def test_everything_that_ends_badly_is_an_error(client, server, picture, answer, message):
    remote = client.embed(picture)
    server.trouble = [answer]
    with pytest.raises(ServerError, match=message):
        client.everything(remote)


def test_forget_tells_whether_there_was_one(client, picture):
    remote = client.embed(picture)
    assert client.forget(remote) is True
    assert client.forget(remote.id) is False


def test_models_are_listed_and_new_fields_of_later_servers_pass(client):
    (model,) = client.models()
    assert (model.id, model.engine, model.input_side, model.is_default) == ("vit", "onnxruntime", 1024, True)


def test_is_ready_asks_once_and_raises_nothing(client, server, waits):
    assert client.is_ready() is True
    server.trouble = [problem(503, "Service Unavailable", "closing", retry_after="1")]
    assert client.is_ready() is False
    server.trouble = [httpx.ConnectError("refused")]
    assert client.is_ready() is False
    assert (len(server.asked), waits) == (3, [])


def test_a_busy_server_is_asked_again_after_the_time_it_says(client, server, picture, waits):
    server.trouble = [
        problem(429, "Too Many Requests", "full", retry_after="2"),
        problem(503, "Closing", "", retry_after="7"),
    ]
    assert client.embed(picture).width == 40
    assert waits == [2, 7]


def test_waits_have_a_bound_whatever_the_server_says(client, server, picture, waits):
    server.trouble = [problem(429, "Too Many Requests", "full", retry_after=value) for value in ("86400", "-5", "inf")]
    client.embed(picture)
    assert waits == [client_calls.MAX_WAIT_S, 0, client_calls.MAX_WAIT_S]


def test_a_date_as_time_to_wait_is_understood_and_nonsense_is_no_crash(client, server, picture, waits):
    past = "Wed, 21 Oct 2015 07:28:00 GMT"
    server.trouble = [problem(429, "Too Many Requests", "full", retry_after=value) for value in (past, "soon")]
    client.embed(picture)
    assert waits == [0, client_calls.FIRST_WAIT_S * 2]


def test_a_server_that_stays_busy_is_given_up_after_the_retries(client, server, picture, waits):
    server.trouble = [problem(429, "Too Many Requests", "32 pictures wait", retry_after="1")] * 10
    with pytest.raises(ServerError, match="32 pictures wait") as raised:
        client.embed(picture)
    assert not isinstance(raised.value, ValueError)
    assert (raised.value.status, raised.value.title, len(waits), len(server.asked)) == (429, "Too Many Requests", 3, 4)


def test_a_server_that_restarts_is_asked_again(client, server, picture, waits):
    server.trouble = [httpx.ConnectError("refused"), httpx.RemoteProtocolError("gone")]
    client.embed(picture)
    assert waits == [0.5, 1.0]


def test_a_server_that_is_not_there_is_a_connection_error(client, server, picture, waits):
    server.trouble = [httpx.ConnectError("refused")] * 4
    with pytest.raises(ServerUnreachable, match=r"http://127\.0\.0\.1:8000.*refused"):
        client.embed(picture)
    assert issubclass(ServerUnreachable, ConnectionError)


def test_a_server_that_is_too_slow_is_not_asked_again(client, server, picture, waits):
    server.trouble = [httpx.ReadTimeout("slow")]
    with pytest.raises(ServerUnreachable, match="in time"):
        client.embed(picture)
    assert (waits, len(server.asked)) == ([], 1)


def test_a_wrong_request_is_a_value_error_with_what_the_server_said(client, server, waits):
    with pytest.raises(ValueError, match="no picture") as raised:
        client.embed(b"abc")
    refused = raised.value
    assert (refused.status, refused.title, refused.errors) == (
        400,
        "Bad Request",
        ({"where": "box", "what": "swapped"},),
    )
    assert (len(server.asked), waits) == (1, [])


@pytest.mark.parametrize(
    "answer", [httpx.Response(500, content=b"<html>oops"), httpx.Response(302, headers={"location": "http://evil/"})]
)
def test_answers_of_something_else_are_errors_and_redirects_are_not_followed(client, server, picture, answer):
    server.trouble = [answer]
    with pytest.raises(ServerError, match=str(answer.status_code)):
        client.embed(picture)
    assert len(server.asked) == 1


def test_good_answers_of_something_else_are_errors(client, server, picture):
    server.trouble = [httpx.Response(200, content=b"<html>hello")]
    with pytest.raises(ServerError, match="Not understood"):
        client.embed(picture)
    remote = client.embed(picture)
    server.trouble = [httpx.Response(200, content=b"<html>hello")]
    with pytest.raises(ServerError, match="Not understood"):
        client.embedding(remote)


def test_the_token_goes_with_every_request(server, picture):
    with Client("http://127.0.0.1:8000", token="secret", transport=httpx.MockTransport(server)) as client:
        client.segment(picture, box=[1, 1, 5, 5])
    assert server.tokens == ["Bearer secret"] * 2


def test_a_server_below_a_path_is_asked_there(picture):
    asked = []

    def answer(request):
        asked.append(str(request.url))
        return httpx.Response(200, json={"models": []})

    with Client("https://example.org/sam", transport=httpx.MockTransport(answer)) as client:
        client.models()
    assert asked == ["https://example.org/sam/v1/models"]


@pytest.mark.parametrize(
    "arguments", [("127.0.0.1:8000",), ("ftp://host",), ("http://",), ("http://h", None, 0), ("http://h", None, 1, -1)]
)
def test_arguments_without_sense_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        Client(*arguments)


def test_mistakes_in_prompts_are_told_before_anything_is_sent(client, server, picture):
    with pytest.raises(ValueError, match="empty prompt"):
        client.segment(picture)
    with pytest.raises(ValueError, match="not both"):
        client.segment(picture, [Prompt.of(box=[1, 1, 2, 2])], points=[[1, 1]])
    with pytest.raises(ValueError, match=r"use \[prompt\]"):
        client.segment(picture, Prompt.of(box=[1, 1, 2, 2]))
    with pytest.raises(ValueError, match="mask prompt"):
        client.segment(picture, [Prompt.of(mask=np.ones(IMAGE_HW, bool))])
    with pytest.raises(ValueError, match="an id is"):
        client.forget("../models")
    with pytest.raises(FileNotFoundError):
        client.embed("nowhere.png")
    assert server.asked == []


def test_masks_of_another_size_than_the_picture_are_refused(client, server, picture):
    remote = client.embed(picture)
    mask = {"token": 0, "score": 0.5, "area": 4, "bbox": [0, 0, 2, 2], "rle": {"size": [2, 2], "counts": "04"}}
    server.trouble = [httpx.Response(200, json={"objects": [{"masks": [mask]}]})]
    with pytest.raises(ServerError, match="picture's size"):
        client.segment(remote, box=[1, 1, 5, 5])


def test_the_client_to_await_does_the_same(server, picture, monkeypatch):
    waited = []

    async def no_sleep(seconds):
        waited.append(seconds)

    async def use():
        async with AsyncClient("http://127.0.0.1:8000", transport=httpx.MockTransport(server)) as client:
            server.trouble = [problem(429, "Too Many Requests", "full", retry_after="2")]
            remote = await client.embed(picture)
            (answer,) = await client.segment(remote, box=[2, 3, 12, 10])
            told = []
            records = await client.everything(remote, on_progress=lambda done, total: told.append(done))
            embedding = await client.embedding(remote)
            is_ready, models, forgotten = await client.is_ready(), await client.models(), await client.forget(remote)
            return answer, records, told, embedding.image_hw, is_ready, len(models), forgotten

    monkeypatch.setattr(client_module.asyncio, "sleep", no_sleep)
    answer, records, told, image_hw, *rest = asyncio.run(use())
    assert answer.masks.sum() == 70
    assert (len(records), told, image_hw, rest) == (1, [2, 4], IMAGE_HW, [True, 1, True])
    assert waited == [2]


def test_the_real_server_answers_as_the_predictor(disc_engine, picture):
    service = SegmentService(disc_engine, ServeSettings(num_threads=1))
    predictor = SamPredictor(engine=disc_engine)
    predictor.set_image(picture)

    async def use():
        async with AsyncClient("http://127.0.0.1:8000", transport=httpx.ASGITransport(create_app(service))) as client:
            assert await client.is_ready()
            assert [model.id for model in await client.models()] == ["disc"]
            remote = await client.embed(picture)
            embedding = await client.embedding(remote)
            np.testing.assert_array_equal(embedding.features, predictor.get_image_embedding())
            assert embedding.input_hw == predictor.embedding.input_hw
            prompts = [Prompt.of(points=[[12, 20]]), Prompt.of(box=[5, 5, 30, 20])]
            for answer, prompt in zip(await client.segment(remote, prompts, candidates="all"), prompts, strict=True):
                for multimask in (False, True):
                    masks, scores, _ = predictor.predict(
                        prompt.points_xy, prompt.labels, prompt.box_xyxy, None, multimask
                    )
                    chosen = answer.tokens > 0 if multimask else answer.tokens == 0
                    np.testing.assert_array_equal(answer.masks[chosen], masks)
                    np.testing.assert_allclose(answer.scores[chosen], scores)
            told = []
            config = EverythingConfig(points_per_side=4, pred_iou_thresh=0.0, output_mode="coco_rle")
            records = await client.everything(remote, config, lambda done, total: told.append((done, total)))
            assert all(0 <= done <= total == 16 for done, total in told)  # how often, is up to the server
            assert records == SamAutomaticMaskGenerator.from_config(config, disc_engine).generate(picture)
            assert await client.forget(remote) is True
            assert len(await client.segment(remote, box=[5, 5, 30, 20])) == 1  # sent again
            with pytest.raises(RequestRefused, match="outside"):
                await client.segment(remote, box=[5, 5, 300, 200])
            with pytest.raises(RequestRefused, match="cannot be read"):
                await client.embed(b"no picture")

    try:
        asyncio.run(use())
    finally:
        service.close(10)
