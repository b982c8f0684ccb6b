"""`/v1/embeddings`: a picture in, the id of its embedding out, and the embedding itself on request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from mobile_sam.core.embedding import Embedding
from mobile_sam.serve.answers import embedding_facts, json_bytes, npy_bytes
from mobile_sam.serve.context import ServeContext, milliseconds
from mobile_sam.serve.descriptions import NPY, PICTURE_BODY, embedding_answers, problems
from mobile_sam.serve.service import UnknownEmbedding

Format = Annotated[
    Literal["json", "npy"] | None,
    Query(description=f"npy: the features themselves, (1, 256, 64, 64) float32, as with `Accept: {NPY}`"),
]


def embeddings_router(context: ServeContext) -> APIRouter:
    """Make the routes."""
    router = APIRouter(tags=["embeddings"])

    @router.post(
        "/v1/embeddings",
        status_code=201,
        summary="Encode a picture",
        response_class=Response,
        openapi_extra={"requestBody": PICTURE_BODY},
        responses={
            200: embedding_answers("The picture was known already."),
            201: embedding_answers("The picture was encoded."),
            **problems(400, 408, 413, 415, 422, 429, 503, 504),
        },
    )
    async def encode(request: Request, format: Format = None) -> Response:
        """Encode a picture once, then ask for masks of it by its id as often as you like.

        The same bytes have the same id. An embedding is kept until others need its place.
        """
        deadline = context.deadline()
        embedded = await context.encode(await context.picture_of(request), deadline)
        status = 200 if embedded.was_cached else 201
        return await answer(request, format, embedded.id, embedded.embedding, embedded.seconds, status)

    @router.get(
        "/v1/embeddings/{embedding_id}",
        summary="Look up an embedding",
        response_class=Response,
        responses={200: embedding_answers("It is there."), **problems(404, 422)},
    )
    async def look_up(request: Request, embedding_id: str, format: Format = None) -> Response:
        """Say of which picture and model an embedding is, or return the features themselves."""
        return await answer(request, format, embedding_id, context.service.find(embedding_id), None, 200)

    @router.delete(
        "/v1/embeddings/{embedding_id}",
        status_code=204,
        summary="Forget an embedding",
        response_class=Response,
        responses={204: {"description": "It is gone."}, **problems(404, 422)},
    )
    async def forget(embedding_id: str) -> Response:
        """Remove an embedding from memory."""
        if not context.service.forget(embedding_id):
            raise UnknownEmbedding(embedding_id)
        return Response(status_code=204)

    async def answer(
        request: Request,
        asked_format: str | None,
        embedding_id: str,
        embedding: Embedding,
        seconds: Mapping[str, float] | None,
        status: int,
    ) -> Response:
        """Answer with the embedding; `seconds` are None where nothing was asked to be encoded."""
        if (asked_format or ("npy" if NPY in request.headers.get("accept", "") else "json")) == "npy":
            height, width = embedding.image_hw
            headers = {"X-Embedding-Id": embedding_id, "X-Image-Size": f"{width}x{height}", "Vary": "Accept"}
            return Response(await context.in_thread(npy_bytes, embedding.features), status, headers, NPY)
        facts = embedding_facts(embedding_id, embedding)
        content = {**facts, "was_cached": status == 200, "milliseconds": milliseconds(seconds or {})}
        return Response(json_bytes(content), status, {"Vary": "Accept"}, "application/json")

    return router
