"""Models by name, and whose weights a checkpoint holds.

`sam_model_registry[name](checkpoint=path)` builds a model in eval() with the weights in `path`, or random ones.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from mobile_sam.checkpoint_files import load_state_dict_file, save_state_dict_file
from mobile_sam.core.geometry import INPUT_SIDE
from mobile_sam.core.weights import (
    MANIFEST_FILE,
    Declaration,
    bundled_weights_path,
    is_bundled_name,
    read_declaration,
    verify_bundled_weights,
    weights_file,
)
from mobile_sam.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TinyViT, TwoWayTransformer
from mobile_sam.modeling.image_encoder import VIT_CONFIGS
from mobile_sam.modeling.tiny_vit_sam import TINY_VIT_CONFIGS

PATCH_SIDE_PX = 16
EMBED_DIM = 256
LAYER_NORM_EPS = 1e-6  # of SAM's ViT blocks

TINY_VIT_NAMES = {"vit_t": "5m", "vit_t_1m": "1m", "vit_t_11m": "11m", "vit_t_21m": "21m"}
"""The TinyViT configuration of each registry name."""
MAX_LISTED_KEYS = 5


def build_sam_vit_h(checkpoint: str | Path | None = None) -> Sam:
    """Build SAM with ViT-H, the largest; 641 million parameters."""
    return _build_sam_vit("vit_h", checkpoint)


def build_sam_vit_l(checkpoint: str | Path | None = None) -> Sam:
    """Build SAM with ViT-L; 312 million parameters."""
    return _build_sam_vit("vit_l", checkpoint)


def build_sam_vit_b(checkpoint: str | Path | None = None) -> Sam:
    """Build SAM with ViT-B; 94 million parameters."""
    return _build_sam_vit("vit_b", checkpoint)


def build_sam_vit_t(
    checkpoint: str | Path | None = None, *, drop_path_rate: float = 0.0, input_side: int | None = None
) -> Sam:
    """Build MobileSAM, with TinyViT-5M; 9.8 million parameters.

    Args:
        checkpoint: file with weights, or folder of `export_model`; "mobile_sam" or "mobile_sam.pt", if there is no such
            file, for the official weights that come with the package; None for random weights.
        drop_path_rate: stochastic depth of the encoder, for training.
        input_side: side of the square that the encoder sees, in pixels, a multiple of 16. None for what the checkpoint
            was made for, which is 1024 where it does not tell.

    Raises:
        FileNotFoundError: no such checkpoint. ValueError: it is damaged or of another model, or the side is none.
    """
    return _build_sam_tiny_vit("vit_t", checkpoint, drop_path_rate, input_side)


def build_sam_vit_t_1m(
    checkpoint: str | Path | None = None, *, drop_path_rate: float = 0.0, input_side: int | None = None
) -> Sam:
    """Build the student for the weakest devices, a TinyViT of 1 million parameters; see `build_sam_vit_t`."""
    return _build_sam_tiny_vit("vit_t_1m", checkpoint, drop_path_rate, input_side)


def build_sam_vit_t_11m(
    checkpoint: str | Path | None = None, *, drop_path_rate: float = 0.0, input_side: int | None = None
) -> Sam:
    """Build MobileSAM's design with TinyViT-11M, for which there are no official weights; see `build_sam_vit_t`."""
    return _build_sam_tiny_vit("vit_t_11m", checkpoint, drop_path_rate, input_side)


def build_sam_vit_t_21m(
    checkpoint: str | Path | None = None, *, drop_path_rate: float = 0.0, input_side: int | None = None
) -> Sam:
    """Build MobileSAM's design with TinyViT-21M, for which there are no official weights; see `build_sam_vit_t`."""
    return _build_sam_tiny_vit("vit_t_21m", checkpoint, drop_path_rate, input_side)


build_sam = build_sam_vit_h

sam_model_registry: dict[str, Callable[..., Sam]] = {
    "default": build_sam_vit_h,
    "vit_h": build_sam_vit_h,
    "vit_l": build_sam_vit_l,
    "vit_b": build_sam_vit_b,
    "vit_t": build_sam_vit_t,
    "vit_t_1m": build_sam_vit_t_1m,
    "vit_t_11m": build_sam_vit_t_11m,
    "vit_t_21m": build_sam_vit_t_21m,
}


def sam_from_checkpoint(checkpoint: str | Path) -> Sam:
    """Build whichever model a checkpoint belongs to, for the input side that it was made for.

    Args:
        checkpoint: file with weights, a folder of `export_model`, or a name of the bundled ones, as in
            `build_sam_vit_t`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no weights of a model in `sam_model_registry`, or says that it is of another.
    """
    path = _resolve(checkpoint)
    state_dict = load_state_dict_file(path)
    name, declared = _identify(state_dict, path)
    if name is None:
        raise ValueError(f"{path} holds none of the models known here: {', '.join(sam_model_registry)}")
    sam = _assemble(_encoder_maker(name), declared.input_side)
    _load_into(sam, state_dict, name, path)
    return sam.eval()


