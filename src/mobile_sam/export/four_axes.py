"""The networks with tensors of at most four axes, for runtimes that know no more: same parameters, same answers.

Core ML stops at five axes and ncnn at four, one of which is the batch. TinyViT's windows are cut with six and masks are
put together with eight in the quick decoder. Here windows are cut row by row, with the two innermost axes kept as one,
and masks are drawn by the transposed convolutions themselves. Choices on labels are arithmetic, because ncnn has no
`where`, and absent points get a large negative score in place of -inf.

The modules hold no weights of their own and reach each parameter by one path, since converters stumble over two.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobile_sam.core.prompts import LABEL_ABSENT, LABEL_PADDING
from mobile_sam.export.modules import DecoderGraph, EncoderGraph, JointGraph
from mobile_sam.export.programs import Recordable
from mobile_sam.export.target import ExportOptions
from mobile_sam.modeling.common import attend
from mobile_sam.modeling.fast_decoder import run_transformer
from mobile_sam.modeling.sam import Sam
from mobile_sam.modeling.tiny_vit_sam import Stage, TinyViT, TinyViTBlock
from mobile_sam.modeling.transformer import TwoWayTransformer

HIDDEN_SCORE = -1e4
"""Attention score of an absent point: far below all others, and a number in float16."""


def four_axis_recordables(sam: Sam, options: ExportOptions, num_prompts: int, num_points: int) -> dict[str, Recordable]:
    """What `mobile_sam.export.programs.recordables` makes, of these modules.

    Raises:
        ValueError: an image encoder other than TinyViT.
    """
    encoder = EncoderGraph(sam, options.input_hw, options.preprocess)
    encoder.image_encoder = cast(TinyViT, FourAxisTinyViT(encoder.image_encoder))
    decoder = FourAxisDecoder(sam)
    made: dict[str, Recordable] = {
        "encoder": (encoder.eval(), encoder.example_inputs()),
        "decoder": (decoder.eval(), decoder.example_inputs(num_prompts, num_points)),
    }
    if options.joint:
        joint = JointGraph(encoder, cast(DecoderGraph, decoder)).eval()
        made["joint"] = (joint, joint.example_inputs(num_prompts, num_points))
    return made


class FourAxisTinyViT(nn.Module):
    """TinyViT for one picture: (1, 3, H, W) -> (1, 256, H / 16, W / 16).

    Raises:
        ValueError: another network than TinyViT.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        if not isinstance(encoder, TinyViT):
            raise ValueError(
                f"this target takes models with TinyViT, and this one has {type(encoder).__name__}; export it to onnx"
            )
        self.patch_embed, self.neck = encoder.patch_embed, encoder.neck
        self.steps = nn.ModuleList()
        for layer in encoder.layers:
            stage = cast(Stage, layer)
            self.steps.extend(_WindowBlock(one) if isinstance(one, TinyViTBlock) else one for one in stage.blocks)
            if stage.downsample is not None:
                self.steps.append(stage.downsample)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)  # (1, C, H / 4, W / 4)
        for step in self.steps:
            x = step(x)
        return self.neck(x)  # type: ignore[no-any-return]


