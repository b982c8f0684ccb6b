"""Training on a GPU: `pytest tests/distill/test_on_a_gpu.py` on a machine with one; skipped elsewhere.

The bounds are estimates until the first such run.
"""

import pytest
import torch

from mobile_sam.distill.run_log import read_log
from mobile_sam.distill.train import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def losses_of(folder):
    return [line["train/loss"] for line in read_log(folder / "log.jsonl") if "train/loss" in line]


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({}, 1e-2),
        ({"compile": True}, 1e-2),
        ({"precision": "bf16"}, 0.1),
        ({"num_workers": 2}, 1e-2),
        ({"objective": "semi-coupled"}, 1e-2),
        ({"objective": "coupled"}, 1e-2),
        ({"objective": "prompted"}, 1e-2),
    ],
    ids=lambda value: "-".join(map(str, value.values())) or "decoupled" if isinstance(value, dict) else "",
)
def test_the_first_losses_are_those_of_the_cpu(tiny, tmp_path, changes, tolerance):
    on_the_cpu = {name: value for name, value in changes.items() if name == "objective"}
    train(tiny(max_steps=3, **on_the_cpu), tmp_path / "cpu")
    train(tiny(max_steps=3, device="cuda", **changes), tmp_path / "cuda")
    assert losses_of(tmp_path / "cuda") == pytest.approx(losses_of(tmp_path / "cpu"), rel=tolerance)


def test_a_run_goes_on_with_what_it_had(tiny, tmp_path):
    train(tiny(device="cuda"), tmp_path / "whole")
    stopped = RuntimeError("stopped")

    def stop(step, *_):
        if step == 5:
            raise stopped

    with pytest.raises(RuntimeError, match="stopped"):
        train(tiny(device="cuda"), tmp_path / "resumed", tell=stop)
    train(tiny(device="cuda"), tmp_path / "resumed")
    assert losses_of(tmp_path / "resumed") == pytest.approx(losses_of(tmp_path / "whole"), rel=1e-3)
