"""What runs here, whether it is well, and what it measures of itself."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter
from starlette.responses import Response

from mobile_sam._version import __version__
from mobile_sam.serve.answers import json_bytes
from mobile_sam.serve.context import ServeContext
from mobile_sam.serve.descriptions import METRICS_ANSWER, json_answer, problems
from mobile_sam.serve.problems import CLOSING_RETRY_S, ProblemError
from mobile_sam.serve.schemas import MAX_POINTS_PER_SIDE, ModelsAnswer, StatusAnswer


def system_router(context: ServeContext, is_closing: Callable[[], bool]) -> APIRouter:
    """Make the routes.

    Args:
        context: what the routes share.
        is_closing: tells whether the server was told to stop.
    """
    router = APIRouter(tags=["system"])
    service, settings = context.service, context.settings

    @router.get(
        "/v1/models",
        summary="What runs here",
        response_class=Response,
        responses={200: json_answer(ModelsAnswer, "Model and limits."), **problems()},
    )
    async def models() -> Response:
        """Name the model that runs here, and the limits on requests."""
        engine = service.engine
        model = {"id": engine.model_id, "engine": engine.name, "input_side": engine.input_side, "is_default": True}
        limits = {
            "max_pixels": settings.max_pixels,
            "max_body_bytes": settings.max_body_bytes,
            "max_objects": settings.max_objects,
            "max_points": settings.max_points,
            "max_points_per_side": MAX_POINTS_PER_SIDE,
            "timeout_s": settings.timeout_s,
        }
        return _json({"models": [model], "version": __version__, "limits": limits})

    @router.get(
        "/healthz",
        summary="Alive",
        response_class=Response,
        responses={200: json_answer(StatusAnswer, "The process answers.")},
    )
    async def healthz() -> Response:
        """Say that the process lives; a supervisor that gets no answer should start it anew."""
        return _json({"status": "ok"})

    @router.get(
        "/readyz",
        summary="Ready",
        response_class=Response,
        responses={200: json_answer(StatusAnswer, "Requests are taken."), **problems(503)},
    )
    async def readyz() -> Response:
        """Say whether requests are taken; a load balancer should send them elsewhere while they are not."""
        if is_closing() or not service.is_ready():
            raise ProblemError(503, "the server is shutting down", headers={"Retry-After": str(CLOSING_RETRY_S)})
        return _json({"status": "ready"})

    @router.get(
        "/metrics",
        summary="Metrics",
        response_class=Response,
        responses={200: METRICS_ANSWER, **problems()},
    )
    async def metrics() -> Response:
        """Return latencies by stage, queue depths, cache hits, errors and requests for Prometheus."""
        rendered = await context.in_thread(service.metrics.render)
        return Response(rendered, headers={"Content-Type": service.metrics.content_type})

    return router


def _json(content: object) -> Response:
    return Response(json_bytes(content), media_type="application/json")
