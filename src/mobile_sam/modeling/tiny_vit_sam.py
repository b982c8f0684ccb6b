"""TinyViT as the image encoder of MobileSAM.

Papers: TinyViT (Wu et al. 2022, arXiv 2207.10666) and MobileSAM (Zhang et al. 2023, arXiv 2306.14289), which keeps
the last downsampling at stride 1, for a map of 1/16 of the image's side as SAM's decoder expects, and adds SAM's neck.

Parameter names are those of the official checkpoint, without the classifier (`norm_head`, `head`) that is never used.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .common import (
    StochasticDepth,
    attend,
    is_traced,
    make_neck,
    map_sizes,
    static_sizes,
    window_partition,
    window_unpartition,
)


@dataclass(frozen=True)
class TinyViTConfig:
    """The sizes of one TinyViT; one entry per stage, the first of which is convolutional."""

    embed_dims: tuple[int, ...]  # channels
    num_heads: tuple[int, ...]  # attention heads; the first stage has none and ignores its entry
    depths: tuple[int, ...] = (2, 2, 6, 2)  # blocks
    window_sizes: tuple[int, ...] = (7, 7, 14, 7)  # side of an attention window, in map pixels
    strides: tuple[int, ...] = (2, 2, 1)  # of the downsampling between stages

    def __post_init__(self) -> None:
        num_stages = len(self.embed_dims)
        if any(len(per_stage) != num_stages for per_stage in (self.num_heads, self.depths, self.window_sizes)):
            raise ValueError(
                f"embed_dims, num_heads, depths and window_sizes must have one entry per stage, got {self}"
            )
        if len(self.strides) != num_stages - 1:
            raise ValueError(f"{num_stages} stages need {num_stages - 1} strides between them, got {self.strides}")
        if any(dim % heads for dim, heads in zip(self.embed_dims[1:], self.num_heads[1:], strict=True)):
            raise ValueError(f"embed_dims must be multiples of num_heads, got {self.embed_dims} and {self.num_heads}")


TINY_VIT_CONFIGS: dict[str, TinyViTConfig] = {
    "1m": TinyViTConfig(embed_dims=(16, 32, 64, 128), num_heads=(1, 1, 2, 4), depths=(1, 1, 2, 1)),
    "5m": TinyViTConfig(embed_dims=(64, 128, 160, 320), num_heads=(2, 4, 5, 10)),
    "11m": TinyViTConfig(embed_dims=(64, 128, 256, 448), num_heads=(2, 4, 8, 14)),
    "21m": TinyViTConfig(embed_dims=(96, 192, 384, 576), num_heads=(3, 6, 12, 18)),
}


@dataclass(frozen=True)
class BlockOptions:
    """What all blocks of a TinyViT share."""

    mlp_ratio: float = 4.0  # hidden width over width
    drop_rate: float = 0.0  # dropout in the MLPs, in [0, 1)
    local_conv_size: int = 3  # kernel side, odd
    mbconv_expand_ratio: float = 4.0  # hidden width over width

    def __post_init__(self) -> None:
        if self.local_conv_size % 2 == 0:
            raise ValueError(f"local_conv_size must be odd to keep the size of the map, got {self.local_conv_size}")


class ConvBN(nn.Module):
    """Convolution without bias, then BatchNorm: (B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""

    def __init__(self, in_dim: int, out_dim: int, kernel_size: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(in_dim, out_dim, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.bn(self.c(x))
        return normed


class PatchEmbed(nn.Module):
    """The stem, two convolutions of stride 2: (B, 3, H, W) -> (B, C, H / 4, W / 4)."""

    def __init__(self, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvBN(in_chans, embed_dim // 2, 3, stride=2), nn.GELU(), ConvBN(embed_dim // 2, embed_dim, 3, stride=2)
        )

    def forward(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.seq(x)
        return embedded


class MBConv(nn.Module):
    """Inverted residual block that begins as GELU(x), its last BatchNorm being zero: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, dim: int, expand_ratio: float, drop_path: float) -> None:
        super().__init__()
        hidden_dim = int(dim * expand_ratio)
        self.conv1 = ConvBN(dim, hidden_dim)
        self.conv2 = ConvBN(hidden_dim, hidden_dim, 3, groups=hidden_dim)
        self.conv3 = ConvBN(hidden_dim, dim)
        self.act = nn.GELU()
        self.drop_path = StochasticDepth(drop_path)
        nn.init.zeros_(self.conv3.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv3(self.act(self.conv2(self.act(self.conv1(x)))))
        activated: Tensor = self.act(x + self.drop_path(branch))
        return activated


class PatchMerging(nn.Module):
    """Downsample and widen between two stages: (B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""

    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(dim, out_dim)
        self.conv2 = ConvBN(out_dim, out_dim, 3, stride=stride, groups=out_dim)
        self.conv3 = ConvBN(out_dim, out_dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        merged: Tensor = self.conv3(self.act(self.conv2(self.act(self.conv1(x)))))
        return merged


def offset_index(window_size: int) -> Tensor:
    """For each pair of pixels of a window, the number of its offset: (L, L) int64, |dy| * window_size + |dx|."""
    position = torch.arange(window_size)
    distance = (position[:, None] - position[None, :]).abs()  # (side, side)
    index = distance[:, None, :, None] * window_size + distance[None, :, None, :]  # (y, x, y', x')
    return index.reshape(window_size**2, window_size**2)


class Attention(nn.Module):
    """Self-attention within a window, biased by the offset between two pixels: (B, L, C) -> (B, L, C).

    The bias is read from `attention_biases` on every forward; a copy made once would go stale when weights are loaded.

    Args:
        dim: channels C.
        num_heads: attention heads.
        window_size: side of the window; L = window_size ** 2.
    """

    attention_bias_idxs: Tensor

    def __init__(self, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.num_tokens = window_size**2
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, self.num_tokens))
        self.register_buffer("attention_bias_idxs", offset_index(window_size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split_heads(part) for part in self._project(self.norm(x)))  # each (B, heads, L, D)
        bias = self.attention_biases[:, self.attention_bias_idxs][None]  # (1, heads, L, L)
        mixed = attend(q, k, v, bias)  # (B, heads, L, D)
        merged = mixed.transpose(1, 2).reshape(-1, self.num_tokens, self.num_heads * self.head_dim)  # (B, L, C)
        projected: Tensor = self.proj(merged)
        return projected

    def _project(self, x: Tensor) -> Sequence[Tensor]:
        """Queries, keys and values: (B, L, C) -> three of (B, L, C). The checkpoint has them head by head.

        A graph computes each by a product of its own, so that runtimes need not take one apart in memory.
        """
        C = self.num_heads * self.head_dim
        if not is_traced():
            parts: Tensor = self.qkv(x).unflatten(-1, (self.num_heads, 3, self.head_dim))  # (B, L, heads, 3, D)
            return [part.flatten(2) for part in parts.unbind(3)]
        weight = self.qkv.weight.view(self.num_heads, 3, self.head_dim, C).transpose(0, 1).reshape(3 * C, C)
        bias = self.qkv.bias.view(self.num_heads, 3, self.head_dim).transpose(0, 1).reshape(3 * C)
        thirds = (slice(0, C), slice(C, 2 * C), slice(2 * C, 3 * C))  # which exporters fold, unlike indices
        return [F.linear(x, weight[rows], bias[rows]) for rows in thirds]

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, heads, L, D), with sizes that a graph knows."""
        return x.reshape(-1, self.num_tokens, self.num_heads, self.head_dim).transpose(1, 2)


class Mlp(nn.Module):
    """LayerNorm and two linear layers: (..., C) -> (..., C)."""

    def __init__(self, dim: int, hidden_dim: int, drop: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.act = nn.GELU()
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(self.act(self.fc1(self.norm(x))))  # (..., hidden_dim)
        mixed: Tensor = self.drop(self.fc2(hidden))
        return mixed


class TinyViTBlock(nn.Module):
    """Window attention, depthwise convolution, MLP: (B, C, H, W) -> (B, C, H, W).

    The zeros that fill up the last windows take part in the attention, unmasked, as they did in training.
    """

    def __init__(
        self, dim: int, num_heads: int, window_size: int, options: BlockOptions, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.attn = Attention(dim, num_heads, window_size)
        self.local_conv = ConvBN(dim, dim, options.local_conv_size, groups=dim)
        self.mlp = Mlp(dim, int(dim * options.mlp_ratio), options.drop_rate)
        self.drop_path = StochasticDepth(drop_path)

    def attend_in_windows(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), each window on its own."""
        windows, pad_hw = window_partition(x, self.window_size)
        mixed = self.attn(windows.flatten(1, 2))  # (B * windows, L, C)
        return window_unpartition(mixed, self.window_size, pad_hw, map_sizes(x, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        (C,), (height, width) = static_sizes(x, 1), map_sizes(x, 2, 3)
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        # Sums and MLP take lists of pixels, since runtimes lay maps out anew for them (docs/log.md).
        pixels = x.reshape(-1, C) + self.drop_path(self.attend_in_windows(x)).reshape(-1, C)  # (B * H * W, C)
        x = self.local_conv(pixels.reshape(-1, height, width, C).permute(0, 3, 1, 2))  # (B, C, H, W)
        pixels = x.permute(0, 2, 3, 1).reshape(-1, C)
        mixed = self.mlp(pixels).reshape(-1, height, width, C)  # a map again, whose images may be dropped
        pixels = pixels + self.drop_path(mixed).reshape(-1, C)
        summed: Tensor = pixels.reshape(-1, height, width, C)
        return summed.permute(0, 3, 1, 2)  # (B, C, H, W)


class Stage(nn.Module):
    """Blocks of one width, then the step to the next stage, if there is one: (B, C, H, W) -> (B, C', H', W')."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None, use_checkpoint: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        self.use_checkpoint = use_checkpoint

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.use_checkpoint and self.training else block(x)
        return x if self.downsample is None else self.downsample(x)


class TinyViT(nn.Module):
    """TinyViT with SAM's neck: images (B, in_chans, H, W) -> embeddings (B, 256, H / 16, W / 16).

    Argument names are those of the original. Any image whose sides are multiples of 16 works, square or not.

    Args:
        img_size: side of the square that `Sam.preprocess` pads to, in pixels; the network itself does not depend on it.
        in_chans: channels of the image.
        num_classes: accepted for compatibility and ignored; there is no classifier.
        embed_dims, depths, num_heads, window_sizes, strides: see `TinyViTConfig`.
        mlp_ratio: hidden width of the MLPs over their width.
        drop_rate: dropout in the MLPs.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0 in the first.
        use_checkpoint: while training, recompute activations in the backward pass instead of storing them.
        mbconv_expand_ratio: hidden width of the convolutional blocks over their width.
        local_conv_size: kernel of the convolution between attention and MLP, odd.
        layer_lr_decay: accepted for compatibility and ignored; see `layer_lr_scales`.
        out_chans: channels of the embedding.
    """

    def __init__(
        self,
        img_size: int = 1024,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dims: Sequence[int] = TINY_VIT_CONFIGS["5m"].embed_dims,
        depths: Sequence[int] = TINY_VIT_CONFIGS["5m"].depths,
        num_heads: Sequence[int] = TINY_VIT_CONFIGS["5m"].num_heads,
        window_sizes: Sequence[int] = TINY_VIT_CONFIGS["5m"].window_sizes,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        use_checkpoint: bool = False,
        mbconv_expand_ratio: float = 4.0,
        local_conv_size: int = 3,
        layer_lr_decay: float = 1.0,
        *,
        strides: Sequence[int] = TINY_VIT_CONFIGS["5m"].strides,
        out_chans: int = 256,
    ) -> None:
        super().__init__()
        config = TinyViTConfig(tuple(embed_dims), tuple(num_heads), tuple(depths), tuple(window_sizes), tuple(strides))
        self.img_size = img_size
        self.depths = config.depths
        self.stride = 4 * math.prod(config.strides)  # image pixels per embedding pixel, along each side
        self.patch_embed = PatchEmbed(in_chans, config.embed_dims[0])
        block_options = BlockOptions(mlp_ratio, drop_rate, local_conv_size, mbconv_expand_ratio)
        drop_path_rates = _ramp(drop_path_rate, sum(config.depths))
        dims_and_strides = zip(config.embed_dims, config.embed_dims[1:], config.strides, strict=False)
        merges = [PatchMerging(dim, out_dim, stride) for dim, out_dim, stride in dims_and_strides]
        self.layers = nn.ModuleList()
        for stage, (depth, merging) in enumerate(zip(config.depths, [*merges, None], strict=True)):
            first_block = sum(config.depths[:stage])
            rates = drop_path_rates[first_block : first_block + depth]
            self.layers.append(Stage(_stage_blocks(config, stage, block_options, rates), merging, use_checkpoint))
        self.neck = make_neck(config.embed_dims[-1], out_chans)
        self.apply(_init_linear)

    def forward(self, x: Tensor) -> Tensor:
        height, width = static_sizes(x, 2, 3)
        if height % self.stride or width % self.stride or not height or not width:
            raise ValueError(f"image sides must be multiples of {self.stride}, got {height}x{width}; pad the image")
        x = self.patch_embed(x.contiguous(memory_format=torch.channels_last))  # (B, C, H / 4, W / 4)
        for layer in self.layers:
            x = layer(x)
        embedding: Tensor = self.neck(x)  # (B, out_chans, H / 16, W / 16)
        return embedding.contiguous()


def _stage_blocks(
    config: TinyViTConfig, stage: int, options: BlockOptions, drop_path_rates: Sequence[float]
) -> list[nn.Module]:
    dim, num_heads, window_size = config.embed_dims[stage], config.num_heads[stage], config.window_sizes[stage]
    if stage == 0:
        return [MBConv(dim, options.mbconv_expand_ratio, rate) for rate in drop_path_rates]
    return [TinyViTBlock(dim, num_heads, window_size, options, rate) for rate in drop_path_rates]


def _ramp(last: float, num_steps: int) -> list[float]:
    return [last * step / max(num_steps - 1, 1) for step in range(num_steps)]


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def layer_lr_scales(model: TinyViT, decay: float) -> dict[str, float]:
    """Learning-rate factor of each parameter: 1 at the last block and the neck, times `decay` for each block below.

    The stem shares the factor of the first block, a downsampling that of the block before it, as in TinyViT's recipe.

    Args:
        model: the encoder.
        decay: factor per block, in (0, 1].

    Returns:
        Factor by parameter name; every parameter of the model has one.
    """
    if not 0.0 < decay <= 1.0:
        raise ValueError(f"decay must be in (0, 1], got {decay}")
    depths = model.depths
    scale_of = {"patch_embed": decay ** (sum(depths) - 1), "neck": 1.0}
    for stage, depth in enumerate(depths):
        blocks_above = [sum(depths[stage:]) - 1 - block for block in range(depth)]
        scale_of |= {f"layers.{stage}.blocks.{block}": decay**above for block, above in enumerate(blocks_above)}
        scale_of[f"layers.{stage}.downsample"] = decay ** blocks_above[-1]
    return {
        name: next(scale for prefix, scale in scale_of.items() if name.startswith(f"{prefix}."))
        for name, _ in model.named_parameters()
    }
