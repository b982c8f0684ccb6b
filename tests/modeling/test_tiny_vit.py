import io

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from mobile_sam.core.weights import bundled_weights_path
from mobile_sam.modeling import TinyViT
from mobile_sam.modeling.common import StochasticDepth, window_partition, window_unpartition
from mobile_sam.modeling.tiny_vit_sam import TINY_VIT_CONFIGS, TinyViTConfig, layer_lr_scales, offset_index


def count_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_default_network_has_the_5743892_used_parameters_of_mobile_sam():
    with torch.device("meta"):
        encoder = TinyViT()
    assert count_parameters(encoder) == 5_743_892
    assert count_parameters(encoder.neck) == 672_768


def test_keys_are_those_of_the_official_encoder_without_the_classifier():
    with torch.device("meta"):
        ours = TinyViT().state_dict()
    with safe_open(bundled_weights_path(), framework="pt") as file:
        keys = [key for key in file.keys() if key.startswith("image_encoder.")]  # noqa: SIM118
        official = {key: file.get_slice(key).get_shape() for key in keys}
    assert {f"image_encoder.{key}": list(tensor.shape) for key, tensor in ours.items()} == official


def test_arguments_of_the_original_are_accepted():
    encoder = TinyViT(
        img_size=64, in_chans=3, num_classes=1000, embed_dims=[8, 16, 16, 32], depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1], window_sizes=[7, 7, 14, 7], mlp_ratio=4.0, drop_rate=0.0, drop_path_rate=0.0,
        use_checkpoint=False, mbconv_expand_ratio=4.0, local_conv_size=3, layer_lr_decay=0.8,
    )  # fmt: skip
    assert encoder(torch.zeros(1, 3, 64, 64)).shape == (1, 256, 4, 4)


@pytest.mark.parametrize("size", TINY_VIT_CONFIGS)
def test_every_variant_has_32_channels_per_attention_head(size):
    config = TINY_VIT_CONFIGS[size]
    attending = slice(1, None)  # the first stage is convolutional
    assert {
        dim // heads for dim, heads in zip(config.embed_dims[attending], config.num_heads[attending], strict=True)
    } == {32}


@pytest.mark.parametrize(
    "changes",
    [{"strides": (2, 2)}, {"depths": (1, 1)}, {"num_heads": (2, 4, 5, 9)}],
    ids=["strides", "depths", "heads"],
)
def test_sizes_that_do_not_fit_together_are_refused(changes):
    sizes = {"embed_dims": (64, 128, 160, 320), "num_heads": (2, 4, 5, 10)} | changes
    with pytest.raises(ValueError, match=r"got|need"):
        TinyViTConfig(**sizes)


def test_offsets_in_a_window_are_numbered_by_row_and_column_distance():
    # pixels 0 1 / 2 3: 0-1 differ by a column, 0-2 by a row, 0-3 by both
    assert offset_index(2).tolist() == [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]


