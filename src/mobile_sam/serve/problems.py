"""Errors as problem documents (RFC 9457): what went wrong and what to do, never a traceback."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from mobile_sam.core.errors import ImageReadError
from mobile_sam.serve.service import QueueFull, ServiceClosed, UnknownEmbedding

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 20  # listed in one document
CLOSING_RETRY_S = 5  # until another process is probably there

logger = logging.getLogger(__name__)

_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}  # older Pythons have the older names
_UNION_BRANCHES = frozenset({"str", "constrained-str", "Base64Picture"})
"""Parts of where pydantic saw an error that are names of ours and say nothing to the caller."""


class ProblemError(HTTPException):
    """Answer the request with a problem document.

    Args:
        status: HTTP status, 400 to 599.
        detail: what came, what was expected, what to do.
        errors: where and what, for each part of the request that is wrong.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Iterable[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, headers)
        self.errors = tuple(errors)


def problem_document(
    scope: Scope, status: int, detail: str, errors: Iterable[tuple[str, str]] = ()
) -> dict[str, str | int | list[dict[str, str]]]:
    """Describe an error of the request that `scope` is of, ready for JSON."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": _title(status),
        "status": status,
        "detail": detail,
        "instance": scope["path"],
        "request_id": scope.get("state", {}).get("request_id", ""),
    }
    listed = [{"where": where, "what": what} for where, what in errors][:MAX_ERRORS]
    if listed:
        document["errors"] = listed
    return document


def problem_response(
    scope: Scope,
    status: int,
    detail: str,
    errors: Iterable[tuple[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Make the answer that carries a problem document."""
    body = json.dumps(problem_document(scope, status, detail, errors)).encode()
    return Response(body, status, headers, MEDIA_TYPE)


def problem_of(error: Exception) -> ProblemError | None:
    """Say what of the service's and the libraries' errors is the caller's to know; None for what is our mistake."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, HTTPException):
        return ProblemError(error.status_code, _routing_detail(error), headers=error.headers)
    if isinstance(error, RequestValidationError):
        return ProblemError(422, "the request is malformed", errors=map(where_and_what, error.errors()))
    if isinstance(error, ImageReadError):
        return ProblemError(400, f"the picture cannot be read: {error}")
    if isinstance(error, UnknownEmbedding):
        return ProblemError(404, str(error))
    if isinstance(error, QueueFull):
        wait_s = math.ceil(min(max(error.retry_after_s, 1), 3600))
        return ProblemError(429, str(error), headers={"Retry-After": str(wait_s)})
    if isinstance(error, ServiceClosed):
        return ProblemError(503, "the server is shutting down", headers={"Retry-After": str(CLOSING_RETRY_S)})
    return None


def internal_error(scope: Scope, error: Exception) -> ProblemError:
    """Write a mistake of ours to the log, under the request's id, and return what the caller is told of it."""
    request_id = scope.get("state", {}).get("request_id", "")
    logger.error("request %s failed", request_id, exc_info=error)
    return ProblemError(500, f"the server made a mistake; its log says more under {request_id}")


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error that has a meaning for the caller with a problem document."""

    async def answer(request: Request, error: Exception) -> Response:
        problem = problem_of(error)
        assert problem is not None
        return problem_response(request.scope, problem.status_code, problem.detail, problem.errors, problem.headers)

    for kind in (HTTPException, RequestValidationError, ImageReadError, UnknownEmbedding, QueueFull, ServiceClosed):
        app.add_exception_handler(kind, answer)


def where_and_what(error: Mapping[str, Any]) -> tuple[str, str]:
    """Turn one of pydantic's errors into a place like "objects[0].points[1]" and what is wrong there."""
    where = ""
    for part in error["loc"]:
        if isinstance(part, int):
            where += f"[{part}]"
        elif part not in _UNION_BRANCHES:
            where += f".{part}" if where else part
    return where or "body", str(error["msg"])


def _title(status: int) -> str:
    return _TITLES.get(status) or HTTPStatus(status).phrase


def _routing_detail(error: HTTPException) -> str:
    if error.status_code == 404:
        return "there is nothing at this path; /openapi.json lists what there is"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return f"this path does not take this method, only {allowed}" if allowed else "the method is not taken here"
    return str(error.detail)
