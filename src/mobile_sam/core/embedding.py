"""The embedding of a picture as a value: encode once, prompt many times, save, load, share between threads."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.files import atomic_path
from mobile_sam.core.geometry import LongSideResize

EMBEDDING_CHANNELS = 256
EMBEDDING_STRIDE = 16  # model pixels per embedding cell

# What `numpy.load` and the conversion of its fields were seen to raise on damaged and foreign files.
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class Embedding:
    """What the encoder says of one picture: encode once, prompt many times.

    Attributes:
        features: (1, 256, h, w) float32; h = w = 64 for the bundled model.
        image_hw: height and width of the picture in pixels.
        input_hw: height and width of the picture's part of the model frame in pixels.
        model_id: names the encoder weights that made it; an engine with another encoder refuses it.

    Raises:
        ValueError: shapes, dtype or values that do not fit together.
    """

    features: NDArray[np.float32]
    image_hw: tuple[int, int]
    input_hw: tuple[int, int]
    model_id: str

    def __post_init__(self) -> None:
        shape, dtype = self.features.shape, self.features.dtype
        if len(shape) != 4 or shape[:2] != (1, EMBEDDING_CHANNELS) or dtype != np.float32:
            raise ValueError(
                f"features must be (1, {EMBEDDING_CHANNELS}, h, w) float32, got {shape} {dtype}; "
                "pass what SamPredictor.get_image_embedding() or engine.encode() returned"
            )
        if not np.isfinite(self.features).all():
            raise ValueError("features must be finite, got NaN or infinite values; encode the picture again")
        side = self.input_side
        if min(*self.image_hw, *self.input_hw) < 1 or max(self.input_hw) > side:
            raise ValueError(
                f"image_hw {self.image_hw} and input_hw {self.input_hw} must be positive and input_hw at most {side}"
            )

    @property
    def input_side(self) -> int:
        """Side of the model frame in pixels."""
        return int(max(self.features.shape[2:])) * EMBEDDING_STRIDE

    @property
    def resize(self) -> LongSideResize:
        """The map between the image frame and the model frame."""
        return LongSideResize(self.image_hw, self.input_side)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the embedding to an .npz file; the file appears whole or not at all.

        Raises:
            ValueError: the name does not end in .npz.
        """
        target = Path(path)
        if target.suffix != ".npz":
            raise ValueError(f"an embedding is saved as .npz, got {target.name!r}")
        with atomic_path(target) as partial:
            np.savez(
                partial,
                features=self.features,
                image_hw=np.array(self.image_hw),
                input_hw=np.array(self.input_hw),
                model_id=np.array(self.model_id),
            )

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Embedding:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or is no embedding.
        """
        source = Path(path)
        if not source.is_file():
            raise FileNotFoundError(
                f"no embedding at {source}; save one with Embedding.save or SamPredictor.save_embedding"
            )
        try:
            with np.load(source, allow_pickle=False) as stored:
                features, model_id = stored["features"], str(stored["model_id"])
                image_h, image_w = (int(side) for side in stored["image_hw"])
                input_h, input_w = (int(side) for side in stored["input_hw"])
            return cls(features, (image_h, image_w), (input_h, input_w), model_id)
        except _UNREADABLE as error:
            raise ValueError(f"{source} is not an embedding file, or it is damaged: {error}") from error
