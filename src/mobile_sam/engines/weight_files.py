"""Weights that engines without PyTorch take: checked, and handed to graphs by their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.errors import WeightsError
from mobile_sam.core.geometry import INPUT_SIDE
from mobile_sam.core.weights import (
    DECODER_GRAPH,
    ENCODER_GRAPH,
    ENCODER_PREFIX,
    FOLDER_WEIGHTS,
    bundled_weights_path,
    fingerprint_of_file,
    read_declaration,
    read_safetensors_header,
    sha256_of_file,
    verify_bundled_weights,
)

EXPORT_ADVICE = "make it again with `mobile-sam distill export STUDENT.safetensors -o FOLDER`"


def check_weights(weights: Path | None) -> str:
    """Check weights that run on the graphs of the wheel, or a model folder, and return their encoder's fingerprint.

    Args:
        weights: a safetensors file or a model folder; None for the bundled weights.

    Raises:
        FileNotFoundError: no such file. WeightsError: they are damaged or of another model.
    """
    if weights is None:
        verify_bundled_weights()
        return fingerprint_of_file(bundled_weights_path(), ENCODER_PREFIX)
    if weights.is_dir():
        _check_folder(weights)
        return fingerprint_of_file(weights / FOLDER_WEIGHTS, ENCODER_PREFIX)
    _check_same_layout(weights)
    return fingerprint_of_file(weights, ENCODER_PREFIX)


def _check_folder(folder: Path) -> None:
    """Check that a model folder is whole and that its graphs were made for its weights, whose sha256 they name."""
    missing = [name for name in (FOLDER_WEIGHTS, ENCODER_GRAPH, DECODER_GRAPH) if not (folder / name).is_file()]
    if missing:
        raise WeightsError(f"{folder} is no model folder: it has no {', '.join(missing)}; {EXPORT_ADVICE}")
    weights = folder / FOLDER_WEIGHTS
    read_safetensors_header(weights)
    digest = sha256_of_file(weights).encode()
    for graph in (folder / ENCODER_GRAPH, folder / DECODER_GRAPH):
        if digest not in graph.read_bytes():
            raise WeightsError(f"{graph} was not made for {weights}, or one of them is damaged; {EXPORT_ADVICE}")


def _check_same_layout(weights: Path) -> None:
    if not weights.is_file():
        raise FileNotFoundError(f"no weights at {weights}")
    advice = (
        f"`mobile-sam distill export {weights} -o FOLDER` makes a folder that this engine runs; else use engine='torch'"
    )
    found, _ = read_safetensors_header(weights)
    input_side = read_declaration(weights).input_side
    if input_side != INPUT_SIDE:
        raise WeightsError(
            f"{weights} is of a model for {input_side} px, not {INPUT_SIDE} px as the graphs here; {advice}"
        )
    expected, _ = read_safetensors_header(bundled_weights_path())
    for key, entry in expected.items():
        if key == "__metadata__":
            continue
        if key not in found or found[key]["shape"] != entry["shape"] or found[key]["dtype"] != entry["dtype"]:
            state = "is missing" if key not in found else f"is {found[key]['dtype']} {found[key]['shape']}"
            raise WeightsError(
                f"{weights} does not hold a MobileSAM (vit_t) in fp32: {key} {state}, expected "
                f"{entry['dtype']} {entry['shape']}; {advice}"
            )


def weights_of_graph(weights: Path, graph: Path | None = None) -> dict[str, NDArray[np.float32]]:
    """Read the weights of a safetensors file, by name; with an ONNX graph, only those that are initializers of it.

    Raises:
        WeightsError: the file is damaged.
    """
    from safetensors import safe_open

    content = None if graph is None else graph.read_bytes()
    with safe_open(weights, "numpy") as tensors:
        keys = [key for key in tensors.keys() if content is None or _is_initializer(key, content)]  # noqa: SIM118
        return {key: tensors.get_tensor(key) for key in keys}


def _is_initializer(key: str, graph: bytes) -> bool:
    """Tell whether an ONNX file holds an initializer of this name, without the onnx package to parse it.

    In protobuf a TensorProto's name is field 8, a string: the byte 8 << 3 | 2, the length, the text.
    """
    name = key.encode()
    length = bytes([len(name)]) if len(name) < 128 else bytes([len(name) & 127 | 128, len(name) >> 7])
    return bytes([8 << 3 | 2]) + length + name in graph
