"""What is exported: the networks as modules with the inputs and outputs that every runtime of ours agrees on.

S is the side of the model frame, s = S / 16.

encoder   image (1, 3, h, w) float32, normalised and padded; or with preprocessing image (h, w, 3) uint8, RGB, and
          valid_hw (2,) float32, the height and width of the picture within it
          -> features (1, 256, s, s)
decoder   features (1, 256, s, s), point_coords (P, N, 2) model pixels, point_labels (P, N): 1, 0, 2, 3, -1 as in SAM
          and -10 for a point that is not there, mask_input (1, 1, S/4, S/4) shared by all prompts, has_mask_input (1,)
          -> low_res_logits (P, 4, S/4, S/4), iou_predictions (P, 4)
joint     the encoder's inputs, point_coords, point_labels -> low_res_logits, iou_predictions

All floats are float32 at the border, whatever the arithmetic within. h and w are S unless one aspect ratio was asked
for; then only that part of the square is computed, and the rest of the features is that of an empty picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mobile_sam.modeling.fast_decoder import MaskTokenDecoder, MaskUpscaler
from mobile_sam.modeling.sam import Sam

ENCODER_OUTPUTS = ("features",)
DECODER_INPUTS = ("features", "point_coords", "point_labels", "mask_input", "has_mask_input")
DECODER_OUTPUTS = ("low_res_logits", "iou_predictions")
EMBEDDING_STRIDE = 16


def encoder_input_names(has_preprocessing: bool) -> tuple[str, ...]:
    """Names of the encoder's inputs, in order."""
    return ("image", "valid_hw") if has_preprocessing else ("image",)


class EncoderGraph(nn.Module):
    """The image encoder, with preprocessing before it and the empty rest of the square behind it, if asked for.

    Args:
        sam: the model, in eval mode, on the CPU.
        input_hw: height and width that it takes, multiples of 16, one of them S; None for the whole square.
        has_preprocessing: whether it takes uint8 pixels.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    empty_below: Tensor
    empty_right: Tensor

    def __init__(self, sam: Sam, input_hw: tuple[int, int] | None = None, has_preprocessing: bool = False) -> None:
        super().__init__()
        self.image_encoder = sam.image_encoder
        side = sam.image_encoder.img_size
        self.input_hw = input_hw or (side, side)
        self.has_preprocessing = has_preprocessing
        self.register_buffer("pixel_mean", sam.pixel_mean.clone(), persistent=False)
        self.register_buffer("pixel_std", sam.pixel_std.clone(), persistent=False)
        h, w = (length // EMBEDDING_STRIDE for length in self.input_hw)
        self.is_partial = self.input_hw != (side, side)
        if self.is_partial:
            with torch.no_grad():
                empty = sam.image_encoder(torch.zeros(1, 3, side, side, device=sam.device))  # (1, C, s, s)
            self.register_buffer("empty_right", empty[:, :, :h, w:].clone(), persistent=False)
            self.register_buffer("empty_below", empty[:, :, h:].clone(), persistent=False)

    def forward(self, image: Tensor, valid_hw: Tensor | None = None) -> Tensor:
        """Encode: see the module's docstring."""
        if self.has_preprocessing:
            assert valid_hw is not None
            image = self.preprocess(image, valid_hw)
        features: Tensor = self.image_encoder(image)  # (1, C, h / 16, w / 16)
        if not self.is_partial:
            return features
        for empty, dim in ((self.empty_right, 3), (self.empty_below, 2)):
            features = torch.cat([features, empty], dim=dim) if empty.numel() else features  # ncnn has no empty arrays
        return features

    def preprocess(self, image: Tensor, valid_hw: Tensor) -> Tensor:
        """Normalise and put zeros where no picture is: (h, w, 3) uint8, (2,) -> (1, 3, h, w)."""
        h, w = self.input_hw
        normalised = (image.float().permute(2, 0, 1) - self.pixel_mean) / self.pixel_std  # (3, h, w)
        rows = (valid_hw[:1] - torch.arange(h, dtype=torch.float32)).clamp(0, 1)  # (h,), 1 within and 0 beyond: ncnn
        columns = (valid_hw[1:] - torch.arange(w, dtype=torch.float32)).clamp(0, 1)  # (w,)  compares no numbers
        is_valid = rows[:, None] * columns[None, :]  # (h, w)
        return (normalised * is_valid)[None]

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs to trace with."""
        h, w = self.input_hw
        if self.has_preprocessing:
            return torch.full((h, w, 3), 127, dtype=torch.uint8), torch.tensor([h, w], dtype=torch.float32)
        return (torch.zeros(1, 3, h, w),)


class DecoderGraph(nn.Module):
    """Prompt encoder and mask decoder: all four masks of each prompt."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.prompt_encoder, self.mask_decoder = sam.prompt_encoder, sam.mask_decoder
        self.token_decoder, self.upscaler = MaskTokenDecoder(sam), MaskUpscaler(sam)

    def forward(
        self, features: Tensor, point_coords: Tensor, point_labels: Tensor, mask_input: Tensor, has_mask_input: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode: see the module's docstring."""
        iou, mask_weights, image_tokens = self.token_decoder(
            features, point_coords, point_labels, mask_input, has_mask_input
        )
        return self.upscaler(image_tokens, mask_weights), iou

    def example_inputs(self, num_prompts: int = 2, num_points: int = 3) -> tuple[Tensor, ...]:
        """Inputs to trace with."""
        h, w = self.prompt_encoder.image_embedding_size
        return (
            torch.zeros(1, self.prompt_encoder.embed_dim, h, w),
            torch.full((num_prompts, num_points, 2), 100.0),
            torch.ones(num_prompts, num_points),
            torch.zeros(1, 1, 4 * h, 4 * w),
            torch.zeros(1),
        )


class JointGraph(nn.Module):
    """From the picture to the masks in one graph; for one picture with all its prompts known."""

    def __init__(self, encoder: EncoderGraph, decoder: DecoderGraph) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Segment: see the module's docstring."""
        *image, point_coords, point_labels = inputs
        features = self.encoder(*image)
        h, w = self.decoder.prompt_encoder.image_embedding_size
        no_mask = features.new_zeros((1, 1, 4 * h, 4 * w))
        answer: tuple[Tensor, Tensor] = self.decoder(
            features, point_coords, point_labels, no_mask, features.new_zeros(1)
        )
        return answer

    def example_inputs(self, num_prompts: int = 2, num_points: int = 3) -> tuple[Tensor, ...]:
        """Inputs to trace with."""
        points = self.decoder.example_inputs(num_prompts, num_points)[1:3]
        return (*self.encoder.example_inputs(), *points)
