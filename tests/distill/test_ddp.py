"""Two processes under torchrun: they train as one does, and the death of one ends the run."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from numpy.testing import assert_allclose

from mobile_sam.distill.processes import Processes
from mobile_sam.distill.run_log import read_log
from mobile_sam.distill.train import train

TIMEOUT_S = 180

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available() and Path("/proc").exists()),
    reason="needs gloo, and /proc to find the processes",
)


@pytest.fixture
def start(tmp_path):
    """Start `mobile-sam distill train` in two processes."""
    script = tmp_path / "mobile_sam_command.py"
    script.write_text("from mobile_sam.cli.main import run\n\nrun()\n")

    def run(recipe, out):
        # --standalone: a meeting point on a free port of this machine
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        return subprocess.Popen(
            [*torchrun, str(script), "distill", "train", str(recipe), "--out", str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    return run


def process_of_rank(parent, rank):
    """Process id of a rank that torchrun started."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"\0RANK={rank}\0".encode() in b"\0" + Path(f"/proc/{child}/environ").read_bytes():
            return int(child)
    raise AssertionError(f"no process of rank {rank}")


def log_of(folder):
    """Its lines about steps."""
    return [line for line in read_log(folder / "log.jsonl") if "train/loss" in line]


@pytest.fixture
def config(tiny):
    # BatchNorm is frozen since each process would normalise with its own half of the batch; SyncBatchNorm, which is
    # the answer to that, needs GPUs
    return tiny(max_steps=8, batch_size=4, checkpoint_every=2, freeze_batchnorm=True, accumulate=2)


def test_a_killed_process_ends_the_run_which_goes_on_and_trains_as_one_process_does(
    config, tmp_path, start, write_recipe
):
    recipe, out = write_recipe(config.with_values({"num_workers": 1})), tmp_path / "two"
    running = start(recipe, out)
    deadline = time.monotonic() + TIMEOUT_S
    while len(log_of(out)) < 3:
        assert running.poll() is None, running.communicate()[0]
        assert time.monotonic() < deadline, "the run did not come that far"
        time.sleep(0.005)
    os.kill(process_of_rank(running.pid, 1), 9)
    printed, _ = running.communicate(timeout=TIMEOUT_S)
    assert running.returncode != 0, printed
    assert not (out / "student.safetensors").exists()

    goes_on = start(recipe, out)
    printed, _ = goes_on.communicate(timeout=TIMEOUT_S)
    assert goes_on.returncode == 0, printed

    train(config, tmp_path / "one")
    one, two = log_of(tmp_path / "one"), log_of(out)
    assert [line["step"] for line in two] == list(range(1, 9))
    for name in ("train/loss", "train/grad_norm"):
        assert_allclose([line[name] for line in two], [line[name] for line in one], rtol=1e-3, err_msg=name)
    latest = "checkpoints/step-00000008.pt"
    ours, theirs = (torch.load(folder / latest, weights_only=True)["average"] for folder in (out, tmp_path / "one"))
    for name, value in theirs.items():
        # Adam divides by the gradient's size, so that a rounding error of a tiny gradient may be a whole step of lr
        assert_allclose(ours[name], value, atol=2e-3, err_msg=name)


def test_each_process_takes_its_own_share(config, tmp_path, run_in):
    keys = []
    for rank in (0, 1):
        run = run_in(config, tmp_path / str(rank), Processes(rank, 1, torch.device("cpu")))
        run.processes = Processes(rank, 2, torch.device("cpu"))
        batches = run._batches()
        keys.append([next(batches)[0].keys for _ in range(4)])  # two steps of two parts
        run.close()
    taken = [key for share in keys for part in share for key in part]
    assert len(taken) == len(set(taken)) == 8


@pytest.mark.parametrize(("num_processes", "accumulate"), [(3, 1), (2, 4)])
def test_a_batch_that_cannot_be_shared_is_refused(tiny, tmp_path, run_in, num_processes, accumulate):
    config = tiny(batch_size=4, accumulate=accumulate)
    processes = Processes(0, num_processes, torch.device("cpu"))
    with pytest.raises(ValueError, match=rf"take a multiple of {num_processes * accumulate}"):
        run_in(config, tmp_path, processes)
