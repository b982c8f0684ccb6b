"""One process; what several exchange is tested in test_ddp.py."""

import signal

import pytest
import torch

from mobile_sam.distill.processes import Processes, joined_processes, leave_signals_to_the_parent


def test_a_process_alone_is_the_first_and_only_one(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with joined_processes("cpu") as processes:
        assert processes == Processes(0, 1, torch.device("cpu"))
        assert processes.is_first
        assert processes.mean([0.1, 5.0]) == [0.1, 5.0]
        processes.wait()
    assert not torch.distributed.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="takes the GPU")
def test_without_a_gpu_the_cpu_is_taken():
    with joined_processes("") as processes:
        assert processes.device == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:77", "cpu:x"])
def test_a_device_that_is_not_here_is_named(name):
    with (
        pytest.raises(ValueError, match=rf"torch has no device '{name}' here \(.*\); leave it out"),
        joined_processes(name),
    ):
        pass


def test_readers_outlive_ctrl_c():
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        leave_signals_to_the_parent(0)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
