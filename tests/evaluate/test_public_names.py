"""What `from mobile_sam.evaluate import ...` gives."""

import subprocess
import sys

import pytest

import mobile_sam.evaluate


@pytest.mark.parametrize("name", mobile_sam.evaluate.__all__)
def test_every_public_name_is_there(name):
    assert getattr(mobile_sam.evaluate, name).__name__ == name


def test_names_that_do_not_exist_are_told_from_those_that_do():
    with pytest.raises(AttributeError, match=r"no attribute 'evaluate_nothing'; it has .*evaluate_prompts"):
        _ = mobile_sam.evaluate.evaluate_nothing


def test_the_worker_that_is_timed_loads_nothing_of_the_reports():
    code = "import sys, mobile_sam.evaluate.latency_worker; print('mobile_sam.evaluate.validate' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout == "False\n"
