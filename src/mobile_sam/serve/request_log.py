"""One line in the log and one count in the metrics for each request, and the headers that every answer carries."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mobile_sam.serve.metrics import ServeMetrics
from mobile_sam.serve.problems import internal_error, problem_response

CLIENT_WENT_AWAY = 499  # as nginx logs it; nobody receives it

LINGER_S = 2.0
LINGER_BYTES = 8 * 1024**2
"""How long and how much of a body that was refused is still taken: a connection that is closed while its client sends
is reset, and the client would see that in place of the answer."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Where the answer does not say otherwise."""

LABEL_STUDIO = "/label-studio"
"""What the routes below it do not say of themselves."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

logger = logging.getLogger(__name__)


class RequestLog:
    """Middleware, the outermost: names, times, logs and counts requests, and answers 500 for mistakes of ours."""

    def __init__(self, app: ASGIApp, metrics: ServeMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app and report."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        started = time.perf_counter()
        status = CLIENT_WENT_AWAY  # should the task be cancelled
        try:
            status = await self._run(exchange, scope)
        finally:
            route, milliseconds = _route_of(scope), 1e3 * (time.perf_counter() - started)
            method = scope["method"] if scope["method"] in METHODS else "OTHER"
            self._metrics.requests.labels(route=route, method=method, status=str(status)).inc()
            logger.info("%s %s %d %.1f ms %s", method, route, status, milliseconds, exchange.request_id)

    async def _run(self, exchange: _Exchange, scope: Scope) -> int:
        """Return the status that was sent."""
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            return CLIENT_WENT_AWAY
        except asyncio.CancelledError:  # the server stops, and the time to finish is over
            if exchange.status is None:
                response = problem_response(scope, 503, "the server stopped before the answer was there")
                await response(scope, exchange.receive, exchange.send)
        except Exception as error:  # of this request; no other is harmed
            self._metrics.errors.labels(kind="internal").inc()
            problem = internal_error(scope, error)
            if exchange.status is not None:
                raise  # the answer has begun: all that is left is to cut the connection
            response = problem_response(scope, problem.status_code, problem.detail)
            await response(scope, exchange.receive, exchange.send)
        return exchange.status or CLIENT_WENT_AWAY


class _Exchange:
    """One request and its answer, watched."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex[:16]
        self.status: int | None = None
        self._has_body_left = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        self._receive, self._send = receive, send
        scope.setdefault("state", {})["request_id"] = self.request_id

    async def receive(self) -> Message:
        message = await self._receive()
        self._has_body_left = self._has_body_left and bool(message.get("more_body", False))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.request_id
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if self._has_body_left:
                headers["Connection"] = "close"
        elif self._has_body_left and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _linger(self) -> None:
        left_bytes = LINGER_BYTES
        with anyio.move_on_after(LINGER_S):
            while self._has_body_left and left_bytes > 0:
                left_bytes -= len((await self.receive()).get("body", b""))


def _route_of(scope: Scope) -> str:
    """Return the route as a template, so that ids and made-up paths do not fill log and metrics."""
    path = getattr(scope.get("route"), "path", None)
    if path is None:
        return str(scope.get("state", {}).get("route", "(none)"))
    is_below = scope["path"].startswith(LABEL_STUDIO) and not path.startswith(LABEL_STUDIO)
    return LABEL_STUDIO + path if is_below else str(path)
