"""Small networks and traps that the tests of this folder share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mobile_sam.modeling import MaskDecoder, PromptEncoder, TinyViT, TwoWayTransformer

SMALL_TINY_VIT: dict[str, Any] = {
    "img_size": 64,
    "embed_dims": (8, 16, 16, 32),
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 2, 2, 4),
    "window_sizes": (7, 3, 4, 3),
    "out_chans": 16,
}


TABLE_ENDINGS = ("_embed.weight", "_token.weight", "_tokens.weight", "_gaussian_matrix", "attention_biases")


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and statistic a random value, those that start at zero too, so that each one matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif not tensor.is_floating_point():
            continue
        elif tensor.ndim == 1:  # gains near one, offsets near zero
            tensor.normal_(float(name.endswith("weight")), 0.25, generator=generator)
        else:
            is_table = "point_embeddings" in name or name.endswith(TABLE_ENDINGS)
            tensor.normal_(0.0, 1.0 if is_table else tensor[0].numel() ** -0.5, generator=generator)
    return module


class Float64Trap(TorchDispatchMode):
    """Fail at the first operation that yields float64, which MPS does not have."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor) and value.dtype == torch.float64:
                raise AssertionError(f"{func} yields float64")
        return result


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(name="randomize", scope="session")
def _randomize() -> Callable[..., nn.Module]:
    return randomize


@pytest.fixture
def float64_trap() -> Float64Trap:
    return Float64Trap()


@pytest.fixture
def make_tiny_vit() -> Callable[..., TinyViT]:
    """Build a small TinyViT with random weights, in eval()."""

    def make(**options: Any) -> TinyViT:
        encoder = TinyViT(**(SMALL_TINY_VIT | options))
        randomize(encoder)
        return encoder.eval()

    return make


@pytest.fixture
def prompt_encoder() -> PromptEncoder:
    """16 channels, embeddings of 4x6 pixels, images of 64x96."""
    encoder = PromptEncoder(embed_dim=16, image_embedding_size=(4, 6), input_image_size=(64, 96), mask_in_chans=8)
    randomize(encoder)
    return encoder.eval()


@pytest.fixture
def mask_decoder() -> MaskDecoder:
    """16 channels, 2 heads."""
    decoder = MaskDecoder(transformer_dim=16, transformer=TwoWayTransformer(2, 16, 2, 32), iou_head_hidden_dim=16)
    randomize(decoder)
    return decoder.eval()
