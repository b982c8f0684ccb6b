"""Each engine in fp32 against stored answers of the original implementation, four pictures, nine prompts each."""

import numpy as np
import pytest

from mobile_sam import SamPredictor

RELATIVE_EMBEDDING_ERROR = 1e-4
IOU_PREDICTION_ERROR = 1e-3
MASK_IOU = 0.999


@pytest.fixture(scope="module", params=["onnx", "openvino", "torch"])
def predictor(request: pytest.FixtureRequest) -> SamPredictor:
    return request.getfixturevalue(f"{request.param}_predictor")


def test_embedding_and_masks_equal_the_official_ones(predictor, official):
    predictor.set_image(official.picture)
    features = predictor.embedding.features[:, :, ::4, ::4]
    difference = np.linalg.norm(features - official.embedding) / np.linalg.norm(official.embedding)
    assert difference < RELATIVE_EMBEDDING_ERROR

    best_of_first_click = None
    for prompt in official.prompts:
        mask_input = best_of_first_click if prompt["name"] == "point_then_mask" else None
        asked = (prompt.get("points"), prompt.get("labels"), prompt.get("box"), mask_input)
        single, single_iou, _ = predictor.predict(*asked, multimask_output=False)
        three, three_iou, low_res = predictor.predict(*asked, multimask_output=True)
        if prompt["name"] == "point_centre":
            best_of_first_click = low_res[np.argmax(three_iou)][None]

        found_iou = np.concatenate([single_iou, three_iou])
        assert np.abs(found_iou - prompt["iou_predictions"]).max() < IOU_PREDICTION_ERROR, prompt["name"]
        for found, expected in zip(np.concatenate([single, three]), official.masks(prompt), strict=True):
            overlap = np.count_nonzero(found & expected) / np.count_nonzero(found | expected)
            assert overlap >= MASK_IOU, prompt["name"]


def test_one_batch_answers_as_nine_single_calls(onnx_predictor, official):
    """Ragged prompts of one batch do not disturb each other: absent points take no part."""
    from mobile_sam import Prompt

    onnx_predictor.set_image(official.picture)
    prompts = [Prompt.of(p.get("points"), p.get("labels"), p.get("box")) for p in official.prompts]
    for prompt, together in zip(prompts, onnx_predictor.predict_batch(prompts), strict=True):
        (alone,) = onnx_predictor.predict_batch([prompt])
        assert np.abs(alone.low_res_logits - together.low_res_logits).max() < 1e-3
        assert np.abs(alone.iou_predictions - together.iou_predictions).max() < 1e-5
