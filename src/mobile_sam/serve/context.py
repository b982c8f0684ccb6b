"""What the routes share: the service, and how a picture gets there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from starlette.requests import Request

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.errors import ImageReadError, ImageTooLargeError
from mobile_sam.serve.limits import Deadline
from mobile_sam.serve.problems import ProblemError
from mobile_sam.serve.requests import Asked, decode_base64, media_type, parse_json, split_multipart, wrong_media_type
from mobile_sam.serve.schemas import Base64Picture
from mobile_sam.serve.service import Embedded, SegmentService
from mobile_sam.serve.settings import ServeSettings

NUM_THREADS = 2  # for parsing and writing what would hold up the event loop
QUICK_BYTES = 64 * 1024
"""Bodies up to this are parsed where they are read: going to another thread would take longer."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class ServeContext:
    """What the routes share.

    Attributes:
        service: does the work.
        settings: limits.
        threads: for what would hold up the event loop.
    """

    service: SegmentService
    settings: ServeSettings
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(NUM_THREADS, "mobile-sam-http"))

    def deadline(self) -> Deadline:
        """Return until when a request that arrives now must be answered."""
        return Deadline(self.settings.timeout_s)

    async def in_thread(
        self, work: Callable[Arguments, Result], *args: Arguments.args, **named: Arguments.kwargs
    ) -> Result:
        """Run something that takes long in another thread."""
        return await asyncio.wrap_future(self.threads.submit(work, *args, **named))

    async def encode(self, picture: bytes, deadline: Deadline) -> Embedded:
        """Have a picture encoded.

        Raises:
            ProblemError: 400, it cannot be read; 413, it has too many pixels; 504.
        """
        submit = self.service.submit_picture
        future: Future[Embedded]
        if len(picture) > QUICK_BYTES:  # which is hashed first
            future = await self.in_thread(submit, picture)
        else:
            future = submit(picture)
        try:
            return await deadline.result_of(future)
        except ImageReadError as error:
            status = 413 if isinstance(error, ImageTooLargeError) else 400
            raise ProblemError(status, f"the picture cannot be read: {error}") from error

    async def body_of(
        self, request: Request, with_image: type[Asked], without_image: type[Asked]
    ) -> tuple[Asked, bytes | None]:
        """Read JSON with an image in it, or multipart with the fields `image` and `request`.

        Returns:
            What was asked, and the picture if it came as multipart.

        Raises:
            ProblemError: 400, 413, 415 or 422.
        """
        kind = media_type(request)
        if kind not in ("application/json", "multipart/form-data"):
            raise wrong_media_type(request, "application/json", "multipart/form-data")
        body = await request.body()
        if kind == "application/json":
            return await self._maybe_in_thread(len(body), parse_json, with_image, body, self.settings), None
        content_type = request.headers["content-type"]
        parts = await self._maybe_in_thread(len(body), split_multipart, content_type, body, ("image", "request"))
        if "image" not in parts:
            raise ProblemError(422, "the multipart body has no field 'image'")
        return parse_json(without_image, parts.get("request", b"{}"), self.settings), parts["image"]

    async def picture_of(self, request: Request) -> bytes:
        """Read a picture: the body itself, or the field `image` of multipart.

        Raises:
            ProblemError: 400, 413, 415 or 422.
        """
        kind = media_type(request)
        if kind == "multipart/form-data":
            body = await request.body()
            content_type = request.headers["content-type"]
            parts = await self._maybe_in_thread(len(body), split_multipart, content_type, body, ("image",))
            if "image" not in parts:
                raise ProblemError(422, "the multipart body has no field 'image'")
            return parts["image"]
        if kind in ("", "application/octet-stream") or kind.startswith("image/"):
            return await request.body()
        raise wrong_media_type(request, "image/*", "application/octet-stream", "multipart/form-data")

    async def embedding_of(
        self, image: str | Base64Picture | bytes, deadline: Deadline
    ) -> tuple[str, Embedding, Mapping[str, float]]:
        """Find or make the embedding that a request is about.

        Returns:
            Its id, itself, and the seconds that making it took, by stage.

        Raises:
            UnknownEmbedding: an id that is not known. ProblemError: see `encode`; 422, no base64.
        """
        if isinstance(image, str):
            return image, self.service.find(image), {}
        if isinstance(image, Base64Picture):
            image = await self._maybe_in_thread(len(image.base64), decode_base64, image.base64)
        embedded = await self.encode(image, deadline)
        return embedded.id, embedded.embedding, embedded.seconds

    async def _maybe_in_thread(
        self, num_bytes: int, work: Callable[Arguments, Result], *args: Arguments.args, **named: Arguments.kwargs
    ) -> Result:
        if num_bytes <= QUICK_BYTES:
            return work(*args, **named)
        return await self.in_thread(work, *args, **named)


def milliseconds(seconds: Mapping[str, float], **more_s: float) -> dict[str, float]:
    """Turn seconds by stage into milliseconds, rounded to microseconds."""
    return {stage: round(1e3 * spent_s, 3) for stage, spent_s in {**seconds, **more_s}.items()}
