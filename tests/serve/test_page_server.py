import http.client
import socket
import threading
from contextlib import contextmanager

import pytest

from mobile_sam.core.weights import bundled_folder
from mobile_sam.serve import page_server
from mobile_sam.serve.page_files import HEADERS, Page
from mobile_sam.serve.page_server import PageServer, open_server


@contextmanager
def running(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    with server:
        thread.start()
        yield server
        server.shutdown()
    thread.join()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<p>page</p>")
    (folder / "assets").mkdir()
    (folder / "assets" / "with space-1.js").write_text("1;")
    return Page(folder, bundled_folder())


@pytest.fixture(scope="module")
def server(page):
    with running(PageServer(page)) as started:
        yield started


@pytest.fixture
def ask(server):
    """Send one request over a new connection, the path as it is."""

    def send(method, path, headers=None, body=None):
        connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    return send


def test_the_page_is_at_the_root_with_all_its_headers(ask):
    answer, body = ask("GET", "/?example=cat")
    assert (answer.status, body) == (200, b"<p>page</p>")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS


def test_percent_encoded_names_are_found(ask):
    answer, body = ask("GET", "/assets/with%20space-1.js")
    assert (answer.status, body) == (200, b"1;")


def test_models_arrive_whole(ask):
    answer, body = ask("GET", "/models/decoder.onnx")
    assert body == (bundled_folder() / "decoder.onnx").read_bytes()
    assert answer.headers["Content-Length"] == str(len(body))


def test_head_has_the_headers_of_get_and_no_body(ask):
    head, nothing = ask("HEAD", "/models/mobile_sam.safetensors")
    assert (head.status, nothing) == (200, b"")
    assert int(head.headers["Content-Length"]) == (bundled_folder() / "mobile_sam.safetensors").stat().st_size


@pytest.mark.parametrize("asks_for", ["{etag}", '"other", {etag}'])
def test_what_a_browser_has_already_is_not_sent_again(ask, asks_for):
    first, _ = ask("GET", "/models/decoder.onnx")
    answer, body = ask("GET", "/models/decoder.onnx", {"If-None-Match": asks_for.format(etag=first.headers["ETag"])})
    assert (answer.status, body) == (304, b"")
    assert answer.headers["ETag"] == first.headers["ETag"]
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"


def test_another_etag_gets_the_file(ask):
    answer, body = ask("GET", "/", {"If-None-Match": '"1-2"'})
    assert (answer.status, body) == (200, b"<p>page</p>")


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/../page_server.py", "/%2e%2e/page_server.py", "/assets/..%2f..%2fx", "/%00", "/index.html%00.js",
     "//etc/passwd", "/etc/passwd", "/assets/", "/%ff", "/" + "a" * 5000],
)  # fmt: skip
def test_paths_that_are_not_of_the_page_get_404(ask, path):
    answer, body = ask("GET", path)
    assert (answer.status, body) == (404, b"there is no such file\n")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_sent_here(ask, method):
    answer, _ = ask(method, "/", body=b"GET / HTTP/1.1\r\n\r\n")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "["])
def test_a_name_that_another_site_points_at_this_machine_gets_nothing(ask, host):
    answer, body = ask("GET", "/", {"Host": host})
    assert answer.status == 421
    assert b"page</p>" not in body


@pytest.mark.parametrize("host", ["localhost:8642", "127.0.0.1", "[::1]:80", "LOCALHOST"])
def test_this_machine_has_several_names(ask, host):
    assert ask("GET", "/", {"Host": host})[0].status == 200


def test_one_connection_serves_many_requests(server):
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    sockets = []
    for _ in range(3):
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"<p>page</p>"
        sockets.append(connection.sock)
    connection.close()
    assert sockets[0] is not None
    assert len(set(map(id, sockets))) == 1


def test_a_browser_that_hangs_up_or_talks_nonsense_harms_nobody(server, ask, capfd):
    for sent in (
        b"GET /models/mobile_sam.safetensors HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\0\0\r\n\r\n",
    ):
        with socket.create_connection(server.server_address[:2]) as client:
            client.sendall(sent)
            client.recv(10)
    assert ask("GET", "/")[0].status == 200
    assert capfd.readouterr() == ("", "")  # quiet: what the page is asked for is no news


def test_the_url_is_where_it_listens(server):
    assert server.url == f"http://127.0.0.1:{server.server_address[1]}/"


def test_the_next_port_is_taken_when_the_usual_one_is_in_use(page, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(page_server, "DEFAULT_PORT", port)
        with open_server(page) as server:
            assert port < server.server_address[1] <= port + page_server.NEXT_PORTS


def test_a_port_asked_for_that_is_in_use_is_a_clear_error(page):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} is taken on 127.0.0.1; choose another with --port"):
            open_server(page, port)


def test_when_no_usual_port_is_free_the_error_says_which_were_tried(page, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(page_server, "DEFAULT_PORT", port)
        monkeypatch.setattr(page_server, "NEXT_PORTS", 0)
        with pytest.raises(OSError, match=f"ports {port} to {port} are taken"):
            open_server(page)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_number_that_is_no_port_is_refused(page, port):
    with pytest.raises(ValueError, match=f"got {port}"):
        open_server(page, port)
