"""Embeddings on disk, so that pictures are encoded once for many runs."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from mobile_sam.core.embedding import Embedding

logger = logging.getLogger(__name__)


class EmbeddingStore:
    """A folder of embeddings, found by the picture's content and by what computed them.

    An embedding takes 4 MiB. A file that is damaged, or is another encoder's, counts as missing and is written anew;
    where a file cannot be written (a full disk) the embedding is not stored and the work goes on.

    Args:
        folder: is made if it does not exist.

    Raises:
        ValueError: it is a file. OSError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; name a folder for the embeddings")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._can_write = True

    def path(self, encoder: str, picture_bytes: bytes) -> Path:
        """Say where an embedding is.

        Args:
            encoder: names whatever the numbers depend on: weights, engine, its version, precision, device.
            picture_bytes: the content of the picture's file.
        """
        folder = hashlib.sha256(encoder.encode()).hexdigest()[:16]
        return self.folder / folder / f"{hashlib.sha256(picture_bytes).hexdigest()}.npz"

    def get(self, encoder: str, picture_bytes: bytes, model_id: str) -> Embedding | None:
        """Return a stored embedding, None if there is none that can be read and was made by the encoder `model_id`."""
        path = self.path(encoder, picture_bytes)
        try:
            embedding = Embedding.load(path)
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            logger.warning("an embedding is computed again: %s", error)
            return None
        return embedding if embedding.model_id == model_id else None

    def put(self, encoder: str, picture_bytes: bytes, embedding: Embedding) -> None:
        """Store an embedding."""
        if not self._can_write:
            return
        path = self.path(encoder, picture_bytes)
        try:
            path.parent.mkdir(exist_ok=True)
            embedding.save(path)
        except OSError as error:
            self._can_write = False
            logger.warning("embeddings are no longer stored: %s", error)
