"""Embeddings that a run of the task "embed" wrote, to prompt them later."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from mobile_sam.bulk.embedding_sinks import SUFFIX, TENSOR
from mobile_sam.core.embedding import Embedding
from mobile_sam.data.embedding_format import MANIFEST_JSON
from mobile_sam.data.folders import require_folder


def open_embeddings(folder: str | Path) -> Mapping[str, Embedding]:
    """Open a folder of embeddings, of either format; each is read when it is asked for.

    Args:
        folder: such as OUT/embeddings.

    Returns:
        Embeddings by the picture's key, such as "cats/tom", for `SamPredictor.set_embedding`. Reading one raises
        KeyError where there is none of this key, and ValueError where it is damaged.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is a file, or holds no embeddings.
    """
    path = Path(folder)
    require_folder(path, "folder of embeddings")
    if (path / MANIFEST_JSON).is_file():
        return _InShards(path)
    found = _InFiles(path)
    if next(iter(found), None) is None:
        raise ValueError(f"no embeddings in {path}: neither {MANIFEST_JSON} nor *{SUFFIX}; was it `--task embed`?")
    return found


class _InShards(Mapping[str, Embedding]):
    def __init__(self, folder: Path) -> None:
        from mobile_sam.data.embedding_shards import EmbeddingShards

        self._shards = EmbeddingShards(folder)

    def __len__(self) -> int:
        return len(self._shards)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shards.keys)

    def __contains__(self, key: object) -> bool:
        return key in self._shards

    def __getitem__(self, key: str) -> Embedding:
        if key not in self._shards:
            raise KeyError(key)
        stored = self._shards.read(key)
        features = stored.features.astype(np.float32)[None]  # (1, 256, S/16, S/16)
        return Embedding(features, stored.image_hw, stored.input_hw, self._shards.teacher.model_id)


class _InFiles(Mapping[str, Embedding]):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[str]:
        for path in sorted(self._folder.rglob(f"*{SUFFIX}")):
            if not path.name.startswith(".mobile-sam-"):  # half-written
                yield path.relative_to(self._folder).as_posix().removesuffix(SUFFIX)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._path(key).is_file()

    def __getitem__(self, key: str) -> Embedding:
        from safetensors import SafetensorError, safe_open

        path = self._path(key)
        if not path.is_file():
            raise KeyError(key)
        try:
            with safe_open(path, "np") as file:
                told = file.metadata()
                features = file.get_tensor(TENSOR).astype(np.float32)[None]  # (1, 256, S/16, S/16)
            (image_h, image_w), (input_h, input_w) = json.loads(told["image_hw"]), json.loads(told["input_hw"])
            return Embedding(features, (image_h, image_w), (input_h, input_w), told["model_id"])
        except (SafetensorError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no embedding, or damaged: {error}; remove it and make it again") from error

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{SUFFIX}"
