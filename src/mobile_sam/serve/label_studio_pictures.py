"""Pictures of Label Studio's tasks: data URIs, and files of the one Label Studio that was configured, of no other host.

A task's data is written by whoever may import tasks, so that an address in it must not make this server ask others.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import time
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

if TYPE_CHECKING:
    import httpx

FETCH_S = 20.0  # all of a picture, redirects included
MAX_REDIRECTS = 3
PICTURE_PATHS = ("/data/", "/storage-data/", "/tasks/")
"""Where Label Studio keeps files: uploads and local files, its storage, and files of clouds' that it passes on."""
CLOUD_SCHEMES = ("s3://", "gs://", "azure-blob://")


class PictureRefused(ValueError):
    """A task names a picture that is not fetched, such as one of another host."""


class PictureUnavailable(Exception):
    """Label Studio did not hand out a picture."""


class LabelStudioPictures:
    """Reads the pictures of tasks.

    Args:
        url: address of Label Studio, with its path if it lies below one; None for data URIs alone.
        api_key: an access token of one of its users, of the legacy kind or a personal access token (JWT).
        max_bytes: of a picture's file.
        transport: of httpx, in place of the network; for tests.

    Raises:
        ValueError: no http or https address.
    """

    def __init__(
        self,
        url: str | None,
        api_key: str | None,
        max_bytes: int,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
            raise ValueError(f"LABEL_STUDIO_URL must be an http or https address, got {url!r}")
        self._url = None if url is None else url.rstrip("/")
        self._api_key = api_key
        self._max_bytes = max_bytes
        self._transport = transport

    @classmethod
    def from_environment(cls, max_bytes: int) -> LabelStudioPictures:
        """Take LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY."""
        url, api_key = (os.environ.get(name) or None for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"))
        return cls(url, api_key, max_bytes)

    async def read(self, address: str, task_id: object = None) -> bytes:
        """Read a picture's file.

        Args:
            address: what a task's data holds: a data URI, a path as Label Studio gives its own files, an http(s) URL on
                its host, or the address of a file in a cloud storage that Label Studio passes on.
            task_id: number of the task, for files in cloud storages.

        Raises:
            PictureRefused: an address of another kind or host, or a file that is too large.
            PictureUnavailable: Label Studio does not answer, or not with a file.
        """
        if address.startswith("data:"):
            return self._decoded(address)
        import httpx

        url = self._own(self._absolute(address, task_id))
        try:
            async with httpx.AsyncClient(transport=self._transport, timeout=FETCH_S) as http:
                headers = await self._authorization(http)
                return await self._fetched(http, url, headers)
        except httpx.TimeoutException as error:
            raise PictureUnavailable(f"{_shown(url)} was not there within {FETCH_S:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PictureUnavailable(f"{_shown(url)} cannot be read: {error or type(error).__name__}") from error

    def _decoded(self, uri: str) -> bytes:
        header, _, body = uri.partition(",")
        if not header.endswith(";base64"):
            raise PictureRefused(f"a data URI must be base64, got {header[:60]!r}")
        if len(body) > self._max_bytes * 4 // 3 + 4:
            raise PictureRefused(f"the data URI holds more than the {self._max_bytes} bytes allowed")
        try:
            return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError) as error:
            raise PictureRefused(f"the data URI is no base64: {error}") from error

    def _absolute(self, address: str, task_id: object) -> str:
        if self._url is None:
            raise PictureRefused(
                f"the picture at {address[:80]!r} is not fetched: this server does not know where Label Studio is; "
                "start it with LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY set"
            )
        if address.startswith(CLOUD_SCHEMES):
            if not re.fullmatch(r"\d{1,18}", str(task_id)):
                raise PictureRefused(
                    f"a file in a cloud storage needs the number of its task, got {str(task_id)[:40]!r}"
                )
            encoded = base64.urlsafe_b64encode(address.encode()).decode("ascii")
            return f"{self._url}/tasks/{task_id}/presign/?fileuri={encoded}"
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:|//", address):
            return address
        path = "/" + address.lstrip("/")
        if path.startswith("/upload/"):
            path = f"/data{path}"
        below = urlsplit(self._url).path
        return self._url + (path.removeprefix(below) if below and path.startswith(f"{below}/") else path)

    def _own(self, url: str) -> str:
        """Let an address of Label Studio's files pass, and no other."""
        assert self._url is not None
        try:
            asked, own = urlsplit(url), urlsplit(self._url)
            is_own = _origin(asked) == _origin(own)
        except ValueError as error:
            raise PictureRefused(f"the picture's address {url[:80]!r} is no URL: {error}") from error
        if not is_own:
            raise PictureRefused(
                f"the picture at {_shown(url)} is not fetched: only files of {_shown(self._url)} (LABEL_STUDIO_URL) are"
            )
        path = unquote(asked.path).removeprefix(own.path)
        if not path.startswith(PICTURE_PATHS) or ".." in path.split("/") or "\\" in path:
            raise PictureRefused(
                f"{_shown(url)} is no file of Label Studio's, whose addresses begin with {', '.join(PICTURE_PATHS)}; "
                "if it led there by itself, LABEL_STUDIO_API_KEY is missing or wrong"
            )
        return url

    async def _authorization(self, http: httpx.AsyncClient) -> dict[str, str]:
        """Return the header; a personal access token has to be changed for one that lasts minutes."""
        if self._api_key is None:
            return {}
        if self._api_key.count(".") != 2:
            return {"Authorization": f"Token {self._api_key}"}
        answer = await http.post(f"{self._url}/api/token/refresh", json={"refresh": self._api_key})
        try:
            return {"Authorization": f"Bearer {answer.raise_for_status().json()['access']}"}
        except (ValueError, KeyError, TypeError) as error:
            raise PictureUnavailable("Label Studio did not take LABEL_STUDIO_API_KEY for a token") from error

    async def _fetched(self, http: httpx.AsyncClient, url: str, headers: dict[str, str]) -> bytes:
        until_s = time.monotonic() + FETCH_S
        for _ in range(MAX_REDIRECTS + 1):
            async with http.stream("GET", url, headers=headers, follow_redirects=False) as answer:
                if answer.is_redirect:
                    url = self._own(urljoin(url, answer.headers.get("location", "")))
                    continue
                if answer.status_code != 200:
                    raise PictureUnavailable(
                        f"Label Studio answered {answer.status_code} for {_shown(url)}"
                        + ("; set LABEL_STUDIO_API_KEY" if answer.status_code in (401, 403, 404) else "")
                    )
                return await self._body(answer, url, until_s)
        raise PictureUnavailable(f"{_shown(url)} leads on more than {MAX_REDIRECTS} times")

    async def _body(self, answer: httpx.Response, url: str, until_s: float) -> bytes:
        content = bytearray()
        async for part in answer.aiter_bytes():
            content += part
            if len(content) > self._max_bytes:
                raise PictureRefused(f"{_shown(url)} has more than the {self._max_bytes} bytes allowed")
            if time.monotonic() > until_s:
                raise PictureUnavailable(f"{_shown(url)} was not there within {FETCH_S:g} s")
        return bytes(content)


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _shown(url: str) -> str:
    """Leave out of an address what may be secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:200]
