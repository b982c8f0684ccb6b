"""`/v1/everything`: finds all masks of a picture, and tells how far it is while it does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mobile_sam.core.embedding import Embedding
from mobile_sam.everything.config import EverythingConfig
from mobile_sam.everything.found import Record
from mobile_sam.serve.answers import embedding_facts, found_answer, json_bytes
from mobile_sam.serve.context import ServeContext, milliseconds
from mobile_sam.serve.descriptions import EVERYTHING_BODY, NDJSON, everything_answer, problems
from mobile_sam.serve.limits import Deadline, timed_out
from mobile_sam.serve.line_stream import LineStream
from mobile_sam.serve.problems import ProblemError, internal_error, problem_document, problem_of
from mobile_sam.serve.schemas import EverythingOptions, EverythingRequest
from mobile_sam.serve.service import ServiceClosed

PROGRESS_EVERY_S = 0.1
HEARTBEAT_EVERY_S = 2.0
"""Progress is also told when there is none, so that the client, and what is between, see that the server lives."""


def everything_router(context: ServeContext) -> APIRouter:
    """Make the route."""
    router = APIRouter(tags=["everything"])

    @router.post(
        "/v1/everything",
        summary="Find all masks of a picture",
        response_class=Response,
        openapi_extra={"requestBody": EVERYTHING_BODY},
        responses={200: everything_answer(), **problems(400, 404, 408, 413, 415, 422, 429, 503, 504)},
    )
    async def everything(request: Request) -> Response:
        """Find the masks of everything in a picture, or in one that was encoded before.

        The answer is a stream of lines, each a JSON object: any number with `event` "progress", at most ten a second,
        then one with "result" or "error". Who goes away cancels the work.
        """
        started, deadline = time.perf_counter(), context.deadline()
        asked, picture = await context.body_of(request, EverythingRequest, EverythingOptions)
        image = asked.image if isinstance(asked, EverythingRequest) else picture
        assert image is not None
        embedding_id, embedding, seconds = await context.embedding_of(image, deadline)
        search = _Search(context, embedding, EverythingConfig(**asked.settings.model_dump(), output_mode="coco_rle"))

        def result(records: list[Record]) -> bytes:
            with context.service.metrics.timed("answer"):
                content = {
                    "event": "result",
                    **embedding_facts(embedding_id, embedding),
                    "masks": [found_answer(record, asked.counts_format) for record in records],
                    "milliseconds": milliseconds(seconds, total=time.perf_counter() - started),
                }
                return json_bytes(content)

        async def lines() -> AsyncIterator[bytes]:
            try:
                async for event in search.progress(deadline):
                    yield json_bytes(event)
                yield await context.in_thread(result, search.future.result())
            except Exception as error:  # noqa: BLE001 - the status is sent: what is left is to say so in a line
                problem = problem_of(error)
                if problem is None:
                    problem = internal_error(request.scope, error)
                    context.service.metrics.errors.labels(kind="internal").inc()
                document = problem_document(request.scope, problem.status_code, problem.detail, problem.errors)
                yield json_bytes({"event": "error", "problem": document})

        return LineStream(lines(), NDJSON, search.stop)

    return router


class _Search:
    """Everything mode under way in another thread."""

    def __init__(self, context: ServeContext, embedding: Embedding, config: EverythingConfig) -> None:
        self._is_stopped = threading.Event()
        self._done_and_total = (0, 0)  # replaced as a whole by the thread that works
        try:
            self.future: Future[list[Record]] = context.service.submit_everything(
                embedding, config, self._tell, self._is_stopped.is_set
            )
        except ValueError as error:
            raise ProblemError(422, str(error)) from error

    def _tell(self, num_done: int, num_all: int) -> None:
        self._done_and_total = (num_done, num_all)

    async def progress(self, deadline: Deadline) -> AsyncIterator[dict[str, Any]]:
        """Yield events until the work is done, well or not.

        Raises:
            ProblemError: 504, the time was over. ServiceClosed: the service gave the work up.
        """
        waiting = asyncio.wrap_future(self.future)
        told, told_at = (-1, -1), 0.0
        while not waiting.done():
            now = time.monotonic()
            if self._done_and_total != told or now - told_at >= HEARTBEAT_EVERY_S:
                told, told_at = self._done_and_total, now
                yield {"event": "progress", "done": told[0], "total": told[1]}
            if not deadline.left_s:
                raise timed_out()
            await asyncio.wait({waiting}, timeout=min(PROGRESS_EVERY_S, deadline.left_s))
        if waiting.cancelled():
            raise ServiceClosed
        waiting.result()

    def stop(self) -> None:
        """End the work if it is still going on."""
        self._is_stopped.set()
        self.future.cancel()
