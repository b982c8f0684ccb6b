"""The files of `sam-onnx` are called as SAM's notebook and web demo call theirs, and answer as SamPredictor does."""

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.testing import assert_allclose

from mobile_sam import SamPredictor, read_image
from mobile_sam.core.prompts import Prompt
from mobile_sam.export.target import ExportOptions
from mobile_sam.export.targets import get_target

CLICK, BOX = Prompt.of(points=[[220, 160]], labels=[1]), Prompt.of(box=[60, 20, 450, 299])
INPUTS = ["image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size"]


def export(sam, folder, **options):
    written = get_target("sam-onnx").write(sam, ExportOptions(**options), folder)
    assert written.graphs == {"encoder": "encoder.onnx", "decoder": "decoder.onnx"}
    return folder


@pytest.fixture(scope="module")
def folder(sam, tmp_path_factory):
    return export(sam, tmp_path_factory.mktemp("sam-onnx"))


@pytest.fixture(scope="module")
def flagged(sam, tmp_path_factory):
    """With every flag of SAM's script."""
    flags = ("return_single_mask", "use_stability_score", "return_extra_metrics", "gelu_approximate")
    return export(sam, tmp_path_factory.mktemp("flagged"), opset=16, **dict.fromkeys(flags, True))


@pytest.fixture(scope="module")
def cat(sam, examples):
    predictor = SamPredictor(sam)
    predictor.set_image(examples / "chelsea.png")
    return predictor


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def demo_feed(npy, clicks_xy, image_hw):
    """What the web demo sends: the .npy embedding, clicks times 1024 / longer side, one padding point."""
    scale = 1024 / max(image_hw)
    coords_xy = np.array([[*clicks_xy, [0, 0]]], np.float32) * np.float32(scale)
    return {
        "image_embeddings": np.load(npy),
        "point_coords": coords_xy,
        "point_labels": np.array([[1] * len(clicks_xy) + [-1]], np.float32),
        "mask_input": np.zeros((1, 1, 256, 256), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
        "orig_im_size": np.array(image_hw, np.float32),
    }


@pytest.fixture(scope="module")
def npy(cat, tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "picture_embedding.npy"
    np.save(path, cat.get_image_embedding())
    return path


def test_the_decoder_has_sams_inputs_in_any_number_of_points(folder):
    decoder = session(folder / "decoder.onnx")
    found = {one.name: (one.type, one.shape) for one in decoder.get_inputs()}
    assert list(found) == INPUTS
    assert {kind for kind, _ in found.values()} == {"tensor(float)"}
    assert found["point_coords"][1] == [1, "num_points", 2]
    assert found["image_embeddings"][1] == [1, 256, 64, 64]
    assert [one.name for one in decoder.get_outputs()] == ["masks", "iou_predictions", "low_res_masks"]
    assert not any(isinstance(size, int) for size in decoder.get_outputs()[0].shape[2:])


def test_the_web_demo_gets_the_predictors_mask_from_the_first_output(folder, cat, npy):
    decoder = session(folder / "decoder.onnx")
    outputs = decoder.run(None, demo_feed(npy, [[220, 160]], (300, 451)))
    expected, scores, _ = cat.predict([[220, 160]], [1])
    assert outputs[0].shape == (1, 4, 300, 451)
    assert np.mean((outputs[0][0, 1:] > 0) == expected) > 0.999  # its one scale is not exactly SAM's two
    assert_allclose(outputs[1][0, 1:], scores, atol=0.01)


@pytest.mark.parametrize("prompt", [CLICK, BOX])
def test_the_files_answer_a_whole_picture_as_the_predictor_does(folder, cat, examples, prompt):
    runner = get_target("sam-onnx").open_runner(folder, 1)
    features = runner.encode(read_image(examples / "chelsea.png"))
    assert_allclose(features, cat.embedding.features, atol=1e-3)
    answer = runner.decode(prompt)
    assert answer.tokens == (0, 1, 2, 3)
    points = (prompt.points_xy, prompt.labels) if len(prompt.labels) else (None, None)
    expected, scores, _ = cat.predict(*points, box=prompt.box_xyxy)
    assert np.mean(runner.draw(answer)[1:] == expected) > 0.9999
    assert_allclose(answer.iou_predictions[1:], scores, atol=1e-3)


def test_every_flag_of_sams_script_has_its_effect(folder, flagged, npy):
    feed = demo_feed(npy, [[220, 160]], (300, 451))
    decoder = session(flagged / "decoder.onnx")
    names = [one.name for one in decoder.get_outputs()]
    assert names == ["masks", "iou_predictions", "stability_scores", "areas", "low_res_masks"]
    found = dict(zip(names, decoder.run(None, feed), strict=True))
    plain = session(folder / "decoder.onnx").run(None, feed)
    stability = (plain[2] > 1).sum((2, 3)) / (plain[2] > -1).sum((2, 3))  # (1, 4)
    best = 1 + int(stability[0, 1:].argmax())
    assert found["masks"].shape == (1, 1, 300, 451)
    assert_allclose(found["iou_predictions"][0, 0], stability[0, best], atol=1e-3)
    assert_allclose(found["low_res_masks"][0, 0], plain[2][0, best], atol=0.1)
    assert not np.array_equal(found["low_res_masks"][0, 0], plain[2][0, best])  # GELU by tanh
    assert found["areas"][0, 0] == np.count_nonzero(found["masks"] > 0)
    assert_allclose(
        found["stability_scores"][0, 0], np.mean(found["masks"] > 1) / np.mean(found["masks"] > -1), rtol=1e-5
    )
    operators = [{node.op_type for node in onnx.load(one / "decoder.onnx").graph.node} for one in (folder, flagged)]
    assert "Erf" in operators[0]
    assert "Erf" not in operators[1]
    assert [entry.version for entry in onnx.load(flagged / "decoder.onnx").opset_import] == [16]


def test_the_callers_model_keeps_its_gelu(sam, flagged):
    assert {part.approximate for part in sam.modules() if hasattr(part, "approximate")} == {"none"}


def test_a_graph_that_chose_a_mask_does_not_tell_which(flagged, examples):
    runner = get_target("sam-onnx").open_runner(flagged, 1)
    runner.encode(read_image(examples / "chelsea.png"))
    answer = runner.decode(BOX)
    assert answer.tokens is None
    assert runner.draw(answer).shape == (1, 300, 451)


def test_int8_is_a_smaller_decoder_of_the_same_masks_and_an_encoder_in_fp32(sam, folder, npy, cat, tmp_path):
    export(sam, tmp_path, precision="int8")
    assert (tmp_path / "encoder.onnx").read_bytes() == (folder / "encoder.onnx").read_bytes()
    sizes = [(one / "decoder.onnx").stat().st_size for one in (tmp_path, folder)]
    assert sizes[0] < 0.5 * sizes[1]
    decoder = session(tmp_path / "decoder.onnx")
    assert [one.name for one in decoder.get_inputs()] == INPUTS
    masks = decoder.run(None, demo_feed(npy, [[220, 160]], (300, 451)))[0][0, 1:] > 0
    expected, scores, _ = cat.predict([[220, 160]], [1])
    best = int(scores.argmax())
    assert np.count_nonzero(masks[best] & expected[best]) > 0.95 * np.count_nonzero(masks[best] | expected[best])


@pytest.mark.parametrize("target", ["sam-onnx", "anylabeling", "edge-sam", "transformers-js"])
def test_a_model_of_another_input_side_is_refused(tiny_sam, tmp_path, target):
    with pytest.raises(ValueError, match=r"expects models for 1024 x 1024 px, and this one was made for 256 x 256"):
        get_target(target).write(tiny_sam, ExportOptions(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opset", [12, 21])
def test_an_opset_that_cannot_be_written_is_refused(sam, tmp_path, opset):
    with pytest.raises(ValueError, match=rf"the opset must be 13 to 20, got {opset}"):
        get_target("sam-onnx").write(sam, ExportOptions(opset=opset), tmp_path)
