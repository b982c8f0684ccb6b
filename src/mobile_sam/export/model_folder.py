"""A model as a folder that every engine runs: its weights, and the ONNX graphs that point into them.

weights.safetensors   fp32, the official keys, and what model it is (`build_sam.save_sam`)
encoder.onnx          graphs without weights, see `mobile_sam.export.graphs`; each names the sha256 of the weights,
decoder.onnx          so that a folder put together of two models is noticed
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mobile_sam.build_sam import identify_checkpoint, sam_from_checkpoint, sam_model_registry, save_sam
from mobile_sam.core.files import atomic_folder
from mobile_sam.core.weights import (
    DECODER_GRAPH,
    ENCODER_GRAPH,
    FOLDER_WEIGHTS,
    bundled_weights_path,
    find_checkpoint,
    read_metadata,
    sha256_of_file,
    weights_file,
)
from mobile_sam.export.graphs import export_graphs
from mobile_sam.modeling.sam import Sam

FOLDER_FILES = frozenset({FOLDER_WEIGHTS, ENCODER_GRAPH, DECODER_GRAPH})


def export_model(
    model: Sam | str | Path, folder: str | Path, *, name: str | None = None, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a model to a folder, whole or not at all.

    Args:
        model: a module, which is not changed; a checkpoint's path; or "mobile_sam" for the bundled weights.
        folder: where; made if it is not there, replaced if it holds nothing but an earlier export.
        name: of the model in `sam_model_registry`; None finds out.
        metadata: what the weights shall say of themselves beside what the checkpoint says and what model it is.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: no such checkpoint. ValueError: it is damaged or of no known model, or the folder holds other
            files. OSError: the folder cannot be written.
    """
    folder = Path(folder)
    is_there = _check_replaceable(folder)
    if isinstance(model, Sam):
        sam, told = model, {}
    else:
        sam, told = sam_from_checkpoint(model), _metadata_of(model)
    with atomic_folder(folder, replaces=is_there) as temporary:
        write_model_folder(sam, temporary, name=name, metadata={**told, **(metadata or {})})
    return folder


def write_model_folder(
    sam: Sam, folder: Path, *, name: str | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the files of a model to a folder that is there and empty.

    Args:
        sam: the module, which is not changed.
        folder: where.
        name: see `export_model`.
        metadata: what the weights shall say of themselves beside what model it is.

    Raises:
        ValueError: the model is of no known kind. OSError: the folder cannot be written.
    """
    name = name or identify_checkpoint(sam.state_dict())
    if name is None:
        raise ValueError(f"the model is none of those known here: {', '.join(sam_model_registry)}")
    weights = folder / FOLDER_WEIGHTS
    save_sam(sam, weights, name=name, metadata=metadata)
    as_written = sam_from_checkpoint(weights)  # on the CPU, in fp32, in eval mode, as graphs are traced
    export_graphs(as_written, weights, folder, metadata={"weights_sha256": sha256_of_file(weights)})


def _check_replaceable(folder: Path) -> bool:
    """Tell whether a folder is there, after checking that nothing in it would be lost."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise NotADirectoryError(f"cannot export to {folder}: it is a file; name a folder")
    others = sorted({path.name for path in folder.iterdir()} - FOLDER_FILES)
    if others:
        raise ValueError(
            f"cannot export to {folder}: it holds other files ({', '.join(others[:3])}); name a new folder"
        )
    return True


def _metadata_of(checkpoint: str | Path) -> dict[str, str]:
    found = find_checkpoint(checkpoint)
    path = bundled_weights_path() if found is None else weights_file(found)
    return read_metadata(path) if path.suffix == ".safetensors" else {}
