import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from mobile_sam import Prompt
from mobile_sam.core.prompts import PromptBatch
from mobile_sam.engines.pytorch import TorchEngine
from mobile_sam.modeling import MaskDecoder

LOGIT_ERROR = 2e-3  # of logits about -20 to 20
CLICK, BOX = Prompt.of([[225, 150]]), Prompt.of(box=[60, 20, 390, 290])
LOGITS = np.random.default_rng(0).normal(0, 5, (256, 256))


def decoded(engine, embedding, prompts=(CLICK, BOX), mask_tokens=(0, 1, 2, 3)):
    return engine.decode(embedding, PromptBatch.from_prompts(prompts, embedding.resize), mask_tokens)


@pytest.fixture
def own_model(torch_predictor):
    """A module that a test may change."""
    return copy.deepcopy(torch_predictor.model)


def test_a_module_that_is_trained_on_answers_anew(own_model, cat_embedding):
    engine = TorchEngine(own_model)
    before = decoded(engine, cat_embedding).low_res_logits
    with torch.no_grad():
        for mlp in own_model.mask_decoder.output_hypernetworks_mlps:
            mlp.layers[-1].weight.mul_(2)
            mlp.layers[-1].bias.mul_(2)
    after = decoded(engine, cat_embedding).low_res_logits
    assert_allclose(after, 2 * before, atol=1e-3)  # logits are linear in these weights


def test_a_module_is_used_as_it_is(own_model):
    assert TorchEngine(own_model).model is own_model


def test_answers_need_no_gradients(own_model, cat_embedding):
    decoded(TorchEngine(own_model), cat_embedding)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in own_model.parameters())


class UnchangedDecoder(MaskDecoder):
    pass


class DoublingDecoder(MaskDecoder):
    def predict_masks(self, *arguments, **options):
        logits, iou = super().predict_masks(*arguments, **options)
        return 2 * logits, iou + 1


PROMPTS = {
    "click": CLICK,
    "two clicks": Prompt.of([[225, 150], [20, 20]], [1, 0]),
    "box": BOX,
    "box and click": Prompt.of([[225, 150]], [0], [60, 20, 390, 290]),
    "mask and click": Prompt.of([[225, 150]], mask=LOGITS),
    "mask": Prompt.of(mask=LOGITS),
    "the caller's own padding point": Prompt.of([[225, 150], [0, 0]], [1, -1]),
    "a box given as two points": Prompt.of([[60, 20], [390, 290]], [2, 3]),
    "all labels and a box": Prompt.of([[60, 20], [390, 290], [0, 0]], [2, 3, -1], [50, 10, 380, 280]),
}


def test_a_subclassed_decoder_that_changes_nothing_gives_the_same_answers(torch_predictor, own_model, cat_embedding):
    own_model.mask_decoder.__class__ = UnchangedDecoder
    found, expected = (
        decoded(engine, cat_embedding, list(PROMPTS.values()))
        for engine in (TorchEngine(own_model), torch_predictor.engine)
    )
    for row, name in enumerate(PROMPTS):
        assert_allclose(found.low_res_logits[row], expected.low_res_logits[row], atol=LOGIT_ERROR, err_msg=name)
        assert_allclose(found.iou_predictions[row], expected.iou_predictions[row], atol=1e-4, err_msg=name)


def test_a_subclassed_decoder_is_the_one_that_runs(torch_predictor, own_model, cat_embedding):
    own_model.mask_decoder.__class__ = DoublingDecoder
    found, expected = (decoded(engine, cat_embedding) for engine in (TorchEngine(own_model), torch_predictor.engine))
    assert_allclose(found.low_res_logits, 2 * expected.low_res_logits, atol=2 * LOGIT_ERROR)
    assert_allclose(found.iou_predictions, expected.iou_predictions + 1, atol=1e-4)


def test_no_prompts_have_no_masks(torch_predictor, cat_embedding):
    features = torch.from_numpy(cat_embedding.features)
    logits, iou = torch_predictor.engine.decode_tensors(features, torch.zeros(0, 2, 2), torch.zeros(0, 2), (0, 1))
    assert logits.shape == (0, 2, 256, 256)
    assert iou.shape == (0, 2)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near_fp32_on_a_picture(torch_predictor, cat_embedding, precision):
    engine = TorchEngine(torch_predictor.model, precision=precision)
    found, expected = (
        decoded(one, cat_embedding, [BOX], (0,)).low_res_logits for one in (engine, torch_predictor.engine)
    )
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() > 1e-4  # it did run in another precision
    overlap = np.count_nonzero((found > 0) & (expected > 0)) / np.count_nonzero((found > 0) | (expected > 0))
    assert overlap > 0.95


def test_a_torch_engine_of_unknown_precision_is_refused_before_it_loads():
    with pytest.raises(ValueError, match="unknown precision 'int8'; expected fp32, bf16, fp16"):
        TorchEngine("nowhere.pt", precision="int8")
