"""The pictures an export is checked and calibrated with: those that come with the package, or the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mobile_sam.data.file_pictures import list_pictures_below
from mobile_sam.data.folders import PICTURE_SUFFIXES, list_folder

PICTURES_FOLDER = "default_pictures"


def default_pictures() -> list[Path]:
    """List the pictures that come with the package, by name; NOTICE says whose they are."""
    return list_folder(Path(__file__).resolve().parent / PICTURES_FOLDER)


def find_pictures(sources: Sequence[str | Path]) -> list[Path]:
    """List picture files: those named, and those in the folders named and below them, each once.

    Args:
        sources: files and folders.

    Returns:
        The files in the order of the sources, those of a folder by name; the built-in ones if there is no source.

    Raises:
        ValueError: something named is not there, is no picture, or is a folder without any; says what to do.
    """
    if not sources:
        return default_pictures()
    found = [path.resolve() for source in sources for path in _pictures_of(Path(source))]
    return list(dict.fromkeys(found))


def _pictures_of(source: Path) -> list[Path]:
    if not source.exists():
        raise ValueError(f"there is no picture or folder of pictures at {source}; check the spelling of the path")
    if source.is_dir():
        pictures = [Path(path) for path in list_pictures_below(source).paths]
        if not pictures:
            raise ValueError(
                f"the folder {source} has no pictures, in it or below it; name one with {', '.join(PICTURE_SUFFIXES)} "
                "files, or leave it out for the built-in pictures"
            )
        return pictures
    if source.suffix.lower() not in PICTURE_SUFFIXES:
        raise ValueError(f"{source} is no picture; expected a folder or a file ending in {', '.join(PICTURE_SUFFIXES)}")
    return [source]
