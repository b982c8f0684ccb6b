import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from mobile_sam.bulk import stopping
from mobile_sam.bulk.stopping import Stop

unix_only = pytest.mark.skipif(os.name == "nt", reason="os.kill ends processes there")


def test_nothing_is_asked_at_first():
    stop = Stop()
    assert not stop.is_asked
    assert not stop.is_urgent
    stop.ask()
    stop.ask()
    assert stop.is_asked
    assert not stop.is_urgent


@unix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_interrupts(number, monkeypatch):
    stop, calls, clock = Stop(), [], SimpleNamespace(now=7.0)
    monkeypatch.setattr(stopping, "time", SimpleNamespace(monotonic=lambda: clock.now))
    with stop.listening(lambda: calls.append("asked")):
        os.kill(os.getpid(), number)
        assert stop.is_asked
        assert not stop.is_urgent
        os.kill(os.getpid(), number)  # the same one, sent to the process and to its group
        assert not stop.is_urgent
        clock.now += 2 * stopping.ONE_SIGNAL_S
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert stop.is_urgent
    assert calls == ["asked"]


@unix_only
def test_handlers_are_put_back_also_when_interrupted():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    stop = Stop()
    stop.ask()
    with pytest.raises(KeyboardInterrupt), stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_in_another_thread_listening_does_nothing():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def listen() -> None:
        with Stop().listening():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [before]


@unix_only
def test_signals_that_the_shell_has_ignored_are_taken_and_ignored_again_afterwards():
    program = (
        "import os, signal; from mobile_sam.bulk.stopping import Stop; stop = Stop()\n"
        "assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN\n"
        "with stop.listening(): os.kill(os.getpid(), signal.SIGINT)\n"
        "assert stop.is_asked and signal.getsignal(signal.SIGINT) is signal.SIG_IGN"
    )
    ignored = "import os, signal, sys; signal.signal(2, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-c", ignored, sys.executable, "-c", program]
    assert subprocess.run(command, timeout=20, check=False).returncode == 0
