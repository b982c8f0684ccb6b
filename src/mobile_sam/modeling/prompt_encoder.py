"""Prompts to embeddings: points, boxes and masks of Segment Anything (Kirillov et al. 2023, arXiv 2304.02643).

Positions are encoded with random Fourier features (Tancik et al. 2020, arXiv 2006.10739), always in float32.
"""

import math

import torch
from torch import Tensor, nn

from mobile_sam.core.prompts import LABEL_PADDING

from .common import LayerNorm2d, is_traced

NUM_POINT_TYPES = 4  # labels 0 background, 1 foreground, 2 and 3 the two corners of a box


class PromptEncoder(nn.Module):
    """Embeddings of points, boxes and masks for the mask decoder.

    Args:
        embed_dim: channels C of the embeddings.
        image_embedding_size: (height, width) of the image embedding.
        input_image_size: (height, width) of the padded image, in pixels: the frame of all coordinates.
        mask_in_chans: hidden channels of the network that reads masks.
        activation: activation of that network.
    """

    def __init__(
        self,
        embed_dim: int,
        image_embedding_size: tuple[int, int],
        input_image_size: tuple[int, int],
        mask_in_chans: int,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.image_embedding_size = image_embedding_size
        self.input_image_size = input_image_size
        self.mask_input_size = (4 * image_embedding_size[0], 4 * image_embedding_size[1])
        self.num_point_embeddings = NUM_POINT_TYPES
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, embed_dim) for _ in range(NUM_POINT_TYPES))
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_in_chans // 4, 2, stride=2),
            LayerNorm2d(mask_in_chans // 4),
            activation(),
            nn.Conv2d(mask_in_chans // 4, mask_in_chans, 2, stride=2),
            LayerNorm2d(mask_in_chans),
            activation(),
            nn.Conv2d(mask_in_chans, embed_dim, 1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    def get_dense_pe(self) -> Tensor:
        """Encode the position of each pixel of the image embedding: (1, C, H, W)."""
        position: Tensor = self.pe_layer(self.image_embedding_size)  # (C, H, W)
        return position[None]

    def _embed_points(self, points_xy: Tensor, labels: Tensor, pad: bool) -> Tensor:
        """(P, N, 2) pixels and (P, N) labels -> (P, N, C), or (P, N + 1, C) with a padding point at the end."""
        points_xy, labels = points_xy.float() + 0.5, labels.int()  # pixel centres
        if pad:
            points_xy = torch.cat([points_xy, torch.zeros_like(points_xy[:, :1])], dim=1)
            labels = torch.cat([labels, torch.full_like(labels[:, :1], LABEL_PADDING)], dim=1)
        labels = labels.unsqueeze(-1)  # (P, N, 1)
        position = self.pe_layer.forward_with_coords(points_xy, self.input_image_size)  # (P, N, C)
        embedding = torch.where(labels == LABEL_PADDING, self.not_a_point_embed.weight, position)
        for label, type_embedding in enumerate(self.point_embeddings):
            embedding = torch.where(labels == label, embedding + type_embedding.get_parameter("weight"), embedding)
        return embedding

    def _embed_boxes(self, boxes_xyxy: Tensor) -> Tensor:
        """(P, 4) pixels -> (P, 2, C), the embeddings of two corners."""
        corners_xy = boxes_xyxy.reshape(-1, 2, 2)
        labels = torch.arange(2, 4, device=corners_xy.device).expand(corners_xy.shape[0], 2)
        return self._embed_points(corners_xy, labels, pad=False)

    def _embed_masks(self, masks: Tensor) -> Tensor:
        """(P, 1, 4 * H, 4 * W) logits -> (P, C, H, W)."""
        embedding: Tensor = self.mask_downscaling(masks)
        return embedding

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Embed the prompts of one image; all coordinates are pixels of the padded input image.

        Args:
            points: (P, N, 2) coordinates x, y and (P, N) labels: 1 foreground, 0 background, -1 padding, 2 and 3 the
                corners of a box given as points. Without boxes, one padding point is appended.
            boxes: (P, 4) XYXY.
            masks: (P, 1, 4 * H, 4 * W) logits of an earlier prediction.

        Returns:
            Sparse embeddings (P, N', C), N' = 0 if there are neither points nor boxes, and dense ones (P, C, H, W).
            Without any prompt P is 1.

        Raises:
            ValueError: if the prompts differ in number or their shapes are wrong.
        """
        if not is_traced():
            _check_prompts(points, boxes, masks, self.mask_input_size)
        sparse_parts = []
        if points is not None:
            sparse_parts.append(self._embed_points(*points, pad=boxes is None))
        if boxes is not None:
            sparse_parts.append(self._embed_boxes(boxes))
        num_prompts = sparse_parts[0].shape[0] if sparse_parts else 1 if masks is None else masks.shape[0]
        no_points = self.no_mask_embed.weight.new_empty((num_prompts, 0, self.embed_dim))
        sparse = torch.cat(sparse_parts, dim=1) if sparse_parts else no_points
        if masks is not None:
            return sparse, self._embed_masks(masks)
        no_mask = self.no_mask_embed.weight.reshape(1, -1, 1, 1)  # (1, C, 1, 1)
        return sparse, no_mask.expand(num_prompts, -1, *self.image_embedding_size)


class PositionEmbeddingRandom(nn.Module):
    """Random Fourier features of positions, 2 * num_pos_feats channels.

    Args:
        num_pos_feats: number of frequencies.
        scale: standard deviation of the frequencies; 1 if None or not positive.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_pos_feats: int = 64, scale: float | None = None) -> None:
        super().__init__()
        deviation = scale if scale is not None and scale > 0.0 else 1.0
        self.register_buffer("positional_encoding_gaussian_matrix", deviation * torch.randn(2, num_pos_feats))

    def _pe_encoding(self, coords: Tensor) -> Tensor:
        """(..., 2) positions x, y in [0, 1] -> (..., 2 * num_pos_feats) sines and cosines.

        Sums and products instead of a matrix product keep this in float32 under autocast.
        """
        frequency_x, frequency_y = self.positional_encoding_gaussian_matrix.float().unbind(0)
        x, y = (2.0 * coords.float() - 1.0).split(1, dim=-1)  # each (..., 1)
        phase = 2.0 * math.pi * (x * frequency_x + y * frequency_y)  # (..., num_pos_feats)
        encoding = torch.cat([phase.sin(), phase.cos()], dim=-1)
        return encoding.to(self.positional_encoding_gaussian_matrix.dtype)

    def forward(self, size: tuple[int, int]) -> Tensor:
        """Encode the centre of each pixel of a (height, width) map: (2 * num_pos_feats, height, width)."""
        height, width = size
        device = self.positional_encoding_gaussian_matrix.device
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
        grid_xy = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)  # (H, W, 2)
        return self._pe_encoding(grid_xy).permute(2, 0, 1)

    def forward_with_coords(self, coords_input: Tensor, image_size: tuple[int, int]) -> Tensor:
        """(..., 2) coordinates x, y in pixels of a (height, width) image -> (..., 2 * num_pos_feats)."""
        height, width = image_size
        x, y = coords_input.float().split(1, dim=-1)  # each (..., 1)
        return self._pe_encoding(torch.cat([x / width, y / height], dim=-1))


def _check_prompts(
    points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None, mask_input_hw: tuple[int, int]
) -> None:
    counts: dict[str, int] = {}
    if points is not None:
        coords_xy, labels = points
        if coords_xy.ndim != 3 or coords_xy.shape[-1] != 2 or labels.shape != coords_xy.shape[:2]:
            raise ValueError(
                f"points must be coordinates (P, N, 2) and labels (P, N), "
                f"got {tuple(coords_xy.shape)} and {tuple(labels.shape)}"
            )
        counts["points"] = coords_xy.shape[0]
    if boxes is not None:
        if boxes.shape[-1] != 4:
            raise ValueError(f"boxes must be (P, 4) XYXY, got {tuple(boxes.shape)}")
        counts["boxes"] = boxes.numel() // 4
    if masks is not None:
        if masks.shape[1:] != (1, *mask_input_hw):
            raise ValueError(f"masks must be (P, 1, {mask_input_hw[0]}, {mask_input_hw[1]}), got {tuple(masks.shape)}")
        if not (counts and masks.shape[0] == 1):  # one mask for all points and boxes is spread by the decoder
            counts["masks"] = masks.shape[0]
    if len(set(counts.values())) > 1:
        raise ValueError(f"points, boxes and masks must be given for the same number of prompts, got {counts}")
