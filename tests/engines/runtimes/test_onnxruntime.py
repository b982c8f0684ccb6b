"""ONNX files as graphs: inputs by position, the threads asked for, and damaged files refused."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mobile_sam.core.errors import WeightsError
from mobile_sam.engines.runtimes import open_graph


@pytest.fixture
def path(tmp_path):
    """A graph that subtracts its second input from its first."""
    a, b, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "abc")
    graph = helper.make_graph([helper.make_node("Sub", ["a", "b"], ["c"])], "difference", [a, b], [c])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, tmp_path / "graph.onnx")
    return tmp_path / "graph.onnx"


@pytest.mark.parametrize("num_threads", [0, 1])
def test_inputs_are_taken_in_their_order(path, num_threads):
    run = open_graph("onnxruntime", path, num_threads=num_threads)
    (found,) = run([np.array([3, 5], np.float32), np.array([1, 10], np.float32)])
    np.testing.assert_array_equal(found, [2, -5])


def test_too_few_inputs_are_refused(path):
    with pytest.raises(ValueError, match="zip"):
        open_graph("onnxruntime", path)([np.zeros(2, np.float32)])


@pytest.mark.parametrize("content", [b"", b"no graph at all"])
def test_a_damaged_file_is_refused_with_what_to_do(path, content):
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"graph\.onnx is missing or damaged.*`mobile-sam export`"):
        open_graph("onnxruntime", path)


def test_a_missing_file_is_refused_likewise(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.onnx is missing or damaged"):
        open_graph("onnxruntime", tmp_path / "none.onnx")
