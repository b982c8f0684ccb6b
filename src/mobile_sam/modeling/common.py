"""Parts that several of the networks share: attention, windows, normalisation of maps, stochastic depth.

Inside the image encoders a map is (B, H, W, C) where attention works on it and (B, C, H, W) where convolutions do; both
are the same memory (channels last), so that the permutations cost nothing.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of a map: (B, C, H, W) -> (B, C, H, W).

    The statistics are taken in float32 whatever the dtype of the input, because a sum of squares would overflow
    float16; the result has the dtype of the input.
    """

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.normalized_shape = (num_channels,)  # plain ints, so that a traced graph has no shape arithmetic
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x_nhwc = x.permute(0, 2, 3, 1).float()  # (B, H, W, C)
        normed = F.layer_norm(x_nhwc, self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)
        return normed.to(x.dtype).permute(0, 3, 1, 2)  # (B, C, H, W)


def make_neck(dim: int, out_dim: int) -> nn.Sequential:
    """Build what follows the blocks of SAM's image encoders: (B, dim, H, W) -> (B, out_dim, H, W)."""
    return nn.Sequential(
        nn.Conv2d(dim, out_dim, 1, bias=False),
        LayerNorm2d(out_dim),
        nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False),
        LayerNorm2d(out_dim),
    )


class MLPBlock(nn.Module):
    """Two linear layers with an activation between them: (..., C) -> (..., C)."""

    def __init__(self, embedding_dim: int, mlp_dim: int, act: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.lin1 = nn.Linear(embedding_dim, mlp_dim)
        self.lin2 = nn.Linear(mlp_dim, embedding_dim)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.lin2(self.act(self.lin1(x)))
        return mixed


class StochasticDepth(nn.Module):
    """Drop a residual branch for whole images of a batch while training (Huang et al. 2016, arXiv 1603.09382).

    Kept branches are scaled by 1 / (1 - rate), so that the expectation does not change; in eval() this is the identity.

    Args:
        rate: probability of dropping, in [0, 1).
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"the stochastic depth rate must be in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep_rate = 1.0 - self.rate
        is_kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep_rate)  # (B, 1, ..., 1)
        return x * is_kept / keep_rate

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


def is_traced() -> bool:
    """Whether a graph is being recorded, for `torch.jit.trace` or an ONNX export."""
    return bool(torch.jit.is_tracing()) or torch.onnx.is_in_onnx_export()  # type: ignore[attr-defined]


_WRITES_OUT_ATTENTION = ContextVar("writes_out_attention", default=False)


@contextmanager
def attention_written_out() -> Iterator[None]:
    """Have attention recorded inside as matrix products and a softmax, for converters without the fused operator."""
    token = _WRITES_OUT_ATTENTION.set(True)
    try:
        yield
    finally:
        _WRITES_OUT_ATTENTION.reset(token)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention: (B, heads, Lq, D) x (B, heads, Lk, D) -> (B, heads, Lq, D).

    While a graph is traced the product is written out, because exporters and converters handle matrix products and a
    softmax better than one fused operator.

    Args:
        q: (B, heads, Lq, D) queries.
        k: (B, heads, Lk, D) keys.
        v: (B, heads, Lk, D) values.
        bias: added to the scores before the softmax, broadcastable to (B, heads, Lq, Lk); cast to the dtype of `q`.
    """
    bias = None if bias is None else bias.to(q.dtype)
    if not is_traced() and not _WRITES_OUT_ATTENTION.get():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    (head_dim,) = static_sizes(q, -1)
    scores = (q / math.sqrt(head_dim)) @ k.transpose(-2, -1)  # (B, heads, Lq, Lk)
    scores = scores if bias is None else scores + bias
    return scores.softmax(dim=-1) @ v


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, L, heads * D) -> (B, heads, L, D)."""
    B, L, _ = x.shape
    return x.view(B, L, num_heads, -1).transpose(1, 2)


def static_sizes(x: Tensor, *dims: int) -> tuple[int, ...]:
    """Read sizes of `x` as plain ints, even while tracing, so that a graph has one spatial size but any batch size."""
    return tuple(int(x.shape[dim]) for dim in dims)


_KEEPS_ANY_SIZE = ContextVar("keeps_any_size", default=False)


@contextmanager
def any_size_traced() -> Iterator[None]:
    """Have what is traced inside take maps of any height and width, by arithmetic on shapes that costs a little."""
    token = _KEEPS_ANY_SIZE.set(True)
    try:
        yield
    finally:
        _KEEPS_ANY_SIZE.reset(token)


def takes_any_size() -> bool:
    """Whether what is being traced shall take maps of any height and width."""
    return is_traced() and _KEEPS_ANY_SIZE.get()


def map_sizes(x: Tensor, *dims: int) -> tuple[int, ...]:
    """Read heights and widths: plain ints as `static_sizes`, but traced ones inside `any_size_traced`."""
    return tuple(x.shape[dim] for dim in dims) if takes_any_size() else static_sizes(x, *dims)


def window_partition(x: Tensor, window_size: int) -> tuple[Tensor, tuple[int, int]]:
    """Cut a map into square windows, after zero-padding it at the bottom and right to whole windows.

    Args:
        x: (B, H, W, C).
        window_size: side of a window, in map pixels.

    Returns:
        The windows (B * windows, window_size, window_size, C), row by row, and the padded (height, width).
    """
    (height, width), (channels,) = map_sizes(x, 1, 2), static_sizes(x, 3)
    pad_bottom, pad_right = -height % window_size, -width % window_size
    if takes_any_size() or pad_bottom or pad_right:
        x = F.pad(x, (0, 0, 0, pad_right, 0, pad_bottom))
    rows, columns = (height + pad_bottom) // window_size, (width + pad_right) // window_size
    tiles = x.reshape(-1, rows, window_size, columns, window_size, channels)
    windows = tiles.transpose(2, 3).reshape(-1, window_size, window_size, channels)
    return windows, (height + pad_bottom, width + pad_right)


def window_unpartition(windows: Tensor, window_size: int, pad_hw: Sequence[int], hw: Sequence[int]) -> Tensor:
    """Put the windows of `window_partition` back together and drop the padding.

    Args:
        windows: (B * windows, window_size, window_size, C).
        window_size: side of a window, in map pixels.
        pad_hw: padded height and width, as `window_partition` returned them.
        hw: height and width of the map without padding.

    Returns:
        (B, H, W, C).
    """
    rows, columns = pad_hw[0] // window_size, pad_hw[1] // window_size
    (channels,) = static_sizes(windows, -1)
    tiles = windows.reshape(-1, rows, columns, window_size, window_size, channels)
    x = tiles.transpose(2, 3).reshape(-1, *pad_hw, channels)  # (B, padded H, padded W, C)
    return x[:, : hw[0], : hw[1]]


def enlarge_logits(logits: Tensor, side: int, input_hw: Sequence[int], image_hw: Sequence[int]) -> Tensor:
    """Bring mask logits to the size of the picture: enlarge to the padded square, cut off the padding, resize.

    Args:
        logits: (P, M, h, w), of the padded square.
        side: side of the padded square, in pixels.
        input_hw: height and width of the resized picture within it.
        image_hw: height and width of the picture.

    Returns:
        (P, M, H, W), bilinear in both steps, without antialiasing.
    """
    square = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
    frame = square[..., : input_hw[0], : input_hw[1]]
    return F.interpolate(frame, (image_hw[0], image_hw[1]), mode="bilinear", align_corners=False)
