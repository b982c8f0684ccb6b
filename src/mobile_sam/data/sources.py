"""One door for all that can be measured against: annotation files, SA-1B, folders of masks, or bare pictures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mobile_sam.data.coco import read_coco
from mobile_sam.data.folders import PICTURE_SUFFIXES, list_folder, require_folder, sha256_of_listing
from mobile_sam.data.mask_folder import read_mask_folder
from mobile_sam.data.records import Dataset, Picture, Problem
from mobile_sam.data.sa1b import annotation_files, read_sa1b

SOURCE_FORMS = (
    "expected a COCO or LVIS file (instances.json, with the folder of its pictures); a folder of pictures with a "
    "folder of masks of the same names; a folder with the sub-folders images/ and masks/; or a folder of SA-1B "
    "(sa_1.jpg, sa_1.json, ...)"
)


def open_dataset(
    source: str | os.PathLike[str],
    pictures: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    mask_kind: str = "auto",
) -> Dataset:
    """Read annotated pictures, whatever their form.

    Args:
        source: a COCO or LVIS file, a folder of SA-1B, a folder of pictures (with `masks`), or a folder with the
            sub-folders `images` or `pictures`, and `masks`.
        pictures: folder of the pictures of a JSON file; by default `images` beside the file if there is one, else the
            file's own folder.
        masks: folder of the masks of a folder of pictures.
        mask_kind: see `read_mask_folder`.

    Raises:
        FileNotFoundError: something named is not there.
        ValueError: the source is of no known form, or nothing in it can be used.
    """
    source = Path(source)
    pictures = None if pictures is None else Path(pictures)
    masks = None if masks is None else Path(masks)
    if not source.exists():
        raise FileNotFoundError(f"nothing at {source} (seen from {os.getcwd()}); check the spelling of the path")
    if source.is_file():
        if not is_annotated(source):
            raise ValueError(f"{source} is no .json file; {SOURCE_FORMS}")
        if masks is not None:
            raise ValueError(f"{source} holds its own masks; give masks ({masks}) with a folder of pictures only")
        return read_coco(source, pictures or folder_of_pictures(source))
    if pictures is not None:
        raise ValueError(f"{source} is a folder; give pictures ({pictures}) with a .json file only")
    if masks is not None:
        return read_mask_folder(source, masks, mask_kind)
    if not is_annotated(source):
        files = [str(file) for file in list_folder(source, (".json",))[:3]]
        hint = f"; perhaps you mean {' or '.join(files)}" if files else ""
        raise ValueError(f"{source} is a folder of no known form{hint}; {SOURCE_FORMS}")
    pictures_below = _pictures_with_masks(source)
    if pictures_below is not None:
        return read_mask_folder(pictures_below, source / "masks", mask_kind)
    return read_sa1b(source)


def folder_of_pictures(source: Path) -> Path:
    """Tell where `open_dataset` looks for the pictures of an annotated source, with no other folder named."""
    if source.is_dir():
        return _pictures_with_masks(source) or source
    beside = source.parent / "images"
    return beside if beside.is_dir() else source.parent


def is_annotated(source: str | os.PathLike[str]) -> bool:
    """Tell whether `open_dataset` would read this as annotations, with no other folder named.

    So it is with a .json file, there or not, a folder of SA-1B, and a folder with the sub-folders `masks`, and `images`
    or `pictures`. Everything else is for `list_picture_files`.
    """
    source = Path(source)
    if not source.is_dir():
        return source.suffix.lower() == ".json"
    return _pictures_with_masks(source) is not None or bool(annotation_files(source))


def _pictures_with_masks(folder: Path) -> Path | None:
    """Folder of the pictures that `masks` beside it belongs to, if there are both."""
    folders = [folder / name for name in ("images", "pictures") if (folder / name).is_dir()]
    return folders[0] if folders and (folder / "masks").is_dir() else None


def list_picture_files(sources: Sequence[str | os.PathLike[str]]) -> Dataset:
    """List pictures for what needs no annotations, each file once.

    Args:
        sources: picture files, and folders, whose pictures are taken without those in sub-folders.

    Returns:
        A dataset of kind "pictures". Ids are file names, or where two files share one, their paths from the folder that
        all pictures have in common; of links, not of what they lead to. Sizes are not known.

    Raises:
        FileNotFoundError: a source is not there.
        ValueError: a folder without pictures, an annotation file, or no source.
    """
    if not sources:
        raise ValueError("no pictures were named; name picture files or folders of them")
    listed = [file for source in sources for file in _pictures_of(Path(source))]
    files: dict[str, Path] = {}  # by their real place
    problems = []
    for file in listed:
        place = os.path.realpath(file)
        if place in files:
            problems.append(Problem("repeated picture", str(file), f"is {files[place]}, which came before"))
        files.setdefault(place, file)
    ids = _unique_names([_place_as_named(file) for file in files.values()])
    name = Path(os.path.abspath(sources[0])).name + (f" and {len(sources) - 1} more" if len(sources) > 1 else "")
    pictures = tuple(Picture(picture_id, file) for picture_id, file in zip(ids, files.values(), strict=True))
    sha256 = sha256_of_listing(zip(ids, files.values(), strict=True))
    return Dataset(name, "pictures", sha256, pictures, tuple(problems))


def _pictures_of(source: Path) -> list[Path]:
    if source.is_file():
        if source.suffix.lower() == ".json":
            raise ValueError(f"{source} is an annotation file; name one annotation file alone, or pictures")
        return [source]
    require_folder(source, "picture or folder of pictures")
    files = list_folder(source)
    if not files:
        raise ValueError(f"{source} holds no picture ({', '.join(PICTURE_SUFFIXES)})")
    return files


def _place_as_named(path: Path) -> Path:
    """Absolute path of a file, links and all; with a way up, which after a link leads elsewhere, of its real folder."""
    folder = os.path.realpath(path.parent) if ".." in path.parts else os.path.abspath(path.parent)
    return Path(folder, path.name)


def _unique_names(places: list[Path]) -> list[str]:
    names = [place.name for place in places]
    counts = Counter(names)
    if max(counts.values()) == 1:
        return names
    try:
        common = os.path.commonpath([os.path.dirname(place) for place in places])
    except ValueError:  # several drives
        common = ""
    paths = [(place.relative_to(common) if common else place).as_posix() for place in places]
    return [path if counts[name] > 1 else name for name, path in zip(names, paths, strict=True)]
