"""The same page against `mobile-sam serve`: the model runs there, and the page says that pictures are sent."""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from time import monotonic, sleep

import numpy as np
import pytest

TOKEN = "page-test-token"
RUN = "import sys; sys.argv[1:] = ['serve', *sys.argv[1:]]; from mobile_sam.cli.main import run; run()"
START_S = 60


@pytest.fixture(scope="module")
def server_url(free_port, tmp_path_factory):
    """A server in a process of its own, which wants a token."""
    url = f"http://127.0.0.1:{free_port}/"
    command = [sys.executable, "-c", RUN, "--port", str(free_port), "--engine", "onnxruntime"]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("w") as output:
        environment = {**os.environ, "MOBILE_SAM_TOKEN": TOKEN}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    deadline = monotonic() + START_S
    while not _is_ready(url):
        assert process.poll() is None, log.read_text()
        assert monotonic() < deadline, log.read_text()
        sleep(0.1)
    yield url
    process.terminate()
    process.wait(timeout=60)


def _is_ready(url):
    try:
        with urllib.request.urlopen(f"{url}readyz", timeout=10) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@pytest.fixture(scope="module")
def served(new_visit, server_url):
    """The page as that server gives it, told to use the server."""
    visit = new_visit(server_url, waits=False)
    visit.tab.goto(server_url)
    visit.tab.click("#settings")
    visit.tab.check("#where-server")
    visit.tab.click("#this-server")
    visit.tab.fill("#server-token", TOKEN)
    visit.tab.click("#settings-form [type=submit]")
    visit.tab.wait_for_function("() => window.mobileSam.state().runtime?.where === 'server'")
    return visit


def test_the_page_says_where_pictures_go(served, server_url):
    host = re.search(r"//(.*)/", server_url).group(1)
    assert served.tab.inner_text("#privacy-text") == f"Pictures are sent to {host}."
    assert "Nothing leaves" not in served.tab.inner_text("#privacy")


def test_a_box_alone_gives_a_mask(served, cat):
    served.open(cat)
    served.drag_box(100, 40, 350, 280)
    assert served.state()["objects"][0]["areaPx"] > 1000


def test_masks_are_those_of_the_python_predictor(served, onnx_predictor, cat):
    onnx_predictor.set_image(cat)
    served.open(cat)
    served.drag_box(100, 40, 350, 280)
    served.click(225, 160)
    prompt = served.state()["objects"][0]
    box = [prompt["box"][side] for side in ("x1", "y1", "x2", "y2")]
    (click,) = prompt["clicks"]
    masks, scores, _ = onnx_predictor.predict([[click["x"], click["y"]]], [1], box, multimask_output=False)
    assert np.count_nonzero(served.mask() & masks[0]) / np.count_nonzero(served.mask() | masks[0]) >= 0.99
    assert prompt["score"] == pytest.approx(scores[0], abs=0.01)


def test_everything_streams_from_the_server(served, cat):
    served.open(cat)
    served.tab.select_option("#points-per-side", "8")
    served.press("#everything")
    assert served.state()["numFound"] > 3
    served.tab.click("#export")
    with served.tab.expect_download() as download:
        served.tab.click("#export-coco")
    served.tab.keyboard.press("Escape")
    annotations = json.loads(download.value.path().read_text(encoding="utf-8"))["annotations"]
    assert len(annotations) == served.state()["numFound"]


def test_a_wrong_token_is_said_to_be_wrong(new_visit, server_url):
    visit = new_visit(server_url, waits=False)
    visit.tab.goto(server_url)
    visit.tab.click("#settings")
    visit.tab.check("#where-server")
    visit.tab.click("#this-server")
    visit.tab.fill("#server-token", "guess")
    visit.tab.click("#settings-form [type=submit]")
    visit.tab.wait_for_selector("html[data-model=failed]")
    assert "token" in visit.tab.inner_text("#status").lower()
    assert visit.tab.is_visible("#retry")


@pytest.mark.parametrize(
    ("address", "said"),
    [("nonsense", "whole address"), ("http://example.org/", "https only"), ("ftp://a.b/", "https only")],
)
def test_addresses_that_would_send_pictures_in_the_open_are_refused(shared_visit, address, said):
    tab = shared_visit.tab
    tab.bring_to_front()
    tab.click("#settings")
    tab.check("#where-server")
    tab.fill("#server-url", address)
    tab.click("#settings-form [type=submit]")
    assert said in tab.inner_text("#settings-problem")
    tab.check("#where-local")
    tab.keyboard.press("Escape")
    assert tab.inner_text("#privacy-text") == "Nothing leaves this device."
