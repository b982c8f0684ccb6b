"""What the OpenAPI document says of bodies and answers, with examples that can be sent as they are."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from mobile_sam._version import __version__
from mobile_sam.serve import schemas
from mobile_sam.serve.problems import MEDIA_TYPE as PROBLEM

NDJSON = "application/x-ndjson"
NPY = "application/x-npy"
JSON = "application/json"
MULTIPART = "multipart/form-data"

EXAMPLE_PNG_BASE64 = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAMCAIAAADkharWAAAASklEQVQoz2Pcsu8EAymAiYFEgFODza4wrOKMmE5CU3rEbRU+GzANRhOhzA+43I0s"
    "zoTHuVjFKQ5WTEvQRBhxxTTQ3VhdyEhq0gAAOiEcScqiuJQAAAAASUVORK5CYII="
)
"""A picture of 16 x 12 pixels: an orange disc on grey."""

_DESCRIBED: tuple[type[BaseModel], ...] = (
    schemas.EmbeddingAnswer,
    schemas.ErrorEvent,
    schemas.EverythingOptions,
    schemas.EverythingRequest,
    schemas.ModelsAnswer,
    schemas.Problem,
    schemas.ProgressEvent,
    schemas.ResultEvent,
    schemas.SegmentAnswer,
    schemas.SegmentOptions,
    schemas.SegmentRequest,
    schemas.StatusAnswer,
)

_WHY = {
    400: "The picture or the multipart body is broken.",
    401: "The token is missing or wrong.",
    403: "Pages of this origin may not use the server.",
    404: "There is no such embedding, or no longer.",
    405: "The path does not take this method.",
    408: "The body did not arrive in time.",
    413: "The body, the picture or the number of values is larger than the server takes.",
    415: "The Content-Type is another than expected.",
    421: "Without a token the server answers to loopback names only.",
    422: "The request is malformed, or a prompt lies outside the picture; `errors` says where.",
    429: "Too much waits; try again after Retry-After seconds.",
    500: "A mistake of the server's; its log says more under `request_id`.",
    503: "The server is shutting down.",
    504: "The answer took longer than the server allows.",
}
_ANYWHERE = (401, 403, 421, 500)


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of a route, those that any may have included."""
    return {status: _problem(status) for status in (*statuses, *_ANYWHERE)}


def _problem(status: int) -> dict[str, Any]:
    described: dict[str, Any] = {"description": _WHY[status], "content": {PROBLEM: {"schema": _ref(schemas.Problem)}}}
    if status in (429, 503):
        seconds = {"type": "integer", "minimum": 1}
        described["headers"] = {"Retry-After": {"description": "seconds", "schema": seconds}}
    return described


def json_answer(model: type[BaseModel], description: str) -> dict[str, Any]:
    """Describe an answer in JSON."""
    return {"description": description, "content": {JSON: {"schema": _ref(model)}}}


def embedding_answers(description: str) -> dict[str, Any]:
    """Describe an answer that is JSON or the features, as was asked for."""
    answer = json_answer(schemas.EmbeddingAnswer, description)
    answer["content"][NPY] = {"schema": {"type": "string", "format": "binary"}}
    answer["headers"] = {
        "X-Embedding-Id": {"description": "The id; with the features.", "schema": {"type": "string"}},
        "X-Image-Size": {"description": "WIDTHxHEIGHT in pixels; with the features.", "schema": {"type": "string"}},
    }
    return answer


def everything_answer() -> dict[str, Any]:
    """Describe the lines of everything."""
    events = [_ref(model) for model in (schemas.ProgressEvent, schemas.ResultEvent, schemas.ErrorEvent)]
    lines = "Lines, each a JSON object: ProgressEvent any number of times, then ResultEvent or ErrorEvent."
    return {
        "description": "Progress and result.",
        "content": {NDJSON: {"schema": {"type": "string", "description": lines}, "x-line-schema": {"oneOf": events}}},
    }


METRICS_ANSWER = {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}


def _examples(**values: Any) -> dict[str, Any]:
    return {name: {"summary": name.replace("_", " "), "value": value} for name, value in values.items()}


