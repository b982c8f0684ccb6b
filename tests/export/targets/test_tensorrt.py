"""Target tensorrt: build.sh names layers that are there, all that must stay fp32, and shapes that the files take."""

import os
import re
import stat
import subprocess

import numpy as np
import onnx
import pytest

from mobile_sam.export.calibration import encoder_feeds
from mobile_sam.export.target import ExportOptions
from mobile_sam.export.targets import tensorrt as target


@pytest.fixture(scope="module")
def exported(tiny_sam, tmp_path_factory):
    """Write the recipe with some options, once for each."""
    folders = {}

    def write(**options):
        key = tuple(sorted(options.items()))
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("tensorrt")
            target.write(tiny_sam, ExportOptions(**options), folders[key])
        return folders[key]

    return write


@pytest.fixture
def called(tmp_path):
    """Run build.sh with a stand-in for trtexec, and return the arguments of each call."""

    def run(folder, *arguments):
        log, stand_in = tmp_path / "log", tmp_path / "trtexec"
        stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {log}\necho >> {log}\n')
        stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)
        environment = {**os.environ, "TRTEXEC": str(stand_in)}
        subprocess.run(["sh", str(folder / "build.sh"), *arguments], env=environment, check=True, timeout=30)
        return [call.splitlines() for call in log.read_text().strip().split("\n\n")]

    return run


def flags(call):
    return dict(argument.removeprefix("--").partition("=")[::2] for argument in call)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_layers_that_stay_fp32_exist_and_are_every_norm_and_softmax(exported, called, precision):
    folder = exported(precision="fp32")
    for call in called(folder, precision):
        told = flags(call)
        assert told["precisionConstraints"] == "obey"
        assert precision in told
        names = [one.removesuffix(":fp32") for one in told["layerPrecisions"].split(",")]
        nodes = {node.name: node.op_type for node in onnx.load(folder / told["onnx"]).graph.node}
        assert set(names) <= set(nodes)
        sensitive = {name for name, op in nodes.items() if op in ("LayerNormalization", "Softmax", "Sin", "Cos")}
        assert sensitive
        assert sensitive <= set(names)
        assert not {nodes[name] for name in names} & {"Conv", "MatMul", "Gemm", "Cast", "Reshape"}
        assert told["layerOutputTypes"] == told["layerPrecisions"]


def test_names_of_layers_have_no_character_that_trtexec_takes_apart(exported):
    for path in exported(precision="fp32").glob("*.onnx"):
        names = [node.name for node in onnx.load(path).graph.node]
        assert len(set(names)) == len(names)
        assert all(re.fullmatch(r"[\w./]+", name) for name in names)


def test_typed_files_need_no_list_of_layers(exported, called):
    folder = exported()  # fp16 is the default
    calls = [flags(call) for call in called(folder)]
    assert [call["onnx"] for call in calls] == ["encoder.onnx", "decoder.onnx"]
    assert all("stronglyTyped" in call and "layerPrecisions" not in call and "fp16" not in call for call in calls)
    encoder = onnx.load(folder / "encoder.onnx").graph
    halves = [tensor for tensor in encoder.initializer if tensor.data_type == onnx.TensorProto.FLOAT16]
    assert sum(np.prod(tensor.dims) for tensor in halves) > 0.9 * sum(np.prod(one.dims) for one in encoder.initializer)


def test_fp32_is_fp32_and_not_tf32(exported, called):
    assert all("noTF32" in flags(call) for call in called(exported(precision="fp32")))


def test_an_unknown_precision_is_refused_by_the_script(exported, called):
    with pytest.raises(subprocess.CalledProcessError):
        called(exported(precision="fp32"), "int8")


def test_profiles_go_from_one_point_to_many_for_the_inputs_that_are_open(exported, called):
    encoder, decoder = (flags(call) for call in called(exported()))
    assert "minShapes" not in encoder
    assert decoder["minShapes"] == "point_coords:1x1x2,point_labels:1x1"
    assert decoder["optShapes"] == "point_coords:1x2x2,point_labels:1x2"
    assert decoder["maxShapes"] == "point_coords:16x6x2,point_labels:16x6"


def test_fixed_numbers_of_prompts_and_points_need_no_profile(exported, called):
    folder = exported(num_prompts=1, num_points=4, joint=True)
    calls = [flags(call) for call in called(folder)]
    assert [call["onnx"] for call in calls] == ["encoder.onnx", "decoder.onnx", "joint.onnx"]
    assert not any("minShapes" in call for call in calls)


def test_the_files_have_an_opset_that_older_versions_read(exported):
    for path in exported().glob("*.onnx"):
        assert [entry.version for entry in onnx.load(path).opset_import if not entry.domain] == [17]


def test_pixels_are_cast_before_anything_else_is_done_to_them(exported):
    """TensorRT takes uint8 at the border only."""
    graph = onnx.load(exported(preprocess=True) / "encoder.onnx").graph
    assert [node.op_type for node in graph.node if "image" in node.input] == ["Cast"]


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_the_readme_says_what_was_not_run_and_how_to_check_it(exported, precision):
    text = (exported(precision=precision) / "README.md").read_text()
    assert "TensorRT was not\nrun here" in text
    assert f"polygraphy run encoder-{precision}.plan --trt" in text
    assert "{" not in text


def test_fp16_and_fp32_files_give_the_same_features(exported, tiny_sam):
    import onnxruntime

    (feed,) = encoder_feeds(tiny_sam, max_views=1)
    features = []
    for precision in ("fp16", "fp32"):
        session = onnxruntime.InferenceSession(exported(precision=precision) / "encoder.onnx")
        features.append(session.run(None, {"image": feed[0]})[0])
    error = np.linalg.norm(features[0] - features[1]) / np.linalg.norm(features[1])
    assert 0 < error < 0.01
