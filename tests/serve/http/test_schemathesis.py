"""Requests that schemathesis makes up from the OpenAPI document, well and badly formed."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mobile_sam.serve.app import create_app
from mobile_sam.serve.descriptions import EXAMPLE_PNG_BASE64
from mobile_sam.serve.service import SegmentService
from mobile_sam.serve.settings import ServeSettings

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
HEADERS = {"Host": "127.0.0.1"}  # schemathesis would call the app "testserver"
NUM_EXAMPLES = 30


@pytest.fixture
def described(disc_engine):
    service = SegmentService(disc_engine, ServeSettings(timeout_s=10.0))
    yield schemathesis.openapi.from_asgi("/openapi.json", create_app(service), headers=HEADERS)
    service.close(5.0)


@pytest.mark.parametrize(
    ("mode", "method", "path"),
    [
        *((mode, "POST", "/v1/embeddings") for mode in GenerationMode),
        *((mode, "POST", "/v1/segment") for mode in GenerationMode),
        *((mode, "POST", "/v1/everything") for mode in GenerationMode),
        *((mode, "GET", "/v1/embeddings/{embedding_id}") for mode in GenerationMode),
        (GenerationMode.POSITIVE, "DELETE", "/v1/embeddings/{embedding_id}"),  # no id is malformed
    ],
)
def test_whatever_is_sent_the_answer_is_one_of_those_described(described, method, path, mode):
    @given(described[path][method].as_strategy(generation_mode=mode))
    @settings(
        max_examples=NUM_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def answer_is_as_described(case):
        if path == "/v1/segment" and isinstance(case.body, dict) and isinstance(case.body.get("image"), str):
            case.body["image"] = {"base64": EXAMPLE_PNG_BASE64}  # else hardly any request would get as far as the masks
        case.call_and_validate(headers=HEADERS, checks=CHECKS)

    answer_is_as_described()
