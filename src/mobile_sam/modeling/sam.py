"""Segment Anything as one module (Kirillov et al. 2023, arXiv 2304.02643): images and prompts to masks."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobile_sam.core.geometry import PIXEL_MEAN, PIXEL_STD

from .common import enlarge_logits
from .image_encoder import ImageEncoderViT
from .mask_decoder import MaskDecoder
from .prompt_encoder import PromptEncoder
from .tiny_vit_sam import TinyViT


class Sam(nn.Module):
    """Image encoder, prompt encoder and mask decoder.

    Args:
        image_encoder: images (B, 3, img_size, img_size) -> embeddings (B, C, H, W); has `img_size`.
        prompt_encoder: prompts -> embeddings.
        mask_decoder: embeddings -> masks.
        pixel_mean: mean of the channels, of values 0 to 255 in the order of `image_format`.
        pixel_std: their standard deviation.
    """

    mask_threshold: float = 0.0
    image_format: str = "RGB"
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        image_encoder: ImageEncoderViT | TinyViT,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        pixel_mean: Sequence[float] = PIXEL_MEAN,
        pixel_std: Sequence[float] = PIXEL_STD,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        mean, std = torch.tensor([pixel_mean, pixel_std], dtype=torch.float32).reshape(2, -1, 1, 1)  # each (3, 1, 1)
        self.register_buffer("pixel_mean", mean.clone(), persistent=False)
        self.register_buffer("pixel_std", std.clone(), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.pixel_mean.device

    @torch.no_grad()
    def forward(self, batched_input: list[dict[str, Any]], multimask_output: bool) -> list[dict[str, Tensor]]:
        """Masks for a list of images, each with its own prompts.

        Args:
            batched_input: one dict per image. `image`: (3, H, W) already resized so that the long side is img_size,
                values 0 to 255; `original_size`: (height, width) before the resize. Optional, in pixels of the resized
                image: `point_coords` (P, N, 2) and `point_labels` (P, N), `boxes` (P, 4) XYXY,
                `mask_inputs` (P, 1, 256, 256).
            multimask_output: whether to return several masks per prompt or a single one.

        Returns:
            One dict per image. `masks`: (P, M, *original_size) bool; `iou_predictions`: (P, M);
            `low_res_logits`: (P, M, 256, 256).

        Raises:
            ValueError: if an image is larger than the encoder's or prompts do not fit together.
        """
        images = torch.stack([self.preprocess(record["image"]) for record in batched_input])  # (B, 3, side, side)
        embeddings = self.image_encoder(images)  # (B, C, H, W)
        return [
            self._decode(embedding[None], record, multimask_output)
            for embedding, record in zip(embeddings, batched_input, strict=True)
        ]

    def _decode(self, embedding: Tensor, record: dict[str, Any], multimask_output: bool) -> dict[str, Tensor]:
        has_points = record.get("point_coords") is not None
        sparse, dense = self.prompt_encoder(
            points=(record["point_coords"], record["point_labels"]) if has_points else None,
            boxes=record.get("boxes"),
            masks=record.get("mask_inputs"),
        )
        low_res_logits, iou_predictions = self.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask_output,
        )
        logits = self.postprocess_masks(low_res_logits, tuple(record["image"].shape[-2:]), record["original_size"])
        return {
            "masks": logits > self.mask_threshold,
            "iou_predictions": iou_predictions,
            "low_res_logits": low_res_logits,
        }

    def postprocess_masks(self, masks: Tensor, input_size: Sequence[int], original_size: Sequence[int]) -> Tensor:
        """Bring mask logits back to the size of the picture: enlarge, cut off the padding, resize.

        Args:
            masks: (P, M, h, w) logits of the padded square.
            input_size: (height, width) of the resized image, without padding.
            original_size: (height, width) of the picture.

        Returns:
            (P, M, *original_size) logits, bilinear.
        """
        return enlarge_logits(masks, self.image_encoder.img_size, input_size, original_size)

    def preprocess(self, x: Tensor) -> Tensor:
        """Normalise, then pad with zeros at the bottom and right to the encoder's square.

        Args:
            x: (..., 3, H, W), values 0 to 255, any dtype; H and W at most img_size.

        Returns:
            (..., 3, img_size, img_size) in the dtype of the model.

        Raises:
            ValueError: if the image has not three channels or is larger than the square.
        """
        side, num_channels = self.image_encoder.img_size, self.pixel_mean.shape[0]
        if x.ndim < 3 or x.shape[-3] != num_channels:
            raise ValueError(f"the image must be (..., {num_channels}, H, W), got {tuple(x.shape)}")
        height, width = x.shape[-2:]
        if not 0 < height <= side or not 0 < width <= side:
            raise ValueError(
                f"the image is {height}x{width} (height x width) but the encoder takes at most {side}x{side}; "
                f"resize its long side to {side} first, as ResizeLongestSide({side}) does"
            )
        normalised = (x.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std
        return F.pad(normalised, (0, side - width, 0, side - height))
