"""Real sockets: connections that stall, endless bodies, what is no HTTP. The limits are short, so that tests are."""

import asyncio
import contextlib
import json
import socket

import pytest
from uvicorn.server import ServerState

from mobile_sam.serve import http_server, request_log
from mobile_sam.serve.app import create_app
from mobile_sam.serve.http_server import StallGuard, listen, url_of
from mobile_sam.serve.service import SegmentService
from mobile_sam.serve.settings import ServeSettings

PATIENCE_S = 60  # after which a test fails that waits for what should happen


@pytest.fixture
def service(disc_engine):
    service = SegmentService(disc_engine, ServeSettings(max_body_bytes=200_000))
    yield service
    service.close(5.0)


@pytest.fixture
def talk(service):
    """Run `conversation(connect)` against a server; `connect()` opens a connection to it."""

    def run(conversation, app=None):
        async def served():
            config = http_server._uvicorn_config(app or create_app(service), service.settings)
            config.load()
            state, loop = ServerState(), asyncio.get_running_loop()

            def protocol():
                return StallGuard(config=config, server_state=state, app_state={})

            server = await loop.create_server(protocol, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            try:
                return await asyncio.wait_for(conversation(lambda: asyncio.open_connection(*address)), PATIENCE_S)
            finally:
                server.close()

        return asyncio.run(served())

    return run


def parse(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body


def send_all(content: bytes):
    """Make a conversation of one connection: send, then read until the server closes it."""

    async def conversation(connect):
        reader, writer = await connect()
        writer.write(content)
        answer = await reader.read()
        writer.close()
        return answer

    return conversation


def get(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize(
    "path", ["/v1/../healthz", "//healthz", "/./healthz", "/healthz/.", "/healthz%2f", "*", "/%0d%0aX:%20y"]
)
def test_paths_are_taken_as_they_are(talk, path):
    status, headers, body = parse(talk(send_all(get(path))))
    assert (status, headers["content-type"], json.loads(body)["status"]) == (404, "application/problem+json", 404)
    assert "x" not in headers


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50) + b"\r\n\r\n",  # how TLS begins
        b"GET / HTTP/1.1\r\n\r\n",  # without a host
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
    ],
    ids=range(7),
)
def test_what_is_no_http_is_a_problem(talk, content):
    status, headers, body = parse(talk(send_all(content)))
    assert (status, headers["content-type"]) == (400, "application/problem+json")
    assert json.loads(body)["status"] == 400


@pytest.mark.parametrize(
    "headers", [["X-Long: " + "x" * 1_000_000], [f"X-{number}: y" for number in range(100_000)]], ids=range(2)
)
def test_a_flood_of_headers_is_cut_off(talk, headers):
    async def conversation(connect):
        reader, writer = await connect()
        writer.write(get("/healthz", *headers))
        try:
            return await reader.read()
        except ConnectionError:  # what was sent after the answer makes the connection end so
            return b""

    assert not talk(conversation).startswith(b"HTTP/1.1 2")


def test_an_endless_body_is_answered_and_cut_off(talk, monkeypatch):
    monkeypatch.setattr(request_log, "LINGER_BYTES", 100_000)

    async def conversation(connect):
        reader, writer = await connect()
        writer.write(b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"

        async def pour():
            while True:
                writer.write(piece)
                await writer.drain()

        pouring = asyncio.ensure_future(pour())
        head = await reader.readuntil(b"\r\n\r\n")
        with pytest.raises(ConnectionError):  # the sender sees that nobody takes more
            await pouring
        return head

    status, headers, _ = parse(talk(conversation))
    assert (status, headers["connection"]) == (413, "close")


def test_a_refused_body_is_taken_so_far_that_its_sender_reads_why(talk):
    async def conversation(connect):
        reader, writer = await connect()
        size = 3_000_000
        writer.write(f"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n\r\n".encode())
        writer.write(bytes(size))
        await writer.drain()
        return await reader.read()

    status, _, body = parse(talk(conversation))
    assert (status, json.loads(body)["title"]) == (413, "Content Too Large")


def test_a_connection_without_a_request_is_closed(talk, monkeypatch):
    monkeypatch.setattr(http_server, "HEADER_S", 0.2)
    monkeypatch.setattr(http_server, "WATCH_EVERY_S", 0.05)

    async def conversation(connect):
        for beginning in (b"", b"GET /healthz HTTP/1.1\r\nHost: 127."):
            reader, writer = await connect()
            writer.write(beginning)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""

    talk(conversation)


def test_an_answer_that_nobody_takes_is_dropped_and_harms_nobody(talk, monkeypatch):
    monkeypatch.setattr(http_server, "STALL_S", 0.3)
    monkeypatch.setattr(http_server, "WATCH_EVERY_S", 0.05)
    ended = []

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        is_large = scope["path"] == "/large"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        for _ in range(200 if is_large else 1):
            await send({"type": "http.response.body", "body": bytes(1 << 18), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        ended.append(scope["path"])

    async def conversation(connect):
        _, sleeper = await connect()
        sleeper.transport.pause_reading()
        sleeper.write(get("/large"))
        reader, writer = await connect()
        writer.write(get("/small"))
        assert len(await reader.read()) > 1 << 18
        while "/large" not in ended:  # it gets on only when the connection is gone
            await asyncio.sleep(0.05)
        sleeper.close()

    talk(conversation, app)
    assert ended == ["/small", "/large"]


def test_a_taken_port_is_named(service):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert url_of(taken) == f"http://127.0.0.1:{port}"
        with pytest.raises(OSError, match=rf"cannot listen on 127.0.0.1, port {port}: .* --port 0 takes a free one"):
            listen("127.0.0.1", port)


def test_an_unknown_host_is_named():
    with pytest.raises(OSError, match=r"cannot listen on 'no\.such\.host\.invalid'"):
        listen("no.such.host.invalid", 0)


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
def test_addresses_of_version_6_are_bracketed():
    try:
        listening = listen("::1", 0)
    except OSError:
        pytest.skip("IPv6 is off")
    with listening:
        assert url_of(listening) == f"http://[::1]:{listening.getsockname()[1]}"
