"""IR as a graph: inputs by position, several threads, the precision of the file, and damaged files refused."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openvino
import pytest
from numpy.testing import assert_array_equal
from openvino import opset13 as ops

from mobile_sam.core.errors import WeightsError
from mobile_sam.engines.openvino import native_precisions
from mobile_sam.engines.runtimes import open_graph


@pytest.fixture
def path(tmp_path):
    """A graph that subtracts its second input from its first, and doubles the first."""
    a, b = (ops.parameter([2], np.float32, name) for name in "ab")
    model = openvino.Model([ops.subtract(a, b), ops.multiply(a, ops.constant(np.full(2, 2, np.float32)))], [a, b])
    openvino.save_model(model, tmp_path / "graph.xml", compress_to_fp16=False)
    return tmp_path / "graph.xml"


@pytest.mark.parametrize("num_threads", [0, 1])
def test_inputs_and_outputs_keep_their_order(path, num_threads):
    run = open_graph("openvino", path, num_threads=num_threads)
    found = run([np.array([3, 5], np.float32), np.array([1, 10], np.float32)])
    assert_array_equal(found, [[2, -5], [6, 10]])


def test_answers_are_the_callers_own(path):
    run = open_graph("openvino", path)
    first, _ = run([np.array([3, 5], np.float32), np.zeros(2, np.float32)])
    run([np.zeros(2, np.float32), np.zeros(2, np.float32)])
    assert_array_equal(first, [3, 5])


def test_several_threads_get_their_own_answers(path):
    run = open_graph("openvino", path)
    with ThreadPoolExecutor(8) as pool:
        asked = [np.array([index, -index], np.float32) for index in range(200)]
        for one, (found, _) in zip(asked, pool.map(lambda x: run([x, np.ones(2, np.float32)]), asked), strict=True):
            assert_array_equal(found, one - 1)


@pytest.mark.skipif("bf16" not in native_precisions(openvino.Core()), reason="this CPU has no bf16")
def test_fp32_files_are_computed_in_fp32_and_bf16_files_in_bf16(tmp_path):
    """By itself OpenVINO would compute everything in bf16 where the CPU has it."""
    random = np.random.default_rng(0)
    weight, x = random.normal(size=(64, 64)).astype(np.float32), random.normal(size=(64, 64)).astype(np.float32)
    given = ops.parameter([64, 64], np.float32, "x")
    model = openvino.Model([ops.matmul(given, ops.constant(weight), False, False)], [given])
    openvino.save_model(model, tmp_path / "graph.xml", compress_to_fp16=False)
    errors = {}
    for precision in ("fp32", "bf16"):
        (found,) = open_graph("openvino", tmp_path / "graph.xml", precision=precision)([x])
        assert found.dtype == np.float32
        errors[precision] = np.abs(found - x.astype(float) @ weight.astype(float)).max()
    assert errors["fp32"] < 1e-4 < 1e-3 < errors["bf16"]


@pytest.mark.parametrize("content", [b"", b"no graph at all"])
def test_a_damaged_file_is_refused_with_what_to_do(path, content):
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"graph\.xml cannot be read by OpenVINO; export the model again"):
        open_graph("openvino", path)


@pytest.mark.parametrize("name", ["none.xml", "graph.bin"])
def test_a_missing_file_is_refused_likewise(path, name):
    path.with_suffix(".bin").unlink()
    with pytest.raises(WeightsError, match="cannot be read by OpenVINO"):
        open_graph("openvino", path if name == "graph.bin" else path.with_name(name))
