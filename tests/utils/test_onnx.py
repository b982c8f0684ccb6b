"""SamOnnxModel answers as SamPredictor does, and each of its options does what SAM says of it."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.nn import functional as F

from mobile_sam import SamPredictor
from mobile_sam.build_sam import build_sam_vit_t
from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.prompts import Prompt, PromptBatch
from mobile_sam.utils.onnx import SamOnnxModel

CLICK = Prompt.of(points=[[220, 160]], labels=[1])
CLICKS = Prompt.of(points=[[220, 160], [300, 220], [20, 20]], labels=[1, 1, 0])
BOX = Prompt.of(box=[60, 20, 450, 299])
BOX_AND_CLICK = Prompt.of(points=[[220, 160]], labels=[0], box=[60, 20, 450, 299])


@pytest.fixture(scope="module")
def sam():
    return build_sam_vit_t("mobile_sam")


def inputs_of(prompt, embedding, mask=None):
    batch = PromptBatch.from_prompts([prompt], embedding.resize)
    return [
        torch.from_numpy(embedding.features),
        torch.from_numpy(batch.coords_xy),
        torch.from_numpy(batch.labels),
        torch.zeros(1, 1, 256, 256) if mask is None else torch.from_numpy(mask)[None, None],
        torch.tensor([float(mask is not None)]),
        torch.tensor(embedding.image_hw, dtype=torch.float32),
    ]


@pytest.fixture(scope="module")
def cat(sam, examples):
    """The reference: PyTorch's predictor with a picture of 300 x 451 set."""
    predictor = SamPredictor(sam)
    predictor.set_image(examples / "chelsea.png")
    return predictor


def expected_of(predictor, prompt, mask=None):
    """All four masks, as logits of the picture's size, with scores and low-resolution logits."""
    points = (prompt.points_xy, prompt.labels) if len(prompt.labels) else (None, None)
    options = {"box": prompt.box_xyxy, "mask_input": None if mask is None else mask[None], "return_logits": True}
    single, multi = (predictor.predict(*points, **options, multimask_output=is_multi) for is_multi in (False, True))
    return [np.concatenate(parts) for parts in zip(single, multi, strict=True)]


@pytest.mark.parametrize("prompt", [CLICK, CLICKS, BOX, BOX_AND_CLICK])
def test_all_four_masks_are_those_of_the_predictor(sam, cat, prompt):
    masks, scores, low_res = SamOnnxModel(sam, return_single_mask=False)(*inputs_of(prompt, cat.embedding))
    expected = expected_of(cat, prompt)
    for found, wanted in zip((masks, scores, low_res), expected, strict=True):
        assert_allclose(found[0].numpy(), wanted, atol=2e-3)
    assert np.mean((masks[0].numpy() > 0) == (expected[0] > 0)) > 0.9999


def test_a_mask_of_an_earlier_answer_is_used_where_the_flag_says_so(sam, cat):
    earlier = expected_of(cat, CLICK)[2][1]
    model = SamOnnxModel(sam, return_single_mask=False)
    inputs = inputs_of(CLICK, cat.embedding, earlier)
    assert_allclose(model(*inputs)[2][0].numpy(), expected_of(cat, CLICK, earlier)[2], atol=2e-3)
    inputs[4] = torch.zeros(1)
    assert_allclose(model(*inputs)[2][0].numpy(), expected_of(cat, CLICK)[2], atol=2e-3)


@pytest.mark.parametrize(("prompt", "is_ambiguous"), [(CLICK, True), (CLICKS, False), (BOX_AND_CLICK, False)])
def test_a_single_mask_is_the_best_of_three_for_one_click_and_the_first_for_more(sam, cat, prompt, is_ambiguous):
    masks, scores, low_res = SamOnnxModel(sam, return_single_mask=True)(*inputs_of(prompt, cat.embedding))
    all_masks, all_scores, all_low_res = expected_of(cat, prompt)
    chosen = 1 + int(np.argmax(all_scores[1:])) if is_ambiguous else 0
    assert masks.shape == (1, 1, 300, 451)
    assert_allclose(masks[0, 0].numpy(), all_masks[chosen], atol=2e-3)
    assert_allclose(low_res[0, 0].numpy(), all_low_res[chosen], atol=2e-3)
    assert_allclose(scores[0, 0].item(), all_scores[chosen], atol=1e-4)


def test_selection_works_on_each_prompt_by_itself():
    masks = torch.arange(8.0).reshape(2, 4, 1, 1)
    scores = torch.tensor([[0.9, 0.1, 0.3, 0.2], [0.1, 0.5, 0.2, 0.3]])
    select = SamOnnxModel.select_masks
    assert select(None, masks, scores, 2)[0].flatten().tolist() == [2, 5]
    assert select(None, masks, scores, 3)[0].flatten().tolist() == [0, 4]
    assert select(None, masks, scores, torch.tensor(2))[1].shape == (2, 1)


def stability_of(logits):
    """The definition: pixels above 1 over pixels above -1."""
    return (logits > 1).sum((-2, -1)) / (logits > -1).sum((-2, -1))


def test_stability_scores_are_those_of_the_low_resolution_masks(sam, cat):
    inputs = inputs_of(CLICK, cat.embedding)
    _, scores, low_res = SamOnnxModel(sam, return_single_mask=False, use_stability_score=True)(*inputs)
    assert_allclose(scores.numpy(), stability_of(low_res.numpy()), rtol=1e-6)
    _, _, chosen = SamOnnxModel(sam, return_single_mask=True, use_stability_score=True)(*inputs)
    assert torch.equal(chosen[0, 0], low_res[0, 1 + int(scores[0, 1:].argmax())])


def test_extra_metrics_are_of_the_masks_at_the_size_of_the_picture_and_in_sams_order(sam, cat):
    model = SamOnnxModel(sam, return_single_mask=False, return_extra_metrics=True)
    masks, scores, stability, areas, low_res = model(*inputs_of(BOX, cat.embedding))
    assert low_res.shape == (1, 4, 256, 256)
    assert_allclose(scores[0].numpy(), expected_of(cat, BOX)[1], atol=1e-4)
    assert_allclose(stability.numpy(), stability_of(masks.numpy()), rtol=1e-6)
    assert areas.tolist() == np.count_nonzero(masks.numpy() > 0, axis=(2, 3)).tolist()


def test_an_empty_mask_has_a_stability_of_zero_and_not_of_nan(sam):
    assert SamOnnxModel(sam, False)._stability_score(torch.full((1, 1, 4, 4), -5.0)).tolist() == [[0.0]]


@pytest.mark.parametrize("image_hw", [(1, 1), (300, 451), (451, 300), (1024, 1024), (3, 5000), (6000, 4001), (7, 2048)])
def test_masks_are_cut_and_enlarged_as_sam_does_for_any_size_of_picture(sam, image_hw):
    torch.manual_seed(0)
    logits = torch.randn(1, 1, 256, 256)
    found = SamOnnxModel(sam, False).mask_postprocessing(logits, torch.tensor(image_hw, dtype=torch.float32))
    square = F.interpolate(logits, (1024, 1024), mode="bilinear", align_corners=False)
    h, w = LongSideResize(image_hw).input_hw
    expected = F.interpolate(square[..., :h, :w], image_hw, mode="bilinear", align_corners=False)
    assert torch.equal(found, expected)
