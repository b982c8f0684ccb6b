"""The files of `edge-sam` load and answer when they are called as X-AnyLabeling's `type: edge_sam` calls them."""

import cv2
import numpy as np
import onnxruntime
import pytest
import yaml
from numpy.testing import assert_allclose

from mobile_sam import SamPredictor, read_image
from mobile_sam.core.prompts import Prompt
from mobile_sam.export.target import ExportOptions
from mobile_sam.export.targets import get_target


@pytest.fixture(scope="module", params=[False, True], ids=["four", "single"])
def returns_single_mask(request):
    return request.param


@pytest.fixture(scope="module")
def folder(sam, tmp_path_factory, returns_single_mask):
    folder = tmp_path_factory.mktemp("edge")
    get_target("edge-sam").write(sam, ExportOptions(return_single_mask=returns_single_mask), folder)
    return folder


@pytest.fixture(scope="module")
def sessions(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["type"] == "edge_sam"
    assert config["target_length"] == 1024
    assert config["name"]
    assert config["display_name"]
    return [
        onnxruntime.InferenceSession(str(folder / config[f"{part}_model_path"]), providers=["CPUExecutionProvider"])
        for part in ("encoder", "decoder")
    ]


@pytest.fixture(scope="module")
def upright(examples):
    """A cat of 681 x 1024 px on its side: 1024 high, so that nothing is resized on its way into the encoder."""
    cat = cv2.resize(read_image(examples / "chelsea.png"), (1024, 681))
    return np.ascontiguousarray(cat.transpose(1, 0, 2))


@pytest.fixture(scope="module")
def reference(sam, upright):
    predictor = SamPredictor(sam)
    predictor.set_image(upright)
    return predictor


PROMPTS = [([[340, 500]], [1]), ([[340, 500], [30, 30]], [1, 0]), ([[45, 136], [679, 1021]], [2, 3])]


def expected_of(reference, coords_xy, labels):
    """All four masks, scores and logits of the predictor."""
    points = {"box": np.ravel(coords_xy)} if labels == [2, 3] else {"point_coords": coords_xy, "point_labels": labels}
    single, multi = (reference.predict(**points, multimask_output=several) for several in (False, True))
    return [np.concatenate(parts) for parts in zip(single, multi, strict=True)]


def test_the_encoder_takes_bytes_without_padding(sessions, upright, reference):
    (one,) = sessions[0].get_inputs()
    assert (one.type, one.shape) == ("tensor(uint8)", [1, 3, "height", "width"])
    (features,) = sessions[0].run(None, {one.name: np.ascontiguousarray(upright.transpose(2, 0, 1))[None]})
    assert_allclose(features, reference.embedding.features, atol=1e-3)


@pytest.mark.parametrize(("coords_xy", "labels"), PROMPTS)
def test_scores_come_first_and_masks_second_and_no_padding_point_is_needed(
    sessions, reference, returns_single_mask, coords_xy, labels
):
    names = [one.name for one in sessions[1].get_inputs()]
    assert names == ["image_embeddings", "point_coords", "point_labels"]
    assert [one.name for one in sessions[1].get_outputs()] == ["scores", "masks"]
    feed = {
        "image_embeddings": reference.embedding.features,
        "point_coords": np.array([coords_xy], np.float32),
        "point_labels": np.array([labels], np.float32),
    }
    scores, masks = sessions[1].run(None, feed)
    _, iou, logits = expected_of(reference, coords_xy, labels)
    if returns_single_mask:
        chosen = [1 + int(iou[1:].argmax()) if labels == [1] else 0]
        iou, logits = iou[chosen], logits[chosen]
    assert_allclose(scores[0], iou, atol=1e-3)
    assert_allclose(masks[0], logits, atol=2e-2)


def test_the_runner_takes_the_most_stable_mask_as_the_program_does(folder, upright, reference, returns_single_mask):
    runner = get_target("edge-sam").open_runner(folder, 1)
    assert_allclose(runner.encode(upright), reference.embedding.features, atol=1e-3)
    answer = runner.decode(Prompt.of(points=PROMPTS[0][0], labels=[1]))
    masks, iou, logits = expected_of(reference, *PROMPTS[0])
    stability = (logits > 1).sum((1, 2)) / (logits > -1).sum((1, 2))
    best = 1 + int(iou[1:].argmax()) if returns_single_mask else int(stability.argmax())
    assert answer.tokens == (None if returns_single_mask else (best,))
    assert np.mean(runner.draw(answer)[0] == masks[best]) > 0.9999


def test_features_of_a_picture_that_the_program_resizes_its_own_way_are_not_compared(folder, examples):
    runner = get_target("edge-sam").open_runner(folder, 1)
    assert runner.encode(read_image(examples / "chelsea.png")).size == 0
    assert runner.draw(runner.decode(Prompt.of(points=[[220, 160]], labels=[1]))).shape == (1, 300, 451)
