"""The model, as the functions in this folder use it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobile_sam import read_image
from mobile_sam.engines import make_engine

MAX_PIXELS = 100_000_000


class ModelHandler:
    """Encodes pictures with the bundled weights.

    Args:
        engine: see `mobile_sam.engines.make_engine`.
    """

    def __init__(self, engine: str = "auto") -> None:
        self._engine = make_engine(engine)

    @property
    def engine_name(self) -> str:
        """Who runs the encoder."""
        return self._engine.name

    def features(self, picture: bytes) -> NDArray[np.float32]:
        """Encode a picture's file: (1, 256, 64, 64) float32.

        Raises:
            ImageReadError: it cannot be read, or has more than MAX_PIXELS.
        """
        (embedding,) = self._engine.encode([read_image(picture, max_pixels=MAX_PIXELS)])
        return embedding.features
