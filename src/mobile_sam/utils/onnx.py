"""SamOnnxModel: SAM's prompt encoder, mask decoder and upscaling as one module with the inputs of SAM's ONNX decoder.

SAM's class over `mobile_sam.modeling.fast_decoder`, so that what is traced of it is quick too. SAM's web demo,
AnyLabeling and others run graphs of this contract; `mobile-sam export --to sam-onnx` writes them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobile_sam.modeling.fast_decoder import MaskTokenDecoder, MaskUpscaler
from mobile_sam.modeling.sam import Sam

__all__ = ["SamOnnxModel"]

INPUT_NAMES = ("image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size")
OUTPUT_NAMES = ("masks", "iou_predictions", "low_res_masks")
OUTPUT_NAMES_WITH_METRICS = ("masks", "iou_predictions", "stability_scores", "areas", "low_res_masks")


class SamOnnxModel(nn.Module):
    """SAM's decoder as it is exported: prompts of one picture in, masks of the picture's size out.

    Args:
        model: whose decoder; used by reference.
        return_single_mask: answer with the one mask that `select_masks` chooses, and not with all four.
        use_stability_score: judge masks by how little they change with the threshold, not by the predicted IoU.
        return_extra_metrics: also return stability scores and areas.
    """

    def __init__(
        self,
        model: Sam,
        return_single_mask: bool,
        use_stability_score: bool = False,
        return_extra_metrics: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.mask_decoder = model.mask_decoder
        self.img_size: int = model.image_encoder.img_size
        self.return_single_mask = return_single_mask
        self.use_stability_score = use_stability_score
        self.stability_score_offset = 1.0
        self.return_extra_metrics = return_extra_metrics
        self._token_decoder, self._upscaler = MaskTokenDecoder(model), MaskUpscaler(model)

    @torch.no_grad()
    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, ...]:
        """Decode the prompts of one picture.

        Args:
            image_embeddings: (1, C, h, w).
            point_coords: (P, N, 2) float32, pixels of the model's square. SAM's graphs have P = 1.
            point_labels: (P, N) float32: 1 the object, 0 not, 2 and 3 the corners of a box, -1 padding, which SAM wants
                beside points without a box, and -10 for a place that holds nothing.
            mask_input: (1, 1, 4h, 4w) logits.
            has_mask_input: (1,) float32, 1 where `mask_input` is to be used.
            orig_im_size: (2,) float32, height and width of the picture.

        Returns:
            Logits at the picture's size (P, M, H, W), scores (P, M), low-resolution logits (P, M, 4h, 4w), M = 4 or 1;
            with extra metrics logits, scores, stability scores (P, M) and areas (P, M) in pixels, both at the picture's
            size, low-resolution logits.
        """
        scores, mask_weights, image_tokens = self._token_decoder(
            image_embeddings, point_coords, point_labels, mask_input, has_mask_input
        )
        masks = self._upscaler(image_tokens, mask_weights)  # (P, 4, 4h, 4w)
        if self.use_stability_score:
            scores = self._stability_score(masks)  # (P, 4)
        if self.return_single_mask:
            masks, scores = self.select_masks(masks, scores, point_coords.shape[1])  # (P, 1, ...)
        upscaled_masks = self.mask_postprocessing(masks, orig_im_size)  # (P, M, H, W)
        if not self.return_extra_metrics:
            return upscaled_masks, scores, masks
        areas = _count(upscaled_masks > self.model.mask_threshold)
        return upscaled_masks, scores, self._stability_score(upscaled_masks), areas, masks

    def mask_postprocessing(self, masks: Tensor, orig_im_size: Tensor) -> Tensor:
        """Bring logits to the size of the picture: (P, M, 4h, 4w) and height and width (2,) -> (P, M, H, W)."""
        square = F.interpolate(masks, (self.img_size, self.img_size), mode="bilinear", align_corners=False)
        image_hw = orig_im_size.to(torch.int64)
        # Whole numbers, since float32 would round some sides of large pictures to the other pixel: in other words
        # floor(side * img_size / longest + 1/2).
        longest = image_hw.max()
        input_hw = torch.div(2 * self.img_size * image_hw + longest, 2 * longest, rounding_mode="trunc").clamp(min=1)
        frame = square[..., : input_hw[0], : input_hw[1]]
        return F.interpolate(frame, (image_hw[0], image_hw[1]), mode="bilinear", align_corners=False)  # type: ignore[arg-type]

    def select_masks(self, masks: Tensor, iou_preds: Tensor, num_points: int | Tensor) -> tuple[Tensor, Tensor]:
        """Choose one mask for each prompt: the first of more than two points, else the best of the other three.

        Args:
            masks: (P, 4, h, w).
            iou_preds: (P, 4), the greater the better.
            num_points: N, with corners of boxes and padding; of SAM's predictor one click has two.

        Returns:
            Masks (P, 1, h, w) and scores (P, 1).
        """
        weight = torch.zeros_like(iou_preds[:1])
        weight[:, 0] = 1000.0
        best = (iou_preds + (num_points - 2.5) * weight).argmax(dim=1)  # (P,)
        rows = torch.arange(masks.shape[0], device=masks.device)
        return masks[rows, best].unsqueeze(1), iou_preds[rows, best].unsqueeze(1)

    def _stability_score(self, masks: Tensor) -> Tensor:
        """IoU of each mask at a threshold moved up and down: (P, M, H, W) -> (P, M); 0 where there is nothing."""
        threshold, offset = self.model.mask_threshold, self.stability_score_offset
        high, low = _count(masks > threshold + offset), _count(masks > threshold - offset)
        return high.to(masks.dtype) / low.clamp(min=1).to(masks.dtype)


def _count(masks: Tensor) -> Tensor:
    """(P, M, H, W) bool -> pixels (P, M) int64."""
    return masks.sum(dim=(2, 3), dtype=torch.int32).to(torch.int64)
