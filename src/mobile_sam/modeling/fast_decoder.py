"""The mask decoder in the form that is quick to run: same parameters, same answers, fewer multiplications.

`MaskDecoder` is the readable reference; the modules here hold no weights of their own but read those of a `Sam` on
every call, and a test holds them to the reference at 1e-4 in the logits. They are what the ONNX graphs are traced from.
What they do differently:

* The image tokens are never copied for each prompt: without mask prompts, layer 0 sees one (1, L, C) array for all P.
* Absorbed projections. Only T (about 7) prompt tokens meet L = 4096 image tokens, so the weights that would project the
  image tokens are moved to the side of the prompt tokens: q (W_k x) = (q W_k) x. Where image tokens are the keys, the
  bias of their projection adds the same number to every score and cancels in the softmax.
* Judge before drawing: `MaskTokenDecoder` gives the predicted IoU, and only masks that are wanted go on to
  `MaskUpscaler`.
* The transposed convolutions have kernel = stride = 2, so each is one matrix product in channels-last layout.

L image tokens, T prompt tokens (IoU token, 4 mask tokens, N points), P prompts, C = 256 channels.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobile_sam.core.prompts import LABEL_ABSENT
from mobile_sam.modeling.common import LayerNorm2d, split_heads
from mobile_sam.modeling.prompt_encoder import PromptEncoder
from mobile_sam.modeling.sam import Sam
from mobile_sam.modeling.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer


class FastMaskDecoder(nn.Module):
    """Prompts in, masks out: `MaskTokenDecoder` and `MaskUpscaler` in one."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.token_decoder = MaskTokenDecoder(sam)
        self.upscaler = MaskUpscaler(sam)

    def forward(
        self,
        features: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        mask_tokens: Tensor | list[int],
        min_iou: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode P prompts over one embedding, and draw the R of them that are worth it.

        Args:
            features: see `MaskTokenDecoder.forward`.
            point_coords: see there.
            point_labels: see there.
            mask_input: see there.
            has_mask_input: see there.
            mask_tokens: (M,) int64, or a list: which of the four masks are wanted.
            min_iou: a number; prompts without a mask whose predicted IoU reaches it are not drawn, but the best always
                is, since runtimes stumble over tensors without elements. None draws all.

        Returns:
            Logits (R, M, 4h, 4w), predicted IoU (P, M), and which prompts were drawn (R,) int64.
        """
        iou, mask_weights, image_tokens = self.token_decoder(
            features, point_coords, point_labels, mask_input, has_mask_input
        )
        iou, mask_weights = iou[:, mask_tokens], mask_weights[:, mask_tokens]
        if min_iou is None:
            return self.upscaler(image_tokens, mask_weights), iou, torch.arange(len(iou), device=iou.device)
        best = iou.amax(dim=1)  # (P,)
        is_drawn = torch.logical_not(best < torch.minimum(min_iou, best.amax()))  # so written, NaN is drawn
        drawn = is_drawn.nonzero()[:, 0]  # (R,)
        return self.upscaler(image_tokens[drawn], mask_weights[drawn]), iou, drawn


class MaskTokenDecoder(nn.Module):
    """Prompts in, judged mask tokens out: everything of SAM's decoder up to the upscaling.

    Args:
        sam: the model whose prompt encoder and mask decoder are used, by reference.
    """

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.prompt_encoder = sam.prompt_encoder
        self.mask_decoder = sam.mask_decoder

    def forward(
        self,
        features: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        dense_pe: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode P prompts over one embedding.

        Args:
            features: (1, C, h, w), the embedding of one picture, or (P, C, h, w), one for each prompt.
            point_coords: (P, N, 2) float32, model pixels.
            point_labels: (P, N) float32: 1, 0, 2, 3, -1 as in SAM, and -10 for an absent point.
            mask_input: (D, 1, 4h, 4w) logits, D = P, or D = 1 for one that all prompts share.
            has_mask_input: (D,) float32, 1 where the mask is to be used and 0 where there is none.
            dense_pe: (1, C, h, w), positions of the features; None for `PromptEncoder.get_dense_pe()`.

        Returns:
            Predicted IoU (P, 4); weights of the four masks (P, 4, C/8); image tokens (P, h * w, C).
        """
        prompt_tokens = self.prompt_encoder._embed_points(point_coords, point_labels, pad=False)  # (P, N, C)
        dense = embed_masks(self.prompt_encoder, mask_input, has_mask_input)  # (D, C, h or 1, w or 1)
        image_tokens = (features + dense).flatten(2).transpose(1, 2)  # (D, L, C)
        dense_pe = self.prompt_encoder.get_dense_pe() if dense_pe is None else dense_pe  # (1, C, h, w)
        grid_pe = dense_pe.flatten(2).transpose(1, 2).to(features.dtype)  # (1, L, C)

        own_tokens = torch.cat([self.mask_decoder.iou_token.weight, self.mask_decoder.mask_tokens.weight])  # (5, C)
        P = point_coords.shape[0]
        own_tokens = own_tokens.unsqueeze(0).expand(P, -1, -1)
        tokens = torch.cat([own_tokens.to(prompt_tokens.dtype), prompt_tokens], dim=1)  # (P, T, C)
        token_bias = absent_token_bias(point_labels, own_tokens.shape[1]).to(features.dtype)  # (P, T)

        transformer = cast(TwoWayTransformer, self.mask_decoder.transformer)
        tokens, image_tokens = run_transformer(transformer, tokens, image_tokens, grid_pe, token_bias)
        iou = self.mask_decoder.iou_prediction_head(tokens[:, 0])  # (P, 4)
        mask_weights = torch.stack(
            [mlp(tokens[:, 1 + i]) for i, mlp in enumerate(self.mask_decoder.output_hypernetworks_mlps)], dim=1
        )  # (P, 4, C/8)
        return iou, mask_weights, image_tokens


class MaskUpscaler(nn.Module):
    """Draw masks from image tokens: SAM's two transposed convolutions and the product with the mask weights."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.mask_decoder = sam.mask_decoder
        self.grid_hw: tuple[int, int] = sam.prompt_encoder.image_embedding_size

    def forward(self, image_tokens: Tensor, mask_weights: Tensor) -> Tensor:
        """Draw M masks for each of P prompts: (P, h * w, C), (P, M, C/8) -> logits (P, M, 4h, 4w)."""
        h, w = self.grid_hw
        M = mask_weights.shape[1]
        first, norm, activation, second, last_activation = self.mask_decoder.output_upscaling
        assert isinstance(norm, LayerNorm2d)  # which is a LayerNorm of the last axis in channels-last layout
        x = _double(image_tokens, cast(nn.ConvTranspose2d, first))  # (P, h*w, 4, C/4)
        x = F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        x = _double(activation(x).flatten(1, 2), cast(nn.ConvTranspose2d, second))  # (P, h*w*4, 4, C/8)
        x = last_activation(x).flatten(1, 2)  # (P, h*w*16, C/8)
        logits = mask_weights @ x.transpose(1, 2)  # (P, M, h*w*16)
        if torch.compiler.is_exporting():  # runtimes on phones take tensors of no more than four to six axes
            quarters = logits.reshape(-1, w, 2, 8).transpose(1, 2)  # (P*M*h, 2, w, 8): rows of quarters, their columns
            rows_first = quarters.reshape(-1, 2 * w, 2, 2).transpose(1, 2)  # (P*M*2h, 2, 2w, 2): likewise
        else:
            logits = logits.view(-1, M, h, w, 2, 2, 2, 2)  # rows and columns of cell, quarter, sixteenth, interleaved
            rows_first = logits.permute(0, 1, 2, 4, 6, 3, 5, 7)
        drawn: Tensor = rows_first.reshape(-1, M, 4 * h, 4 * w)
        return drawn


def embed_masks(encoder: PromptEncoder, mask_input: Tensor, has_mask_input: Tensor) -> Tensor:
    """Embed mask prompts: (D, 1, 4h, 4w) logits and (D,) flags -> (D, C, h, w)."""
    embedded = encoder.mask_downscaling(mask_input)  # (D, C, h, w)
    no_mask = encoder.no_mask_embed.weight[:, :, None, None]  # (1, C, 1, 1)
    return torch.where(has_mask_input[:, None, None, None] > 0, embedded, no_mask.to(embedded.dtype))


def absent_token_bias(labels: Tensor, num_own_tokens: int) -> Tensor:
    """What is added to attention scores of each token: (P, N) labels -> (P, T), -inf where a point is absent."""
    bias = torch.where(labels == LABEL_ABSENT, float("-inf"), 0.0)  # (P, N)
    return F.pad(bias, (num_own_tokens, 0))


def run_transformer(
    transformer: TwoWayTransformer, tokens: Tensor, image_tokens: Tensor, grid_pe: Tensor, token_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Let prompt tokens and image tokens attend to each other.

    Args:
        transformer: the module whose weights are used.
        tokens: (P, T, C), which serve as their own positions.
        image_tokens: (D, L, C), D = 1 or P.
        grid_pe: (1, L, C), positions of the image tokens.
        token_bias: (P, T), added to the scores of each token.

    Returns:
        Tokens (P, T, C) and image tokens (P, L, C).
    """
    token_pe = tokens
    for layer in transformer.layers:
        block = cast(TwoWayAttentionBlock, layer)
        tokens = _attend_to_themselves(block, tokens, token_pe, token_bias)
        placed = image_tokens + grid_pe  # (D, L, C)
        tokens = tokens + tokens_from_image(block.cross_attn_token_to_image, tokens + token_pe, placed, image_tokens)
        tokens = block.norm2(tokens)
        tokens = block.norm3(tokens + block.mlp(tokens))
        update = image_from_tokens(block.cross_attn_image_to_token, placed, tokens + token_pe, tokens, token_bias)
        image_tokens = block.norm4(image_tokens + update)  # (P, L, C)
    final = transformer.final_attn_token_to_image
    tokens = tokens + tokens_from_image(final, tokens + token_pe, image_tokens + grid_pe, image_tokens)
    return transformer.norm_final_attn(tokens), image_tokens


def tokens_from_image(attention: Attention, queries: Tensor, placed: Tensor, image_tokens: Tensor) -> Tensor:
    """Cross attention, prompt tokens asking: (P, T, C), image (D, L, C) with and without position -> (P, T, C)."""
    P, T, C = queries.shape
    heads = attention.num_heads
    q = split_heads(attention.q_proj(queries), heads)  # (P, heads, T, d)
    key_weight = attention.k_proj.weight.view(heads, -1, C)  # (heads, d, C)
    q = (q * q.shape[-1] ** -0.5) @ key_weight  # (P, heads, T, C)
    scores = q.flatten(1, 2) @ placed.transpose(1, 2)  # (P, heads*T, L)
    mixed = scores.softmax(dim=-1) @ image_tokens  # (P, heads*T, C)
    value_weight = attention.v_proj.weight.view(heads, -1, C).transpose(1, 2)  # (heads, C, d)
    mixed = mixed.view(P, heads, T, C) @ value_weight  # (P, heads, T, d)
    mixed = mixed.transpose(1, 2).flatten(2) + attention.v_proj.bias  # attention sums to 1, so the bias stays whole
    return attention.out_proj(mixed)  # type: ignore[no-any-return]


def image_from_tokens(attention: Attention, placed: Tensor, keys: Tensor, values: Tensor, token_bias: Tensor) -> Tensor:
    """Cross attention, image tokens asking: placed (D, L, C), keys and values (P, T, C) -> (P, L, C)."""
    P, T, C = keys.shape
    heads = attention.num_heads
    k = split_heads(attention.k_proj(keys), heads)  # (P, heads, T, d)
    k = k * k.shape[-1] ** -0.5
    query_weight = attention.q_proj.weight.view(heads, -1, C)  # (heads, d, C)
    query_bias = attention.q_proj.bias.view(heads, -1, 1)  # (heads, d, 1)
    bias = k @ query_bias + token_bias[:, None, :, None]  # (P, heads, T, 1)
    scores = (k @ query_weight).flatten(1, 2) @ placed.transpose(1, 2)  # (P, heads*T, L)
    weights = (scores.view(P, heads, T, -1) + bias).softmax(dim=2)  # over tokens
    v = split_heads(attention.v_proj(values), heads)  # (P, heads, T, d)
    out_weight = attention.out_proj.weight.view(C, heads, -1).permute(1, 2, 0)  # (heads, d, C)
    drawn = v @ out_weight + attention.out_proj.bias / heads  # (P, heads, T, C); each head's weights sum to 1
    update: Tensor = weights.flatten(1, 2).transpose(1, 2) @ drawn.flatten(1, 2)  # (P, L, C)
    return update


def _attend_to_themselves(block: TwoWayAttentionBlock, tokens: Tensor, token_pe: Tensor, token_bias: Tensor) -> Tensor:
    """Self attention of a block with absent tokens hidden: (P, T, C) -> (P, T, C), normalised."""
    attention = block.self_attn
    placed = tokens if block.skip_first_layer_pe else tokens + token_pe
    q = split_heads(attention.q_proj(placed), attention.num_heads)
    k = split_heads(attention.k_proj(placed), attention.num_heads)
    v = split_heads(attention.v_proj(tokens), attention.num_heads)  # each (P, heads, T, d)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3) + token_bias[:, None, None, :]  # (P, heads, T, T)
    mixed = attention.out_proj((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))  # (P, T, C)
    return block.norm1(mixed if block.skip_first_layer_pe else tokens + mixed)  # type: ignore[no-any-return]


def _double(x: Tensor, conv: nn.ConvTranspose2d) -> Tensor:
    """Transposed convolution with kernel = stride = 2 as a matrix product: (P, L, C_in) -> (P, L, 4, C_out).

    The axis of 4 runs over the cell's rows, then columns.
    """
    P, L, _ = x.shape
    weight = conv.weight.permute(0, 2, 3, 1).flatten(1)  # (C_in, 4 * C_out)
    assert conv.bias is not None
    return (x @ weight + conv.bias.repeat(4)).view(P, L, 4, -1)
