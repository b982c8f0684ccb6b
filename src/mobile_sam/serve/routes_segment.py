"""`/v1/segment`: prompts in, masks out."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mobile_sam.serve.answers import embedding_facts, json_bytes, mask_answers
from mobile_sam.serve.context import ServeContext, milliseconds
from mobile_sam.serve.descriptions import SEGMENT_BODY, json_answer, problems
from mobile_sam.serve.problems import ProblemError
from mobile_sam.serve.requests import prompts_of
from mobile_sam.serve.schemas import SegmentAnswer, SegmentOptions, SegmentRequest
from mobile_sam.serve.service import TokenPrediction


def segment_router(context: ServeContext) -> APIRouter:
    """Make the route."""
    router = APIRouter(tags=["segment"])
    service, settings = context.service, context.settings

    @router.post(
        "/v1/segment",
        summary="Cut objects out of a picture",
        response_class=Response,
        openapi_extra={"requestBody": SEGMENT_BODY},
        responses={
            200: json_answer(SegmentAnswer, "The masks."),
            **problems(400, 404, 408, 413, 415, 422, 429, 503, 504),
        },
    )
    async def segment(request: Request) -> Response:
        """Cut one or many objects out of a picture, or of one that was encoded before.

        Prompts of one picture that arrive together are decoded together.
        """
        started, deadline = time.perf_counter(), context.deadline()
        asked, picture = await context.body_of(request, SegmentRequest, SegmentOptions)
        image = asked.image if isinstance(asked, SegmentRequest) else picture
        assert image is not None
        embedding_id, embedding, seconds = await context.embedding_of(image, deadline)
        prompts = prompts_of(asked.objects, embedding.image_hw, settings)

        def answer(_: int, prediction: TokenPrediction) -> list[dict[str, Any]]:
            with service.metrics.timed("answer"):
                return mask_answers(prediction, asked.output, asked.counts_format)

        asked_at = time.perf_counter()
        try:
            future = service.submit_answers(embedding, prompts, asked.candidates, answer)
        except ValueError as error:
            raise ProblemError(422, str(error)) from error
        masks = await deadline.result_of(future)
        answered_at = time.perf_counter()
        content = {
            **embedding_facts(embedding_id, embedding),
            "objects": [
                {"masks": found} if wanted.name is None else {"name": wanted.name, "masks": found}
                for wanted, found in zip(asked.objects, masks, strict=True)
            ],
            "milliseconds": milliseconds(seconds, decode=answered_at - asked_at, total=answered_at - started),
        }
        is_small = len(masks) <= 4 and asked.output == "rle" and asked.counts_format == "compressed"
        body = json_bytes(content) if is_small else await context.in_thread(json_bytes, content)
        return Response(body, media_type="application/json")

    return router
