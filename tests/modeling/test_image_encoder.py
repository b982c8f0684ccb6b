import pytest
import torch
from torch.testing import assert_close

from mobile_sam.build_sam import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l
from mobile_sam.modeling import ImageEncoderViT
from mobile_sam.modeling.common import attend
from mobile_sam.modeling.image_encoder import Attention, ViTConfig, get_rel_pos


@pytest.fixture
def encoder(randomize):
    sizes = {"img_size": 96, "embed_dim": 24, "depth": 3, "num_heads": 2, "out_chans": 8}
    vit = ImageEncoderViT(**sizes, use_rel_pos=True, window_size=4, global_attn_indexes=(1,))
    return randomize(vit).eval()


@pytest.mark.parametrize(
    ("build", "num_parameters"),
    [(build_sam_vit_b, 93_735_472), (build_sam_vit_l, 312_342_832), (build_sam_vit_h, 641_090_608)],
)
def test_sam_has_the_official_number_of_parameters(build, num_parameters):
    with torch.device("meta"):
        sam = build()
    assert sum(parameter.numel() for parameter in sam.parameters()) == num_parameters


def test_keys_are_those_of_the_official_checkpoints(encoder):
    block = {
        *(f"norm{index}.{kind}" for index in (1, 2) for kind in ("weight", "bias")),
        *(f"attn.{layer}.{kind}" for layer in ("qkv", "proj") for kind in ("weight", "bias")),
        *(f"mlp.{layer}.{kind}" for layer in ("lin1", "lin2") for kind in ("weight", "bias")),
        "attn.rel_pos_h",
        "attn.rel_pos_w",
    }
    outside = {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "neck.0.weight", "neck.2.weight"}
    outside |= {f"neck.{index}.{kind}" for index in (1, 3) for kind in ("weight", "bias")}
    expected = outside | {f"blocks.{index}.{key}" for index in range(3) for key in block}
    assert encoder.state_dict().keys() == expected


def test_windows_and_whole_map_store_positions_of_their_own_size(encoder):
    sides = [block.attn.rel_pos_h.shape[0] for block in encoder.blocks]
    assert sides == [2 * 4 - 1, 2 * 6 - 1, 2 * 4 - 1]


def test_attention_adds_a_score_for_the_row_and_the_column_offset(randomize):
    height, width, dim, heads = 3, 2, 8, 2
    attention = randomize(Attention(dim, heads, use_rel_pos=True, input_size=(height, width))).eval()
    x = torch.randn(1, height, width, dim)
    pixels = [(row, column) for row in range(height) for column in range(width)]
    with torch.no_grad():
        q, k, v = attention.qkv(x).reshape(len(pixels), 3, heads, dim // heads).unbind(1)
        mixed = torch.zeros(len(pixels), heads, dim // heads)
        for head in range(heads):
            for i, (row, column) in enumerate(pixels):
                scores = torch.stack([
                    q[i, head] @ k[j, head] * (dim // heads) ** -0.5
                    + q[i, head] @ attention.rel_pos_h[row - other_row + height - 1]
                    + q[i, head] @ attention.rel_pos_w[column - other_column + width - 1]
                    for j, (other_row, other_column) in enumerate(pixels)
                ])  # fmt: skip
                mixed[i, head] = scores.softmax(0) @ v[:, head]
        expected = attention.proj(mixed.flatten(1)).reshape(1, height, width, dim)
        assert_close(attention(x), expected, rtol=1e-4, atol=1e-5)


def test_relative_positions_are_looked_up_by_offset():
    table = torch.arange(5.0)[:, None]  # offsets -2 to 2
    assert get_rel_pos(3, 3, table)[..., 0].tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]


def test_relative_positions_of_another_size_are_interpolated():
    table = torch.linspace(-1, 1, 9)[:, None]  # of a side of 5
    looked_up = get_rel_pos(3, 3, table)
    assert looked_up.shape == (3, 3, 1)
    assert_close(looked_up[..., 0], -looked_up[..., 0].T)
    assert (looked_up[:, 0, 0].diff() > 0).all()
    assert get_rel_pos(2, 6, torch.randn(11, 4)).shape == (2, 6, 4)


@pytest.mark.parametrize("image_hw", [(96, 96), (64, 112), (16, 160)])
def test_any_multiple_of_the_patch_works(encoder, image_hw):
    with torch.no_grad():
        embedding = encoder(torch.randn(2, 3, *image_hw))
    assert embedding.shape == (2, 8, image_hw[0] // 16, image_hw[1] // 16)
    assert embedding.isfinite().all()


def test_other_sizes_are_refused(encoder):
    with pytest.raises(ValueError, match="multiples of 16, got 90x96"):
        encoder(torch.zeros(1, 3, 90, 96))


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="embed_dim"):
        ViTConfig(embed_dim=10, depth=2, num_heads=3, global_attn_indexes=())
    with pytest.raises(ValueError, match="global_attn_indexes"):
        ViTConfig(embed_dim=12, depth=2, num_heads=3, global_attn_indexes=(2,))
    with pytest.raises(ValueError, match="input_size"):
        Attention(8, 2, use_rel_pos=True)


def test_every_parameter_receives_a_gradient(encoder):
    encoder.train()(torch.randn(1, 3, 96, 96)).square().sum().backward()
    assert not [name for name, p in encoder.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_near_float32(encoder, dtype):
    image = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        exact = encoder(image)
        with torch.autocast("cpu", dtype=dtype):
            rough = encoder(image).float()
    assert (rough - exact).norm() < 0.05 * exact.norm()


def test_nothing_is_computed_in_float64(encoder, float64_trap):
    with float64_trap, torch.no_grad():
        encoder(torch.randn(1, 3, 64, 96))


@pytest.mark.filterwarnings("ignore")
def test_traced_attention_equals_fused_attention():
    q, k, v = torch.randn(3, 2, 4, 5, 8).unbind(0)
    bias = torch.randn(1, 4, 5, 5)
    traced = torch.jit.trace(attend, (q, k, v, bias))
    assert "scaled_dot_product" not in str(traced.graph)
    assert_close(traced(q, k, v, bias), attend(q, k, v, bias))
