"""Who may ask: the bearer token, and for servers without one, nothing but this machine and its own page."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mobile_sam.serve.problems import ProblemError, problem_response
from mobile_sam.serve.settings import ServeSettings, is_loopback

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Need no token, since what watches over servers has none; files of the page are open too."""

BASIC_PATHS = "/label-studio/"
"""Below here the token may also come as the password of Basic, since Label Studio knows no bearer tokens."""


class Gate:
    """Middleware: turns away who may not ask.

    With a token, all but OPEN_PATHS and the page needs it. Without one the server listens on loopback only, where web
    pages that the user visits are the danger: a page of another site cannot read the answers, but could send requests,
    and by giving its own name our address (DNS rebinding) could read them, too. So the request must name a loopback
    host, and an Origin that is this server or one of `cors_origins`.

    Args:
        app: what is behind the gate.
        settings: has the token and the origins.
        is_page: tells whether a path is a file of the page.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, is_page: Callable[[str], bool]) -> None:
        self._app = app
        self._token = None if settings.token is None else settings.token.encode()
        self._origins = frozenset(origin.rstrip("/").lower() for origin in settings.cors_origins)
        self._is_page = is_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app, or answer with 401, 403 or 421."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        problem = self._why_not(scope["path"], Headers(scope=scope))
        if problem is None:
            await self._app(scope, receive, send)
            return
        response = problem_response(scope, problem.status_code, problem.detail, headers=problem.headers)
        await response(scope, receive, send)

    def _why_not(self, path: str, headers: Headers) -> ProblemError | None:
        if self._token is None:
            return self._why_foreign(headers)
        if path in OPEN_PATHS or self._is_page(path) or self._has_token(path, headers):
            return None
        return ProblemError(
            401, "this server needs a token; send Authorization: Bearer TOKEN", headers={"WWW-Authenticate": "Bearer"}
        )

    def _has_token(self, path: str, headers: Headers) -> bool:
        assert self._token is not None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic" and path.startswith(BASIC_PATHS):
            candidate = _basic_password(given)
        elif scheme.lower() == "bearer":
            candidate = given.strip().encode()
        else:
            return False
        return hmac.compare_digest(candidate, self._token)

    def _why_foreign(self, headers: Headers) -> ProblemError | None:
        host = headers.get("host", "")
        if not names_loopback(host):
            return ProblemError(
                421,
                f"without a token this server answers to 127.0.0.1 and localhost only, not to {host[:100]!r}; start it "
                "with --token",
            )
        origin = headers.get("origin")
        if origin is None or self._is_own(origin, host) or "*" in self._origins or origin.lower() in self._origins:
            return None
        return ProblemError(
            403, f"pages of {origin[:100]!r} may not use this server; its user can allow that with --cors-origin"
        )

    @staticmethod
    def _is_own(origin: str, host: str) -> bool:
        return origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())


def names_loopback(host: str) -> bool:
    """Tell whether a Host header names this machine as seen from itself.

    >>> names_loopback("127.0.0.1:8000"), names_loopback("[::1]:8000"), names_loopback("localhost.evil.example")
    (True, True, False)
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if "@" in host or "/" in host or "\\" in host:
        return False
    return is_loopback(name.rstrip(".")) or name.endswith(".localhost")


def _basic_password(given: str) -> bytes:
    try:
        return base64.b64decode(given.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""
