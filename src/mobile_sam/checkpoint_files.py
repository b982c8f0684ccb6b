"""Checkpoint files: what foreign ones look like, and how ours are written; whatever model they are of."""

import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mobile_sam.core.files import atomic_path
from mobile_sam.core.weights import read_safetensors_header

UNUSED_PREFIXES = ("image_encoder.norm_head.", "image_encoder.head.")  # TinyViT's classifier, in the official file
WRAPPER_KEYS = ("model", "state_dict")  # where a training checkpoint keeps the weights

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


def save_state_dict_file(state_dict: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write tensors to a safetensors file, whole or not at all; the same content gives the same bytes.

    Args:
        state_dict: tensors by name, on any device.
        path: the file, ending in .safetensors; replaced if it is there.
        metadata: what the file says of itself.

    Raises:
        ValueError: the name does not end in .safetensors. OSError: it cannot be written there.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are written as .safetensors, got {path}; change the ending")
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state_dict.items()}
    with atomic_path(path) as partial:
        partial.touch()
        usual_mode = partial.stat().st_mode  # the library lets nobody but the owner read
        save_file(tensors, partial, metadata=dict(metadata))
        partial.chmod(usual_mode)
        _sort_metadata(partial)


def _sort_metadata(path: Path) -> None:
    """Rewrite the header's metadata in sorted order, in place: the library writes it in a random one.

    The same entries take the same number of bytes, so no offset moves.
    """
    header, data_start = read_safetensors_header(path)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(data_start - 8)
    assert len(text) == data_start - 8, f"the header of {path} changed its length: {data_start - 8} -> {len(text)}"
    with open(path, "r+b") as file:
        file.seek(8)
        file.write(text)
