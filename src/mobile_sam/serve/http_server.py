"""The app on a socket: connections that stall are cut, and a signal ends the server when its work is done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mobile_sam.serve.app import create_app
from mobile_sam.serve.service import SegmentService
from mobile_sam.serve.settings import ServeSettings

BACKLOG = 512  # connections that wait to be accepted
KEEP_ALIVE_S = 15
HEADER_S = 20.0  # for a request's line and headers to arrive
STALL_S = 30.0  # without a byte of an answer taken
WATCH_EVERY_S = 5.0
MAX_HEADER_BYTES = 64 * 1024

STOPPED_AT_ONCE = 130  # exit code, as after Ctrl-C elsewhere


def listen(host: str, port: int) -> socket.socket:
    """Take the address, so that nobody else does while the model is loaded; clients that come meanwhile wait.

    Raises:
        OSError: the port is taken, or the host is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise OSError(f"cannot listen on {host!r}: {error.strerror}; use 127.0.0.1 or a name of this machine") from None
    listening = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share the port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise OSError(
            f"cannot listen on {host}, port {port}: {error.strerror}; is another server running there? "
            "--port 0 takes a free one"
        ) from None
    return listening


def url_of(listening: socket.socket) -> str:
    """Return the address of a listening socket for browsers on this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(service: SegmentService, listening: socket.socket, on_started: Callable[[], None]) -> None:
    """Answer requests until SIGINT or SIGTERM, then finish what was taken; a second signal ends the process at once.

    Args:
        service: is closed in the end.
        listening: see `listen`; is closed, too.
        on_started: called when requests are answered.
    """
    settings = service.settings
    stopping = _Stopping(settings.shutdown_s)
    app = create_app(
        service,
        is_closing=lambda: stopping.since is not None,
        on_shutdown=lambda: service.close(stopping.left_s()),
    )
    server = _Server(_uvicorn_config(app, settings), stopping, on_started)
    asyncio.run(server.serve(sockets=[listening]))


def _uvicorn_config(app: Any, settings: ServeSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=StallGuard,
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(int(settings.shutdown_s), 1),
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )


class _Stopping:
    """Since when the server is being stopped."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self.since: float | None = None

    def left_s(self) -> float:
        """Seconds in which work may still be finished."""
        spent_s = 0.0 if self.since is None else time.monotonic() - self.since
        return max(self._grace_s - spent_s, 0.0)


class _Server(uvicorn.Server):
    """Ends well on a signal, where uvicorn's own would raise the signal once more."""

    def __init__(self, config: uvicorn.Config, stopping: _Stopping, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._stopping, self._on_started = stopping, on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        signals = (signal.SIGINT, signal.SIGTERM)
        former = {known: signal.signal(known, self.handle_exit) for known in signals}
        try:
            yield
        finally:
            for known, handler in former.items():
                signal.signal(known, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._stopping.since is not None:
            os._exit(STOPPED_AT_ONCE)  # threads that encode cannot be ended in another way
        self._stopping.since = time.monotonic()
        self.should_exit = True


class StallGuard(H11Protocol):
    """uvicorn's protocol, which waits for ever for headers, and for what it sent to be taken."""

    _watching: asyncio.TimerHandle | None = None
    _waits_since = 0.0  # for a request
    _unsent_bytes, _unsent_since = 0, 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch."""
        super().connection_made(transport)
        self._waits_since = self.loop.time()
        self._watching = self.loop.call_later(WATCH_EVERY_S, self._watch)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        if self._watching is not None:
            self._watching.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._waits_since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP with a problem document, as everything else that is wrong."""
        problem = {"type": "about:blank", "title": "Bad Request", "status": 400, "detail": msg}
        body = json.dumps(problem).encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\nconnection: close\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(head.encode() + body)
        self.transport.close()

    def _watch(self) -> None:
        now = self.loop.time()
        unsent_bytes = self.transport.get_write_buffer_size()
        if unsent_bytes < self._unsent_bytes or not self._unsent_bytes:
            self._unsent_since = now
        self._unsent_bytes = unsent_bytes
        is_waiting = self.cycle is None or self.cycle.response_complete
        has_stalled = unsent_bytes and now - self._unsent_since >= STALL_S
        if has_stalled or (is_waiting and not unsent_bytes and now - self._waits_since >= HEADER_S):
            self.transport.abort()
            return
        self._watching = self.loop.call_later(WATCH_EVERY_S, self._watch)
