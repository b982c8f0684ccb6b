import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from mobile_sam import Prompt
from mobile_sam.build_sam import build_sam_vit_t_1m
from mobile_sam.core.errors import MissingDependencyError
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


class LowRankLinear(torch.nn.Linear):
    """An adapter as in LoRA: its forward does more than its weight says."""

    def forward(self, x):
        return super().forward(x) + x[..., :128]


def add_adapter(model):
    attention = model.mask_decoder.transformer.layers[0].cross_attn_token_to_image
    adapter = LowRankLinear(256, 128)
    adapter.load_state_dict(attention.q_proj.state_dict())
    attention.q_proj = adapter


def add_hook(model):
    model.mask_decoder.transformer.layers[1].mlp.register_forward_hook(lambda module, inputs, output: 1.5 * output)


@pytest.mark.parametrize("change", [add_adapter, add_hook])
@torch.no_grad()
def test_what_is_put_into_the_decoder_takes_part(own_model, cat_embedding, change):
    engine = TorchEngine(own_model)
    before = decoded(engine, cat_embedding, (BOX,), (0,)).low_res_logits
    change(own_model)
    after = decoded(engine, cat_embedding, (BOX,), (0,)).low_res_logits
    boxes = torch.from_numpy(cat_embedding.resize.boxes_to_model(BOX.box_xyxy)).float()[None]
    sparse, dense = own_model.prompt_encoder(None, boxes, None)
    features, grid_pe = torch.from_numpy(cat_embedding.features), own_model.prompt_encoder.get_dense_pe()
    expected, _ = own_model.mask_decoder(features, grid_pe, sparse, dense, multimask_output=False)
    assert_allclose(after, expected.numpy(), atol=1e-4)
    assert np.abs(after - before).max() > 0.1


class ConstantDecoder(MaskDecoder):
    """Overrides `forward`, as most subclasses do."""

    def forward(self, *inputs, multimask_output, **named):
        logits, iou = super().forward(*inputs, multimask_output=multimask_output, **named)
        return torch.full_like(logits, 7.0), iou


def test_a_decoder_with_a_forward_of_its_own_is_asked_through_it(own_model, cat_embedding):
    own_model.mask_decoder.__class__ = ConstantDecoder
    assert (decoded(TorchEngine(own_model), cat_embedding, (CLICK,), (1, 2, 3)).low_res_logits == 7).all()


def test_a_decoder_put_in_later_is_the_one_that_runs(own_model, cat_embedding):
    engine = TorchEngine(own_model)
    before = decoded(engine, cat_embedding).iou_predictions
    other = copy.deepcopy(own_model.mask_decoder)
    with torch.no_grad():
        other.iou_prediction_head.layers[-1].bias.add_(1)
    own_model.mask_decoder = other
    assert_allclose(decoded(engine, cat_embedding).iou_predictions, before + 1, atol=1e-5)


def test_an_embedding_is_refused_once_the_encoder_was_trained_on(own_model, cat_embedding):
    engine = TorchEngine(own_model)
    engine.check_made_here(cat_embedding)
    with torch.no_grad():
        own_model.image_encoder.neck[0].weight.mul_(1.01)
    with pytest.raises(ValueError, match="made by encoder"):
        engine.check_made_here(cat_embedding)


def test_pictures_are_normalised_by_the_module(own_model):
    own_model.image_format = "BGR"
    own_model.pixel_mean += 10
    engine = TorchEngine(own_model)
    assert engine.image_format == "BGR"
    pixels = np.full((1024, 512, 3), 40, np.uint8)
    expected = (40 - own_model.pixel_mean.flatten()) / own_model.pixel_std.flatten()
    assert_allclose(engine.normalise_and_pad(pixels)[:, 5, 5], expected.numpy(), rtol=1e-6)


def test_a_model_trained_on_bgr_gets_bgr(own_model):
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    (expected,) = TorchEngine(own_model).encode([red[..., ::-1].copy()])
    own_model.image_format = "BGR"
    (found,) = TorchEngine(own_model).encode([red])
    assert_allclose(found.features, expected.features, atol=1e-5)


def test_half_a_model_is_refused(own_model):
    with pytest.raises(
        ValueError, match=r"parameters are torch\.float16; pass it in float32 and choose precision='fp16'"
    ):
        TorchEngine(own_model.half())


@pytest.fixture(scope="module")
def small_model():
    torch.manual_seed(0)
    return build_sam_vit_t_1m(input_side=256).eval()


def test_a_compiled_encoder_computes_the_same_for_every_batch_size(small_model):
    called = []

    def backend(graph, example_inputs):
        """Runs what was traced as it is: what Inductor makes of it is for Inductor to test, and takes a minute."""

        def run(*inputs):
            called.append(len(inputs))
            return graph(*inputs)

        return run

    compiled = TorchEngine(small_model, device="cpu", compile=True, compile_backend=backend)
    squares = np.random.default_rng(0).standard_normal((3, 3, 256, 256)).astype(np.float32)
    expected = TorchEngine(small_model, device="cpu").encode_input(squares)
    for batch in (1, 3):
        assert_allclose(compiled.encode_input(squares[:batch]), expected[:batch], atol=1e-5)
        assert called
        called.clear()
    compiled.encode_part(squares[:, :, :160])
    assert not called  # each size would be compiled anew


def test_an_encoder_put_in_later_is_compiled_in_its_place(small_model):
    model = copy.deepcopy(small_model)
    engine = TorchEngine(model, device="cpu", compile=True, compile_backend="eager")
    square = np.zeros((1, 3, 256, 256), np.float32)
    before = engine.encode_input(square)
    other = copy.deepcopy(model.image_encoder)
    with torch.no_grad():
        other.neck[-1].bias.add_(1)
    model.image_encoder = other
    assert_allclose(engine.encode_input(square), before + 1, atol=1e-5)


def test_a_missing_compiler_is_named(small_model):
    def backend(graph, example_inputs):
        raise RuntimeError("Compiler: g++ is not found.")

    engine = TorchEngine(small_model, device="cpu", compile=True, compile_backend=backend)
    with pytest.raises(MissingDependencyError, match=r"g\+\+ is not found.*or leave compile out"):
        engine.encode_input(np.zeros((1, 3, 256, 256), np.float32))


def test_cuda_graphs_are_refused_elsewhere(small_model):
    with pytest.raises(ValueError, match="CUDA graphs need a CUDA device, got 'cpu'; leave cuda_graphs out"):
        TorchEngine(small_model, device="cpu", cuda_graphs=True)