def save_sam(sam: Sam, path: str | Path, *, name: str, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model to a safetensors file that tells which it is: fp32, the official keys, the same bytes each time.

    `sam_from_checkpoint` builds the same model of it, also for another input side than SAM's.

    Args:
        sam: the model, on any device, in any floating-point type.
        path: the file, ending in .safetensors; replaced if it is there, whole or not at all.
        name: of the model in `sam_model_registry`.
        metadata: what else the file shall say; its own words, "architecture" and "input_side", have precedence.

    Raises:
        ValueError: the model is not what it is called, or the name does not end in .safetensors. OSError: the file
            cannot be written.
    """
    state_dict = {key: value.float() if value.is_floating_point() else value for key, value in sam.state_dict().items()}
    found = identify_checkpoint(state_dict)
    if found != name:
        raise ValueError(
            f"the model to be saved as {name!r} is {found or 'none that is known here'}; pass its own name"
        )
    declared = Declaration(name, sam.image_encoder.img_size)
    save_state_dict_file(state_dict, path, {"format": "pt", **(metadata or {}), **declared.to_metadata()})


def _identify(state_dict: Mapping[str, Tensor], path: Path) -> tuple[str | None, Declaration]:
    """Tell whose weights a file holds, and what it says of itself, which must be the same."""
    found = identify_checkpoint(state_dict)
    declared = read_declaration(path) if path.suffix == ".safetensors" else Declaration()
    if declared.architecture not in (None, found):
        raise ValueError(
            f"{path} says that it holds {declared.architecture!r}, but its weights are {found or 'of no known model'}; "
            f"known are {', '.join(sam_model_registry)}"
        )
    return found, declared


def _build_sam_vit(name: str, checkpoint: str | Path | None) -> Sam:
    return _build(name, _encoder_maker(name), checkpoint, None)


def _build_sam_tiny_vit(name: str, checkpoint: str | Path | None, drop_path_rate: float, input_side: int | None) -> Sam:
    return _build(name, partial(_encoder_maker(name), drop_path_rate=drop_path_rate), checkpoint, input_side)


def _encoder_maker(name: str) -> Callable[..., ImageEncoderViT | TinyViT]:
    """What makes the image encoder of a model when it is given `img_size`."""
    if name in TINY_VIT_NAMES:
        return partial(TinyViT, out_chans=EMBED_DIM, **asdict(TINY_VIT_CONFIGS[TINY_VIT_NAMES[name]]))
    return partial(
        ImageEncoderViT,
        patch_size=PATCH_SIDE_PX,
        out_chans=EMBED_DIM,
        norm_layer=partial(nn.LayerNorm, eps=LAYER_NORM_EPS),
        use_rel_pos=True,
        window_size=14,
        **asdict(VIT_CONFIGS[name]),
    )


def _build(
    name: str,
    make_encoder: Callable[..., ImageEncoderViT | TinyViT],
    checkpoint: str | Path | None,
    input_side: int | None,
) -> Sam:
    if checkpoint is None:
        return _assemble(make_encoder, INPUT_SIDE if input_side is None else input_side).eval()
    path = _resolve(checkpoint)
    state_dict = load_state_dict_file(path)
    found, declared = _identify(state_dict, path)
    if found is not None and found != name:  # said before gigabytes of random weights are drawn
        raise ValueError(
            f"{path} is a {found} checkpoint, not {name}; use sam_model_registry[{found!r}](checkpoint={str(path)!r})"
        )
    sam = _assemble(make_encoder, declared.input_side if input_side is None else input_side)
    _load_into(sam, state_dict, name, path)
    return sam.eval()


def _load_into(sam: Sam, state_dict: Mapping[str, Tensor], name: str, path: Path) -> None:
    _check_fit(sam.state_dict(), state_dict, name, path)
    sam.load_state_dict(dict(state_dict), strict=True)


def _assemble(make_encoder: Callable[..., ImageEncoderViT | TinyViT], input_side: int) -> Sam:
    if input_side < PATCH_SIDE_PX or input_side % PATCH_SIDE_PX:
        raise ValueError(f"input_side must be a positive multiple of {PATCH_SIDE_PX} pixels, got {input_side}")
    map_side = input_side // PATCH_SIDE_PX
    return Sam(
        image_encoder=make_encoder(img_size=input_side),
        prompt_encoder=PromptEncoder(
            embed_dim=EMBED_DIM,
            image_embedding_size=(map_side, map_side),
            input_image_size=(input_side, input_side),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=EMBED_DIM,
            transformer=TwoWayTransformer(depth=2, embedding_dim=EMBED_DIM, num_heads=8, mlp_dim=2048),
        ),
    )


def _resolve(checkpoint: str | Path) -> Path:
    if not is_bundled_name(checkpoint):
        path = weights_file(checkpoint)
        if path.name == MANIFEST_FILE:
            raise ValueError(
                f"{checkpoint} was exported for another runtime, and holds no weights that PyTorch reads; name the "
                "checkpoint that it was made of"
            )
        return path
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
