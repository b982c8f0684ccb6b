"""SamPredictor with tensors and with modules, as code written for SAM uses it."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from mobile_sam import SamPredictor, build_sam_vit_t, read_image
from mobile_sam.core.masks import mask_iou

HW = (300, 451)
POINTS = np.array([[[225, 150], [20, 20]], [[300, 100], [400, 280]]])
LABELS = np.array([[1, 0], [1, 1]])
BOXES = np.array([[60, 20, 390, 290], [100.5, 50, 300, 200]])
LOGITS = np.random.default_rng(0).normal(0, 3, (2, 1, 256, 256)).astype(np.float32)


@pytest.fixture(params=["onnxruntime", "torch"])
def predictor(request, onnx_predictor, torch_predictor, cat_embedding):
    made = onnx_predictor if request.param == "onnxruntime" else torch_predictor
    made.set_embedding(cat_embedding)
    return made


@pytest.mark.parametrize(
    ("has_points", "has_boxes", "has_masks"),
    [(True, False, False), (False, True, False), (False, False, True), (True, True, False), (True, True, True)],
)
def test_tensors_in_the_model_frame_answer_as_arrays_in_the_pictures(predictor, has_points, has_boxes, has_masks):
    to_model = predictor.transform
    masks, scores, low_res = predictor.predict_torch(
        to_model.apply_coords_torch(torch.tensor(POINTS), HW) if has_points else None,
        torch.tensor(LABELS) if has_points else None,
        to_model.apply_boxes_torch(torch.tensor(BOXES), HW) if has_boxes else None,
        torch.tensor(LOGITS) if has_masks else None,
        multimask_output=False,
    )
    assert (masks.shape, masks.dtype) == ((2, 1, *HW), torch.bool)
    assert (scores.shape, low_res.shape) == ((2, 1), (2, 1, 256, 256))
    for row in range(2):
        expected_masks, expected_scores, expected_low_res = predictor.predict(
            POINTS[row] if has_points else None,
            LABELS[row] if has_points else None,
            BOXES[row] if has_boxes else None,
            LOGITS[row] if has_masks else None,
            multimask_output=False,
        )
        assert_allclose(low_res[row], expected_low_res, atol=5e-3)
        assert_allclose(scores[row], expected_scores, atol=1e-3)
        assert mask_iou(masks[row].numpy(), expected_masks)[0, 0] > 0.999


def test_tensor_answers_have_sams_shapes(predictor):
    box = predictor.transform.apply_boxes_torch(torch.tensor(BOXES), HW)
    logits, scores, low_res = predictor.predict_torch(None, None, box, return_logits=True)
    masks, _, _ = predictor.predict_torch(None, None, box)
    assert logits.shape == (2, 3, *HW)
    assert logits.dtype == scores.dtype == low_res.dtype == torch.float32
    assert torch.equal(masks, logits > 0)
    assert not logits.requires_grad


def test_one_mask_may_serve_all_prompts(predictor):
    boxes, mask = predictor.transform.apply_boxes_torch(torch.tensor(BOXES), HW), torch.tensor(LOGITS[:1])
    shared = predictor.predict_torch(None, None, boxes, mask)
    repeated = predictor.predict_torch(None, None, boxes, mask.double().expand(2, -1, -1, -1))
    for found, expected in zip(shared[1:], repeated[1:], strict=True):
        assert_allclose(found, expected, atol=2e-3)


def test_no_rows_in_no_rows_out(predictor):
    masks, scores, low_res = predictor.predict_torch(None, None, torch.zeros(0, 4))
    assert masks.shape == (0, 3, *HW)
    assert scores.shape == (0, 3)
    assert low_res.shape == (0, 3, 256, 256)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ((None, None), "no prompt: pass point_coords with point_labels, boxes or mask_input"),
        ((torch.zeros(1, 2, 2), None), "point_coords and point_labels must come together"),
        ((None, torch.zeros(1, 2)), "point_coords and point_labels must come together"),
        ((torch.zeros(2, 2), torch.zeros(2)), r"point_coords must be \(P, N, 2\) .* got \(2, 2\) and \(2,\)"),
        ((torch.zeros(1, 2, 3), torch.zeros(1, 2)), r"got \(1, 2, 3\) and \(1, 2\)"),
        ((torch.zeros(1, 2, 2), torch.zeros(1, 3)), r"got \(1, 2, 2\) and \(1, 3\)"),
        ((None, None, torch.zeros(2, 3)), r"boxes must be \(P, 4\): x1, y1, x2, y2, got \(2, 3\)"),
        ((torch.zeros(1, 2, 2), torch.zeros(1, 2), torch.zeros(2, 4)), r"same number of prompts, got \[1, 2\]"),
        ((None, None, torch.zeros(3, 4), torch.zeros(2, 1, 256, 256)), r"same number of prompts, got \[2, 3\]"),
        ((torch.full((1, 2, 2), float("nan")), torch.ones(1, 2)), "points and boxes must be finite, got NaN"),
        ((None, None, torch.tensor([[40.0, 10.0, 20.0, 50.0]])), "x1 < x2 and y1 < y2, got swapped or equal corners"),
        ((torch.zeros(1, 0, 2), torch.zeros(1, 0)), "with N at least 1"),
        ((None, None, None, torch.zeros(1, 256, 256)), r"mask_input must be \(P, 1, 256, 256\) logits, got"),
        ((None, None, None, torch.zeros(1, 1, 300, 451)), r"got \(1, 1, 300, 451\)"),
    ],
)
def test_wrong_tensors_are_refused(predictor, prompts, message):
    with pytest.raises(ValueError, match=message):
        predictor.predict_torch(*prompts)


def test_a_picture_that_is_resized_already_gives_the_same_embedding(cat_predictor, cat_embedding, examples):
    pixels = cat_predictor.transform.apply_image(read_image(examples / "chelsea.png"))
    cat_predictor.reset_image()
    cat_predictor.set_torch_image(torch.as_tensor(pixels).permute(2, 0, 1)[None], HW)
    assert cat_predictor.original_size == HW
    assert cat_predictor.input_size == (681, 1024)
    assert_allclose(cat_predictor.features, cat_embedding.features, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 681, 1024), (2, 3, 681, 1024), (1, 681, 1024, 3), (1, 3, 300, 451)])
def test_a_picture_that_is_not_resized_is_refused(cat_predictor, cat_embedding, shape):
    with pytest.raises(ValueError, match=r"must be \(1, 3, h, w\) with a longer side of 1024, got .*apply_image first"):
        cat_predictor.set_torch_image(torch.zeros(shape), HW)
    assert cat_predictor.embedding is cat_embedding


@pytest.fixture(scope="module")
def wrapped():
    return SamPredictor(build_sam_vit_t("mobile_sam"))


def test_a_module_is_wrapped_as_in_sam(wrapped, cat_embedding, onnx_predictor):
    assert wrapped.engine.name == "torch"
    assert wrapped.model.mask_threshold == wrapped.mask_threshold == 0.0
    assert wrapped.model.image_format == "RGB"
    assert wrapped.transform.target_length == wrapped.model.image_encoder.img_size == 1024
    assert wrapped.device == wrapped.model.device
    for predictor in (wrapped, onnx_predictor):
        predictor.set_embedding(cat_embedding)  # both run the bundled weights
    masks, scores, low_res = wrapped.predict(box=BOXES[0])
    expected_masks, expected_scores, expected_low_res = onnx_predictor.predict(box=BOXES[0])
    assert mask_iou(masks, expected_masks).diagonal().min() > 0.999
    assert_allclose(scores, expected_scores, atol=1e-4)
    assert_allclose(low_res, expected_low_res, atol=2e-3)


def test_the_modules_own_threshold_is_used(wrapped, cat_embedding):
    wrapped.set_embedding(cat_embedding)
    logits, _, _ = wrapped.predict(box=BOXES[0], return_logits=True)
    wrapped.model.mask_threshold = 0.5
    try:
        masks, _, _ = wrapped.predict(box=BOXES[0])
        boxes = wrapped.transform.apply_boxes_torch(torch.tensor(BOXES[:1]), HW)
        tensor_masks, _, _ = wrapped.predict_torch(None, None, boxes)
    finally:
        wrapped.model.mask_threshold = 0.0
    assert_array_equal(masks, logits > 0.5)
    assert mask_iou(masks, tensor_masks[0].numpy()).diagonal().min() > 0.999
    assert masks.sum() < (logits > 0).sum()


def test_a_module_and_an_engine_do_not_go_together(onnx_predictor, wrapped):
    with pytest.raises(ValueError, match="model came with an engine already made"):
        SamPredictor(wrapped.model, engine=onnx_predictor.engine)
