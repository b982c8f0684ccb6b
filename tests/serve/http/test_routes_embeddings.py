import io

import numpy as np
import pytest


def test_a_picture_is_encoded_once_and_then_known(client, picture):
    first = client.post("/v1/embeddings", content=picture, headers={"Content-Type": "image/png"})
    second = client.post("/v1/embeddings", content=picture, headers={"Content-Type": "application/octet-stream"})
    assert (first.status_code, second.status_code) == (201, 200)
    assert (first.json()["was_cached"], second.json()["was_cached"]) == (False, True)
    assert first.json()["id"] == second.json()["id"]
    assert (first.json()["width"], first.json()["height"], first.json()["model_id"]) == (64, 48, "disc")
    assert set(first.json()["milliseconds"]) == {"wait_encode", "read", "encode"}
    assert second.json()["milliseconds"] == {}


def test_multipart_gives_the_id_of_the_bare_bytes(client, picture, embedding_id):
    answer = client.post("/v1/embeddings", files={"image": ("photo.png", picture, "image/png")})
    assert (answer.status_code, answer.json()["id"]) == (200, embedding_id)


@pytest.mark.parametrize("how", [{"params": {"format": "npy"}}, {"headers": {"Accept": "application/x-npy"}}])
def test_the_features_come_as_npy(client, picture, embedding_id, how):
    posted = client.post("/v1/embeddings", content=picture, **how)
    fetched = client.get(f"/v1/embeddings/{embedding_id}", **how)
    expected = client.service.find(embedding_id).features
    for answer in (posted, fetched):
        assert answer.headers["content-type"] == "application/x-npy"
        assert (answer.headers["x-embedding-id"], answer.headers["x-image-size"]) == (embedding_id, "64x48")
        features = np.load(io.BytesIO(answer.content), allow_pickle=False)
        assert features.shape == (1, 256, 64, 64)
        np.testing.assert_array_equal(features, expected)


def test_an_embedding_is_there_until_it_is_forgotten(client, embedding_id, is_problem):
    url = f"/v1/embeddings/{embedding_id}"
    assert client.get(url).json()["id"] == embedding_id
    forgotten = client.delete(url)
    assert (forgotten.status_code, forgotten.content) == (204, b"")
    is_problem(client.get(url), 404)
    is_problem(client.delete(url), 404)


def test_what_is_no_picture_is_the_senders_mistake(client, is_problem):
    document = is_problem(client.post("/v1/embeddings", content=b"no picture at all"), 400)
    assert "no JPEG, PNG, WebP, TIFF, BMP, GIF or AVIF file" in document["detail"]
    is_problem(client.post("/v1/embeddings", content=b""), 400)


def test_too_many_pixels_are_too_large(serve, make_picture, is_problem):
    client = serve(max_pixels=100)
    assert "101 x 1 pixels" in is_problem(client.post("/v1/embeddings", content=make_picture(101, 1)), 413)["detail"]
    assert client.post("/v1/embeddings", content=make_picture(100, 1)).status_code == 201


@pytest.mark.parametrize("content_type", ["text/html", "application/json", "video/mp4"])
def test_other_types_are_refused(client, picture, is_problem, content_type):
    answer = client.post("/v1/embeddings", content=picture, headers={"Content-Type": content_type})
    assert content_type in is_problem(answer, 415)["detail"]


def test_a_full_queue_says_when_to_come_again(serve, make_picture, gate, is_problem):
    client = serve(max_waiting=1)
    held = gate(client.service.engine, "encode")
    futures = [client.service.submit_picture(make_picture(colour=colour)) for colour in ("red",)]
    held.wait_for_call()  # one is being encoded, the next one waits
    futures.append(client.service.submit_picture(make_picture(colour="green")))
    answer = client.post("/v1/embeddings", content=make_picture(colour="blue"))
    is_problem(answer, 429)
    assert int(answer.headers["retry-after"]) >= 1
    held.let(2)
    assert [future.result(10).was_cached for future in futures] == [False, False]


def test_what_takes_too_long_is_given_up(serve, picture, gate, is_problem):
    client = serve(timeout_s=0.05)
    gate(client.service.engine, "encode")
    is_problem(client.post("/v1/embeddings", content=picture), 504)


def test_a_closed_service_is_not_ready_and_takes_nothing(client, picture, is_problem):
    assert client.get("/readyz").json() == {"status": "ready"}
    client.service.close(1.0)
    for answer in (client.get("/readyz"), client.post("/v1/embeddings", content=picture)):
        is_problem(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
    assert client.get("/healthz").status_code == 200


def test_a_mistake_of_ours_is_logged_and_not_shown(client, picture, monkeypatch, caplog, is_problem):
    def fail(images):
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(client.service.engine, "encode", fail)
    answer = client.post("/v1/embeddings", content=picture, headers={"X-Request-Id": "find-me"})
    assert is_problem(answer, 500)["request_id"] == "find-me"
    assert "secret" not in answer.text
    assert any("find-me" in record.getMessage() and record.exc_info for record in caplog.records)
    monkeypatch.undo()
    assert client.post("/v1/embeddings", content=picture).status_code == 201
