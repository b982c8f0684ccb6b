"""`decode_above` draws fewer masks than `decode`, and those are the same."""

import copy
from itertools import product

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.grids import point_grid
from mobile_sam.core.prompts import PromptBatch
from mobile_sam.engines.pytorch import TorchEngine
from mobile_sam.modeling import MaskDecoder

LOGIT_ERROR, IOU_ERROR = 2e-3, 1e-5


class CountingDecoder(MaskDecoder):
    """A subclass, so that the engine asks it for one prompt after the other."""

    num_calls = 0

    def predict_masks(self, *arguments, **options):
        CountingDecoder.num_calls += 1
        return super().predict_masks(*arguments, **options)


@pytest.fixture(scope="module")
def engines(onnx_predictor, openvino_predictor, torch_predictor):
    model = copy.deepcopy(torch_predictor.model)
    model.mask_decoder.__class__ = CountingDecoder
    predictors = (onnx_predictor, openvino_predictor, torch_predictor)
    return {one.engine.name: one.engine for one in predictors} | {"subclass": TorchEngine(model)}


@pytest.fixture(params=["onnxruntime", "openvino", "torch", "subclass"])
def engine(engines, request):
    return engines[request.param]


@pytest.fixture(scope="module")
def prompts(cat_embedding):
    """9 clicks; no engine takes so many, or a divisor of it, at once."""
    return PromptBatch.of_points(point_grid(3) * (451, 300), cat_embedding.resize)


@pytest.fixture(scope="module")
def all_masks(engines, cat_embedding, prompts):
    """What each engine says of all prompts: logits (9, 4, 256, 256) and predicted IoU (9, 4)."""
    return {id(engine): engine.decode(cat_embedding, prompts, (0, 1, 2, 3)) for engine in engines.values()}


def in_parts(num_at_once):
    """How 9 prompts are taken so many at a time."""
    return [min(num_at_once, 9 - start) for start in range(0, 9, num_at_once)]


@pytest.mark.parametrize(
    ("engine", "mask_tokens", "min_iou"),
    [
        *product(["onnxruntime", "openvino", "torch"], [(1, 2, 3), (2, 0)], [-np.inf, 0.7, 0.9, 1.5]),
        ("subclass", (1, 2, 3), 0.9),
        ("subclass", (2, 0), 1.5),
    ],
    indirect=["engine"],
)
def test_masks_are_those_of_decode_above_the_limit(engine, all_masks, cat_embedding, prompts, mask_tokens, min_iou):
    expected = all_masks[id(engine)]
    iou = expected.iou_predictions[:, mask_tokens]
    assert np.abs(iou - min_iou).min() > IOU_ERROR  # so that rounding decides nothing
    parts = list(engine.decode_above(cat_embedding, prompts, min_iou, mask_tokens))
    assert [part.num_prompts for part in parts] == in_parts(engine.prompts_at_once)
    rows, columns = np.nonzero(iou > min_iou)
    tokens = np.array(mask_tokens)[columns]
    assert (len(rows) > 0) == (min_iou < 1.5)
    assert_array_equal(np.concatenate([part.prompt_rows for part in parts]), rows)
    assert_array_equal(np.concatenate([part.mask_tokens for part in parts]), tokens)
    found_iou = np.concatenate([part.iou_predictions for part in parts])
    found_logits = np.concatenate([part.low_res_logits for part in parts])
    assert_allclose(found_iou, iou[rows, columns], atol=IOU_ERROR)
    assert_allclose(found_logits, expected.low_res_logits[rows, tokens], atol=LOGIT_ERROR)
    for part in parts:
        assert part.low_res_logits.dtype == part.iou_predictions.dtype == np.float32
        assert part.prompt_rows.dtype == part.mask_tokens.dtype == np.int64
        assert part.low_res_logits.shape == (len(part.prompt_rows), 256, 256)


@pytest.mark.parametrize("prompts_at_once", [None, 1, 2, 64])
def test_the_caller_may_ask_for_fewer_prompts_at_once(engines, all_masks, cat_embedding, prompts, prompts_at_once):
    engine = engines["onnxruntime"]
    parts = list(engine.decode_above(cat_embedding, prompts, 0.9, prompts_at_once=prompts_at_once))
    num_at_once = min(prompts_at_once or engine.prompts_at_once, engine.prompts_at_once)
    assert [part.num_prompts for part in parts] == in_parts(num_at_once)
    expected = all_masks[id(engine)].iou_predictions[:, 1:]
    rows, columns = np.nonzero(expected > 0.9)
    assert_array_equal(np.concatenate([part.prompt_rows for part in parts]), rows)
    assert_array_equal(np.concatenate([part.mask_tokens for part in parts]), columns + 1)


def test_no_prompts_have_no_parts(engine, cat_embedding, prompts):
    assert list(engine.decode_above(cat_embedding, prompts[:0], 0.5)) == []


def test_parts_come_one_by_one(engines, cat_embedding, prompts):
    before = CountingDecoder.num_calls
    parts = engines["subclass"].decode_above(cat_embedding, prompts, 0.5)
    assert CountingDecoder.num_calls == before
    next(parts)
    assert CountingDecoder.num_calls == before + engines["subclass"].prompts_at_once


def test_an_embedding_of_other_weights_is_not_decoded(engine, cat_embedding, prompts):
    foreign = Embedding(cat_embedding.features, cat_embedding.image_hw, cat_embedding.input_hw, "other")
    with pytest.raises(ValueError, match=f"made by encoder 'other', the {engine.name} engine runs"):
        next(engine.decode_above(foreign, prompts, 0.5))


@pytest.mark.parametrize("engine_name", ["onnxruntime", "openvino", "torch"])
def test_prompts_without_a_mask_worth_it_are_not_drawn(engines, all_masks, cat_embedding, prompts, engine_name):
    """What makes it quick; of prompts none of which is worth it, OpenVINO draws none, others one that is left out."""
    engine = engines[engine_name]
    best = all_masks[id(engine)].iou_predictions[:8, 1:].max(axis=1)
    limit = float(np.sort(best)[3:5].mean())
    of_none = [] if engine_name == "openvino" else [np.argmax(best)]
    for min_iou, expected in ((limit, np.flatnonzero(best > limit)), (9.0, of_none), (-np.inf, range(8))):
        logits, iou, drawn = engine._decode_worthy(cat_embedding, prompts[:8], (1, 2, 3), min_iou)
        assert_array_equal(drawn, expected)
        assert logits.shape == (len(drawn), 3, 256, 256)
        assert iou.shape == (8, 3)


def test_a_nan_of_predicted_iou_is_no_mask(torch_predictor, cat_embedding, prompts):
    """Not a crash, and nothing that is above a limit."""
    model = copy.deepcopy(torch_predictor.model)
    with torch.no_grad():
        model.mask_decoder.iou_prediction_head.layers[-1].bias[2] = torch.nan
    (part,) = TorchEngine(model).decode_above(cat_embedding, prompts[:2], -100)
    assert_array_equal(part.mask_tokens, [1, 3, 1, 3])
    (part,) = TorchEngine(model).decode_above(
        cat_embedding, prompts[:2], -np.inf
    )  # no limit: each prompt has its answer
    assert_array_equal(part.mask_tokens, [1, 2, 3, 1, 2, 3])
