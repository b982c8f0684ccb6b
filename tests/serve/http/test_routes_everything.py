import asyncio
import base64
import json
import threading
import time

import numpy as np
import pytest

from mobile_sam import SamAutomaticMaskGenerator
from mobile_sam.core.masks import decode_rle
from mobile_sam.serve import routes_everything

SETTINGS = {"points_per_side": 4, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.2}


def events_of(answer):
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("counts_format", ["compressed", "plain"])
def test_everything_is_what_the_generator_finds(client, picture, embedding_id, counts_format):
    asked = {"image": embedding_id, "settings": SETTINGS, "counts_format": counts_format}
    *progress, result = events_of(client.post("/v1/everything", json=asked))
    assert {event["event"] for event in progress} == {"progress"}
    assert (result["event"], result["id"], result["width"], result["height"]) == ("result", embedding_id, 64, 48)
    generator = SamAutomaticMaskGenerator(engine=client.service.engine, **SETTINGS)
    expected = generator.generate_from_embedding(client.service.find(embedding_id))
    assert len(result["masks"]) == len(expected) > 1
    for mask, record in zip(result["masks"], expected, strict=True):
        pixels = decode_rle(mask["rle"])
        np.testing.assert_array_equal(pixels, record["segmentation"])
        assert isinstance(mask["rle"]["counts"], str if counts_format == "compressed" else list)
        rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
        assert mask["bbox"] == [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert mask["area"] == pixels.sum()
        assert mask["point"] == list(record["point_coords"][0])


def test_a_picture_can_come_along(client, picture, picture_json, embedding_id):
    by_json = client.post("/v1/everything", json={"image": picture_json, "settings": SETTINGS})
    form = {"image": ("a.png", picture, "image/png"), "request": (None, json.dumps({"settings": SETTINGS}))}
    by_form = client.post("/v1/everything", files=form)
    for answer in (by_json, by_form):
        assert events_of(answer)[-1]["id"] == embedding_id


@pytest.mark.parametrize(
    "settings",
    [{"points_per_side": 65}, {"points_per_side": 0}, {"mode": "slow"}, {"crop_n_layers": 1}, {"box_nms_thresh": 2}],
)
def test_wrong_settings_are_refused_before_the_stream_begins(client, embedding_id, is_problem, settings):
    answer = client.post("/v1/everything", json={"image": embedding_id, "settings": settings})
    assert is_problem(answer, 422)["errors"][0]["where"] == f"settings.{next(iter(settings))}"


def test_a_mistake_of_ours_ends_the_stream_with_a_problem(client, embedding_id, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(client.service.engine, "_decode_some", fail)
    answer = client.post("/v1/everything", json={"image": embedding_id, "settings": SETTINGS})
    last = events_of(answer)[-1]
    assert (last["event"], last["problem"]["status"]) == ("error", 500)
    assert "secret" not in answer.text
    assert last["problem"]["request_id"] in caplog.text


def test_the_time_limit_ends_the_stream_with_a_problem_and_the_work(serve, picture, gate):
    client = serve(timeout_s=0.3)
    embedded = client.service.submit_picture(picture).result(10)
    held = gate(client.service.engine, "_decode_some")
    answer = client.post("/v1/everything", json={"image": embedded.id, "settings": SETTINGS})
    assert events_of(answer)[-1]["problem"]["status"] == 504
    held.let(1)
    client.service.close(5.0)
    assert len(held.calls) == 1  # of four batches of points


def asgi_request(app, path, body):
    """Begin a request by hand, so that the client can leave in its middle."""
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")], "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000), "state": {},
    }  # fmt: skip
    incoming: asyncio.Queue = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": json.dumps(body).encode(), "more_body": False})
    sent: list = []

    async def send(message):
        sent.append((time.monotonic(), message))

    return asyncio.ensure_future(app(scope, incoming.get, send)), incoming, sent


def test_who_goes_away_cancels_the_work(client, picture_json, embedding_id, gate):
    held = gate(client.service.engine, "_decode_some")

    async def leave():
        task, incoming, sent = asgi_request(client.app, "/v1/everything", {"image": embedding_id, "settings": SETTINGS})
        await asyncio.to_thread(held.wait_for_call)
        incoming.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(task, 10)
        return sent

    sent = asyncio.run(leave())
    assert sent[0][1]["status"] == 200
    assert sent[-1][1]["more_body"]  # no end was sent: nobody is there
    held.let(1)
    client.service.close(5.0)
    assert len(held.calls) == 1


def test_progress_is_throttled_and_repeated_as_a_heartbeat(client, embedding_id, monkeypatch):
    monkeypatch.setattr(routes_everything, "PROGRESS_EVERY_S", 0.05)
    monkeypatch.setattr(routes_everything, "HEARTBEAT_EVERY_S", 0.2)
    go_on, sent = threading.Event(), []

    def noted(event, to_bytes=routes_everything.json_bytes):
        sent.append(event)
        if len(sent) > 1 and sent[-2:] == [{"event": "progress", "done": 1000, "total": 1000}] * 2:
            go_on.set()
        return to_bytes(event)

    def search(embedding, config, tell, is_cancelled):
        from concurrent.futures import ThreadPoolExecutor

        def work():
            for done in range(1001):
                tell(done, 1000)
            go_on.wait(60)
            return []

        return ThreadPoolExecutor(1).submit(work)

    monkeypatch.setattr(client.service, "submit_everything", search)
    monkeypatch.setattr(routes_everything, "json_bytes", noted)
    *progress, result = events_of(client.post("/v1/everything", json={"image": embedding_id}))
    assert result["masks"] == []
    assert 2 <= len(progress) <= 10  # of 1001 that were told, the last one repeated while nothing happened
    assert progress[-1] == progress[-2] == {"event": "progress", "done": 1000, "total": 1000}


def test_base64_of_no_picture_is_no_stream(client, is_problem):
    broken = {"base64": base64.b64encode(b"no picture").decode()}
    is_problem(client.post("/v1/everything", json={"image": broken}), 400)
    is_problem(client.post("/v1/everything", json={"image": {"base64": "???"}}), 422)
