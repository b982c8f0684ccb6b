import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from mobile_sam.cli import main
from mobile_sam.serve.settings import ServeSettings

RUN = "from mobile_sam.cli.main import run; run()"
PATIENCE_S = 60
SECOND_SIGNAL = 130


@pytest.fixture
def start():
    """Start `mobile-sam serve`, and return the process and its address."""
    started = []

    def run(*arguments, **environment):
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, "serve", "--port", "0", "--engine", "onnxruntime", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )  # fmt: skip
        started.append(process)
        line = process.stdout.readline()
        found = re.search(r"http://[\d.]+:\d+", line)
        assert found, line + process.stderr.read()
        return process, found[0], line

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ask(url, body=None, **headers):
    request = urllib.request.Request(url, data=body, headers=headers)
    return urllib.request.urlopen(request, timeout=PATIENCE_S)


def begin_everything(url, examples, points_per_side):
    """Begin a search that takes a while, and return the answer when its first line is there."""
    picture = (examples / "chelsea.png").read_bytes()
    embedded = json.load(ask(f"{url}/v1/embeddings", picture, **{"Content-Type": "image/png"}))
    asked = {"image": embedded["id"], "settings": {"points_per_side": points_per_side}}
    answer = ask(f"{url}/v1/everything", json.dumps(asked).encode(), **{"Content-Type": "application/json"})
    assert json.loads(answer.readline())["event"] == "progress"
    return answer


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_what_was_taken_is_finished_before_the_server_ends(start, examples, first):
    process, url, line = start()
    assert "engine onnxruntime" in line
    answer = begin_everything(url, examples, 6)
    process.send_signal(first)
    *_, last = answer.read().splitlines()
    assert json.loads(last)["event"] == "result"
    assert process.wait(PATIENCE_S) == 0
    with pytest.raises(urllib.error.URLError):
        ask(f"{url}/healthz")
    log = process.stderr.read()
    assert "POST /v1/everything 200" in log
    assert "Traceback" not in log


def test_a_second_signal_ends_it_at_once(start, examples):
    process, url, _ = start()
    answer = begin_everything(url, examples, 64)
    process.send_signal(signal.SIGTERM)
    answer.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == SECOND_SIGNAL


def test_work_that_takes_longer_than_the_grace_is_cut_off(start, examples):
    process, url, _ = start("--shutdown", "1")
    answer = begin_everything(url, examples, 64)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
    assert process.wait(PATIENCE_S) == 0


def test_the_token_comes_from_the_environment(start):
    _, url, _ = start(MOBILE_SAM_TOKEN="s3cret")
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(f"{url}/v1/models")
    assert refused.value.code == 401
    assert json.load(ask(f"{url}/v1/models", Authorization="Bearer s3cret"))["models"][0]["engine"] == "onnxruntime"


def test_an_address_that_others_reach_takes_a_token(cli):
    outcome = cli("serve", "--host", "0.0.0.0")
    assert outcome.exit_code == 2
    assert "--token" in outcome.err
    assert "MOBILE_SAM_TOKEN" in outcome.err


def test_a_taken_port_ends_in_one_clear_line(cli):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = cli("serve", "--port", port)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert re.fullmatch(rf"mobile-sam: error: cannot listen on 127.0.0.1, port {port}: .*\n", outcome.err)


@pytest.mark.parametrize("name", ["fastapi", "uvicorn", "python_multipart", "prometheus_client"])
def test_a_missing_library_names_the_extra(cli, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    outcome = cli("serve")
    assert outcome.exit_code == 2
    assert outcome.err == f"mobile-sam: error: mobile-sam serve needs {name}; run: pip install 'mobile-sam[serve]'\n"


@pytest.mark.parametrize(
    ("option", "what"),
    [
        (("--workers", "0"), "workers"),
        (("--timeout", "-1"), "timeout_s"),
        (("--max-body", "0"), "max_body_bytes"),
        (("--cache", "1"), "cache_bytes"),
        (("--token", "two words"), "token"),
    ],
)
def test_wrong_options_are_named(cli, option, what):
    outcome = cli("serve", *option)
    assert outcome.exit_code == 2
    assert what in outcome.err


def test_options_left_out_are_the_defaults_of_the_settings(monkeypatch):
    taken = []
    monkeypatch.setattr("mobile_sam.cli.serve._run", taken.append)
    monkeypatch.delenv("MOBILE_SAM_TOKEN", raising=False)
    main.app(["serve"], standalone_mode=False)
    assert taken == [ServeSettings()]
