"""Target onnx: files of every option compute what PyTorch does, int8 and fp16 nearly, and weights are stored once."""

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.testing import assert_allclose

from mobile_sam import Prompt, read_image
from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.prompts import PromptBatch
from mobile_sam.core.weights import read_safetensors_header
from mobile_sam.engines.pytorch import TorchEngine
from mobile_sam.export.calibration import encoder_feeds
from mobile_sam.export.fp16_onnx import to_mixed_precision
from mobile_sam.export.modules import DecoderGraph, EncoderGraph, JointGraph
from mobile_sam.export.onnx_files import traced_graphs
from mobile_sam.export.quantize_onnx import (
    collect_ranges,
    groups_of,
    groups_to_keep,
    measure_groups,
    quantize,
    quantize_graphs,
    with_biases_in_products,
)
from mobile_sam.export.runner import EngineRunner
from mobile_sam.export.target import ExportOptions
from mobile_sam.export.targets import onnx as target

SIDE = 256  # of tiny_sam
BLOCKS, PARTS = ((1, 0), (2, 0), (2, 1), (3, 0)), ("attn", "mlp")


def written(sam, folder, **options):
    folder.mkdir(exist_ok=True)
    return target.write(sam, ExportOptions(**options), folder)


def run(path_or_graph, *inputs):
    is_graph = isinstance(path_or_graph, onnx.ModelProto)
    source = path_or_graph.SerializeToString() if is_graph else str(path_or_graph)
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip([one.name for one in session.get_inputs()], inputs, strict=True)))


