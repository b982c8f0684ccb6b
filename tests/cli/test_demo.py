import http.client
import re
import signal
import socket
import subprocess
import sys
import webbrowser

import pytest

from mobile_sam.core.weights import bundled_folder
from mobile_sam.serve import page_files
from mobile_sam.serve.page_files import Page

# The page itself is not needed: any will do.
RUN = """
import signal, sys
from pathlib import Path
from mobile_sam.core.weights import bundled_folder
from mobile_sam.serve import page_files
page = page_files.Page(Path(sys.argv[1]), bundled_folder())
page_files.open_page = lambda: page
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored
sys.argv[1:] = ["demo", *sys.argv[2:]]
from mobile_sam.cli.main import run
run()
"""


@pytest.fixture
def built(tmp_path):
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "index.html").write_text("<p>page</p>")
    return folder


@pytest.fixture
def demo(cli, built, monkeypatch):
    """Run `mobile-sam demo ...` in this process on a small page."""
    page = Page(built, bundled_folder())
    monkeypatch.setattr(page_files, "open_page", lambda: page)
    return lambda *arguments: cli("demo", *arguments)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_served_until_it_is_stopped(built, stop):
    command = [sys.executable, "-c", RUN, str(built), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        address = re.search(r"http://(127\.0\.0\.1:\d+)/", process.stdout.readline())
        connection = http.client.HTTPConnection(address.group(1), timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"<p>page</p>"
        process.send_signal(stop)  # while the connection is open
        out, err = process.communicate(timeout=10)
        connection.close()
    assert (process.returncode, err) == (0, "")
    assert "stopped" in out


@pytest.mark.parametrize(("options", "opened"), [((), True), (("--no-browser",), False)])
def test_the_browser_is_opened_unless_told_not_to(demo, monkeypatch, options, opened):
    urls = []
    monkeypatch.setattr(webbrowser, "open", urls.append)

    def interrupted(self):
        while opened and not urls:  # opened by another thread
            pass
        raise KeyboardInterrupt

    monkeypatch.setattr("mobile_sam.serve.page_server.PageServer.serve_forever", interrupted)
    outcome = demo("--port", 0, *options)
    assert outcome.exit_code == 0
    (url,) = re.findall(r"http://\S+", outcome.out)
    assert urls == ([url] if opened else [])


def test_a_port_in_use_is_one_clear_line(demo):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = demo("--port", port, "--no-browser")
    assert outcome.exit_code == 2
    assert outcome.err == (
        f"mobile-sam: error: port {port} is taken on 127.0.0.1; "
        "choose another with --port, or --port 0 for any that is free\n"
    )


def test_save_writes_the_page_and_prints_its_sizes(demo, tmp_path):
    outcome = demo("--save", tmp_path / "site")
    assert outcome.exit_code == 0
    assert (tmp_path / "site" / "index.html").read_text() == "<p>page</p>"
    models_mb = sum((bundled_folder() / name).stat().st_size for name in page_files.MODEL_FILES) / 1e6
    assert re.search(rf"^models +{models_mb:.2f} MB$", outcome.out, re.MULTILINE)


def test_save_refuses_a_folder_that_is_not_empty(demo, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("ten years")
    outcome = demo("--save", tmp_path / "mine")
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert "not an empty folder" in outcome.err


@pytest.mark.parametrize("options", [("--port", "8000"), ("--no-browser",)])
def test_save_and_serving_exclude_each_other(demo, tmp_path, options):
    outcome = demo("--save", tmp_path / "site", *options)
    assert outcome.exit_code == 2
    assert "--save writes files and serves nothing" in outcome.err


def test_without_a_built_page_it_says_how_to_build_it(cli, monkeypatch, tmp_path):
    monkeypatch.setattr(page_files, "open_page", lambda: Page(tmp_path, bundled_folder()))
    outcome = cli("demo", "--no-browser")
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert "make web" in outcome.err
