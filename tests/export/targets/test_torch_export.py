"""Target torch-export: programs compute what the modules do, for any number of prompts, with weights stored once."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest

from mobile_sam import Prompt
from mobile_sam.core.errors import WeightsError
from mobile_sam.engines.runtimes import open_graph
from mobile_sam.export.target import FP32_BOUND, ExportOptions

RICH = ExportOptions(preprocess=True, input_hw=(192, 256), joint=True)
FIXED = ExportOptions(num_prompts=2, num_points=5)
PROMPTS = [Prompt.of(box=[20, 30, 200, 250]), Prompt.of(points=[[100, 90], [10, 10]], labels=[1, 0])]


@pytest.fixture(scope="module")
def rich(export_to, tiny_sam):
    return export_to("torch-export", tiny_sam, RICH)


@pytest.fixture(scope="module")
def fixed(export_to, tiny_sam):
    return export_to("torch-export", tiny_sam, FIXED)


@pytest.mark.parametrize("num_prompts", [1, 2])
def test_graphs_take_any_number_of_prompts_and_points(rich, tiny_sam, errors_by_role, num_prompts):
    errors = errors_by_role(rich, tiny_sam, RICH, PROMPTS[:num_prompts])
    assert sorted(errors) == ["decoder", "encoder", "joint"]
    assert max(errors.values()) < 1e-5


def test_numbers_that_are_asked_for_are_fixed(fixed, tiny_sam, errors_by_role):
    assert (fixed.manifest.num_prompts, fixed.manifest.num_points) == (2, 5)
    assert max(errors_by_role(fixed, tiny_sam, FIXED, PROMPTS).values()) < 1e-5


@pytest.mark.parametrize(("precision", "error"), [("bf16", 0.05), ("fp16", 0.01)])
def test_low_precision_is_near_and_halves_the_file(export_to, fixed, tiny_sam, errors_by_role, precision, error):
    engine = export_to("torch-export", tiny_sam, dataclasses.replace(FIXED, precision=precision))
    errors = errors_by_role(engine, tiny_sam, FIXED, PROMPTS)
    assert max(errors.values()) < error
    assert min(errors.values()) > 1e-5  # else it would be no other precision
    size, full_size = ((one.folder / "decoder.pt2").stat().st_size for one in (engine, fixed))
    assert size < 0.7 * full_size  # the rest is the program itself, and what is not multiplied


def test_the_bundled_weights_stay_within_the_bound(export_to, sam, nearness):
    embedding_error, worst_iou = nearness(export_to("torch-export", sam, ExportOptions()))
    assert embedding_error < FP32_BOUND.embedding_error
    assert worst_iou > FP32_BOUND.mask_iou_mean


def test_a_program_runs_without_this_package(fixed, tmp_path):
    code = (
        "import sys, torch; sys.modules['mobile_sam'] = None\n"
        "print(torch.export.load(sys.argv[1]).module()(torch.zeros(1, 3, 256, 256)).shape)"
    )
    command = [sys.executable, "-c", code, str(fixed.folder / "encoder.pt2")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "torch.Size([1, 256, 16, 16])\n"), ended.stderr


@pytest.mark.parametrize("content", [b"", b"no program at all"])
def test_a_damaged_file_is_refused_with_what_to_do(tmp_path, content):
    (tmp_path / "graph.pt2").write_bytes(content)
    with pytest.raises(WeightsError, match=r"graph\.pt2 is missing or damaged.*`mobile-sam export`"):
        open_graph("torch_export", tmp_path / "graph.pt2")


def test_too_few_inputs_are_refused(fixed):
    run = open_graph("torch_export", fixed.folder / "decoder.pt2")
    with pytest.raises((TypeError, ValueError), match=r"input|argument"):
        run([np.zeros((1, 256, 16, 16), np.float32)])
