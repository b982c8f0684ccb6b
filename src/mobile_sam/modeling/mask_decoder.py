"""The mask decoder of Segment Anything (Kirillov et al. 2023, arXiv 2304.02643, appendix A)."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import LayerNorm2d, is_traced


class MaskDecoder(nn.Module):
    """Masks and their predicted quality from an image embedding and prompt embeddings.

    Mask token 0 answers unambiguous prompts; the others are the whole, part and subpart of an ambiguous one.

    Args:
        transformer_dim: channels C.
        transformer: called with image embedding, image positions and tokens; see `TwoWayTransformer`.
        num_multimask_outputs: masks for an ambiguous prompt.
        activation: activation of the upscaling.
        iou_head_depth: layers of the network that predicts the quality.
        iou_head_hidden_dim: its hidden width.
    """

    def __init__(
        self,
        *,
        transformer_dim: int,
        transformer: nn.Module,
        num_multimask_outputs: int = 3,
        activation: type[nn.Module] = nn.GELU,
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
    ) -> None:
        super().__init__()
        self.transformer_dim = transformer_dim
        self.transformer = transformer
        self.num_multimask_outputs = num_multimask_outputs
        self.num_mask_tokens = num_multimask_outputs + 1
        self.iou_token = nn.Embedding(1, transformer_dim)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, transformer_dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(transformer_dim, transformer_dim // 4, 2, stride=2),
            LayerNorm2d(transformer_dim // 4),
            activation(),
            nn.ConvTranspose2d(transformer_dim // 4, transformer_dim // 8, 2, stride=2),
            activation(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(transformer_dim, transformer_dim, transformer_dim // 8, 3) for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = MLP(transformer_dim, iou_head_hidden_dim, self.num_mask_tokens, iou_head_depth)

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Predict masks for P prompts.

        Args:
            image_embeddings: (1, C, H, W), one image for all prompts, or (P, C, H, W), an image for each.
            image_pe: (1, C, H, W), from `PromptEncoder.get_dense_pe`.
            sparse_prompt_embeddings: (P, N, C).
            dense_prompt_embeddings: (P, C, H, W) or (1, C, H, W).
            multimask_output: whether to return the masks for an ambiguous prompt or the single one.

        Returns:
            Mask logits (P, M, 4 * H, 4 * W) and predicted IoU (P, M), not limited to [0, 1]; M is
            num_multimask_outputs or 1.
        """
        masks, iou_predictions = self.predict_masks(
            image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings
        )
        wanted = slice(1, None) if multimask_output else slice(0, 1)
        return masks[:, wanted], iou_predictions[:, wanted]

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """All masks, single and multiple: logits (P, M, 4 * H, 4 * W) and IoU (P, M), M = num_multimask_outputs + 1."""
        num_prompts = sparse_prompt_embeddings.shape[0]
        if not is_traced() and image_embeddings.shape[0] not in (1, num_prompts):
            raise ValueError(
                f"image_embeddings must hold 1 image or one for each of the {num_prompts} prompts, "
                f"got {tuple(image_embeddings.shape)}"
            )
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])  # (1 + M, C)
        output_tokens = output_tokens.expand(num_prompts, -1, -1)  # (P, 1 + M, C)
        tokens = torch.cat([output_tokens, sparse_prompt_embeddings], dim=1)  # (P, 1 + M + N, C)
        image = image_embeddings.expand(num_prompts, -1, -1, -1) + dense_prompt_embeddings  # (P, C, H, W)

        tokens, mixed_image = self.transformer(image, image_pe, tokens)  # (P, 1 + M + N, C), (P, H * W, C)
        iou_token, mask_tokens = tokens[:, 0], tokens[:, 1 : 1 + self.num_mask_tokens]

        upscaled = self.output_upscaling(mixed_image.transpose(1, 2).unflatten(2, tuple(image.shape[-2:])))
        filters = torch.stack(
            [mlp(mask_tokens[:, index]) for index, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )  # (P, M, C / 8)
        masks = (filters @ upscaled.flatten(2)).unflatten(2, tuple(upscaled.shape[-2:]))  # (P, M, 4 * H, 4 * W)
        return masks, self.iou_prediction_head(iou_token)


class MLP(nn.Module):
    """Linear layers with ReLU between them: (..., input_dim) -> (..., output_dim)."""

    def __init__(
        self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int, sigmoid_output: bool = False
    ) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.sigmoid_output = sigmoid_output
        widths = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(F.relu(x) if index else x)
        return x.sigmoid() if self.sigmoid_output else x
