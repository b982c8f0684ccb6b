"""The page at `/` and below, beside the API: the same page that `mobile-sam demo` serves."""

from __future__ import annotations

import logging
from collections.abc import Callable

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mobile_sam.serve.page_files import HEADERS, Page, PageFile, open_page
from mobile_sam.serve.problems import problem_response

logger = logging.getLogger(__name__)


def find_page() -> Page | None:
    """List the files of the page; None, and a line in the log, where it was not built."""
    try:
        return open_page()
    except FileNotFoundError as error:
        logger.warning("the API runs without the page: %s", error)
        return None


def is_page_path(page: Page | None) -> Callable[[str], bool]:
    """Make the test whether a URL path is a file of the page."""
    return lambda path: page is not None and page.find(path) is not None


class PageRoutes:
    """Middleware: answers requests for files of the page, and lets all others pass.

    It is no route with a wildcard, since that would answer 404 where a path of the API is asked with a wrong method.
    """

    def __init__(self, app: ASGIApp, page: Page | None) -> None:
        self._app = app
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the file, 304 or 405, or run the app."""
        file = self._page.find(scope["path"]) if scope["type"] == "http" and self._page is not None else None
        if file is None:
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["route"] = "(page)"
        if scope["method"] in ("GET", "HEAD"):
            response = await _file_response(file, Headers(scope=scope))
        else:
            headers = {"Allow": "GET, HEAD"}
            response = problem_response(scope, 405, "a file of the page can only be read", headers=headers)
        await response(scope, receive, send)


async def _file_response(file: PageFile, request_headers: Headers) -> Response:
    status = await to_thread.run_sync(file.path.stat)
    etag = file.etag(status)
    headers = {**HEADERS, "ETag": etag, "Cache-Control": file.cache_control}
    asked = [tag.strip().removeprefix("W/") for tag in request_headers.get("if-none-match", "").split(",")]
    if etag in asked:
        return Response(status_code=304, headers=headers)
    return FileResponse(file.path, headers=headers, media_type=file.content_type, stat_result=status)
