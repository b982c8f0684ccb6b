import logging
import re

import pytest

from mobile_sam.serve import page_routes
from mobile_sam.serve.page_files import MODEL_FILES, Page


def test_every_answer_carries_an_id_and_forbids_sniffing_keeping_and_embedding(client, picture):
    answers = [
        client.get("/healthz"),
        client.get("/nothing"),
        client.post("/v1/embeddings", content=picture),
        client.post("/v1/embeddings", content=b"broken"),
    ]
    for answer in answers:
        assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


def test_the_callers_request_id_is_kept_if_it_is_harmless(client):
    assert client.get("/healthz", headers={"X-Request-Id": "job-7.a_b"}).headers["x-request-id"] == "job-7.a_b"
    for wild in ("two words", "x" * 65, "a\tb"):
        assert client.get("/healthz", headers={"X-Request-Id": wild}).headers["x-request-id"] != wild


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/embeddings/", "/docs", "/redoc", "/v1/segment/x"])
def test_unknown_paths_are_problems(client, is_problem, path):
    assert is_problem(client.get(path), 404)["instance"] == path


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/v1/segment", "POST"), ("PUT", "/v1/embeddings", "POST"), ("POST", "/healthz", "GET")],
)
def test_wrong_methods_are_problems_that_name_the_right_one(client, is_problem, method, path, allowed):
    answer = client.request(method, path)
    is_problem(answer, 405)
    assert answer.headers["allow"] == allowed


def test_each_request_is_one_line_in_the_log_without_its_content(client, embedding_id, caplog):
    caplog.set_level(logging.INFO, "mobile_sam.serve")
    caplog.clear()
    client.get(f"/v1/embeddings/{embedding_id}?format=json", headers={"X-Request-Id": "abc"})
    client.get("/made/up%0Aline")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert re.fullmatch(r"GET /v1/embeddings/\{embedding_id\} 200 \d+\.\d ms abc", lines[0])
    assert re.fullmatch(r"GET \(none\) 404 \d+\.\d ms [0-9a-f]{16}", lines[1])


def test_requests_are_counted_by_the_routes_template(client, embedding_id):
    client.get(f"/v1/embeddings/{embedding_id}")
    client.request("BREW", "/coffee")
    client.get("/label-studio/health")
    text = client.get("/metrics").text
    assert 'mobile_sam_requests_total{method="GET",route="/v1/embeddings/{embedding_id}",status="200"} 1.0' in text
    assert 'mobile_sam_requests_total{method="OTHER",route="(none)",status="404"} 1.0' in text
    assert 'route="/label-studio/health"' in text
    assert embedding_id not in text


def test_metrics_are_prometheus_text(client, embedding_id):
    client.post("/v1/segment", json={"image": embedding_id, "objects": [{"points": [[1, 1]]}]})
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    for stage in ("read", "encode", "decode", "answer"):
        assert re.search(rf'mobile_sam_stage_seconds_count{{stage="{stage}"}} [1-9]', answer.text)


def test_models_says_what_runs_and_what_is_taken(serve):
    answer = serve(max_objects=3, timeout_s=7.0).get("/v1/models").json()
    assert answer["models"] == [{"id": "disc", "engine": "disc", "input_side": 1024, "is_default": True}]
    assert answer["limits"]["max_objects"] == 3
    assert answer["limits"]["timeout_s"] == 7.0
    assert answer["version"]


@pytest.fixture
def page(tmp_path, monkeypatch) -> None:
    built, models = tmp_path / "built", tmp_path / "models"
    (built / "assets").mkdir(parents=True)
    models.mkdir()
    (built / "index.html").write_text("<title>page</title>")
    (built / "assets" / "main-1.js").write_text("let x;")
    for name in MODEL_FILES:
        (models / name).write_bytes(b"0123456789")
    (tmp_path / "secret.txt").write_text("secret")
    monkeypatch.setattr(page_routes, "open_page", lambda: Page(built, models))


@pytest.mark.usefixtures("page")
def test_the_page_is_at_the_root_with_the_headers_that_its_threads_need(client):
    answer = client.get("/")
    assert (answer.status_code, answer.text) == (200, "<title>page</title>")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
    assert answer.headers["cache-control"] == "no-cache"
    script = client.get("/assets/main-1.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "immutable" in script.headers["cache-control"]
    again = client.get("/", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.head("/").headers["content-length"] == "19"
    part = client.get(f"/models/{MODEL_FILES[2]}", headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")


@pytest.mark.usefixtures("page")
def test_the_page_can_only_be_read_and_hides_no_route(client, is_problem):
    is_problem(client.post("/", content=b"x"), 405)
    is_problem(client.get("/v1/segment"), 405)
    is_problem(client.get("/assets/main-2.js"), 404)
    assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.usefixtures("page")
def test_the_page_needs_no_token_but_all_else_does(serve, is_problem):
    client = serve(host="0.0.0.0", token="abc", url="http://public.example")
    assert client.get("/").status_code == 200
    is_problem(client.get("/v1/models"), 401)
    is_problem(client.get("/secret.txt"), 401)


def test_the_api_runs_where_no_page_was_built(serve, monkeypatch, caplog, is_problem):
    def missing():
        raise FileNotFoundError("the page is not built")

    monkeypatch.setattr(page_routes, "open_page", missing)
    client = serve()
    assert "without the page" in caplog.text
    is_problem(client.get("/"), 404)
    assert client.get("/healthz").status_code == 200
