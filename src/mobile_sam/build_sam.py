"""Models by name, and checkpoints: the only file that knows what foreign files look like.

`sam_model_registry[name](checkpoint=path)` builds a model in eval() with the weights in `path`, or random ones.
"""

import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mobile_sam.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TinyViT, TwoWayTransformer
from mobile_sam.modeling.image_encoder import VIT_CONFIGS
from mobile_sam.modeling.tiny_vit_sam import TINY_VIT_CONFIGS

IMAGE_SIDE_PX = 1024
PATCH_SIDE_PX = 16
EMBED_DIM = 256
LAYER_NORM_EPS = 1e-6  # of SAM's ViT blocks

TINY_VIT_NAMES = {"vit_t": "5m", "vit_t_11m": "11m", "vit_t_21m": "21m"}  # registry name -> TinyViT configuration
UNUSED_PREFIXES = ("image_encoder.norm_head.", "image_encoder.head.")  # TinyViT's classifier, in the official file
WRAPPER_KEYS = ("model", "state_dict")  # where a training checkpoint keeps the weights
MAX_LISTED_KEYS = 5

# What `torch.load` was seen to raise on files that are not checkpoints, cut off or hold code instead of tensors.
_UNREADABLE = (
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    OSError,
)


def build_sam_vit_h(checkpoint: str | Path | None = None) -> Sam:
    """Build SAM with ViT-H, the largest; 641 million parameters."""
    return _build_sam_vit("vit_h", checkpoint)


def build_sam_vit_l(checkpoint: str | Path | None = None) -> Sam:
    """Build SAM with ViT-L; 312 million parameters."""
    return _build_sam_vit("vit_l", checkpoint)


def build_sam_vit_b(checkpoint: str | Path | None = None) -> Sam:
    """Build SAM with ViT-B; 94 million parameters."""
    return _build_sam_vit("vit_b", checkpoint)


def build_sam_vit_t(checkpoint: str | Path | None = None, *, drop_path_rate: float = 0.0) -> Sam:
    """Build MobileSAM, with TinyViT-5M; 9.8 million parameters.

    Args:
        checkpoint: file with weights; "mobile_sam" or "mobile_sam.pt", if there is no such file, for the official
            weights that come with the package; None for random weights.
        drop_path_rate: stochastic depth of the encoder, for training.
    """
    return _build_sam_tiny_vit("vit_t", checkpoint, drop_path_rate)


def build_sam_vit_t_11m(checkpoint: str | Path | None = None, *, drop_path_rate: float = 0.0) -> Sam:
    """Build MobileSAM's design with TinyViT-11M, for which there are no official weights."""
    return _build_sam_tiny_vit("vit_t_11m", checkpoint, drop_path_rate)


def build_sam_vit_t_21m(checkpoint: str | Path | None = None, *, drop_path_rate: float = 0.0) -> Sam:
    """Build MobileSAM's design with TinyViT-21M, for which there are no official weights."""
    return _build_sam_tiny_vit("vit_t_21m", checkpoint, drop_path_rate)


build_sam = build_sam_vit_h

sam_model_registry: dict[str, Callable[..., Sam]] = {
    "default": build_sam_vit_h,
    "vit_h": build_sam_vit_h,
    "vit_l": build_sam_vit_l,
    "vit_b": build_sam_vit_b,
    "vit_t": build_sam_vit_t,
    "vit_t_11m": build_sam_vit_t_11m,
    "vit_t_21m": build_sam_vit_t_21m,
}


def sam_from_checkpoint(checkpoint: str | Path) -> Sam:
    """Build whichever model a checkpoint belongs to.

    Args:
        checkpoint: file with weights, or a name of the bundled ones as in `build_sam_vit_t`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no weights of a model in `sam_model_registry`.
    """
    path = _resolve(checkpoint)
    state_dict = load_state_dict_file(path)
    name = identify_checkpoint(state_dict)
    if name is None:
        raise ValueError(f"{path} holds none of the models known here: {', '.join(sam_model_registry)}")
    sam = sam_model_registry[name]()
    _load_into(sam, state_dict, name, path)
    return sam


def _build_sam_vit(name: str, checkpoint: str | Path | None) -> Sam:
    make_encoder = partial(
        ImageEncoderViT,
        img_size=IMAGE_SIDE_PX,
        patch_size=PATCH_SIDE_PX,
        out_chans=EMBED_DIM,
        norm_layer=partial(nn.LayerNorm, eps=LAYER_NORM_EPS),
        use_rel_pos=True,
        window_size=14,
        **asdict(VIT_CONFIGS[name]),
    )
    return _build(name, make_encoder, checkpoint)


def _build_sam_tiny_vit(name: str, checkpoint: str | Path | None, drop_path_rate: float) -> Sam:
    sizes = asdict(TINY_VIT_CONFIGS[TINY_VIT_NAMES[name]])
    make_encoder = partial(TinyViT, img_size=IMAGE_SIDE_PX, out_chans=EMBED_DIM, drop_path_rate=drop_path_rate, **sizes)
    return _build(name, make_encoder, checkpoint)