@pytest.mark.parametrize("map_hw", [(7, 7), (8, 13), (3, 14)])
def test_windows_come_back_as_the_map_they_were_cut_from(map_hw):
    x = torch.randn(2, *map_hw, 5)
    windows, pad_hw = window_partition(x, 7)
    assert pad_hw[0] % 7 == pad_hw[1] % 7 == 0
    assert len(windows) == 2 * (pad_hw[0] // 7) * (pad_hw[1] // 7)
    assert_close(windows[0, : min(7, map_hw[0])], x[0, :7, :7].float(), rtol=0, atol=0)
    assert windows.sum().item() == pytest.approx(x.sum().item(), abs=1e-3)  # the padding is zero
    assert_close(window_unpartition(windows, 7, pad_hw, map_hw), x, rtol=0, atol=0)


@pytest.mark.parametrize("image_hw", [(16, 16), (64, 64), (48, 96), (112, 16), (224, 80)])
def test_any_image_with_sides_that_are_multiples_of_16_works(make_tiny_vit, image_hw):
    encoder, images = make_tiny_vit(), torch.randn(2, 3, *image_hw)
    with torch.no_grad():
        embeddings = encoder(images)
        assert embeddings.shape == (2, 16, image_hw[0] // 16, image_hw[1] // 16)
        assert embeddings.is_contiguous()
        assert_close(embeddings[1:], encoder(images[1:]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("image_hw", [(63, 64), (64, 40), (0, 64), (8, 8)])
def test_other_sizes_are_refused_with_the_multiple(make_tiny_vit, image_hw):
    with pytest.raises(ValueError, match=rf"multiples of 16, got {image_hw[0]}x{image_hw[1]}"):
        make_tiny_vit()(torch.zeros(1, 3, *image_hw))


def test_strides_set_the_size_of_the_embedding(make_tiny_vit):
    encoder = make_tiny_vit(strides=(2, 2, 2))
    assert encoder(torch.zeros(1, 3, 64, 96)).shape == (1, 16, 2, 3)
    with pytest.raises(ValueError, match="multiples of 32"):
        encoder(torch.zeros(1, 3, 48, 64))


def test_weights_loaded_after_eval_are_used_like_weights_loaded_before(make_tiny_vit, randomize):
    image, weights = torch.randn(1, 3, 64, 64), randomize(make_tiny_vit(), seed=1).state_dict()
    before, after, again = (make_tiny_vit().train() for _ in range(3))
    before.load_state_dict(weights)
    before.eval()
    after.eval()
    after(image)
    after.load_state_dict(weights)
    again.load_state_dict(weights)
    again.eval().train().eval()
    with torch.no_grad():
        expected = before(image)
        assert_close(after(image), expected, rtol=0, atol=0)
        assert_close(again(image), expected, rtol=0, atol=0)
        after.layers[1].blocks[0].attn.attention_biases[0, 1] += 5.0
        assert (after(image) - expected).abs().max() > 0.01


def test_train_and_eval_return_the_network(make_tiny_vit):
    encoder = make_tiny_vit()
    assert encoder.train() is encoder
    assert encoder.eval() is encoder


def test_every_parameter_receives_a_gradient(make_tiny_vit):
    encoder = make_tiny_vit().train()
    encoder(torch.randn(2, 3, 64, 64)).square().sum().backward()
    without = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without
    biases = [p.grad for name, p in encoder.named_parameters() if name.endswith("attention_biases")]
    assert biases
    assert all(gradient.abs().sum() > 0 for gradient in biases)


def test_recomputed_activations_give_the_same_gradients(make_tiny_vit):
    image, gradients = torch.randn(2, 3, 32, 32), []
    for use_checkpoint in (False, True):
        encoder = make_tiny_vit(use_checkpoint=use_checkpoint).train()
        encoder(image).square().sum().backward()
        gradients.append(encoder.patch_embed.seq[0].c.weight.grad)
    assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_near_float32(make_tiny_vit, dtype):
    encoder, image = make_tiny_vit(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact = encoder(image)
        with torch.autocast("cpu", dtype=dtype):
            rough = encoder(image).float()
    assert (rough - exact).norm() < (0.05 if dtype == torch.bfloat16 else 0.01) * exact.norm()


def test_nothing_is_computed_in_float64(float64_trap):
    with float64_trap:
        encoder = TinyViT(img_size=32, embed_dims=(8, 16, 16, 32), depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
        encoder.train()(torch.randn(1, 3, 32, 32)).sum().backward()


def test_stochastic_depth_keeps_the_mean_and_is_off_in_eval():
    drop, x = StochasticDepth(0.25), torch.ones(4000, 2, 3)
    assert drop.eval()(x) is x
    dropped = drop.train()(x)
    assert {round(value, 4) for value in dropped.unique().tolist()} == {0.0, round(1 / 0.75, 4)}
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    assert (dropped == dropped[:, :1, :1]).all()  # whole images, not pixels
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        StochasticDepth(1.0)


def test_stochastic_depth_grows_linearly_over_the_blocks():
    with torch.device("meta"):
        encoder = TinyViT(drop_path_rate=0.11)
    rates = [block.drop_path.rate for layer in encoder.layers for block in layer.blocks]
    assert rates == pytest.approx([0.01 * index for index in range(12)])


def test_learning_rates_decay_from_the_last_block_to_the_stem(make_tiny_vit):
    encoder = make_tiny_vit()
    scales = layer_lr_scales(encoder, 0.5)
    assert scales.keys() == {name for name, _ in encoder.named_parameters()}
    assert scales["neck.0.weight"] == scales["layers.3.blocks.0.mlp.fc1.weight"] == 1.0
    assert scales["layers.2.downsample.conv1.c.weight"] == scales["layers.2.blocks.1.attn.qkv.weight"] == 0.5
    assert scales["patch_embed.seq.0.c.weight"] == scales["layers.0.blocks.0.conv1.c.weight"] == 0.5**4
    with pytest.raises(ValueError, match="decay"):
        layer_lr_scales(encoder, 0.0)


@pytest.mark.filterwarnings("ignore")
def test_a_traced_network_takes_other_batch_sizes(make_tiny_vit):
    encoder, images = make_tiny_vit(), torch.randn(3, 3, 64, 48)
    traced = torch.jit.trace(encoder, images[:1])
    with torch.no_grad():
        assert_close(traced(images), encoder(images), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_an_onnx_graph_with_dynamic_batch_answers_alike(make_tiny_vit):
    encoder, images, graph = make_tiny_vit(), torch.randn(2, 3, 64, 48), io.BytesIO()
    torch.onnx.export(
        encoder, (images[:1],), graph, input_names=["images"], output_names=["embeddings"],
        dynamic_axes={"images": {0: "batch"}, "embeddings": {0: "batch"}}, opset_version=17, dynamo=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(graph.getvalue(), providers=["CPUExecutionProvider"])
    answer = session.run(None, {"images": images.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(answer, encoder(images).numpy(), rtol=1e-3, atol=1e-4)