def signature(path):
    """Name, type and shape of each input."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return {one.name: (one.type, one.shape) for one in session.get_inputs()}


def prompts_of(num_prompts, num_points, side=SIDE, seed=0):
    rng = np.random.default_rng(seed)
    coords_xy = rng.uniform(0, side, (num_prompts, num_points, 2)).astype(np.float32)
    labels = rng.choice([1, 0, -1, -10], (num_prompts, num_points)).astype(np.float32)
    labels[:, 0] = 1
    return coords_xy, labels


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def in_torch(module, *inputs):
    with torch.no_grad():
        found = module(*map(torch.from_numpy, inputs))
    return [one.numpy() for one in (found if isinstance(found, tuple) else (found,))]


@pytest.fixture(scope="module")
def folder(tiny_sam, tmp_path_factory):
    """What is written without options."""
    path = tmp_path_factory.mktemp("onnx")
    written(tiny_sam, path)
    return path


def test_without_options_it_is_a_model_folder_with_each_weight_once(tiny_sam, folder, tmp_path):
    told = written(tiny_sam, tmp_path / "again")
    assert told.runtime == "model_folder"
    assert told.graphs == {"encoder": "encoder.onnx", "decoder": "decoder.onnx"}
    assert sorted(path.name for path in folder.iterdir()) == ["decoder.onnx", "encoder.onnx", "weights.safetensors"]
    keys = set(read_safetensors_header(folder / "weights.safetensors")[0])
    for name in told.graphs.values():
        graph = onnx.load(folder / name, load_external_data=False).graph
        weights = [tensor for tensor in graph.initializer if tensor.name in keys]
        assert weights
        assert all(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in weights)


def test_a_model_folder_runs_as_pytorch_does(tiny_sam, folder, examples):
    image = read_image(examples / "chelsea.png")
    runners = [target.open_runner(folder, num_threads=1), EngineRunner(TorchEngine(tiny_sam))]
    ours, theirs = [(one.encode(image), one.decode(Prompt.of([[200, 100]]))) for one in runners]
    assert_allclose(ours[0], theirs[0], atol=1e-4)
    assert_allclose(ours[1].masks, theirs[1].masks, atol=1e-3)


@pytest.mark.parametrize("input_hw", [None, (160, 256), (256, 96)])
@pytest.mark.parametrize("preprocess", [False, True])
def test_an_encoder_takes_the_input_that_was_asked_for(tiny_sam, tmp_path, input_hw, preprocess):
    h, w = input_hw or (SIDE, SIDE)
    told = written(tiny_sam, tmp_path, input_hw=input_hw, preprocess=preprocess, num_points=2)
    path = tmp_path / told.graphs["encoder"]
    image = {"image": ("tensor(uint8)", [h, w, 3]), "valid_hw": ("tensor(float)", [2])}
    assert signature(path) == (image if preprocess else {"image": ("tensor(float)", [1, 3, h, w])})
    (feed,) = encoder_feeds(tiny_sam, (), input_hw, preprocess, max_views=1)
    (features,) = run(path, *feed)
    assert features.shape == (1, 256, SIDE // 16, SIDE // 16)
    assert_allclose(features, in_torch(EncoderGraph(tiny_sam, input_hw, preprocess), *feed)[0], atol=1e-4)


@pytest.mark.parametrize(("num_prompts", "num_points"), [(None, 3), (4, None), (1, 6)])
def test_a_decoder_has_the_numbers_that_are_fixed_and_takes_any_of_the_others(
    tiny_sam, tmp_path, num_prompts, num_points
):
    told = written(tiny_sam, tmp_path, num_prompts=num_prompts, num_points=num_points)
    assert (told.runtime, told.num_prompts, told.num_points) == ("onnxruntime", num_prompts, num_points)
    path = tmp_path / "decoder.onnx"
    shape = signature(path)["point_coords"][1]
    assert shape == [num_prompts or "P", num_points or "N", 2]
    features = np.random.default_rng(0).normal(0, 0.1, (1, 256, 16, 16)).astype(np.float32)
    mask = np.random.default_rng(1).normal(0, 5, (1, 1, 64, 64)).astype(np.float32)
    for P, N, has_mask in [(1, 1, 0), (3, 5, 1)]:
        feed = [features, *prompts_of(num_prompts or P, num_points or N), mask, np.array([has_mask], np.float32)]
        logits, iou = run(path, *feed)
        assert logits.shape == (num_prompts or P, 4, 64, 64)
        for ours, theirs in zip((logits, iou), in_torch(DecoderGraph(tiny_sam), *feed), strict=True):
            assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_joint_graph_goes_from_the_picture_to_the_masks(tiny_sam, tmp_path, precision):
    told = written(tiny_sam, tmp_path, precision=precision, joint=True, preprocess=True)
    assert told.graphs["joint"] == "joint.onnx"
    joint = JointGraph(EncoderGraph(tiny_sam, None, True), DecoderGraph(tiny_sam))
    (feed,) = encoder_feeds(tiny_sam, (), None, True, max_views=1)
    feed = (*feed, *prompts_of(3, 2))
    found, expected = run(tmp_path / "joint.onnx", *feed), in_torch(joint, *feed)
    assert found[0].shape == (3, 4, 64, 64)
    allowed = {"fp32": 1e-4, "fp16": 0.02, "int8": 0.3}[precision]
    assert max(relative_error(*pair) for pair in zip(found, expected, strict=True)) < allowed
    parts = run(tmp_path / "decoder.onnx", *run(tmp_path / "encoder.onnx", *feed[:2]), *feed[2:], *no_mask())
    for whole, part in zip(found, parts, strict=True):
        assert relative_error(whole, part) < 0.05 * allowed + 1e-4


def no_mask():
    return np.zeros((1, 1, 64, 64), np.float32), np.zeros(1, np.float32)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_files_hold_their_weights_and_float32_at_the_border(tiny_sam, tmp_path, precision):
    told = written(tiny_sam, tmp_path, precision=precision, num_prompts=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(told.graphs.values())
    for name in told.graphs.values():
        graph = onnx.load(tmp_path / name, load_external_data=False)
        onnx.checker.check_model(graph, full_check=True)
        assert all(tensor.data_location != onnx.TensorProto.EXTERNAL for tensor in graph.graph.initializer)
        border = [*graph.graph.input, *graph.graph.output]
        assert {value.type.tensor_type.elem_type for value in border} == {onnx.TensorProto.FLOAT}
        assert not [node for node in graph.graph.node if node.op_type == "BatchNormalization"]


def test_exporting_leaves_the_model_in_eval_mode(tiny_sam, tmp_path):
    written(tiny_sam, tmp_path, joint=True)
    assert [name for name, module in tiny_sam.named_modules() if module.training] == []


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_an_older_opset_computes_the_same(tiny_sam, tmp_path, opset):
    written(tiny_sam, tmp_path, opset=opset)
    graph = onnx.load(tmp_path / "encoder.onnx")
    assert [entry.version for entry in graph.opset_import if not entry.domain] == [opset]
    (feed,) = encoder_feeds(tiny_sam, max_views=1)
    assert_allclose(run(graph, *feed)[0], in_torch(EncoderGraph(tiny_sam), *feed)[0], atol=1e-4)


@pytest.mark.parametrize("opset", [12, 21])
def test_an_opset_that_cannot_be_is_refused(tiny_sam, tmp_path, opset):
    with pytest.raises(ValueError, match=rf"opset must be 13 to 20, got {opset}"):
        written(tiny_sam, tmp_path, opset=opset)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opset", [13, 20])
def test_fp16_files_are_half_as_large_and_norms_and_softmax_take_float32(tiny_sam, opset):
    for graph in traced_graphs(tiny_sam, ExportOptions(opset=opset)).values():
        mixed = to_mixed_precision(graph)
        weights_bytes = sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in graph.graph.initializer)
        assert mixed.ByteSize() < graph.ByteSize() - 0.4 * weights_bytes
        inferred = onnx.shape_inference.infer_shapes(mixed)
        dtypes = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
        sensitive = [
            one for one in inferred.graph.node if one.op_type in ("LayerNormalization", "ReduceMean", "Softmax")
        ]
        assert sensitive
        assert {dtypes[node.input[0]] for node in sensitive} == {onnx.TensorProto.FLOAT}
        convolutions = [node for node in inferred.graph.node if node.op_type == "Conv"]
        assert {dtypes[node.output[0]] for node in convolutions} == {onnx.TensorProto.FLOAT16}


def test_converting_leaves_the_graph_as_it_was(tiny_sam):
    graph = traced_graphs(tiny_sam, ExportOptions())["decoder"]
    before = graph.SerializeToString(deterministic=True)
    to_mixed_precision(graph)
    assert graph.SerializeToString(deterministic=True) == before


@pytest.fixture(scope="module")
def calibrated(tiny_sam):
    """The small encoder, its ranges, and the views that gave them."""
    graph = with_biases_in_products(traced_graphs(tiny_sam, ExportOptions())["encoder"])
    feeds = [{"image": image} for (image,) in encoder_feeds(tiny_sam, max_views=6)]
    return graph, collect_ranges(graph, feeds), feeds


def test_what_is_quantized_is_what_has_weights_and_only_in_the_groups_asked_for(calibrated):
    graph, ranges, _ = calibrated
    groups = groups_of(graph)
    assert list(groups) == [f"layers.{stage}/blocks.{block}/{part}" for stage, block in BLOCKS for part in PARTS]
    chosen = ["layers.1/blocks.0/mlp", "layers.3/blocks.0/attn"]
    quantized = quantize(graph, ranges, chosen)
    makers = {name: node.op_type for node in quantized.graph.node for name in node.output}
    is_quantized = {
        node.name
        for node in quantized.graph.node
        if node.op_type in ("Conv", "MatMul", "Gemm") and makers.get(node.input[1]) == "DequantizeLinear"
    }
    assert is_quantized == {name for group in chosen for name in groups[group]}


def test_weights_are_int8_per_channel_and_activations_uint8(calibrated):
    graph, ranges, _ = calibrated
    quantized = quantize(graph, ranges, groups_of(graph))
    weights = {tensor.name: tensor for tensor in quantized.graph.initializer}
    of_weights = [
        node for node in quantized.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in weights
    ]
    kernels = [node for node in of_weights if weights[node.input[0]].data_type == onnx.TensorProto.INT8]
    assert len(kernels) == sum(map(len, groups_of(graph).values()))
    assert all(len(weights[node.input[1]].dims) == 1 for node in kernels)
    activations = [node for node in quantized.graph.node if node.op_type == "QuantizeLinear"]
    assert {weights[node.input[2]].data_type for node in activations} == {onnx.TensorProto.UINT8}


def test_quantizing_nothing_changes_nothing(calibrated):
    graph, ranges, feeds = calibrated
    assert_allclose(run(quantize(graph, ranges, ()), feeds[0]["image"])[0], run(graph, feeds[0]["image"])[0])


def test_the_search_tells_which_group_it_damages_most(calibrated):
    """An activation that dwarfs the others takes their steps away, which only the error of its group shows."""
    graph, _, feeds = calibrated
    damaged = onnx.ModelProto()
    damaged.CopyFrom(graph)
    (norm,) = [one for one in damaged.graph.node if one.name.endswith("layers.2/blocks.0/mlp/norm/LayerNormalization")]
    (tensor,) = [one for one in damaged.graph.initializer if one.name == norm.input[1]]
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0] = 1000
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    errors = measure_groups(damaged, collect_ranges(damaged, feeds[:2]), feeds[:1])
    assert list(errors) == list(groups_of(graph))
    assert groups_to_keep(errors, max(errors.values()) * 0.99)[0] == "layers.2/blocks.0/mlp"


@pytest.mark.parametrize(
    ("budget", "kept"),
    [(0.6, ()), (0.51, ()), (0.5, ("b",)), (0.32, ("b",)), (0.2, ("b", "a")), (0.0, ("b", "a", "c"))],
)
def test_the_worst_groups_stay_until_the_rest_keeps_to_the_budget(budget, kept):
    assert groups_to_keep({"a": 0.3, "b": 0.4, "c": 0.1}, budget) == kept  # all: 0.51, without b: 0.32, c alone: 0.1


def test_a_model_without_a_list_of_its_own_is_searched_and_the_report_says_so(tiny_sam):
    graphs = traced_graphs(tiny_sam, ExportOptions())
    groups = [f"layers.{stage}/blocks.{block}/{part}" for stage, block in BLOCKS for part in PARTS]
    decoder = graphs["decoder"].SerializeToString(deterministic=True)
    facts = quantize_graphs(graphs, tiny_sam, ExportOptions())
    assert list(facts["embedding_error_by_group"]) == groups
    assert set(facts["kept_in_fp32"]) <= set(groups)
    assert graphs["decoder"].SerializeToString(deterministic=True) == decoder


@pytest.fixture(scope="module")
def real(sam, examples):
    """The bundled weights in fp16 and int8 beside PyTorch, on a picture upside down, as none is in the calibration."""
    runners = {"fp32": EngineRunner(TorchEngine(sam))}
    image = np.ascontiguousarray(read_image(examples / "rocket.jpg")[::-1])
    features = {}
    for precision in ("fp16", "int8"):
        options = ExportOptions(precision=precision)
        graphs = {"encoder": traced_graphs(sam, options)["encoder"]}
        if precision == "fp16":
            graphs["encoder"] = to_mixed_precision(graphs["encoder"])
        else:
            quantize_graphs(graphs, sam, options, max_views=6)
        model_input = runners["fp32"].engine.normalise_and_pad(LongSideResize(image.shape[:2]).resize_image(image))
        (features[precision],) = run(graphs["encoder"], model_input[None])
    return runners["fp32"], image, features


@pytest.mark.parametrize(("precision", "error", "least_iou"), [("fp16", 0.004, 0.995), ("int8", 0.07, 0.95)])
def test_the_bundled_weights_keep_to_their_masks(real, precision, error, least_iou):
    runner, image, features = real
    expected = runner.encode(image)
    assert 0 < relative_error(features[precision], expected) < error
    engine, embedding = runner.engine, runner.embedding
    batch = PromptBatch.from_prompts([Prompt.of(box=[250, 60, 390, 400]), Prompt.of([[320, 200]])], embedding.resize)
    masks = [
        engine.decode(one, batch, (0,)).low_res_logits > 0
        for one in (embedding, dataclasses.replace(embedding, features=features[precision]))
    ]
    assert np.count_nonzero(masks[0] & masks[1]) / np.count_nonzero(masks[0] | masks[1]) > least_iou