def _build(name: str, make_encoder: Callable[[], ImageEncoderViT | TinyViT], checkpoint: str | Path | None) -> Sam:
    if checkpoint is None:
        return _assemble(make_encoder()).eval()
    path = _resolve(checkpoint)
    state_dict = load_state_dict_file(path)
    found = identify_checkpoint(state_dict)
    if found is not None and found != name:  # said before gigabytes of random weights are drawn
        raise ValueError(
            f"{path} is a {found} checkpoint, not {name}; use sam_model_registry[{found!r}](checkpoint={str(path)!r})"
        )
    sam = _assemble(make_encoder())
    _load_into(sam, state_dict, name, path)
    return sam.eval()


def _load_into(sam: Sam, state_dict: Mapping[str, Tensor], name: str, path: Path) -> None:
    _check_fit(sam.state_dict(), state_dict, name, path)
    sam.load_state_dict(dict(state_dict), strict=True)


def _assemble(image_encoder: ImageEncoderViT | TinyViT) -> Sam:
    map_side = IMAGE_SIDE_PX // PATCH_SIDE_PX
    return Sam(
        image_encoder=image_encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=EMBED_DIM,
            image_embedding_size=(map_side, map_side),
            input_image_size=(IMAGE_SIDE_PX, IMAGE_SIDE_PX),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=EMBED_DIM,
            transformer=TwoWayTransformer(depth=2, embedding_dim=EMBED_DIM, num_heads=8, mlp_dim=2048),
        ),
    )


def _resolve(checkpoint: str | Path) -> Path:
    from mobile_sam.core.weights import bundled_weights_path, is_bundled_name, verify_bundled_weights

    if not is_bundled_name(checkpoint):
        return Path(checkpoint)
    verify_bundled_weights()
    return bundled_weights_path()


def _check_fit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], name: str, path: Path) -> None:
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": sorted(
            key for key in expected.keys() & found.keys() if expected[key].shape != found[key].shape
        ),
    }
    if any(problems.values()):
        listed = "; ".join(f"{len(keys)} {kind}: {_shorten(keys)}" for kind, keys in problems.items() if keys)
        raise ValueError(f"{path} does not fit {name}, whose state dict has {len(expected)} entries: {listed}")


def _shorten(keys: list[str]) -> str:
    ellipsis = ", ..." if len(keys) > MAX_LISTED_KEYS else ""
    return ", ".join(keys[:MAX_LISTED_KEYS]) + ellipsis


def identify_checkpoint(state_dict: Mapping[str, Tensor]) -> str | None:
    """Tell which model a state dict belongs to, by the kind and width of its image encoder.

    Args:
        state_dict: tensors by name, as `load_state_dict_file` returns them.

    Returns:
        A name in `sam_model_registry`, or None for anything else.
    """
    neck = state_dict.get("image_encoder.neck.0.weight")
    if neck is None or neck.ndim != 4:
        return None
    if "image_encoder.patch_embed.seq.0.c.weight" in state_dict:
        widths = {TINY_VIT_CONFIGS[size].embed_dims[-1]: name for name, size in TINY_VIT_NAMES.items()}
    elif "image_encoder.patch_embed.proj.weight" in state_dict:
        widths = {config.embed_dim: name for name, config in VIT_CONFIGS.items()}
    else:
        return None
    return widths.get(neck.shape[1])


def load_state_dict_file(path: str | Path) -> dict[str, Tensor]:
    """Read the weights in a file, without running any code that it may hold.

    Understood are `.safetensors`, PyTorch files with a state dict, and PyTorch files with one under "model" or
    "state_dict" beside other things. A "module." before every name is taken off, and TinyViT's classifier, which no
    model here uses, is left out.

    Args:
        path: the file.

    Returns:
        Tensors on the CPU, by name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, cut off, or not a checkpoint.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file but a folder; give the checkpoint file in it")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes); download it again")
    entries = _read_safetensors(path) if path.suffix == ".safetensors" else _unwrap(_read_torch(path), path)
    prefix = "module." if all(key.startswith("module.") for key in entries) else ""
    names = {key: key.removeprefix(prefix) for key in entries}
    return {names[key]: value for key, value in entries.items() if not names[key].startswith(UNUSED_PREFIXES)}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path, device="cpu")
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file ({error}); download it again") from error


def _read_torch(path: Path) -> Any:
    damaged = _damaged_member(path)
    if damaged is not None:
        raise ValueError(f"{path} is damaged: the checksum of {damaged} inside it is wrong; download it again")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except _UNREADABLE as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise ValueError(
            f"{path} is not a PyTorch checkpoint of tensors, or is cut off ({type(error).__name__}: {reason}); "
            f"download it again, or save only the state dict"
        ) from error


def _damaged_member(path: Path) -> str | None:
    """Name the first member of a zip archive, as PyTorch's files are, with a wrong checksum: torch does not look."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError):
        return "the archive"


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """Find the state dict in what a PyTorch file holds."""
    wrapped = [content[key] for key in WRAPPER_KEYS if isinstance(content, Mapping) and key in content]
    entries = wrapped[0] if wrapped else content
    is_state_dict = isinstance(entries, Mapping) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in entries.items()
    )
    if not is_state_dict or not entries:
        raise ValueError(
            f"{path} holds no state dict but a {type(entries).__name__}; "
            f"expected tensors by name, as such or under {' or '.join(map(repr, WRAPPER_KEYS))}"
        )
    return dict(entries)
