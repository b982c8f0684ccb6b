"""What `everything` writes of a picture: where to, decided and checked before the work, and how."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobile_sam.cli.outputs import check_outputs
from mobile_sam.everything.sam_files import write_mask_files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mobile_sam.data.records import Picture
    from mobile_sam.everything.coco import PictureRecords

MAX_LABEL = 65_535  # of a 16-bit picture


@dataclass(frozen=True)
class Outputs:
    """Where results go.

    Attributes:
        overlay: a picture file.
        coco: a .json file.
        folder: in which each picture gets a folder (or file) of its own.
    """

    overlay: Path | None = None
    coco: Path | None = None
    folder: Path | None = None

    def check(self, inputs: Mapping[str, Path]) -> None:
        """Find out before the work whether the files and the folder could be written.

        Raises:
            OSError, ValueError: as `check_outputs`; the folder is a file or cannot be made.
        """
        check_outputs([self.overlay] if self.overlay else [], self.coco, inputs, has_opacity=False)
        if self.folder is None:
            return
        nearest = next(place for place in (self.folder, *self.folder.absolute().parents) if os.path.lexists(place))
        if not nearest.is_dir():
            raise NotADirectoryError(f"cannot write into {self.folder}: {nearest} is a file; name a folder")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(f"cannot write into {self.folder}: no permission to create files in {nearest}")


def choose_outputs(named: Sequence[Path], pictures: Sequence[Picture]) -> Outputs:
    """Tell from what -o named what is a picture, what JSON and what a folder.

    Raises:
        ValueError: two of a kind, or what cannot hold the results of several pictures.
    """
    if not named and len(pictures) == 1:
        named = [Path(f"{pictures[0].path.stem}_everything.png")]
    found: dict[str, Path] = {}
    for path in named:
        is_folder = path.is_dir() or not path.suffix
        kind = "folder" if is_folder else "coco" if path.suffix.lower() == ".json" else "overlay"
        if kind in found:
            raise ValueError(f"-o {found[kind]} and -o {path} are both for the {kind}; name one of them")
        found[kind] = path
    if len(pictures) > 1 and (len(found) != 1 or "overlay" in found):
        got = " ".join(f"-o {path}" for path in named) or "none"
        raise ValueError(
            f"{len(pictures)} pictures need one -o that is a .json file or a folder (there already, or named without a "
            f"suffix), got {got}"
        )
    return Outputs(**found)


@dataclass(frozen=True, eq=False)
class Segmented:
    """A picture and the masks found in it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        found: name and masks, with COCO RLE as `segmentation`.
        description: how the masks were made, and of which file, for JSON.
    """

    image: NDArray[np.uint8]
    found: PictureRecords
    description: Mapping[str, Any]

    @property
    def codes(self) -> list[Mapping[str, Any]]:
        """The masks as run lengths."""
        return [record["segmentation"] for record in self.found.records]


def write_overlay(path: Path, segmented: Segmented) -> None:
    """Draw all masks over the picture."""
    from mobile_sam.core.draw import draw_overlay
    from mobile_sam.core.images import write_image

    write_image(path, draw_overlay(segmented.image, segmented.codes))


def write_coco(path: Path, pictures: Sequence[PictureRecords], info: Mapping[str, Any]) -> None:
    """Write the masks of pictures as one COCO file."""
    from mobile_sam.everything.coco import coco_json

    write_json(path, coco_json(pictures, info))


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    from mobile_sam.core.files import atomic_path

    text = json.dumps(content, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")  # names that are not UTF-8


def write_parts(folder: Path, segmented: Segmented, parts: Collection[str]) -> None:
    """Write the parts of a picture's folder: SAM's files (masks with metadata.csv), and ours."""
    if "masks" in parts:
        write_mask_files(folder, segmented.found.records)
    if "overlay" in parts:
        write_overlay(folder / "overlay.png", segmented)
    if "labels" in parts:
        _write_labels(folder / "labels.png", segmented)
    if "coco" in parts:
        write_coco(folder / "coco.json", [segmented.found], segmented.description)


def _write_labels(path: Path, segmented: Segmented) -> None:
    """Write the number of the smallest mask at each pixel, from 1, as a 16-bit PNG."""
    import io

    import numpy as np
    from PIL import Image

    from mobile_sam.core.label_map import label_map

    if len(segmented.codes) > MAX_LABEL:
        raise ValueError(f"{len(segmented.codes)} masks are more than labels.png can number; use --max-masks")
    labels = label_map(segmented.codes, segmented.found.size_hw)  # (H, W)
    buffer = io.BytesIO()  # where Pillow itself writes to a disk that is full, the reason gets lost
    Image.fromarray(labels.astype(np.uint16)).save(buffer, format="PNG")
    path.write_bytes(buffer.getbuffer())