class _WindowBlock(nn.Module):
    """`TinyViTBlock`: (1, C, H, W) -> (1, C, H, W).

    Linear layers see tokens (1, L, C), the form in which ncnn runs them without a copy.
    """

    def __init__(self, block: TinyViTBlock) -> None:
        super().__init__()
        self.attn, self.local_conv, self.mlp = block.attn, block.local_conv, block.mlp
        self.window_size = block.window_size

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = (int(length) for length in x.shape)
        mixed = self.attend_in_windows(x.permute(0, 2, 3, 1))
        x = self.local_conv(x + mixed.permute(0, 3, 1, 2))  # (1, C, H, W)
        tokens: Tensor = self.mlp(x.permute(0, 2, 3, 1).reshape(1, height * width, channels))  # (1, H * W, C)
        mixed = tokens.reshape(1, height, width, channels).permute(0, 3, 1, 2)
        return x + mixed

    def attend_in_windows(self, x: Tensor) -> Tensor:
        """(1, H, W, C) -> (1, H, W, C), each window on its own."""
        _, height, width, channels = (int(length) for length in x.shape)
        side = self.window_size
        rows, columns = -(-height // side), -(-width // side)
        if (rows * side, columns * side) != (height, width):
            x = F.pad(x, (0, 0, 0, columns * side - width, 0, rows * side - height))
        tiles = x.reshape(rows, side, columns, side * channels).transpose(1, 2)  # (rows, columns, side, side * C)
        mixed = self.attend_among(tiles.reshape(1, -1, channels), rows * columns)
        tiles = mixed.reshape(rows, columns, side, side * channels).transpose(1, 2)  # (rows, side, columns, side * C)
        return tiles.reshape(1, rows * side, columns * side, channels)[:, :height, :width]

    def attend_among(self, tokens: Tensor, num_windows: int) -> Tensor:
        """Attention within each of the windows, which follow one another: (1, windows * L, C) -> the same."""
        attn = self.attn
        channels = int(tokens.shape[2])
        qkv = attn.qkv(attn.norm(tokens)).reshape(num_windows, attn.num_tokens, attn.num_heads, 3 * attn.head_dim)
        q, k, v = qkv.permute(0, 2, 1, 3).split(attn.head_dim, dim=-1)  # each (windows, heads, L, D)
        bias = attn.attention_biases[:, attn.attention_bias_idxs][None]  # (1, heads, L, L)
        mixed = attend(q, k, v, bias).permute(0, 2, 1, 3)  # (windows, L, heads, D)
        return attn.proj(mixed.reshape(1, -1, channels))  # type: ignore[no-any-return]


class FourAxisDecoder(nn.Module):
    """`DecoderGraph` with the same inputs and outputs."""

    grid_pe: Tensor

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.prompt_encoder, self.mask_decoder = sam.prompt_encoder, sam.mask_decoder
        with torch.no_grad():
            grid_pe = sam.prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2)  # (1, h * w, C)
        self.register_buffer("grid_pe", grid_pe.contiguous(), persistent=False)

    def forward(
        self, features: Tensor, point_coords: Tensor, point_labels: Tensor, mask_input: Tensor, has_mask_input: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode: see `mobile_sam.export.modules`."""
        decoder = self.mask_decoder
        h, w = self.prompt_encoder.image_embedding_size
        P = int(point_coords.shape[0])
        own_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])[None]  # (1, 5, C)
        prompt_tokens = self.embed_points(point_coords, point_labels)  # (P, N, C)
        tokens = torch.cat([own_tokens.expand(P, -1, -1), prompt_tokens], dim=1)  # (P, T, C)
        token_bias = F.pad(HIDDEN_SCORE * _is_label(point_labels, LABEL_ABSENT), (own_tokens.shape[1], 0))  # (P, T)
        image_tokens = (features + self.embed_mask(mask_input, has_mask_input)).flatten(2).transpose(1, 2)  # (1, L, C)

        transformer = cast(TwoWayTransformer, decoder.transformer)
        tokens, image_tokens = run_transformer(transformer, tokens, image_tokens, self.grid_pe, token_bias)
        filters = [mlp(tokens[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)]  # each (P, C / 8)
        upscaled = decoder.output_upscaling(image_tokens.transpose(1, 2).reshape(P, -1, h, w))  # (P, C / 8, 4h, 4w)
        logits = torch.stack(filters, dim=1) @ upscaled.flatten(2)  # (P, 4, 16 * h * w)
        return logits.reshape(P, -1, 4 * h, 4 * w), decoder.iou_prediction_head(tokens[:, 0])

    def embed_points(self, coords_xy: Tensor, labels: Tensor) -> Tensor:
        """(P, N, 2) model pixels and (P, N) labels -> (P, N, C)."""
        encoder = self.prompt_encoder
        labels = labels.unsqueeze(-1)  # (P, N, 1)
        position = encoder.pe_layer.forward_with_coords(coords_xy + 0.5, encoder.input_image_size)  # (P, N, C)
        is_padding = _is_label(labels, LABEL_PADDING)
        embedding = position * (1 - is_padding) + is_padding * encoder.not_a_point_embed.weight
        for label, type_embedding in enumerate(encoder.point_embeddings):
            embedding = embedding + _is_label(labels, label) * type_embedding.get_parameter("weight")
        return embedding

    def embed_mask(self, mask_input: Tensor, has_mask_input: Tensor) -> Tensor:
        """(1, 1, 4h, 4w) logits and (1,) flag -> (1, C, h, w)."""
        has_mask = has_mask_input.reshape(1, 1, 1, 1)
        no_mask = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        embedded: Tensor = self.prompt_encoder.mask_downscaling(mask_input)  # (1, C, h, w)
        return embedded * has_mask + no_mask * (1 - has_mask)

    def example_inputs(self, num_prompts: int = 2, num_points: int = 3) -> tuple[Tensor, ...]:
        """Inputs to trace with."""
        return DecoderGraph.example_inputs(cast(DecoderGraph, self), num_prompts, num_points)


def _is_label(labels: Tensor, label: int) -> Tensor:
    """Compare whole numbers: 1 where they are equal, 0 elsewhere, of the same shape."""
    return F.relu(1 - (labels - label).abs())
