"""The PyTorch engine: CUDA and MPS, modules that users built or trained, and the reference for the other engines."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mobile_sam.build_sam import sam_from_checkpoint
from mobile_sam.core.embedding import Embedding
from mobile_sam.core.errors import MissingDependencyError
from mobile_sam.core.predictions import MULTI_MASK, SINGLE_MASK
from mobile_sam.core.prompts import LABEL_ABSENT, LABEL_BOX_LOWER_RIGHT, PromptBatch
from mobile_sam.core.weights import (
    ENCODER_PREFIX,
    FINGERPRINT_VALUES,
    bundled_weights_path,
    encoder_id,
    fingerprint,
    verify_bundled_weights,
)
from mobile_sam.engines.base import Engine
from mobile_sam.engines.cuda_graphs import RecordedEncoder
from mobile_sam.modeling.common import LayerNorm2d, MLPBlock
from mobile_sam.modeling.fast_decoder import FastMaskDecoder
from mobile_sam.modeling.mask_decoder import MLP, MaskDecoder
from mobile_sam.modeling.prompt_encoder import PositionEmbeddingRandom, PromptEncoder
from mobile_sam.modeling.sam import Sam
from mobile_sam.modeling.tiny_vit_sam import TinyViT
from mobile_sam.modeling.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine(Engine):
    """Runs a `Sam` module with autograd off.

    Args:
        model: the module, used as it is (parameters are read on each call); a checkpoint's path or a model folder;
            None for the bundled weights.
        device: None for the module's own device; for the bundled weights or a path, CUDA, then MPS, then the CPU.
        precision: "fp32", or "bf16" or "fp16" through autocast.
        compile: run the image encoder through `torch.compile`, whose first call for a batch size takes a minute; a
            compiler that is missing is noticed then (`MissingDependencyError`). Parts of the square are not compiled.
        cuda_graphs: record the image encoder's kernels for each batch size and start them together; with `compile`
            those that it made. (Its own mode "reduce-overhead" does the same, but not for several threads.)
        compile_backend: see `torch.compile`.

    Raises:
        ValueError: a device that is unknown or not present, an unknown precision, a module that is not in float32, CUDA
            graphs on another device.
    """

    name = "torch"

    def __init__(
        self,
        model: Sam | str | Path | None = None,
        *,
        device: str | None = None,
        precision: str = "fp32",
        compile: bool = False,
        cuda_graphs: bool = False,
        compile_backend: str | Callable[..., Any] = "inductor",
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
        if not isinstance(model, nn.Module):
            raise ValueError(f"model must be a Sam module, a checkpoint's path or None, got {type(model).__name__}")
        self.model = model if device is None else model.to(torch.device(device))
        self.precision = precision
        _check_dtype(self.model)
        if self.device.type != "cpu":
            self.prompts_at_once = 64
            self.images_at_once = 8 if isinstance(model.image_encoder, TinyViT) else 1  # ViT takes gigabytes for each
        self._model_id: tuple[object, str] | None = None
        self._compile_backend = compile_backend if compile else None
        self._compiled: tuple[nn.Module, Callable[[Tensor], Tensor]] | None = None  # and of which module
        if cuda_graphs and self.device.type != "cuda":
            raise ValueError(f"CUDA graphs need a CUDA device, got {str(self.device)!r}; leave cuda_graphs out")
        self._recorded = RecordedEncoder() if cuda_graphs else None

    @property
    def device(self) -> torch.device:
        """Where the module's parameters are."""
        return self.model.device

    @property
    def input_side(self) -> int:
        """See `Engine.input_side`."""
        return self.model.image_encoder.img_size

    @property
    def image_format(self) -> str:
        """See `Engine.image_format`."""
        return self.model.image_format

    @property
    def model_id(self) -> str:
        """Names the encoder as it is now; computed anew after it was trained, loaded or replaced."""
        tensors = self._encoder_tensors()
        version = _version_of(tensors)
        if self._model_id is None or self._model_id[0] != version:
            name = fingerprint(
                (key, tuple(value.shape), value.detach().flatten()[:FINGERPRINT_VALUES].float().cpu().numpy())
                for key, value in tensors.items()
                if value.is_floating_point()
            )
            self._model_id = (version, name)
        return encoder_id(self._model_id[1], self.input_side)

    @property
    def takes_any_size(self) -> bool:
        """See `Engine.takes_any_size`: TinyViT does, ViT has a position embedding for the square."""
        return isinstance(self.model.image_encoder, TinyViT)

    def normalise_and_pad(self, pixels: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine.normalise_and_pad`; this is the module's own `preprocess`."""
        return self._preprocess(pixels).cpu().numpy()

    def _preprocess(self, pixels: NDArray[np.uint8] | NDArray[np.float32]) -> Tensor:
        """Normalise and pad on the device: (h, w, 3) -> (3, S, S) float32."""
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).to(self.device)  # (3, h, w)
        return self.model.preprocess(image[None])[0].float()

    def _encode_pixels(self, pixels: Sequence[NDArray[np.uint8]], part_hw: tuple[int, int]) -> NDArray[np.float32]:
        model_input = torch.stack([self._preprocess(one) for one in pixels])  # (B, 3, S, S), never off the device
        height, width = part_hw
        features = self.encode_tensor(model_input[:, :, :height, :width]).cpu().numpy()
        return features if part_hw == model_input.shape[2:] else self.fill_up(features)

    def encode_input(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine.encode_input`."""
        features = self.encode_tensor(torch.from_numpy(model_input).to(self.device))
        return features.cpu().numpy()

    def encode_part(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine.encode_part`.

        Raises:
            ValueError: an encoder other than TinyViT; sides that are no multiples of 16.
        """
        if not self.takes_any_size:
            raise ValueError(self._why_padded)
        return self.encode_input(model_input)

    def encode_tensor(self, model_input: Tensor) -> Tensor:
        """Encode on the device: normalised and padded (B, 3, S, S) -> float32 features (B, 256, S/16, S/16).

        A part (B, 3, h, w) of the square gives a part of the features, see `encode_part`.

        Raises:
            MissingDependencyError: nothing here compiles what `torch.compile` makes.
        """
        if self.model.training:
            warnings.warn("the model is in training mode, so BatchNorm changes: call model.eval() first", stacklevel=4)
        channels_last = model_input.contiguous(memory_format=torch.channels_last)  # convolutions run quicker so
        if tuple(model_input.shape[2:]) != (self.input_side, self.input_side):
            return self._run(self.model.image_encoder, channels_last)
        if self._recorded is None:
            return self._run_whole(channels_last)
        return self._recorded(self._run_whole, channels_last, _version_of(self._encoder_tensors()))

    def _run_whole(self, model_input: Tensor) -> Tensor:
        """Encode whole squares, with the compiled encoder if there is to be one."""
        encoder = self.model.image_encoder
        if self._compile_backend is None:
            return self._run(encoder, model_input)
        from torch._dynamo.exc import TorchDynamoException

        if self._compiled is None or self._compiled[0] is not encoder:
            self._compiled = (encoder, torch.compile(encoder, backend=self._compile_backend))
        try:
            return self._run(self._compiled[1], model_input)
        except TorchDynamoException as error:
            reason = " ".join(str(error).partition("\n\n")[0].split())  # what follows says how to debug torch
            raise MissingDependencyError(
                f"torch.compile could not compile the image encoder ({reason}); it needs a C++ compiler on a CPU and "
                "Triton on a GPU: install it, or leave compile out",
                name="torch",
            ) from error

    def _run(self, encoder: Callable[[Tensor], Tensor], model_input: Tensor) -> Tensor:
        # Weights are cast anew each time: a cast kept from before would be gone when a CUDA graph reads it.
        with torch.no_grad(), self._autocast(keeps_casts=False):
            features = encoder(model_input)  # (B, 256, h/16, w/16)
        return features.float().contiguous()

    def _encoder_tensors(self) -> dict[str, Tensor]:
        """The image encoder's parameters and buffers by their keys in a checkpoint, as they are and not copied."""
        return self.model.image_encoder.state_dict(prefix=ENCODER_PREFIX, keep_vars=True)

    def decode_tensors(
        self,
        features: Tensor,
        coords_xy: Tensor,
        labels: Tensor,
        mask_tokens: tuple[int, ...],
        masks: Tensor | None = None,
        has_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode P prompts on the device and draw all masks, see `decode_worthy_tensors`.

        Returns:
            Logits (P, M, 4h, 4w) and predicted IoU (P, M), float32.
        """
        logits, iou, _ = self.decode_worthy_tensors(features, coords_xy, labels, mask_tokens, masks, has_mask)
        return logits, iou

    def decode_worthy_tensors(
        self,
        features: Tensor,
        coords_xy: Tensor,
        labels: Tensor,
        mask_tokens: tuple[int, ...],
        masks: Tensor | None = None,
        has_mask: Tensor | None = None,
        min_iou: float | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode P prompts on the device, and draw the R of them that are worth it.

        Args:
            features: (1, 256, h, w).
            coords_xy: (P, N, 2) model pixels.
            labels: (P, N) float32, see `PromptBatch`.
            mask_tokens: which M of the four masks.
            masks: (P, 1, 4h, 4w) logits, or None for none.
            has_mask: (P,) float32, which of them count; None for all.
            min_iou: prompts without a mask whose predicted IoU reaches it need not be drawn; None draws all.

        Returns:
            Logits (R, M, 4h, 4w) and predicted IoU (P, M), float32, and which prompts were drawn (R,) int64.
        """
        low_res_hw = (4 * features.shape[2], 4 * features.shape[3])
        if not len(labels):
            logits = features.new_zeros((0, len(mask_tokens), *low_res_hw))
            return logits, logits[..., 0, 0], torch.zeros(0, dtype=torch.int64)
        if masks is None:  # one empty mask, shared by all prompts
            masks = torch.zeros((1, 1, *low_res_hw), device=self.device)
            has_mask = torch.zeros(1, device=self.device)
        elif has_mask is None:
            has_mask = torch.ones(len(masks), device=self.device)
        assert has_mask is not None
        wanted = list(mask_tokens)
        with torch.no_grad(), self._autocast():
            if _can_run_fast(self.model):
                limit = None if min_iou is None else torch.tensor(min_iou, device=self.device)
                decoder = FastMaskDecoder(self.model)
                logits, iou, drawn = decoder(features, coords_xy, labels, masks, has_mask, wanted, limit)
            else:
                logits, iou = self._decode_one_by_one(features, coords_xy, labels, masks, has_mask, wanted)
                drawn = torch.arange(len(iou))
        return logits.float(), iou.float(), drawn

    def _decode_some(
        self, embedding: Embedding, prompts: PromptBatch, mask_tokens: tuple[int, ...]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        logits, iou = self.decode_tensors(*self._on_device(embedding, prompts, mask_tokens))
        return logits.cpu().numpy(), iou.cpu().numpy()

    def _decode_worthy(
        self, embedding: Embedding, prompts: PromptBatch, mask_tokens: tuple[int, ...], min_iou: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        tensors = self._on_device(embedding, prompts, mask_tokens)
        logits, iou, drawn = self.decode_worthy_tensors(*tensors, min_iou)
        return logits.cpu().numpy(), iou.cpu().numpy(), drawn.cpu().numpy()

    def _on_device(
        self, embedding: Embedding, prompts: PromptBatch, mask_tokens: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...], Tensor | None, Tensor]:
        """Bring prompts to the device, in the order of the arguments of `decode_tensors`."""

        def on_device(array: NDArray[np.float32]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

        masks = None if prompts.mask_logits is None else on_device(prompts.mask_logits)
        has_mask = on_device(prompts.has_mask.astype(np.float32))
        features, coords_xy, labels = map(on_device, (embedding.features, prompts.coords_xy, prompts.labels))
        return features, coords_xy, labels, mask_tokens, masks, has_mask

    def _decode_one_by_one(
        self, features: Tensor, coords_xy: Tensor, labels: Tensor, masks: Tensor, has_mask: Tensor, wanted: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Decode with whatever prompt encoder and decoder the user's module has, called as `Sam.forward` calls them."""
        answers = []
        for row in range(len(labels)):
            points, boxes = _points_and_box(coords_xy[row], labels[row])
            mask_row = min(row, len(masks) - 1)
            mask = masks[mask_row][None] if has_mask[mask_row] > 0 else None
            sparse, dense = self.model.prompt_encoder(points=points, boxes=boxes, masks=mask)
            tokens = {
                "image_embeddings": features,
                "image_pe": self.model.prompt_encoder.get_dense_pe(),
                "sparse_prompt_embeddings": sparse,
                "dense_prompt_embeddings": dense,
            }
            if tuple(wanted) in (SINGLE_MASK, MULTI_MASK):
                answers.append(self.model.mask_decoder(**tokens, multimask_output=tuple(wanted) == MULTI_MASK))
            else:
                logits, iou = self.model.mask_decoder.predict_masks(**tokens)
                answers.append((logits[:, wanted], iou[:, wanted]))
        return torch.cat([logits for logits, _ in answers]), torch.cat([iou for _, iou in answers])

    def _autocast(self, keeps_casts: bool = True) -> contextlib.AbstractContextManager[None]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, AUTOCAST_DTYPES[self.precision], cache_enabled=keeps_casts)


def _version_of(tensors: dict[str, Tensor]) -> tuple[tuple[int, int, int], ...]:
    """What changes when a tensor is trained on, loaded into, replaced or moved."""
    return tuple((id(tensor), tensor._version, tensor.data_ptr()) for tensor in tensors.values())


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


def _check_dtype(model: Sam) -> None:
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if dtypes != {torch.float32}:
        names = ", ".join(sorted(str(dtype) for dtype in dtypes))
        raise ValueError(
            f"the model's parameters are {names}; pass it in float32 and choose precision='fp16' or 'bf16'"
        )


def _can_run_fast(model: Sam) -> bool:
    """Tell whether prompt encoder and decoder are ours to the last layer, so that the fast form computes the same.

    It reads the parameters itself, so a subclass, an adapter (LoRA), a parametrization or a hook would be passed over.
    """
    modules = [*model.prompt_encoder.modules(), *model.mask_decoder.modules()]
    return all(
        type(module) in _KNOWN_MODULES and not module._forward_hooks and not module._forward_pre_hooks
        for module in modules
    )


_KNOWN_MODULES = frozenset({
    PromptEncoder, PositionEmbeddingRandom, MaskDecoder, MLP, TwoWayTransformer, TwoWayAttentionBlock, Attention,
    MLPBlock, LayerNorm2d, nn.LayerNorm, nn.Linear, nn.Embedding, nn.Conv2d, nn.ConvTranspose2d, nn.GELU, nn.ReLU,
    nn.Sequential, nn.ModuleList,
})  # fmt: skip
