"""Pictures on their way into an engine: read, decoded, and as small as the task allows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobile_sam.bulk.items import Failed, Item, Place, RunStoppedError
from mobile_sam.core.embedding import Embedding
from mobile_sam.core.errors import ImageReadError, ImageTooLargeError, MissingDependencyError
from mobile_sam.core.geometry import LongSideResize

if TYPE_CHECKING:
    from mobile_sam.engines import Engine

NO_MEMORY = "not enough memory"


@dataclass(frozen=True, eq=False)
class LoadedPicture:
    """A picture in memory.

    Attributes:
        item: that it belongs to.
        pixels: (h, w, 3) uint8 RGB, of its own size or resized to the model frame, without padding.
        image_hw: height and width of the picture in pixels.
    """

    item: Item
    pixels: NDArray[np.uint8]
    image_hw: tuple[int, int]


def load_picture(item: Item, roots: Sequence[str], resize_to: int | None) -> LoadedPicture | Failed:
    """Read and decode a picture.

    Args:
        item: says where it is.
        roots: see `BulkSettings.roots`.
        resize_to: side of the model frame, to resize the picture as `Engine.encode` would; None to leave its size.

    Returns:
        The picture, or why it cannot be used.

    Raises:
        RunStoppedError: the folder that it was in is gone.
        MissingDependencyError: a package for this kind of place is not installed.
    """
    from mobile_sam.bulk.sources.reading import SourceReadError, read_place
    from mobile_sam.core.images import read_image

    try:
        pixels = read_image(read_place(item.place))
        image_hw = (pixels.shape[0], pixels.shape[1])
        if resize_to is not None:
            pixels = LongSideResize(image_hw, resize_to).resize_image(pixels)
        return LoadedPicture(item, pixels, image_hw)
    except MissingDependencyError:
        raise
    except SourceReadError as error:
        check_root(item.place, roots)
        return Failed(item.id, error.kind, str(error))
    except ImageTooLargeError as error:
        return Failed(item.id, "too large picture", f"{item.file_name}: {error}")
    except ImageReadError as error:
        return Failed(item.id, "corrupt picture", f"{item.file_name}: {error}")
    except MemoryError:
        return Failed(item.id, NO_MEMORY, f"{item.file_name} needs more memory than there is; use fewer workers")
    except Exception as error:  # noqa: BLE001 - one picture of many
        return Failed(item.id, type(error).__name__, f"{item.file_name}: {error}")


def check_root(place: Place, roots: Sequence[str]) -> None:
    """Find out that the source of a picture that cannot be read is still there.

    Raises:
        RunStoppedError: the folder, or the file of many pictures, is gone or empty.
    """
    is_part = place.start > 0 or place.size_bytes is not None
    for root in roots:
        if place.path == root:
            if is_part and not os.path.exists(root):
                raise RunStoppedError(_gone("file", root))
        elif Path(root) in Path(place.path).parents and _is_gone(root):
            raise RunStoppedError(_gone("folder", root))


def _is_gone(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None  # as where a disk was mounted
    except NotADirectoryError:
        return False
    except OSError:
        return True


def _gone(what: str, root: str) -> str:
    return f"the source {what} {root} is gone or empty; bring it back (is the disk mounted?) and run the same again"


def encode_pictures(engine: Engine, pictures: Sequence[LoadedPicture]) -> list[Embedding]:
    """Encode pictures, of their own size or resized already: the embeddings are the same.

    Raises:
        Exception: as the engine does, such as where memory does not do for so many.
    """
    embeddings = engine.encode([picture.pixels for picture in pictures])
    return [
        Embedding(made.features, picture.image_hw, made.input_hw, made.model_id)
        for made, picture in zip(embeddings, pictures, strict=True)
    ]
