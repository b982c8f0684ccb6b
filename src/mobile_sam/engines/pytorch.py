"""The PyTorch engine: CUDA and MPS, modules that users built or trained, and the reference for the other engines."""

from __future__ import annotations

import contextlib
import warnings
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobile_sam.build_sam import sam_from_checkpoint
from mobile_sam.core.embedding import Embedding
from mobile_sam.core.prompts import LABEL_ABSENT, LABEL_BOX_LOWER_RIGHT, PromptBatch
from mobile_sam.core.weights import FINGERPRINT_VALUES, bundled_weights_path, fingerprint, verify_bundled_weights
from mobile_sam.engines.base import Engine
from mobile_sam.modeling.fast_decoder import MaskTokenDecoder, MaskUpscaler
from mobile_sam.modeling.mask_decoder import MaskDecoder
from mobile_sam.modeling.prompt_encoder import PromptEncoder
from mobile_sam.modeling.sam import Sam
from mobile_sam.modeling.transformer import TwoWayTransformer

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine(Engine):
    """Runs a `Sam` module with autograd off.

    Args:
        model: the module, used as it is (parameters are read on each call); a checkpoint's path; None for the bundled
            weights.
        device: None for the module's own device; for the bundled weights or a path, CUDA, then MPS, then the CPU.
        precision: "fp32", or "bf16" or "fp16" through autocast.

    Raises:
        ValueError: a device that is unknown or not present, or an unknown precision.
    """

    name = "torch"

    def __init__(
        self, model: Sam | str | Path | None = None, *, device: str | None = None, precision: str = "fp32"
    ) -> None:
        if precision != "fp32" and precision not in AUTOCAST_DTYPES:
            raise ValueError(f"unknown precision {precision!r}; expected fp32, {', '.join(AUTOCAST_DTYPES)}")
        if device is not None:
            _check_device(device)
        if model is None or isinstance(model, (str, Path)):
            if model is None:
                verify_bundled_weights()
            model = sam_from_checkpoint(model or bundled_weights_path())
            device = device or _best_device()
        self.model = model if device is None else model.to(torch.device(device))
        self.precision = precision
        self.input_side = model.image_encoder.img_size
        self.pixel_mean, self.pixel_std = (
            tuple(statistic.flatten().tolist()) for statistic in (model.pixel_mean, model.pixel_std)
        )
        if self.device.type != "cpu":
            self.images_at_once, self.prompts_at_once = 8, 64
        self._token_decoder = MaskTokenDecoder(self.model)
        self._upscaler = MaskUpscaler(self.model)

    @property
    def device(self) -> torch.device:
        """Where the module's parameters are."""
        return self.model.device

    @cached_property
    def model_id(self) -> str:  # type: ignore[override]
        """Fingerprint of the weights as they were when it was first asked for; training on does not change it."""
        state = self.model.state_dict()
        return fingerprint(
            (key, tuple(value.shape), value.flatten()[:FINGERPRINT_VALUES].float().cpu().numpy())
            for key, value in state.items()
            if value.is_floating_point()
        )

    def encode_input(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine.encode_input`."""
        features = self.encode_tensor(torch.from_numpy(model_input).to(self.device))
        return features.cpu().numpy()

    def encode_tensor(self, model_input: Tensor) -> Tensor:
        """Encode on the device: normalised and padded (B, 3, S, S) -> float32 features (B, 256, S/16, S/16)."""
        if self.model.training:
            warnings.warn("the model is in training mode, so BatchNorm changes: call model.eval() first", stacklevel=4)
        channels_last = model_input.contiguous(memory_format=torch.channels_last)  # convolutions run quicker so
        with torch.no_grad(), self._autocast():
            features: Tensor = self.model.image_encoder(channels_last)  # (B, 256, S/16, S/16)
        return features.float().contiguous()

    def decode_tensors(
        self,
        features: Tensor,
        coords_xy: Tensor,
        labels: Tensor,
        mask_tokens: tuple[int, ...],
        masks: Tensor | None = None,
        has_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode P prompts on the device.

        Args:
            features: (1, 256, h, w).
            coords_xy: (P, N, 2) model pixels.
            labels: (P, N) float32, see `PromptBatch`.
            mask_tokens: which M of the four masks.
            masks: (P, 1, 4h, 4w) logits, or None for none.
            has_mask: (P,) float32, which of them count; None for all.

        Returns:
            Logits (P, M, 4h, 4w) and predicted IoU (P, M), float32.
        """
        if not len(labels):
            low_res_hw = (4 * features.shape[2], 4 * features.shape[3])
            return features.new_zeros((0, len(mask_tokens), *low_res_hw)), features.new_zeros((0, len(mask_tokens)))
        if masks is None:  # one empty mask, shared by all prompts
            masks = torch.zeros((1, 1, 4 * features.shape[2], 4 * features.shape[3]), device=self.device)
            has_mask = torch.zeros(1, device=self.device)
        elif has_mask is None:
            has_mask = torch.ones(len(masks), device=self.device)
        assert has_mask is not None
        decode = self._decode_fast if _is_original_decoder(self.model) else self._decode_with_own_modules
        with torch.no_grad(), self._autocast():
            logits, iou = decode(features, coords_xy, labels, masks, has_mask, list(mask_tokens))
        return logits.float(), iou.float()

    def _decode_some(
        self, embedding: Embedding, prompts: PromptBatch, mask_tokens: tuple[int, ...]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        def on_device(array: NDArray[np.float32] | None) -> Tensor | None:
            return None if array is None else torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

        features, coords_xy, labels = (
            torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
            for array in (embedding.features, prompts.coords_xy, prompts.labels)
        )
        has_mask = torch.from_numpy(prompts.has_mask.astype(np.float32)).to(self.device)
        logits, iou = self.decode_tensors(
            features, coords_xy, labels, mask_tokens, on_device(prompts.mask_logits), has_mask
        )
        return logits.cpu().numpy(), iou.cpu().numpy()

    def _decode_fast(
        self, features: Tensor, coords_xy: Tensor, labels: Tensor, masks: Tensor, has_mask: Tensor, wanted: list[int]
    ) -> tuple[Tensor, Tensor]:
        iou, mask_weights, image_tokens = self._token_decoder(features, coords_xy, labels, masks, has_mask)
        return self._upscaler(image_tokens, mask_weights[:, wanted]), iou[:, wanted]

    def _decode_with_own_modules(
        self, features: Tensor, coords_xy: Tensor, labels: Tensor, masks: Tensor, has_mask: Tensor, wanted: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Decode with whatever prompt encoder and decoder the user's module has: one by one, through SAM's methods."""
        answers = []
        for row in range(len(labels)):
            points, boxes = _points_and_box(coords_xy[row], labels[row])
            mask_row = min(row, len(masks) - 1)
            mask = masks[mask_row][None] if has_mask[mask_row] > 0 else None
            sparse, dense = self.model.prompt_encoder(points=points, boxes=boxes, masks=mask)
            logits, iou = self.model.mask_decoder.predict_masks(
                features, self.model.prompt_encoder.get_dense_pe(), sparse, dense
            )
            answers.append((logits[:, wanted], iou[:, wanted]))
        return torch.cat([logits for logits, _ in answers]), torch.cat([iou for _, iou in answers])

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, AUTOCAST_DTYPES[self.precision])


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_device(device: str) -> None:
    """Find out whether torch can put a tensor there; it says no with errors of several types."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"torch has no device {device!r} here ({reason}); leave device out for the best one"
        ) from error


def _points_and_box(coords_xy: Tensor, labels: Tensor) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None]:
    """Undo the layout of `PromptBatch` for one prompt: what SAM's prompt encoder takes as points and as a box.

    Behind the points stand two corners if there is a box, else the padding point, which SAM's encoder adds again.

    Args:
        coords_xy: (N, 2).
        labels: (N,).

    Returns:
        Coordinates (1, K, 2) and labels (1, K) of the points, and the box (1, 4); None for what is not there.
    """
    is_present = labels != LABEL_ABSENT
    coords_xy, labels = coords_xy[is_present], labels[is_present]
    has_box = len(labels) > 0 and bool(labels[-1] == LABEL_BOX_LOWER_RIGHT)
    num_points = max(0, len(labels) - (2 if has_box else 1))
    points = (coords_xy[None, :num_points], labels[None, :num_points]) if num_points else None
    return points, coords_xy[num_points:].reshape(1, 4) if has_box else None


def _is_original_decoder(model: Sam) -> bool:
    """Tell whether the decoder is ours, unsubclassed, so that the fast form computes the same."""
    return (
        type(model.mask_decoder) is MaskDecoder
        and type(model.prompt_encoder) is PromptEncoder
        and type(model.mask_decoder.transformer) is TwoWayTransformer
    )
