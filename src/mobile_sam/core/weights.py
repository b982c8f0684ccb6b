"""Files of weights, the bundled ones above all: where they are, what they are, and whether they are whole.

One safetensors file holds every weight once. The ONNX graphs beside it hold none: their initializers point into that
file (ONNX "external data" at an offset). See docs/architecture.md.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.errors import WeightsError
from mobile_sam.core.geometry import INPUT_SIDE

BUNDLED_NAMES = ("mobile_sam", "mobile_sam.pt")
"""What users call the bundled weights where a path is expected."""


@dataclass(frozen=True)
class WeightsRecord:
    """Where the bundled weights come from."""

    source_url: str
    source_sha256: str  # of the official .pt file
    file_name: str
    file_sha256: str  # of the safetensors file made from it by scripts/convert_weights.py
    licence: str


BUNDLED = WeightsRecord(
    source_url="https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
    source_sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    file_name="mobile_sam.safetensors",
    file_sha256="299ca8417fba97b6a2921ba41ff58caf6186167a61323eff5996ca092b593b77",
    licence="Apache-2.0",
)


ENCODER_GRAPH, DECODER_GRAPH = "encoder.onnx", "decoder.onnx"
"""The ONNX graphs beside the weights."""

ANY_SIZE_ENCODER_GRAPH = "encoder_any.onnx"
"""The encoder once more, for pictures of any height and width; the bundled weights have it beside them."""

FOLDER_WEIGHTS = "weights.safetensors"
"""The weights in a model folder, which has these and the two graphs."""

MANIFEST_FILE = "export.json"
"""What a folder of `mobile-sam export` says of itself, see `mobile_sam.core.manifest`."""

ENCODER_PREFIX = "image_encoder."
"""What the keys of the image encoder begin with. Embeddings depend on these weights only."""

FINGERPRINT_VALUES = 64  # of each tensor


def bundled_folder() -> Path:
    """Return the folder of the wheel that holds the weights and the ONNX graphs."""
    return Path(__file__).resolve().parent.parent / "weights"


def bundled_weights_path() -> Path:
    """Return the path of the bundled safetensors file."""
    return bundled_folder() / BUNDLED.file_name


def is_bundled_name(name: str | Path) -> bool:
    """Tell whether `name` means the bundled weights: "mobile_sam" or "mobile_sam.pt", unless there is such a model."""
    return str(name) in BUNDLED_NAMES and not weights_file(name).is_file()


def weights_file(checkpoint: str | Path) -> Path:
    """Return the file that tells a checkpoint from others: itself, or of a folder its weights or its manifest."""
    path = Path(checkpoint)
    return next((path / name for name in (FOLDER_WEIGHTS, MANIFEST_FILE) if (path / name).is_file()), path)


def find_checkpoint(name: str | Path | None) -> Path | None:
    """Look up what a user names as a model: None for the bundled weights, else a file or an exported folder.

    Raises:
        FileNotFoundError: there is no such file or folder, or a folder without weights in it.
    """
    if name is None or is_bundled_name(name):
        return None
    path = Path(name)
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {path}; the bundled weights are called 'mobile_sam'")
    if not weights_file(path).is_file():
        raise FileNotFoundError(
            f"there is no checkpoint in {path}: it has neither {FOLDER_WEIGHTS} nor {MANIFEST_FILE}; name a file"
        )
    return path


def describe_checkpoint(name: str | Path | None) -> tuple[str, str]:
    """Name a checkpoint in a record: "bundled" or the name of its file or folder, and the sha256 of its weights.

    Of an exported folder without weights it is that of the manifest, which has those of its files.

    Raises:
        FileNotFoundError: as `find_checkpoint`.
    """
    checkpoint = find_checkpoint(name)
    if checkpoint is None:
        return "bundled", BUNDLED.file_sha256
    return checkpoint.name, sha256_of_file(weights_file(checkpoint))


def sha256_of_file(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's bytes."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def verify_bundled_weights() -> None:
    """Check that the bundled file is the one that was released.

    Raises:
        WeightsError: the file is missing or its sha256 differs.
    """
    path = bundled_weights_path()
    advice = "reinstall with `pip install --force-reinstall mobile-sam`"
    if not path.is_file():
        raise WeightsError(f"the bundled weights are missing: {path}; {advice}")
    found = sha256_of_file(path)
    if found != BUNDLED.file_sha256:
        raise WeightsError(
            f"the bundled weights are damaged: {path} has sha256 {found}, expected {BUNDLED.file_sha256}; {advice}"
        )


def read_safetensors_header(path: Path) -> tuple[dict[str, Any], int]:
    """Read the table of contents of a safetensors file.

    The layout is public: 8 bytes little-endian header length, a JSON header, then the bytes of the tensors.
    (The safetensors library does not tell offsets within the file, which external data needs.)

    Returns:
        The header ({name: {"dtype", "shape", "data_offsets"}} and perhaps "__metadata__") and the offset in the file
        at which the tensors' bytes begin.

    Raises:
        WeightsError: the file is too short, its header is not JSON, or a tensor's bytes do not lie within the file.
    """
    file_bytes = path.stat().st_size
    with open(path, "rb") as file:
        prefix = file.read(8)
        header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 2 <= header_bytes <= min(file_bytes - 8, 100_000_000):
            raise WeightsError(f"{path} is not a safetensors file: its header does not fit in its {file_bytes} bytes")
        text = file.read(header_bytes)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not a safetensors file: its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise WeightsError(f"{path} is not a safetensors file: its header is not a table of tensors")
    for key, entry in header.items():
        if key != "__metadata__":
            _check_tensor_entry(path, key, entry, file_bytes - 8 - header_bytes)
    return header, 8 + header_bytes


def _check_tensor_entry(path: Path, key: str, entry: Any, data_bytes: int) -> None:
    try:
        (start, end), shape, dtype = entry["data_offsets"], entry["shape"], entry["dtype"]
        is_entry = isinstance(dtype, str) and all(
            isinstance(length, int) and length >= 0 for length in (start, end - start, *shape)
        )
        is_entry = is_entry and (dtype != "F32" or end - start == 4 * math.prod(shape))
    except (LookupError, TypeError, ValueError):
        is_entry = False
    if not is_entry:
        raise WeightsError(f"{path} is not a safetensors file: {key} has no dtype, shape and data_offsets that agree")
    if end > data_bytes:
        raise WeightsError(f"{path} is truncated: it ends before the values of {key}; copy or download it again")


@dataclass(frozen=True)
class Declaration:
    """What a checkpoint says of its model, in the metadata of a safetensors file.

    Attributes:
        architecture: name in the registry of models; None where the file does not tell.
        input_side: side of the model's square in pixels; where the file does not tell, SAM's.
    """

    architecture: str | None = None
    input_side: int = INPUT_SIDE

    def to_metadata(self) -> dict[str, str]:
        """Return what `read_declaration` reads; nothing but strings may be written."""
        told = {"architecture": self.architecture, "input_side": self.input_side}
        return {key: str(value) for key, value in told.items() if value is not None}


def read_metadata(path: Path) -> dict[str, str]:
    """Read what a safetensors file says of itself; nothing if it says nothing.

    Raises:
        WeightsError: the file is damaged.
    """
    metadata = read_safetensors_header(path)[0].get("__metadata__") or {}
    if not isinstance(metadata, dict):
        raise WeightsError(f"{path} is not a safetensors file: its metadata are no table but {metadata!r}")
    return {str(key): str(value) for key, value in metadata.items()}


def read_declaration(path: Path) -> Declaration:
    """Read what a safetensors file says of its model.

    Raises:
        WeightsError: the file is damaged, or its input side is no number of pixels.
    """
    metadata = read_metadata(path)
    side = metadata.get("input_side", str(INPUT_SIDE))
    if not (side.isascii() and side.isdigit()):
        raise WeightsError(f"{path} says that its input_side is {side!r}; expected a number of pixels, as 1024")
    return Declaration(metadata.get("architecture"), int(side))


def encoder_id(encoder_fingerprint: str, input_side: int) -> str:
    """Name an image encoder, and so all embeddings that it makes: by its weights and, if not SAM's, its input side.

    >>> encoder_id("0123456789abcdef", 1024), encoder_id("0123456789abcdef", 512)
    ('0123456789abcdef', '0123456789abcdef-512')
    """
    return encoder_fingerprint if input_side == INPUT_SIDE else f"{encoder_fingerprint}-{input_side}"


def fingerprint(tensors: Iterable[tuple[str, tuple[int, ...], NDArray[np.float32]]]) -> str:
    """Name a set of weights after their content, cheaply: the same for a file and for the module it was loaded into.

    Args:
        tensors: key, shape and the first FINGERPRINT_VALUES values, flat, of each floating-point tensor.

    Returns:
        16 hexadecimal digits. Weights that differ only beyond those first values share a name: this tells models
        apart, it does not prove a file whole (the sha256 does).
    """
    digest = hashlib.sha256()
    for key, shape, first_values in sorted(tensors, key=lambda tensor: tensor[0]):
        digest.update(f"{key}{tuple(shape)}".encode() + first_values.astype("<f4").tobytes())
    return digest.hexdigest()[:16]


def fingerprint_of_file(path: Path, prefix: str = "") -> str:
    """Return the `fingerprint` of the tensors in a safetensors file whose keys begin with `prefix`.

    Raises:
        WeightsError: the file is damaged.
    """
    header, data_start = read_safetensors_header(path)
    content = np.memmap(path, np.uint8, mode="r")
    tensors = []
    for key, entry in header.items():
        if key == "__metadata__" or entry["dtype"] != "F32" or not key.startswith(prefix):
            continue
        start = data_start + entry["data_offsets"][0]
        num_bytes = 4 * min(FINGERPRINT_VALUES, math.prod(entry["shape"]))
        first_values = content[start : start + num_bytes].view("<f4")
        tensors.append((key, tuple(entry["shape"]), first_values))
    return fingerprint(tensors)


def count_parameters(path: Path) -> dict[str, int]:
    """Count the parameters of each part in a safetensors file with the official keys, buffers left out.

    Returns:
        {"image_encoder": ..., "prompt_encoder": ..., "mask_decoder": ...}, by the keys' first word.
    """
    header, _ = read_safetensors_header(path)
    counts: dict[str, int] = {}
    for key, entry in header.items():
        if key == "__metadata__" or key.endswith(_BUFFER_ENDINGS):
            continue
        part = key.split(".", 1)[0]
        counts[part] = counts.get(part, 0) + math.prod(entry["shape"])
    return counts


_BUFFER_ENDINGS = ("running_mean", "running_var", "num_batches_tracked", "positional_encoding_gaussian_matrix")
