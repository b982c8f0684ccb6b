"""The HTTP API as an ASGI app, around a service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from mobile_sam._version import __version__
from mobile_sam.serve.context import ServeContext
from mobile_sam.serve.descriptions import openapi_document
from mobile_sam.serve.limits import BodyLimits
from mobile_sam.serve.page_files import Page
from mobile_sam.serve.page_routes import PageRoutes, find_page, is_page_path
from mobile_sam.serve.problems import add_problem_handlers
from mobile_sam.serve.request_log import LABEL_STUDIO, RequestLog
from mobile_sam.serve.routes_embeddings import embeddings_router
from mobile_sam.serve.routes_everything import everything_router
from mobile_sam.serve.routes_segment import segment_router
from mobile_sam.serve.routes_system import system_router
from mobile_sam.serve.security import Gate
from mobile_sam.serve.service import SegmentService

EXPOSED_HEADERS = ("Retry-After", "X-Embedding-Id", "X-Image-Size", "X-Request-Id")


def create_app(
    service: SegmentService,
    *,
    is_closing: Callable[[], bool] = lambda: False,
    on_shutdown: Callable[[], None] | None = None,
) -> FastAPI:
    """Make the app.

    Args:
        service: does the work; its settings are the app's.
        is_closing: tells whether the server was told to stop, for /readyz.
        on_shutdown: called, in a thread, when all requests have been answered; without it the service stays open.
    """
    context = ServeContext(service, service.settings)
    page = find_page()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if on_shutdown is not None:
            await context.in_thread(on_shutdown)
        context.threads.shutdown(wait=False)

    app = FastAPI(
        title="mobile-sam",
        version=__version__,
        docs_url=None,  # its scripts come from other hosts
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=_middleware(service, page),
    )
    add_problem_handlers(app)
    app.include_router(embeddings_router(context))
    app.include_router(segment_router(context))
    app.include_router(everything_router(context))
    app.include_router(system_router(context, is_closing))
    _include_label_studio(app, service)
    document: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not document:
            document.update(openapi_document(app, needs_token=service.settings.token is not None))
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _middleware(service: SegmentService, page: Page | None) -> list[Middleware]:
    """List what each request goes through, from the outside in."""
    settings = service.settings
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("Authorization", "Content-Type", "X-Request-Id"),
        expose_headers=EXPOSED_HEADERS,
    )
    return [
        Middleware(RequestLog, metrics=service.metrics),
        *([cors] if settings.cors_origins else []),
        Middleware(Gate, settings=settings, is_page=is_page_path(page)),
        Middleware(PageRoutes, page=page),
        Middleware(BodyLimits, settings=settings),
    ]


def _include_label_studio(app: FastAPI, service: SegmentService) -> None:
    from mobile_sam.serve.label_studio import label_studio_router

    app.include_router(label_studio_router(service), prefix=LABEL_STUDIO)
