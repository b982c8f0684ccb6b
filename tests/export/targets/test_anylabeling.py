"""The files of `anylabeling` load and answer when they are called as AnyLabeling and X-AnyLabeling call them."""

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from numpy.testing import assert_allclose

from mobile_sam import SamPredictor, read_image
from mobile_sam.core.prompts import Prompt
from mobile_sam.export.target import ExportOptions
from mobile_sam.export.targets import get_target

CANVAS_HW = (684, 1024)
BOX = [60, 20, 450, 299]


@pytest.fixture(scope="module")
def folder(sam, tmp_path_factory):
    folder = tmp_path_factory.mktemp("anylabeling")
    written = get_target("anylabeling").write(sam, ExportOptions(), folder)
    assert any("upright pictures" in note for note in written.notes)
    return folder


@pytest.fixture(scope="module")
def config(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


@pytest.fixture(scope="module")
def sessions(folder, config):
    return [
        onnxruntime.InferenceSession(str(folder / config[f"{part}_model_path"]), providers=["CPUExecutionProvider"])
        for part in ("encoder", "decoder")
    ]


@pytest.fixture(scope="module")
def canvas(examples):
    """The cat as both programs draw it: 300 x 451 at a scale of min(684 / 300, 1024 / 451)."""
    scale = min(684 / 300, 1024 / 451)
    matrix = np.array([[scale, 0, 0], [0, scale, 0]])
    cat = read_image(examples / "chelsea.png")
    return cv2.warpAffine(cat, matrix, CANVAS_HW[::-1], flags=cv2.INTER_LINEAR), scale


@pytest.fixture(scope="module")
def of_canvas(sam, canvas):
    """The reference: PyTorch's predictor on the canvas itself."""
    predictor = SamPredictor(sam)
    predictor.set_image(canvas[0])
    return predictor


def decoder_feed(features, coords_xy, labels):
    """As the programs make it, with a padding point whatever comes before it."""
    return {
        "image_embeddings": features,
        "point_coords": np.array([[*coords_xy, [0.0, 0.0]]], np.float32),
        "point_labels": np.array([[*labels, -1]], np.float32),
        "mask_input": np.zeros((1, 1, 256, 256), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
        "orig_im_size": np.array(CANVAS_HW, np.float32),
    }


def test_the_config_has_every_key_that_the_programs_read(folder, config):
    assert config["type"] == "segment_anything"
    for key in ("name", "display_name", "provider", "input_size", "max_width", "max_height"):
        assert config[key]
    for part in ("encoder", "decoder"):
        assert (folder / config[f"{part}_model_path"]).stat().st_size < 30e6


def test_the_files_stand_alone(folder, config):
    for part in ("encoder", "decoder"):
        graph = onnx.load(folder / config[f"{part}_model_path"], load_external_data=False)
        assert not any(tensor.external_data for tensor in graph.graph.initializer)


def test_the_encoder_takes_float_pixels_of_any_height_and_width(sessions, canvas, of_canvas):
    (one,) = sessions[0].get_inputs()
    assert (one.type, one.shape) == ("tensor(float)", ["height", "width", 3])
    features = sessions[0].run(None, {one.name: canvas[0].astype(np.float32)})[0]
    assert_allclose(features, of_canvas.embedding.features, atol=1e-3)
    assert sessions[0].run(None, {one.name: np.zeros((1024, 300, 3), np.float32)})[0].shape == (1, 256, 64, 64)


@pytest.mark.parametrize(
    ("points", "labels", "box"),
    [([[500, 363]], [1], None), ([[500, 363], [50, 50]], [1, 0], None), (None, None, [136, 45, 1022, 679])],
)
def test_the_decoder_gives_three_outputs_whose_first_is_the_mask_of_the_predictor(
    sessions, of_canvas, points, labels, box
):
    coords_xy, marks = (points, labels) if box is None else ([box[:2], box[2:]], [2, 3])
    masks, scores, low_res = sessions[1].run(None, decoder_feed(of_canvas.embedding.features, coords_xy, marks))
    assert (masks.shape, low_res.shape) == ((1, 1, *CANVAS_HW), (1, 1, 256, 256))
    is_ambiguous = marks == [1]
    expected, iou, _ = of_canvas.predict(points, labels, box=box, multimask_output=is_ambiguous)
    best = int(iou.argmax())
    assert_allclose(scores[0, 0], iou[best], atol=1e-3)
    assert np.mean((masks[0][0] > 0) == expected[best]) > 0.9999


@pytest.mark.parametrize("is_upright", [False, True])
def test_the_runner_brings_masks_back_to_the_picture(sam, folder, examples, is_upright):
    image, box = read_image(examples / "chelsea.png"), BOX
    if is_upright:
        image, box = np.ascontiguousarray(image.transpose(1, 0, 2)), [20, 60, 299, 450]
    runner = get_target("anylabeling").open_runner(folder, 1)
    assert runner.encode(image).size == 0
    (drawn,) = runner.draw(runner.decode(Prompt.of(box=box)))
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    (expected,), _, _ = predictor.predict(box=box, multimask_output=False)
    assert drawn.shape == image.shape[:2]
    assert np.count_nonzero(drawn & expected) > 0.9 * np.count_nonzero(drawn | expected)
