"""Limits on what a request may take: bytes of its body, time to send it, time to be answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mobile_sam.serve.problems import ProblemError
from mobile_sam.serve.service import ServiceClosed
from mobile_sam.serve.settings import ServeSettings

BODIES_AT_ONCE = 16
"""All bodies that are in memory together may be as large as this many of the largest."""

T = TypeVar("T")


class Deadline:
    """When a request must be answered.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """Seconds that are left, 0 or more."""
        return max(self._end - time.monotonic(), 0.0)

    async def result_of(self, future: Future[T]) -> T:
        """Wait for work of the service, and give it up when the time is over or the request is cancelled.

        Raises:
            ProblemError: 504, the time was over.
            ServiceClosed: the service gave the work up.
        """
        waiting = asyncio.wrap_future(future)
        try:
            done, _ = await asyncio.wait({waiting}, timeout=self.left_s)
        except asyncio.CancelledError:
            waiting.cancel()
            raise
        if not done:
            waiting.cancel()
            raise timed_out()
        if waiting.cancelled():
            raise ServiceClosed
        return waiting.result()


def timed_out() -> ProblemError:
    """Return the error of a request that took too long."""
    return ProblemError(504, "the answer took longer than the server allows; try again when it has less to do")


class BodyLimits:
    """Middleware: ends the reading of bodies that are too large, come too slowly, or are too many at once.

    The app reads as always; where a limit is passed, `receive` raises the problem that the request is answered with.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app = app
        self._most_bytes = settings.max_body_bytes
        self._most_held_bytes = BODIES_AT_ONCE * settings.max_body_bytes
        self._timeout_s = settings.timeout_s
        self._held_bytes = 0  # of all requests; only the event loop's thread counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app with a `receive` that counts."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        async with self._counted(scope, receive) as counting:
            await self._app(scope, counting, send)

    @asynccontextmanager
    async def _counted(self, scope: Scope, receive: Receive) -> AsyncIterator[Receive]:
        declared = Headers(scope=scope).get("content-length", "0")
        # more digits than any limit has are refused unread: int() is slow on thousands of them
        is_too_large = len(declared) > 20 or (declared.isdecimal() and int(declared) > self._most_bytes)
        deadline = Deadline(self._timeout_s)
        num_bytes, is_whole = 0, False

        async def counting() -> Message:
            nonlocal num_bytes, is_whole
            if is_whole:
                return await receive()
            if is_too_large:
                raise self._too_large()
            try:
                with anyio.fail_after(deadline.left_s):
                    message = await receive()
            except TimeoutError:
                raise ProblemError(408, f"the body did not arrive within {self._timeout_s:g} s") from None
            size = len(message.get("body", b""))
            num_bytes += size
            self._held_bytes += size
            if num_bytes > self._most_bytes:
                raise self._too_large()
            if self._held_bytes > self._most_held_bytes:
                raise ProblemError(
                    429, "the server holds as many pictures as it can; try again shortly", headers={"Retry-After": "1"}
                )
            is_whole = not message.get("more_body", False)
            return message

        try:
            yield counting
        finally:
            self._held_bytes -= num_bytes

    def _too_large(self) -> ProblemError:
        return ProblemError(
            413, f"the body is larger than the {self._most_bytes} bytes that the server takes; shrink the picture"
        )
