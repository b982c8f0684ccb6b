"""A web server for the page on this machine alone: the standard library's, so that the plain installation has it."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from mobile_sam.serve.page_files import HEADERS, Page, PageFile

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 8642
"""Always the same, because what a browser keeps of a page for offline use belongs to its address, port included."""

NEXT_PORTS = 20  # how many are tried after the default one
IDLE_S = 60.0  # a connection on which nothing is asked is closed

_OUR_NAMES = ("127.0.0.1", "localhost", "::1")
_logger = logging.getLogger(__name__)


class PageServer(ThreadingHTTPServer):
    """Serves the files of a page on 127.0.0.1; `serve_forever` until `shutdown`, or as a context until it ends."""

    daemon_threads = True
    # On Windows "reuse" would let two servers share a port; elsewhere it only skips the wait after an earlier one.
    allow_reuse_address = sys.platform != "win32"
    request_queue_size = 64

    def __init__(self, page: Page, port: int = 0) -> None:
        """Begin to listen.

        Args:
            page: what is served.
            port: 0 for any that is free.

        Raises:
            OSError: the port is taken, or not ours to take.
        """
        self.page = page
        super().__init__((LOOPBACK, port), _Handler)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{LOOPBACK}:{self.server_address[1]}/"

    def server_bind(self) -> None:
        """Bind without asking the name service who 127.0.0.1 is, which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong with one request; browsers that hang up are no news."""
        error = sys.exc_info()[1]
        if isinstance(error, (ConnectionError, TimeoutError)):
            _logger.debug("a connection ended early: %s", error)
        else:
            _logger.exception("a request failed")


def open_server(page: Page, port: int | None = None) -> PageServer:
    """Listen on a port: the one asked for and no other, or by default the usual one or one of those that follow.

    Raises:
        OSError: the port asked for, or all of the usual ones, cannot be had; the message says which and what to do.
        ValueError: there is no such port.
    """
    if port is not None and not 0 <= port <= 65535:
        raise ValueError(f"a port is a number from 0 to 65535, got {port}; 0 takes any that is free")
    wanted = range(DEFAULT_PORT, DEFAULT_PORT + NEXT_PORTS + 1) if port is None else (port,)
    for candidate in wanted:
        try:
            return PageServer(page, candidate)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            raise OSError(
                f"cannot listen on {LOOPBACK}:{candidate}: {error.strerror}; choose another --port"
            ) from error
    taken = f"port {port} is" if port is not None else f"ports {wanted[0]} to {wanted[-1]} are"
    raise OSError(f"{taken} taken on {LOOPBACK}; choose another with --port, or --port 0 for any that is free")


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for files of the page."""

    protocol_version = "HTTP/1.1"
    server_version = "mobile-sam"
    sys_version = ""
    timeout = IDLE_S
    server: PageServer

    def do_GET(self) -> None:
        """Send a file."""
        self._answer(sends_body=True)

    def do_HEAD(self) -> None:
        """Send what belongs to a file, without it."""
        self._answer(sends_body=False)

    def _refuse_method(self) -> None:
        self.close_connection = True  # what follows may be a body, which nobody reads
        self._send_text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered here", {"Allow": "GET, HEAD"})

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse_method

    def _answer(self, *, sends_body: bool) -> None:
        if self.headers.get("Content-Length", "0") != "0" or self.headers.get("Transfer-Encoding"):
            self.close_connection = True
        if not _is_ours(self.headers.get("Host", "")):  # another site's name may have been pointed at 127.0.0.1
            self._send_text(HTTPStatus.MISDIRECTED_REQUEST, f"this is {self.server.url}, which has no other name")
            return
        found = self.server.page.find(unquote(urlsplit(self.path).path))
        if found is None:
            self._send_text(HTTPStatus.NOT_FOUND, "there is no such file")
            return
        self._send_file(found, sends_body=sends_body)

    def _send_file(self, found: PageFile, *, sends_body: bool) -> None:
        try:
            file = open(found.path, "rb")  # noqa: SIM115 - closed below; opening alone may fail quietly
        except OSError:
            self._send_text(HTTPStatus.NOT_FOUND, "the file is gone; start mobile-sam demo again")
            return
        with file:
            status = os.fstat(file.fileno())
            etag = found.etag(status)
            is_known = etag in (tag.strip() for tag in self.headers.get("If-None-Match", "").split(","))
            self.send_response(HTTPStatus.NOT_MODIFIED if is_known else HTTPStatus.OK)
            self.send_header("ETag", etag)
            self.send_header("Cache-Control", found.cache_control)
            if not is_known:
                self.send_header("Content-Type", found.content_type)
                self.send_header("Content-Length", str(status.st_size))
            self.end_headers()
            if sends_body and not is_known:
                shutil.copyfileobj(file, self.wfile, 1 << 20)

    def _send_text(self, status: HTTPStatus, text: str, extra: dict[str, str] | None = None) -> None:
        body = f"{text}\n".encode()
        self.send_response(status)
        for name, value in (extra or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def end_headers(self) -> None:
        """Add what every answer has."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing on the terminal; those who look for faults have logging."""
        _logger.debug(format, *arguments)


def _is_ours(host: str) -> bool:
    """Tell whether a Host header names this machine by one of the names that no other machine has."""
    try:
        return urlsplit(f"//{host}").hostname in _OUR_NAMES
    except ValueError:
        return False
