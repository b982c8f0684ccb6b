"""An answer that is written line by line while it is being made, and stopped when its reader goes away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

PIECE_BYTES = 256 * 1024
"""Long lines are sent in pieces, so that a slow reader does not have all of it in the socket's buffer."""

logger = logging.getLogger(__name__)


class LineStream(Response):
    """Sends lines as an iterator yields them.

    Args:
        lines: without line ends.
        media_type: of the whole.
        on_end: called in any case: at the end, when the client has gone, and when the server cancels the request.
    """

    def __init__(self, lines: AsyncIterator[bytes], media_type: str, on_end: Callable[[], None]) -> None:
        self._lines, self._on_end = lines, on_end
        self.status_code, self.media_type, self.background = 200, media_type, None
        self.init_headers({"X-Accel-Buffering": "no"})  # nginx would collect the lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all lines, or as many as the client stays for."""
        writing = asyncio.ensure_future(self._write(send))
        watching = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({writing, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not writing.done():
                logger.info("the client went away; its work is cancelled")
        finally:
            self._on_end()
            for task in (writing, watching):
                task.cancel()
            await asyncio.gather(writing, watching, return_exceptions=True)
        if not writing.cancelled():
            writing.result()

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for line in self._lines:
            for begin in range(0, len(line), PIECE_BYTES):
                piece = line[begin : begin + PIECE_BYTES]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
