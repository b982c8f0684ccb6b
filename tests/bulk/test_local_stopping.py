"""Runs on this machine that are stopped, asked to or not: nothing in flight lost, nothing left behind."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mobile_sam.bulk.local import LocalExecutor
from mobile_sam.bulk.settings import BulkSettings
from mobile_sam.bulk.stopping import Stop

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="the fake workers die by signals"),
    pytest.mark.usefixtures("fakes"),
]
HERE = Path(__file__).parent


@pytest.fixture
def settings(tmp_path):
    return BulkSettings("embed", str(tmp_path))


def test_asked_to_stop_it_finishes_what_is_in_flight_and_begins_nothing(fakes, settings, tmp_path):
    stop, reports = Stop(), []
    for report in LocalExecutor(settings, 2, fakes.make_steady).run(fakes.batches_of(fakes.keys(400), 10), stop):
        reports.append(report)
        if len(reports) == 5:
            stop.ask()
    done, _ = fakes.outcome(reports)
    assert done == sorted(int(words[3]) for words in fakes.diary(tmp_path) if words[2] == "item")
    assert len(done) < 30
    assert not any(map(fakes.is_running, fakes.pids(tmp_path)))


def test_asked_to_stop_it_does_not_wait_for_workers_that_are_being_made(fakes, settings, tmp_path, wait_until):
    stop = Stop()

    def ask_when_both_are() -> None:
        wait_until(lambda: len(list(tmp_path.glob("starting-*"))) == 2)
        stop.ask()

    threading.Thread(target=ask_when_both_are).start()
    assert fakes.do(LocalExecutor(settings, 2, fakes.make_slowly), fakes.batches_of(fakes.keys(400), 10), stop) == []
    started = [int(path.name.partition("-")[2]) for path in tmp_path.glob("starting-*")]
    assert len(started) == 2
    assert not any(map(fakes.is_running, started))


def test_a_closed_iterator_and_an_urgent_stop_kill_the_workers_at_once(fakes, settings, tmp_path):
    class Urgent(Stop):
        is_urgent = False

    for is_closed in (True, False):
        stop = Urgent()
        batches = fakes.batches_of(fakes.keys(40, item2="hang", item12="hang", item22="hang"), 10)
        reports = LocalExecutor(settings, 2, fakes.make_fake).run(batches, stop)
        next(reports)
        assert any(map(fakes.is_running, fakes.pids(tmp_path)))
        began = time.monotonic()
        if is_closed:
            reports.close()
        else:
            stop.is_urgent = True
            with pytest.raises(KeyboardInterrupt):
                list(reports)
        assert time.monotonic() - began < 500  # items hang for a thousand seconds
        assert not any(map(fakes.is_running, fakes.pids(tmp_path)))


PROGRAM = """
import sys
from mobile_sam.bulk.local import LocalExecutor
from mobile_sam.bulk.settings import BulkSettings
from mobile_sam.bulk.stopping import Stop
import fake_workers as fakes

if __name__ == "__main__":
    stop = Stop()
    batches = fakes.batches_of([f"{i}-busy" if i % 10 == 2 else f"{i}" for i in range(1, 41)], 10)
    reports = LocalExecutor(BulkSettings("embed", sys.argv[1]), 2, fakes.make_fake).run(batches, stop)
    with stop.listening(lambda: print("stopping", flush=True)):
        for number, report in enumerate(reports):
            print("done", flush=True)
            if number == 1 and sys.argv[2] == "raise":
                raise ValueError("a mistake")
"""


def num_busy(folder: Path) -> int:
    """How many workers have begun an item that never ends."""
    diaries = [file.read_text() for file in folder.glob("*.txt")]
    return sum(re.search(r" item \d*2\n", diary) is not None for diary in diaries)


def take_signals() -> None:
    """Those that a shell ignores for jobs in the background, and nohup for all."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def program(request, fakes, tmp_path, wait_until):
    """A run in a program of its own, whose two workers are at their second items, which they never end."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), getattr(request, "param", "go on")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=take_signals,
        start_new_session=True,
    )
    try:
        assert [process.stdout.readline() for _ in range(2)] == ["done\n"] * 2
        assert "raise" in process.args or wait_until(lambda: num_busy(tmp_path) == 2)
        yield process
    finally:
        process.kill()
        for pid in filter(fakes.is_running, fakes.pids(tmp_path)):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def test_a_second_ctrl_c_ends_all_within_seconds(program, fakes, tmp_path):
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    assert program.stdout.readline() == "stopping\n"
    time.sleep(0.5)
    assert program.poll() is None, "the workers are to finish what they have"
    assert len([pid for pid in fakes.pids(tmp_path) if fakes.is_running(pid)]) == 2
    os.killpg(program.pid, signal.SIGINT)
    _, errors = program.communicate(timeout=300)
    assert "KeyboardInterrupt" in errors
    assert errors.count("Traceback") == 1, "workers have nothing to say"
    assert not any(map(fakes.is_running, fakes.pids(tmp_path)))


@pytest.mark.parametrize("program", ["raise"], indirect=True)
def test_a_program_that_fails_does_not_wait_for_its_workers(program, fakes, tmp_path):
    _, errors = program.communicate(timeout=300)  # its list of modules still holds the iterator, which nobody closed
    assert "a mistake" in errors
    assert not any(map(fakes.is_running, fakes.pids(tmp_path)))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_when_the_parent_is_killed_its_workers_end_also_while_they_compute(
    program, fakes, tmp_path, number, wait_until
):
    program.send_signal(number)
    program.wait(timeout=60)
    assert len(fakes.pids(tmp_path)) == 2
    assert wait_until(lambda: not any(map(fakes.is_running, fakes.pids(tmp_path))))
