"""The folder of `transformers-js` has what SamModel and SamProcessor read, and answers as SamPredictor does."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.testing import assert_allclose

from mobile_sam import SamPredictor, read_image
from mobile_sam.core.prompts import Prompt
from mobile_sam.export.target import ExportOptions
from mobile_sam.export.targets import get_target

ENCODER, DECODER = "vision_encoder", "prompt_encoder_mask_decoder"
SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}
PICTURES = ("chelsea.png", "astronaut.png")
CLICK, BOX = [[220, 160]], [60, 20, 450, 299]


@pytest.fixture(scope="module")
def folders(sam, tmp_path_factory):
    folders = {precision: tmp_path_factory.mktemp(precision) for precision in SUFFIXES}
    for precision, folder in folders.items():
        written = get_target("transformers-js").write(sam, ExportOptions(precision=precision), folder)
        assert set(written.graphs.values()) == {f"onnx/{n}{SUFFIXES[precision]}.onnx" for n in (ENCODER, DECODER)}
    return folders


@pytest.fixture(scope="module")
def sessions(folders):
    """Of each precision: encoder and decoder."""
    return {
        precision: [
            onnxruntime.InferenceSession(
                str(folder / "onnx" / f"{name}{SUFFIXES[precision]}.onnx"), providers=["CPUExecutionProvider"]
            )
            for name in (ENCODER, DECODER)
        ]
        for precision, folder in folders.items()
    }


@pytest.fixture(scope="module")
def predictors(sam, examples):
    found = []
    for name in PICTURES:
        found.append(SamPredictor(sam))
        found[-1].set_image(examples / name)
    return found


@pytest.fixture(scope="module")
def positions(sam):
    return sam.prompt_encoder.get_dense_pe().detach().numpy()


def decode(session, features, positions, points, labels):
    return session.run(
        ["iou_scores", "pred_masks"],
        {
            "image_embeddings": features,
            "image_positional_embeddings": np.repeat(positions, len(features), axis=0),
            "input_points": np.array(points, np.float32),
            "input_labels": np.array(labels, np.int64),
        },
    )


def to_model(predictor, points):
    return predictor.embedding.resize.to_model(points).tolist()


def test_the_configs_name_the_classes_and_sams_preprocessing(folders):
    for folder in folders.values():
        assert json.loads((folder / "config.json").read_text())["model_type"] == "sam"
        preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
        assert preprocessor["image_processor_type"] == "SamImageProcessor"
        assert preprocessor["processor_class"] == "SamProcessor"
        assert preprocessor["size"] == {"longest_edge": 1024}
        assert preprocessor["pad_size"] == {"height": 1024, "width": 1024}
        pixels = np.array([10.0, 100.0, 250.0])
        found = (pixels * preprocessor["rescale_factor"] - preprocessor["image_mean"]) / preprocessor["image_std"]
        expected = (pixels - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
        assert_allclose(found, expected, rtol=1e-6)
        assert preprocessor["do_rescale"]
        assert preprocessor["do_normalize"]
        assert preprocessor["do_pad"]


@pytest.mark.parametrize("precision", SUFFIXES)
def test_names_types_and_shapes_are_those_of_the_library_in_every_precision(sessions, precision):
    encoder, decoder = sessions[precision]

    def inputs_of(session):
        return {one.name: (one.type, len(one.shape)) for one in session.get_inputs()}

    assert inputs_of(encoder) == {"pixel_values": ("tensor(float)", 4)}
    assert [one.name for one in encoder.get_outputs()] == ["image_embeddings", "image_positional_embeddings"]
    assert inputs_of(decoder) == {
        "image_embeddings": ("tensor(float)", 4),
        "image_positional_embeddings": ("tensor(float)", 4),
        "input_points": ("tensor(float)", 4),
        "input_labels": ("tensor(int64)", 3),
    }
    outputs = {one.name: one.type for one in decoder.get_outputs()}
    assert outputs == {"iou_scores": "tensor(float)", "pred_masks": "tensor(float)"}


def test_the_encoder_takes_a_batch_and_gives_positions_with_it(sessions, predictors, positions, examples):
    pictures = [read_image(examples / name) for name in PICTURES]
    images = [p.embedding.resize.resize_image(one) for p, one in zip(predictors, pictures, strict=True)]
    batch = np.zeros((2, 3, 1024, 1024), np.float32)
    for row, pixels in enumerate(images):
        normalised = (pixels - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
        batch[row, :, : pixels.shape[0], : pixels.shape[1]] = normalised.transpose(2, 0, 1)
    features, found_positions = sessions["fp32"][0].run(None, {"pixel_values": batch})
    assert_allclose(features, np.concatenate([p.embedding.features for p in predictors]), atol=1e-3)
    assert_allclose(found_positions, np.repeat(positions, 2, axis=0), atol=1e-6)


def test_pictures_prompts_and_points_are_answered_each_by_itself(sessions, predictors, positions):
    """Two pictures, two prompts, two points: clicks of which one is filled up, and a box by its corners."""
    box = np.reshape(BOX, (2, 2)).tolist()
    points = [[[*to_model(p, CLICK), [0.0, 0.0]], to_model(p, box)] for p in predictors]
    labels = [[[1, -10], [2, 3]]] * 2
    features = np.concatenate([p.embedding.features for p in predictors])
    scores, masks = decode(sessions["fp32"][1], features, positions, points, labels)
    assert (scores.shape, masks.shape) == ((2, 2, 3), (2, 2, 3, 256, 256))
    for row, predictor in enumerate(predictors):
        for column, prompt in enumerate([{"point_coords": CLICK, "point_labels": [1]}, {"box": BOX}]):
            _, iou, logits = predictor.predict(**prompt)
            assert_allclose(scores[row, column], iou, atol=1e-3)
            assert_allclose(masks[row, column], logits, atol=2e-2)


@pytest.mark.parametrize(("precision", "max_error", "min_iou"), [("fp16", 0.02, 0.98), ("int8", 0.1, 0.95)])
def test_lower_precisions_see_and_draw_nearly_the_same(folders, predictors, examples, precision, max_error, min_iou):
    runner = get_target("transformers-js").open_runner(folders[precision], 1)
    cat = predictors[0]
    features = runner.encode(read_image(examples / "chelsea.png"))
    assert np.linalg.norm(features - cat.embedding.features) < max_error * np.linalg.norm(cat.embedding.features)
    answer = runner.decode(Prompt.of(points=CLICK, labels=[1]))
    assert answer.tokens == (1, 2, 3)
    masks, scores, _ = cat.predict(CLICK, [1])
    best = int(scores.argmax())
    drawn = runner.draw(answer)[best]
    assert np.count_nonzero(drawn & masks[best]) > min_iou * np.count_nonzero(drawn | masks[best])


def test_layer_norms_of_fp16_files_compute_in_float32(folders):
    for name in (ENCODER, DECODER):
        graph = onnx.shape_inference.infer_shapes(onnx.load(folders["fp16"] / "onnx" / f"{name}_fp16.onnx"))
        dtypes = {value.name: value.type.tensor_type.elem_type for value in graph.graph.value_info}
        norms = [node for node in graph.graph.node if node.op_type == "LayerNormalization"]
        assert norms
        assert {dtypes[node.output[0]] for node in norms} == {onnx.TensorProto.FLOAT}
        products = [node for node in graph.graph.node if node.op_type == "MatMul"]
        assert onnx.TensorProto.FLOAT16 in {dtypes[node.output[0]] for node in products}


def test_files_of_lower_precisions_are_smaller(folders):
    sizes = {
        precision: sum(path.stat().st_size for path in (folder / "onnx").iterdir())
        for precision, folder in folders.items()
    }
    assert sizes["fp16"] < 0.55 * sizes["fp32"]
    assert sizes["int8"] < 0.45 * sizes["fp32"]


def test_a_picture_that_the_library_rounds_otherwise_is_not_compared(folders, predictors):
    runner = get_target("transformers-js").open_runner(folders["fp32"], 1)
    rng = np.random.default_rng(0)
    assert runner.encode(rng.integers(0, 256, (400, 600, 3), np.uint8)).size == 0  # 682.67: down to 682, not to 683
    assert runner.input_hw == (682, 1024)
    assert runner.encode(rng.integers(0, 256, (300, 451, 3), np.uint8)).shape == (1, 256, 64, 64)
    assert runner.input_hw == (681, 1024)
