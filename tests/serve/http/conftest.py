"""The app around a service whose masks are discs, so that tests are quick and know the answers."""

import base64
import io
from collections.abc import Callable, Iterator

import httpx
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mobile_sam.serve.app import create_app
from mobile_sam.serve.service import SegmentService
from mobile_sam.serve.settings import ServeSettings

HOME = "http://127.0.0.1:8000"  # what the app behind a TestClient is called


def picture_bytes(width: int = 64, height: int = 48, colour: str = "red", file_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, file_format)
    return buffer.getvalue()


@pytest.fixture
def picture() -> bytes:
    """A picture of 64 x 48 (width x height)."""
    return picture_bytes()


@pytest.fixture
def picture_json(picture: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(picture).decode()}


@pytest.fixture
def make_picture() -> Callable[..., bytes]:
    return picture_bytes


@pytest.fixture
def serve(disc_engine) -> Iterator[Callable[..., TestClient]]:
    """Make an app with settings of a test's own, and a client for it; `client.service` is what is behind."""
    services = []

    def make(url: str = HOME, **settings: object) -> TestClient:
        service = SegmentService(disc_engine, ServeSettings(**{"timeout_s": 10.0, **settings}))
        services.append(service)
        client = TestClient(create_app(service), base_url=url, raise_server_exceptions=False)
        client.service = service
        return client

    yield make
    for service in services:
        service.close(5.0)


@pytest.fixture
def client(serve) -> TestClient:
    return serve()


@pytest.fixture
def embedding_id(client, picture) -> str:
    return client.post("/v1/embeddings", content=picture, headers={"Content-Type": "image/png"}).json()["id"]


@pytest.fixture
def is_problem() -> Callable[[httpx.Response, int], dict]:
    """Check that an answer is a problem document with this status, and return it."""

    def check(answer: httpx.Response, status: int) -> dict:
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
        document = answer.json()
        assert document["status"] == status
        assert document["title"]
        assert document["detail"]
        assert document["request_id"] == answer.headers["x-request-id"]
        assert "Traceback" not in answer.text
        return document

    return check
