"""SAM's image encoder: a plain ViT with windows, decomposed relative positions and a convolutional neck.

Papers: ViTDet (Li et al. 2022, arXiv 2203.16527), MViTv2 for the relative positions (Li et al. 2021, arXiv 2112.01526)
and Segment Anything (Kirillov et al. 2023, arXiv 2304.02643). Parameter names are those of the official checkpoints.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import MLPBlock, attend, make_neck, static_sizes, window_partition, window_unpartition


@dataclass(frozen=True)
class ViTConfig:
    """The sizes of one of SAM's ViT encoders."""

    embed_dim: int  # channels
    depth: int  # blocks
    num_heads: int  # attention heads
    global_attn_indexes: tuple[int, ...]  # blocks that attend to the whole map; the others to windows

    def __post_init__(self) -> None:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim must be a multiple of num_heads, got {self.embed_dim} and {self.num_heads}")
        if any(not 0 <= index < self.depth for index in self.global_attn_indexes):
            raise ValueError(f"global_attn_indexes must be in [0, {self.depth}), got {self.global_attn_indexes}")


VIT_CONFIGS: dict[str, ViTConfig] = {
    "vit_b": ViTConfig(embed_dim=768, depth=12, num_heads=12, global_attn_indexes=(2, 5, 8, 11)),
    "vit_l": ViTConfig(embed_dim=1024, depth=24, num_heads=16, global_attn_indexes=(5, 11, 17, 23)),
    "vit_h": ViTConfig(embed_dim=1280, depth=32, num_heads=16, global_attn_indexes=(7, 15, 23, 31)),
}


class ImageEncoderViT(nn.Module):
    """Images (B, in_chans, H, W) -> embeddings (B, out_chans, H / patch_size, W / patch_size).

    Made for squares of `img_size`; for other multiples of `patch_size` the positions are interpolated.

    Args:
        img_size: side of the image the positions are stored for, in pixels.
        patch_size: side of a patch, in pixels.
        in_chans: channels of the image.
        embed_dim: channels of the blocks.
        depth: blocks.
        num_heads: attention heads of each block.
        mlp_ratio: hidden width of the MLPs over `embed_dim`.
        out_chans: channels of the embedding.
        qkv_bias: whether queries, keys and values have a bias.
        norm_layer: normalisation of the blocks, called with the number of channels.
        act_layer: activation of the MLPs.
        use_abs_pos: whether an absolute position is added to each patch.
        use_rel_pos: whether relative positions are added to the attention scores.
        rel_pos_zero_init: accepted for compatibility; relative positions always start at zero.
        window_size: side of the attention windows in patches; 0 for attention to the whole map everywhere.
        global_attn_indexes: blocks that attend to the whole map all the same.
    """

    def __init__(
        self,
        img_size: int = 1024,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        out_chans: int = 256,
        qkv_bias: bool = True,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: type[nn.Module] = nn.GELU,
        use_abs_pos: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        global_attn_indexes: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.img_size = img_size
        map_side = img_size // patch_size
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, map_side, map_side, embed_dim)) if use_abs_pos else None
        window_sizes = [0 if index in global_attn_indexes else window_size for index in range(depth)]
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                norm_layer=norm_layer,
                act_layer=act_layer,
                use_rel_pos=use_rel_pos,
                window_size=side,
                input_size=(map_side, map_side),
            )
            for side in window_sizes
        )
        self.neck = make_neck(embed_dim, out_chans)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)  # (B, H, W, C), one pixel per patch
        if self.pos_embed is not None:
            x = x + resize_map(self.pos_embed, static_sizes(x, 1, 2))
        for block in self.blocks:
            x = block(x)
        embedding: Tensor = self.neck(x.permute(0, 3, 1, 2))  # (B, out_chans, H, W)
        return embedding.contiguous()


class PatchEmbed(nn.Module):
    """Cut an image into patches and embed each: (B, in_chans, H, W) -> (B, H / patch_size, W / patch_size, C)."""

    def __init__(self, patch_size: int = 16, in_chans: int = 3, embed_dim: int = 768) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        height, width = static_sizes(x, 2, 3)
        if not height or not width or height % self.patch_size or width % self.patch_size:
            raise ValueError(f"image sides must be multiples of {self.patch_size}, got {height}x{width}; pad the image")
        patches: Tensor = self.proj(x)  # (B, C, H / patch_size, W / patch_size)
        return patches.permute(0, 2, 3, 1)


