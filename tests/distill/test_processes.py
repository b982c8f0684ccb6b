"""One process; what several exchange is tested in test_ddp.py."""

import os
import signal
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mobile_sam.distill.processes import Processes, joined_processes, leave_signals_to_the_parent, told_of_dead_readers


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


def test_the_death_of_a_reader_is_told_wherever_the_main_thread_is():
    class Deadly(Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            if index == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return index

    def compute_while_it_dies():
        loader = iter(DataLoader(Deadly(), num_workers=1, multiprocessing_context="fork"))
        next(loader)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            time.sleep(0.01)

    expected = r"a process that reads .* has died \(.*\); .* Try again"
    with pytest.raises(OSError, match=expected), told_of_dead_readers("Try again"):
        compute_while_it_dies()


def test_what_a_reader_raises_is_no_death():
    class Failing(Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise RuntimeError("of its own")

    loader = DataLoader(Failing(), num_workers=1, multiprocessing_context="fork")
    with pytest.raises(RuntimeError, match="of its own"), told_of_dead_readers("Try again"):
        next(iter(loader))
