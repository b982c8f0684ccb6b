"""What lies in a folder: the pictures, what names it (a hash of the listing), how large a picture is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from mobile_sam.core.images import exif_orientation

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def require_folder(folder: Path, what: str) -> None:
    """Find out that a folder is there, calling it `what` if not.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is a file.
    """
    if not folder.exists():
        raise FileNotFoundError(f"no {what} at {folder}; check the spelling of the path")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file, expected the {what}")


def list_folder(folder: Path, suffixes: tuple[str, ...] = PICTURE_SUFFIXES) -> list[Path]:
    """List the files of a folder with these suffixes, by name; hidden ones and sub-folders are passed over."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file()
    )


def sha256_of_listing(files: Iterable[tuple[str, Path]]) -> str:
    """Name a set of files by names and sizes, which costs no reading: hexadecimal sha256 of the sorted lines.

    Args:
        files: the name that counts, and where the file is; one that is not there has the size -1.
    """
    lines = sorted(f"{name} {_size_bytes(path)}\n" for name, path in files)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()  # names may be no Unicode


def _size_bytes(path: Path) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return -1


def picture_size_hw(path: Path) -> tuple[int, int]:
    """Height and width in pixels of a picture as `read_image` returns it, upright, from the header alone.

    Raises:
        OSError, ValueError, ...: whatever Pillow raises for a damaged file.
    """
    from PIL import Image

    with Image.open(path) as image:
        width, height = image.size
        return (width, height) if exif_orientation(image) >= 5 else (height, width)
