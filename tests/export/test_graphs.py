"""The ONNX graphs in the wheel: traced anew they compute the same, and no weight is stored twice."""

import hashlib
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from mobile_sam import build_sam_vit_t
from mobile_sam.core.weights import bundled_folder, bundled_weights_path, read_safetensors_header
from mobile_sam.export.graphs import any_size_spec, export_graphs, refer_to_weights

GRAPHS = ("encoder.onnx", "decoder.onnx", "encoder_any.onnx")


@pytest.fixture(scope="module")
def fresh_folder(tmp_path_factory):
    """Graphs traced now, beside a copy of the weights."""
    folder = tmp_path_factory.mktemp("graphs")
    shutil.copy(bundled_weights_path(), folder)
    export_graphs(build_sam_vit_t("mobile_sam"), bundled_weights_path(), folder, with_any_size=True)
    return folder


def session(folder, name):
    return onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])


def initializers(name):
    return onnx.load(bundled_folder() / name, load_external_data=False).graph.initializer


def test_encoder_traced_anew_computes_the_same(fresh_folder):
    image = np.random.default_rng(0).standard_normal((1, 3, 1024, 1024)).astype(np.float32)
    shipped, fresh = (
        session(f, "encoder.onnx").run(None, {"image": image})[0] for f in (bundled_folder(), fresh_folder)
    )
    np.testing.assert_allclose(fresh, shipped, atol=1e-5)


@pytest.mark.parametrize("size_hw", [(64, 112), (240, 16)])
def test_encoder_of_any_size_traced_anew_computes_the_same(fresh_folder, size_hw):
    image = np.random.default_rng(0).standard_normal((2, 3, *size_hw)).astype(np.float32)
    shipped, fresh = (
        session(folder, "encoder_any.onnx").run(None, {"image": image})[0]
        for folder in (bundled_folder(), fresh_folder)
    )
    np.testing.assert_allclose(fresh, shipped, atol=1e-5)
    assert shipped.shape == (2, 256, size_hw[0] // 16, size_hw[1] // 16)


def test_openvino_runs_the_encoder_of_any_size():
    openvino = pytest.importorskip("openvino")
    path = bundled_folder() / "encoder_any.onnx"
    image = np.random.default_rng(0).standard_normal((1, 3, 48, 160)).astype(np.float32)
    expected = session(bundled_folder(), "encoder_any.onnx").run(None, {"image": image})[0]
    core = openvino.Core()
    for shape in (None, [1, 3, 48, 160]):
        model = core.read_model(path)
        if shape:
            model.reshape(shape)
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        np.testing.assert_allclose(compiled([image])[0], expected, atol=1e-4)


def test_the_encoder_of_any_size_takes_little_room():
    assert (bundled_folder() / "encoder_any.onnx").stat().st_size < 1_500_000


def test_a_network_of_one_size_has_no_graph_for_any():
    sam = build_sam_vit_t("mobile_sam")
    sam.image_encoder = torch.nn.Identity()
    with pytest.raises(ValueError, match="Identity takes pictures of one size only"):
        any_size_spec(sam)


@pytest.mark.parametrize("num_masks_given", [1, 3])
def test_decoder_traced_anew_computes_the_same(fresh_folder, cat_embedding, num_masks_given):
    rng = np.random.default_rng(0)
    feed = {
        "features": cat_embedding.features,
        "point_coords": rng.uniform(0, 680, (3, 4, 2)).astype(np.float32),
        "point_labels": np.array([[1, 0, -1, -10], [2, 3, 1, -10], [1, 1, 1, 0]], np.float32),
        "mask_input": rng.normal(0, 5, (num_masks_given, 1, 256, 256)).astype(np.float32),
        "has_mask_input": np.array([1, 0, 1], np.float32)[:num_masks_given],
        "mask_tokens": np.array([3, 0]),
        "min_iou": np.array(-np.inf, np.float32),
    }
    shipped, fresh = (session(folder, "decoder.onnx").run(None, feed) for folder in (bundled_folder(), fresh_folder))
    for ours, theirs in zip(fresh, shipped, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert shipped[0].shape == (3, 2, 256, 256)
    assert shipped[1].shape == (3, 2)
    assert shipped[2].tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", GRAPHS)
def test_every_weight_of_a_graph_is_a_reference_to_its_own_bytes(name):
    header, data_start = read_safetensors_header(bundled_weights_path())
    outside = [tensor for tensor in initializers(name) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    assert len(outside) > 100
    for tensor in outside:
        fields = {entry.key: entry.value for entry in tensor.external_data}
        start, end = header[tensor.name]["data_offsets"]
        assert fields == {
            "location": "mobile_sam.safetensors",
            "offset": str(data_start + start),
            "length": str(end - start),
        }
        assert list(tensor.dims) == header[tensor.name]["shape"]


def test_no_weight_is_stored_twice():
    """Neither in a graph, under whatever name or in another order, nor twice in the safetensors file."""
    header, data_start = read_safetensors_header(bundled_weights_path())
    content = bundled_weights_path().read_bytes()
    stored = {}
    for key, entry in header.items():
        if key == "__metadata__" or entry["dtype"] != "F32":
            continue
        start, end = (data_start + offset for offset in entry["data_offsets"])
        values = np.frombuffer(content[start:end], np.float32)
        if np.ptp(values) > 0:  # constant ones, such as a fresh bias, are alike without being copies
            fingerprint = hashlib.sha256(np.sort(values).tobytes()).digest()
            assert fingerprint not in stored, f"{key} repeats {stored[fingerprint]}"
            stored[fingerprint] = key
    for name in GRAPHS:
        graph = onnx.load(bundled_folder() / name, load_external_data=False).graph
        inside = [tensor for tensor in graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
        inside += [node.attribute[0].t for node in graph.node if node.op_type == "Constant"]
        floats = [tensor for tensor in inside if tensor.data_type == onnx.TensorProto.FLOAT]
        for tensor in floats:
            values = onnx.numpy_helper.to_array(tensor).ravel()
            assert hashlib.sha256(np.sort(values).tobytes()).digest() not in stored
        # What remains are constants of the computation, above all x and y of the 64 x 64 cells' centres.
        assert sum(onnx.numpy_helper.to_array(tensor).size for tensor in floats) < 2 * 64 * 64 + 100


def test_graphs_use_every_weight_but_three_that_cancel():
    """A bias of the keys adds the same to every score, so the softmax over image tokens takes it out again."""
    header, _ = read_safetensors_header(bundled_weights_path())
    weights = {key for key in header if key != "__metadata__" and not key.endswith("num_batches_tracked")}
    used = {tensor.name for name in GRAPHS for tensor in initializers(name)}
    attentions = ("final_attn", "layers.0.cross_attn", "layers.1.cross_attn")
    assert weights - used == {f"mask_decoder.transformer.{name}_token_to_image.k_proj.bias" for name in attentions}


def test_weights_of_another_model_are_not_referred_to(tmp_path):
    sam = build_sam_vit_t("mobile_sam")
    sam.mask_decoder.iou_token.weight.data += 1
    with pytest.raises(ValueError, match=r"iou_token\.weight of the module differs"):
        export_graphs(sam, bundled_weights_path(), tmp_path)


def test_a_changed_initializer_is_noticed():
    graph = onnx.load(bundled_folder() / "decoder.onnx")
    name = "mask_decoder.mask_tokens.weight"
    (tensor,) = (tensor for tensor in graph.graph.initializer if tensor.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + 1, name))
    with pytest.raises(ValueError, match=r"mask_tokens\.weight of the module differs"):
        refer_to_weights(graph, bundled_weights_path())
