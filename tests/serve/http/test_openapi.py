import base64
import json

import pytest
from starlette.testclient import TestClient

from mobile_sam.serve.descriptions import EXAMPLE_PNG_BASE64


@pytest.fixture
def document(client: TestClient) -> dict:
    return client.get("/openapi.json").json()


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def refs_in(value):
    if isinstance(value, dict):
        yield from ([value["$ref"]] if "$ref" in value else [])
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from refs_in(part)


def test_it_is_openapi_3_1_and_all_references_lead_somewhere(document):
    assert document["openapi"].startswith("3.1.")
    names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(refs_in(document)) <= names
    tags = {tag["name"] for tag in document["tags"]}
    for _, path, operation in operations(document):
        assert operation["summary"], path
        assert set(operation["tags"]) <= tags


def test_every_error_is_a_problem_document(document):
    for method, path, operation in operations(document):
        for status, answer in operation["responses"].items():
            if status == "default" or int(status) >= 400:
                assert list(answer["content"]) == ["application/problem+json"], (method, path, status)
    segment = document["paths"]["/v1/segment"]["post"]["responses"]
    assert {"400", "401", "404", "413", "415", "422", "429", "503", "504"} <= set(segment)


def test_every_route_of_the_api_is_described(document):
    described = {(method, path) for method, path, _ in operations(document)}
    assert described >= {
        ("POST", "/v1/embeddings"), ("GET", "/v1/embeddings/{embedding_id}"),
        ("DELETE", "/v1/embeddings/{embedding_id}"),
        ("POST", "/v1/segment"), ("POST", "/v1/everything"), ("GET", "/v1/models"), ("GET", "/healthz"),
        ("GET", "/readyz"), ("GET", "/metrics"), ("POST", "/label-studio/predict"),
    }  # fmt: skip


def test_every_example_can_be_sent_as_it_is(client, document):
    num_sent = 0
    for method, path, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        for name, example in content.get("examples", {}).items():
            answer = client.request(method, path, json=example["value"])
            assert answer.status_code == 200, (path, name, answer.text)
            assert '"error"' not in answer.text
            num_sent += 1
    assert num_sent >= 6


def test_the_picture_of_the_examples_is_what_it_says(client):
    answer = client.post("/v1/embeddings", content=base64.b64decode(EXAMPLE_PNG_BASE64))
    assert (answer.json()["width"], answer.json()["height"]) == (16, 12)


def test_a_token_is_asked_for_where_one_is_needed(serve, document):
    assert "security" not in json.dumps(document)
    client = serve(host="0.0.0.0", token="abc")
    with_token = client.get("/openapi.json", headers={"Authorization": "Bearer abc"}).json()
    assert with_token["paths"]["/v1/segment"]["post"]["security"] == [{"token": []}]
    assert "security" not in with_token["paths"]["/healthz"]["get"]


def test_defaults_and_limits_are_said(document):
    schemas = document["components"]["schemas"]
    assert schemas["EverythingSettings"]["properties"]["points_per_side"]["default"] == 32
    assert schemas["SegmentRequest"]["properties"]["candidates"]["enum"] == ["auto", "single", "three", "all"]
    for model in ("SegmentRequest", "SegmentOptions"):
        assert schemas[model]["additionalProperties"] is False
