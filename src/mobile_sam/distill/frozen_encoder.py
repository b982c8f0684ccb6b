"""An encoder that is not trained, asked once for each picture as far as memory goes: training the decoder alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

GB = 10**9


class FrozenEncoder:
    """Embeddings by the pictures' keys: 2 MB each at 1024 px, float16, in main memory.

    Pictures are encoded one by one and always rounded, so that what comes of a key depends neither on the pictures
    beside it nor on whether it was kept: a run that goes on computes what it would have computed.

    Args:
        encode: (1, 3, S, S) -> (1, 256, h, w); not trained, in eval mode.
        max_gb: how much to keep; pictures beyond it are encoded each time. 0 for none.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], max_gb: float) -> None:
        self.encode = encode
        self.max_bytes = max_gb * GB
        self._kept: dict[str, Tensor] = {}
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @torch.no_grad()
    def __call__(self, keys: Sequence[str], images: Tensor) -> Tensor:
        """Give the embeddings of pictures.

        Args:
            keys: of B pictures.
            images: (B, 3, S, S), normalised.

        Returns:
            (B, 256, h, w) float32, on the device of the pictures.
        """
        rows = [self._one(key, image[None]) for key, image in zip(keys, images, strict=True)]
        return torch.cat([row.to(images.device) for row in rows]).float()

    def _one(self, key: str, image: Tensor) -> Tensor:
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        features: Tensor = self.encode(image).half()  # (1, 256, h, w)
        num_bytes = features.nbytes
        if self._kept_bytes + num_bytes <= self.max_bytes:
            self._kept[key] = features.cpu()
            self._kept_bytes += num_bytes
        return features