class Block(nn.Module):
    """Attention, within windows or to the whole map, then an MLP: (B, H, W, C) -> (B, H, W, C).

    Unlike TinyViT's, these windows are zero-padded after the normalisation; the padding takes part in the attention.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: type[nn.Module] = nn.GELU,
        use_rel_pos: bool = False,
        window_size: int = 0,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        attended_size = (window_size, window_size) if window_size else input_size
        self.attn = Attention(dim, num_heads, qkv_bias, use_rel_pos, attended_size)
        self.norm2 = norm_layer(dim)
        self.mlp = MLPBlock(dim, int(dim * mlp_ratio), act_layer)
        self.window_size = window_size

    def attend_in_windows(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), each window on its own."""
        windows, pad_hw = window_partition(x, self.window_size)
        return window_unpartition(self.attn(windows), self.window_size, pad_hw, static_sizes(x, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + (self.attend_in_windows(normed) if self.window_size else self.attn(normed))
        mixed: Tensor = x + self.mlp(self.norm2(x))
        return mixed


class Attention(nn.Module):
    """Self-attention over a map: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        num_heads: attention heads.
        qkv_bias: whether queries, keys and values have a bias.
        use_rel_pos: whether relative positions are added to the scores.
        input_size: (height, width) of the map the relative positions are stored for.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        use_rel_pos: bool = False,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.use_rel_pos = use_rel_pos
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        if not use_rel_pos:
            return
        if input_size is None:
            raise ValueError("relative positions need input_size, the (height, width) of the map")
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * input_size[0] - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * input_size[1] - 1, dim // num_heads))

    def position_bias(self, q: Tensor, height: int, width: int) -> Tensor:
        """Score the offsets between pixels: queries (B, heads, L, D) -> (B, heads, L, L), L = height * width."""
        q_map: Tensor = q.unflatten(2, (height, width))  # (B, heads, H, W, D)
        positions_h = get_rel_pos(height, height, self.rel_pos_h)  # (H, H, D)
        positions_w = get_rel_pos(width, width, self.rel_pos_w)  # (W, W, D)
        bias_h = torch.einsum("bnhwd,hkd->bnhwk", q_map, positions_h)  # (B, heads, H, W, H)
        bias_w = torch.einsum("bnhwd,wkd->bnhwk", q_map, positions_w)  # (B, heads, H, W, W)
        return (bias_h.unsqueeze(-1) + bias_w.unsqueeze(-2)).flatten(4, 5).flatten(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        height, width = static_sizes(x, 1, 2)
        qkv = self.qkv(x).flatten(1, 2).unflatten(-1, (3, self.num_heads, -1))  # (B, L, 3, heads, D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, L, D)
        bias = self.position_bias(q, height, width) if self.use_rel_pos else None
        mixed = attend(q, k, v, bias)  # (B, heads, L, D)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))  # (B, L, C)
        return projected.reshape(-1, height, width, projected.shape[-1])


def get_rel_pos(q_size: int, k_size: int, rel_pos: Tensor) -> Tensor:
    """Look up the embedding of the offset between each query and each key along one side.

    A table of another length is interpolated linearly; sides of different length are compared on the longer's scale.

    Args:
        q_size: number of queries along the side.
        k_size: number of keys along the side.
        rel_pos: (2 * side - 1, D), from the most negative offset to the most positive.

    Returns:
        (q_size, k_size, D).
    """
    longer = max(q_size, k_size)
    if rel_pos.shape[0] != 2 * longer - 1:
        table = F.interpolate(rel_pos.t()[None].float(), size=2 * longer - 1, mode="linear")  # (1, D, 2 * longer - 1)
        rel_pos = table[0].t().to(rel_pos.dtype)
    q_position = torch.arange(q_size, device=rel_pos.device)[:, None] * max(k_size / q_size, 1.0)
    k_position = torch.arange(k_size, device=rel_pos.device)[None, :] * max(q_size / k_size, 1.0)
    offset = q_position - k_position + (k_size - 1) * max(q_size / k_size, 1.0)  # (q_size, k_size), from 0
    return rel_pos[offset.long()]


def resize_map(x: Tensor, size_hw: Sequence[int]) -> Tensor:
    """Bicubic interpolation of a map, itself if it has that size: (1, H, W, C) -> (1, *size_hw, C)."""
    if static_sizes(x, 1, 2) == tuple(size_hw):
        return x
    resized = F.interpolate(x.permute(0, 3, 1, 2).float(), size=tuple(size_hw), mode="bicubic")  # (1, C, *size_hw)
    return resized.permute(0, 2, 3, 1).to(x.dtype)
