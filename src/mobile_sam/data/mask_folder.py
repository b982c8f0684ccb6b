"""A folder of pictures and a folder of masks: binary masks, label maps, or a sub-folder of binary masks a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.masks import encode_rle
from mobile_sam.data.annotations import no_picture_message, tight_box
from mobile_sam.data.folders import list_folder, picture_size_hw, require_folder, sha256_of_listing
from mobile_sam.data.json_values import ItemRejectedError
from mobile_sam.data.records import Dataset, Instance, Picture, Problem

MASK_KINDS = ("auto", "binary", "labels")
VOID_LABEL = 255
"""In label maps of 8 bits: neither object nor background, as in VOC and DAVIS."""
_MAX_UNDOUBTED_VALUES = 8
"""A mask of more values besides 0, most of its pixels having the largest, may be one object with a soft edge."""


def read_mask_folder(pictures: Path, masks: Path, mask_kind: str = "auto") -> Dataset:
    """Read pictures and the masks that have their names: `masks/cat.png`, or one file an object in `masks/cat/`.

    Masks are read now and kept as run lengths. Instances are named after their mask's file, with "#label" in label
    maps; pictures after their file. Files in a sub-folder are binary whatever `mask_kind` says.

    Args:
        pictures: folder of the pictures.
        masks: another folder.
        mask_kind: "binary": what is above half of the file's largest value is the object. "labels": each value but 0 is
            an object, 255 in 8 bits is void. "auto": by the values; where they tell nothing, a problem says so.

    Raises:
        FileNotFoundError: a folder is not there.
        ValueError: an unknown kind of mask, one folder given twice, a folder without pictures or without masks, or no
            picture that can be used.
    """
    if mask_kind not in MASK_KINDS:
        raise ValueError(f"mask_kind must be one of {', '.join(MASK_KINDS)}, got {mask_kind!r}")
    picture_files, mask_files = _list_pictures_and_masks(pictures, masks)
    problems: list[Problem] = []
    usable: dict[str, Picture] = {}  # by stem
    for file in picture_files:
        try:
            if file.stem in usable:
                message = f"{usable[file.stem].id} has the same name but for the suffix; the first stays"
                raise ItemRejectedError("repeated picture id", message)
            if file.stem not in mask_files:
                raise ItemRejectedError("picture without masks", f"no {file.stem}.png and no {file.stem}/ in {masks}")
            usable[file.stem] = _read_picture(file, mask_files[file.stem], mask_kind, problems)
        except ItemRejectedError as reason:
            problems.append(reason.to_problem(file.name))
    stems = {file.stem for file in picture_files}
    for stem in sorted(mask_files.keys() - stems):
        message = f"no picture {stem} in {pictures}"
        problems += [Problem("mask without a picture", mask.name, message) for mask in mask_files[stem]]
    if not usable:
        raise ValueError(no_picture_message(pictures, masks, problems))
    listed = [(f"masks/{mask.name}", mask.path) for files in mask_files.values() for mask in files]
    sha256 = sha256_of_listing([*((f"pictures/{file.name}", file) for file in picture_files), *listed])
    dataset_kind = "mask folder" if mask_kind == "auto" else f"mask folder ({mask_kind})"
    return Dataset(pictures.resolve().name, dataset_kind, sha256, tuple(usable.values()), tuple(problems))


@dataclass(frozen=True)
class _MaskFile:
    path: Path
    name: str  # within the folder of masks
    is_one_object: bool  # as the files of a sub-folder are


def _list_pictures_and_masks(pictures: Path, masks: Path) -> tuple[list[Path], dict[str, list[_MaskFile]]]:
    require_folder(pictures, "folder of pictures")
    require_folder(masks, "folder of masks")
    if pictures.samefile(masks):
        raise ValueError(f"{pictures} is both the folder of pictures and the folder of masks; expected two")
    picture_files = list_folder(pictures)
    if not picture_files:
        raise ValueError(f"{pictures} holds no picture")
    mask_files: dict[str, list[_MaskFile]] = {}
    for file in list_folder(masks):
        mask_files.setdefault(file.stem, []).append(_MaskFile(file, file.name, is_one_object=False))
    for folder in sorted(entry for entry in masks.iterdir() if entry.is_dir()):
        for file in list_folder(folder):
            mask = _MaskFile(file, f"{folder.name}/{file.name}", is_one_object=True)
            mask_files.setdefault(folder.name, []).append(mask)
    if not mask_files:
        raise ValueError(f"{masks} holds no mask; expected picture files there, or a sub-folder of them for a picture")
    return picture_files, mask_files


def _read_picture(file: Path, masks: list[_MaskFile], mask_kind: str, problems: list[Problem]) -> Picture:
    try:
        size_hw = picture_size_hw(file)
    except Exception as error:  # one of many, and Pillow raises what it likes
        raise ItemRejectedError("unreadable picture", f"{error}; its masks are left out with it") from error
    instances: list[Instance] = []
    for mask_file in masks:
        try:
            values = _read_values(mask_file.path, size_hw)
            kind = "binary" if mask_file.is_one_object else _decide_kind(values, mask_kind)
            instances += _instances(values.values, kind, mask_file.name)
        except ItemRejectedError as reason:
            problems.append(reason.to_problem(f"mask {mask_file.name} of picture {file.name}"))
    return Picture(file.name, file, tuple(instances), size_hw)


@dataclass(frozen=True, eq=False)
class _MaskValues:
    values: NDArray[Any]  # (H, W), as they are in the file; palette indices, not colours
    is_palette: bool
    is_lossy: bool  # or may be: in such a file, values between are no labels


def _read_values(path: Path, size_hw: tuple[int, int]) -> _MaskValues:
    from PIL import Image

    try:
        with Image.open(path) as image:
            mask_hw, mode, bands = (image.height, image.width), image.mode, image.getbands()
            values = np.asarray(image) if mask_hw == size_hw else np.zeros(mask_hw)
            is_lossy = image.format in ("JPEG", "MPO", "WEBP")
    except Exception as error:  # one of many, and Pillow raises what it likes
        raise ItemRejectedError("unreadable mask", str(error)) from error
    if mask_hw != size_hw:
        (height, width), (picture_height, picture_width) = mask_hw, size_hw
        raise ItemRejectedError(
            "mask of another size",
            f"the mask is of {height} x {width} (H x W), its picture of {picture_height} x {picture_width}",
        )
    if values.ndim == 3:
        values = _without_colour(values, bands)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ItemRejectedError("unreadable mask", "it holds values that are not finite")
    return _MaskValues(values.astype(np.uint8) if values.dtype == np.bool_ else values, mode[0] == "P", is_lossy)


def _without_colour(values: NDArray[Any], bands: tuple[str, ...]) -> NDArray[Any]:
    """(H, W, C) -> (H, W): the one value that the colours share, 0 where the mask is transparent."""
    has_opacity = bands[-1] in ("A", "a")
    colours = values[..., :-1] if has_opacity else values
    if bands[:3] == ("R", "G", "B"):
        colours = colours[..., :3]
    elif colours.shape[2] > 1:
        raise ItemRejectedError("colour mask", f"its channels are {', '.join(bands)}; expected grey values or labels")
    if (colours != colours[..., :1]).any():
        raise ItemRejectedError(
            "colour mask", "its red, green and blue differ; save grey values or labels, one number a pixel"
        )
    grey = colours[..., 0]
    return np.where(values[..., -1] == 0, np.zeros_like(grey), grey) if has_opacity else grey


def _decide_kind(mask: _MaskValues, mask_kind: str) -> str:
    """Settle whether a file holds one object or labels.

    Raises:
        ItemRejectedError: "ambiguous mask".
    """
    values = mask.values
    is_whole = values.dtype.kind in "iu" or bool((values == np.floor(values)).all())
    if mask_kind == "labels" and not is_whole:
        raise ItemRejectedError("ambiguous mask", "its values are fractions, no labels; pass mask_kind 'binary'")
    if mask_kind != "auto":
        return mask_kind
    nonzero, counts_px = np.unique(values[values != 0], return_counts=True)
    if nonzero.size <= 1:
        return "binary"
    is_deep = values.dtype.itemsize > 1
    is_soft = nonzero.size > _MAX_UNDOUBTED_VALUES and counts_px[-1] > counts_px[:-1].sum()
    if is_whole and not mask.is_lossy and (mask.is_palette or (not is_soft and (is_deep or nonzero[-1] < VOID_LABEL))):
        return "labels"
    raise ItemRejectedError(
        "ambiguous mask",
        f"it has {nonzero.size} values besides 0, up to {nonzero[-1]}: one object with a soft edge, or labels? "
        "Pass mask_kind 'binary' or 'labels'",
    )


def _instances(values: NDArray[Any], kind: str, name: str) -> list[Instance]:
    instances = [
        Instance(instance_id, encode_rle(mask), tight_box(mask), float(np.count_nonzero(mask)))
        for instance_id, mask in _masks(values, kind, name)
    ]
    if not instances:
        raise ItemRejectedError("empty mask", "no pixel of it is an object")
    return instances


def _masks(values: NDArray[Any], kind: str, name: str) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Ids and masks, (H, W) bool, one at a time: hundreds of a large picture would fill the memory."""
    if kind == "binary":
        if (largest := float(values.max())) > 0:
            yield name, values > largest / 2
        return
    void = VOID_LABEL if values.dtype == np.uint8 else 0
    for label in np.unique(values[(values != 0) & (values != void)]):
        yield f"{name}#{int(label)}", values == label