def _bodies(with_image: type[BaseModel], without_image: type[BaseModel], examples: dict[str, Any]) -> dict[str, Any]:
    """Describe a body that is JSON, or multipart with the picture beside it."""
    multipart = {
        "type": "object",
        "properties": {"image": {"type": "string", "format": "binary"}, "request": _ref(without_image)},
        "required": ["image", "request"],
    }
    return {
        "required": True,
        "content": {
            JSON: {"schema": _ref(with_image), "examples": examples},
            MULTIPART: {"schema": multipart, "encoding": {"request": {"contentType": JSON}}},
        },
    }


_PICTURE = {"base64": EXAMPLE_PNG_BASE64}
_BINARY = {"schema": {"type": "string", "format": "binary"}}

PICTURE_BODY: dict[str, Any] = {
    "description": "The bytes of a JPEG, PNG, WebP, TIFF or BMP file, or a form with them.",
    "required": True,
    "content": {
        "application/octet-stream": _BINARY,
        "image/*": _BINARY,
        MULTIPART: {
            "schema": {
                "type": "object",
                "properties": {"image": {"type": "string", "format": "binary"}},
                "required": ["image"],
            }
        },
    },
}

SEGMENT_BODY = _bodies(
    schemas.SegmentRequest,
    schemas.SegmentOptions,
    _examples(
        a_click={"image": _PICTURE, "objects": [{"points": [[8, 6]]}]},
        a_box_without_a_part={
            "image": _PICTURE,
            "objects": [{"name": "disc", "box": [3, 1, 13, 11], "points": [[1, 1]], "labels": [0]}],
            "output": "polygons",
        },
        two_objects_with_all_masks={
            "image": _PICTURE,
            "objects": [{"points": [[8, 6]]}, {"box": [0, 0, 16, 12]}],
            "candidates": "all",
            "counts_format": "plain",
        },
        marks_of_samexporter_and_a_png={
            "image": _PICTURE,
            "objects": [{"prompt": [{"type": "point", "data": [8, 6], "label": 1}]}],
            "output": "png",
        },
    ),
)

EVERYTHING_BODY = _bodies(
    schemas.EverythingRequest,
    schemas.EverythingOptions,
    _examples(
        defaults={"image": _PICTURE},
        quick={"image": _PICTURE, "settings": {"mode": "fast", "points_per_side": 8}, "counts_format": "plain"},
    ),
)

DESCRIPTION = """Cut objects out of pictures with MobileSAM: encode a picture once, then ask for masks with clicks.

Coordinates are x, y in pixels of the upright picture (EXIF applied), x to the right and y down from its upper left
corner. Errors are problem documents (RFC 9457). Every answer has an X-Request-Id; one that you send is taken over."""

TAGS = [
    {"name": "embeddings", "description": "Encode pictures."},
    {"name": "segment", "description": "Prompts in, masks out."},
    {"name": "everything", "description": "All masks of a picture."},
    {"name": "system", "description": "What runs here, and how it is."},
    {"name": "Label Studio", "description": "A machine learning backend of Label Studio."},
]


def openapi_document(app: FastAPI, needs_token: bool) -> dict[str, Any]:
    """Describe the app in OpenAPI 3.1.

    Args:
        app: with all its routes.
        needs_token: whether requests must carry the bearer token.
    """
    document = get_openapi(
        title="mobile-sam", version=__version__, description=DESCRIPTION, routes=app.routes, tags=TAGS,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )  # fmt: skip
    _, ours = models_json_schema(
        [(model, "validation") for model in _DESCRIBED], ref_template="#/components/schemas/{model}"
    )
    components = document.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **ours["$defs"]}
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            if "422" in responses:
                responses["422"] = _problem(422)  # FastAPI describes its own, which no route answers with
            responses["default"] = _any_problem()
            for status, answer in responses.items():
                if status.startswith(("4", "5")):
                    answer.setdefault("content", _any_problem()["content"])
            if needs_token and path not in ("/healthz", "/readyz"):
                operation["security"] = [{"token": []}]
    if needs_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return document


def _any_problem() -> dict[str, Any]:
    return {"description": "An error.", "content": {PROBLEM: {"schema": _ref(schemas.Problem)}}}
