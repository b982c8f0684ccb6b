import pytest
import torch
from torch.testing import assert_close

from mobile_sam.modeling import MaskDecoder, TwoWayTransformer
from mobile_sam.modeling.common import LayerNorm2d, MLPBlock
from mobile_sam.modeling.mask_decoder import MLP
from mobile_sam.modeling.transformer import Attention


@pytest.fixture
def inputs():
    """Three prompts of two tokens for one image of 4x6 pixels."""
    return {
        "image_embeddings": torch.randn(1, 16, 4, 6),
        "image_pe": torch.randn(1, 16, 4, 6),
        "sparse_prompt_embeddings": torch.randn(3, 2, 16),
        "dense_prompt_embeddings": torch.randn(3, 16, 4, 6),
    }


def test_the_decoder_of_sam_has_4058340_parameters():
    with torch.device("meta"):
        decoder = MaskDecoder(transformer_dim=256, transformer=TwoWayTransformer(2, 256, 8, 2048))
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 4_058_340


def test_masks_have_four_times_the_side_of_the_embedding(mask_decoder, inputs):
    masks, iou = mask_decoder(**inputs, multimask_output=True)
    assert masks.shape == (3, 3, 16, 24)
    assert iou.shape == (3, 3)


def test_single_and_multiple_masks_are_two_parts_of_one_prediction(mask_decoder, inputs):
    with torch.no_grad():
        masks, iou = mask_decoder.predict_masks(**inputs)
        multiple, single = (mask_decoder(**inputs, multimask_output=wanted) for wanted in (True, False))
    assert_close(torch.cat([single[0], multiple[0]], dim=1), masks, rtol=0, atol=0)
    assert_close(torch.cat([single[1], multiple[1]], dim=1), iou, rtol=0, atol=0)


def test_prompts_do_not_influence_each_other(mask_decoder, inputs):
    with torch.no_grad():
        together, _ = mask_decoder.predict_masks(**inputs)
        for index in range(3):
            alone, _ = mask_decoder.predict_masks(
                inputs["image_embeddings"],
                inputs["image_pe"],
                inputs["sparse_prompt_embeddings"][index : index + 1],
                inputs["dense_prompt_embeddings"][index : index + 1],
            )
            assert_close(alone[0], together[index], rtol=1e-4, atol=1e-5)


def test_each_prompt_may_have_an_image_of_its_own(mask_decoder, inputs):
    images = torch.randn(3, 16, 4, 6)
    with torch.no_grad():
        together, iou = mask_decoder.predict_masks(**(inputs | {"image_embeddings": images}))
        alone, alone_iou = mask_decoder.predict_masks(
            images[1:2],
            inputs["image_pe"],
            inputs["sparse_prompt_embeddings"][1:2],
            inputs["dense_prompt_embeddings"][1:2],
        )
    assert_close(alone[0], together[1], rtol=1e-4, atol=1e-5)
    assert_close(alone_iou[0], iou[1], rtol=1e-4, atol=1e-5)


def test_another_number_of_images_is_refused(mask_decoder, inputs):
    with pytest.raises(ValueError, match="1 image or one for each of the 3 prompts"):
        mask_decoder(**(inputs | {"image_embeddings": torch.zeros(2, 16, 4, 6)}), multimask_output=True)


def test_a_prompt_without_tokens_works(mask_decoder, inputs):
    masks, _ = mask_decoder(**(inputs | {"sparse_prompt_embeddings": torch.zeros(3, 0, 16)}), multimask_output=False)
    assert masks.shape == (3, 1, 16, 24)


def test_every_parameter_receives_a_gradient(mask_decoder, inputs):
    masks, iou = mask_decoder.train().predict_masks(**inputs)
    (masks.square().sum() + iou.square().sum()).backward()
    without = {name for name, p in mask_decoder.named_parameters() if p.grad is None or p.grad.abs().sum() == 0}
    # a softmax does not see what is added to all of its scores
    assert not {name for name in without if "k_proj.bias" not in name}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_near_float32(mask_decoder, inputs, dtype):
    with torch.no_grad():
        exact, exact_iou = mask_decoder.predict_masks(**inputs)
        with torch.autocast("cpu", dtype=dtype):
            rough, rough_iou = mask_decoder.predict_masks(**inputs)
    assert (rough.float() - exact).norm() < 0.05 * exact.norm()
    assert (rough_iou.float() - exact_iou).norm() < 0.05 * exact_iou.norm()


def test_nothing_is_computed_in_float64(mask_decoder, inputs, float64_trap):
    with float64_trap, torch.no_grad():
        mask_decoder(**inputs, multimask_output=True)


def test_the_first_layer_replaces_the_tokens_and_later_ones_add_to_them(mask_decoder):
    first, second = mask_decoder.transformer.layers
    assert first.skip_first_layer_pe
    assert not second.skip_first_layer_pe
    tokens, positions = torch.randn(1, 5, 16), torch.randn(1, 5, 16)
    assert_close(first.attend_to_tokens(tokens, positions), first.self_attn(tokens, tokens, tokens))
    placed = tokens + positions
    assert_close(second.attend_to_tokens(tokens, positions), tokens + second.self_attn(placed, placed, tokens))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="num_heads=3"):
        Attention(16, 3, downsample_rate=2)


def test_layer_norm_of_a_map_normalises_the_channels_of_each_pixel(randomize):
    norm = randomize(LayerNorm2d(6))
    x = 3.0 + 2.0 * torch.randn(2, 6, 4, 5)
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    expected = (x - mean) / (variance + 1e-6).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    assert_close(norm(x), expected, rtol=1e-4, atol=1e-5)


def test_layer_norm_of_large_half_precision_values_does_not_overflow():
    x = (300.0 * torch.randn(1, 6, 4, 5)).half()  # squares are beyond float16
    normed = LayerNorm2d(6)(x)
    assert normed.dtype == torch.float16
    assert_close(normed.float(), LayerNorm2d(6)(x.float()), rtol=1e-2, atol=1e-2)


def test_mlps_have_the_given_depth_and_may_end_in_a_sigmoid():
    mlp = MLP(4, 8, 2, 3, sigmoid_output=True)
    assert [tuple(layer.weight.shape) for layer in mlp.layers] == [(8, 4), (8, 8), (2, 8)]
    answer = mlp(100.0 * torch.randn(5, 4))
    assert ((answer >= 0) & (answer <= 1)).all()
    assert MLPBlock(4, 8)(torch.zeros(2, 3, 4)).shape == (2, 3, 4)
