"""What an engine is: it turns pictures into embeddings, and embeddings with prompts into masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import EMBEDDING_STRIDE, Embedding
from mobile_sam.core.geometry import INPUT_SIDE, PIXEL_MEAN, PIXEL_STD, LongSideResize
from mobile_sam.core.predictions import MULTI_MASK, Decoded, DecodedAbove
from mobile_sam.core.prompts import LOW_RES_STRIDE, PromptBatch

UNPADDED_MARGIN_PX = 96
"""How much of the padding `Engine.encode(unpadded=True)` still encodes; a multiple of 16.

The price, bundled weights, ten photographs from 5:4 to 16:9, 36 clicks each, margins of 0, 48 and 96 px
(benchmarks/unpadded.py): IoU of the best of a click's three masks with that of the padded encoding, mean 0.945, 0.978
and 0.983 (worst photograph 0.859, 0.951, 0.960); of all three masks 0.877, 0.927 and 0.943. The encoder takes 1.58,
1.49 and 1.41 times less CPU; 16:9 with 96 px 1.6 times. The first call encodes the empty picture on top.
"""


class Engine(ABC):
    """Runs the encoder and the decoder on some hardware; safe to call from several threads.

    Attributes:
        name: as users select it.
        images_at_once: pictures encoded together; each takes its share of memory.
        prompts_at_once: prompts decoded together. On a CPU more than a few do not run faster, and each takes 50 MB
            (docs/log.md).
    """

    name: str
    images_at_once: int = 1
    prompts_at_once: int = 4
    _empty_features: tuple[str, NDArray[np.float32]] | None = None  # and of which model_id

    @property
    @abstractmethod
    def model_id(self) -> str:
        """Names the image encoder by its weights' content and its input side; embeddings carry it."""

    @property
    def input_side(self) -> int:
        """Side of the model frame in pixels."""
        return INPUT_SIDE

    @property
    def image_format(self) -> str:
        """Order of the channels that the encoder was trained with, "RGB" or "BGR"."""
        return "RGB"

    @property
    def takes_any_size(self) -> bool:
        """Whether the encoder takes parts of the square, see `encode_part`."""
        return False

    @abstractmethod
    def encode_input(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the encoder on what `normalise_and_pad` made: (B, 3, S, S) -> features (B, 256, S/16, S/16), float32."""

    def encode_part(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the encoder on a part of the square: (B, 3, h, w) -> features (B, 256, h/16, w/16), float32.

        Optional: an engine whose networks take any height and width that are multiples of 16 says `takes_any_size`.

        Raises:
            ValueError: an engine that takes the whole square only.
        """
        raise ValueError(self._why_padded)

    @property
    def _why_padded(self) -> str:
        return (
            f"this {self.name} engine cannot encode unpadded, because its network takes whole squares of "
            f"{self.input_side} px; leave unpadded out, or use the bundled weights, or TinyViT with engine='torch'"
        )

    @abstractmethod
    def _decode_some(
        self, embedding: Embedding, prompts: PromptBatch, mask_tokens: tuple[int, ...]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Decode at most `prompts_at_once` prompts: logits (P, M, S/4, S/4) and predicted IoU (P, M)."""

    def _decode_worthy(
        self, embedding: Embedding, prompts: PromptBatch, mask_tokens: tuple[int, ...], min_iou: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Decode as `_decode_some` does, but draw no more than is needed: judging takes two thirds of the time.

        Returns:
            Logits (R, M, S/4, S/4), predicted IoU (P, M), and the prompts that the logits are of (R,): at least those
            with a mask of a predicted IoU above `min_iou`.
        """
        logits, iou = self._decode_some(embedding, prompts, mask_tokens)
        return logits, iou, np.arange(len(iou))

    def encode(self, images: Sequence[NDArray[np.uint8]], *, unpadded: bool = False) -> list[Embedding]:
        """Encode pictures of any sizes.

        Args:
            images: each (H, W, 3) uint8 RGB.
            unpadded: encode of the padded square only the picture and a margin, and take the rest from an empty
                picture, which is encoded once. Faster and not exact, see `UNPADDED_MARGIN_PX`; squares stay exact.

        Raises:
            ValueError: a picture of another type, shape or dtype; `unpadded` where `takes_any_size` is not so.
        """
        if unpadded and not self.takes_any_size:
            raise ValueError(self._why_padded)
        for image in images:
            check_image(image)
        resizes = [LongSideResize((image.shape[0], image.shape[1]), self.input_side) for image in images]
        rows_by_part: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row, resize in enumerate(resizes):
            rows_by_part[self.part_hw(resize.input_hw) if unpadded else (self.input_side,) * 2].append(row)
        embeddings: dict[int, Embedding] = {}
        for part_hw, rows in rows_by_part.items():
            for start in range(0, len(rows), self.images_at_once):
                some = rows[start : start + self.images_at_once]
                small = [resizes[row].resize_image(images[row]) for row in some]  # each (h, w, 3)
                if self.image_format == "BGR":
                    small = [pixels[:, :, ::-1] for pixels in small]
                features = np.split(self._encode_pixels(small, part_hw), len(some))  # each (1, 256, S/16, S/16)
                if len(some) > 1:
                    features = [one.copy() for one in features]  # else each would keep the whole batch in memory
                for row, one in zip(some, features, strict=True):
                    embeddings[row] = Embedding(one, resizes[row].image_hw, resizes[row].input_hw, self.model_id)
        return [embeddings[row] for row in range(len(images))]

    def part_hw(self, input_hw: tuple[int, int], margin_px: int = UNPADDED_MARGIN_PX) -> tuple[int, int]:
        """Height and width of what is encoded unpadded: the picture in whole cells of 16 px, and the margin.

        Args:
            input_hw: height and width of the picture within the model frame, in pixels.
            margin_px: beside and below the picture, a multiple of 16.
        """
        cells_px = (-(-length // EMBEDDING_STRIDE) * EMBEDDING_STRIDE for length in input_hw)
        height, width = (min(length + margin_px, self.input_side) for length in cells_px)
        return height, width

    def fill_up(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Put features of a part into those of an empty picture: (B, 256, h, w) -> (B, 256, S/16, S/16).

        The empty picture, whose pixels are zero after normalisation, is encoded at the first call and after the weights
        have changed. Threads that come at once may each encode it; they get the same.
        """
        model_id = self.model_id
        if self._empty_features is None or self._empty_features[0] != model_id:
            empty = np.zeros((1, 3, self.input_side, self.input_side), np.float32)
            self._empty_features = (model_id, self.encode_input(empty))
        filled = np.repeat(self._empty_features[1], len(features), axis=0)
        filled[:, :, : features.shape[2], : features.shape[3]] = features
        return filled

    def _encode_pixels(self, pixels: Sequence[NDArray[np.uint8]], part_hw: tuple[int, int]) -> NDArray[np.float32]:
        """Encode the part of the square that is asked for, of resized pictures: features (B, 256, S/16, S/16)."""
        model_input = np.stack([self.normalise_and_pad(one) for one in pixels])  # (B, 3, S, S)
        height, width = part_hw
        if part_hw == model_input.shape[2:]:
            return self.encode_input(model_input)
        return self.fill_up(self.encode_part(np.ascontiguousarray(model_input[:, :, :height, :width])))

    def normalise_and_pad(self, pixels: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalise, then pad with zeros below and to the right: (h, w, 3), 0 to 255 -> (3, S, S) float32.

        The channels are in the order of `image_format`.
        """
        h, w, _ = pixels.shape
        padded = np.zeros((3, self.input_side, self.input_side), np.float32)
        for channel, (mean, std) in enumerate(zip(PIXEL_MEAN, PIXEL_STD, strict=True)):
            np.divide(pixels[:, :, channel] - np.float32(mean), np.float32(std), out=padded[channel, :h, :w])
        return padded

    def decode(self, embedding: Embedding, prompts: PromptBatch, mask_tokens: tuple[int, ...] = MULTI_MASK) -> Decoded:
        """Decode P prompts over one embedding, which is not copied for each.

        Args:
            embedding: made by this engine, or by another one with the same image encoder.
            prompts: P prompts in the model frame.
            mask_tokens: which M of the four masks: 0 is SAM's single mask, 1 to 3 its three for ambiguous prompts.

        Returns:
            Logits (P, M, S/4, S/4) and predicted IoU (P, M), both float32.

        Raises:
            ValueError: the embedding was made by other weights.
        """
        side, num_masks = embedding.input_side // LOW_RES_STRIDE, len(mask_tokens)
        logits = [np.zeros((0, num_masks, side, side), np.float32)]
        iou = [np.zeros((0, num_masks), np.float32)]
        for part in self.decode_by_parts(embedding, prompts, mask_tokens):
            logits.append(part.low_res_logits)
            iou.append(part.iou_predictions)
        return Decoded(np.concatenate(logits), np.concatenate(iou))

    def check_made_here(self, embedding: Embedding) -> None:
        """Check that an embedding was made by the image encoder that this engine runs.

        Raises:
            ValueError: it was made by others.
        """
        if embedding.model_id != self.model_id:
            raise ValueError(
                f"this embedding was made by encoder {embedding.model_id!r}, the {self.name} engine runs "
                f"{self.model_id!r}; encode the picture again with this engine"
            )

    def decode_by_parts(
        self, embedding: Embedding, prompts: PromptBatch, mask_tokens: tuple[int, ...] = MULTI_MASK
    ) -> Iterator[Decoded]:
        """Decode as `decode` does, yielding a few prompts at a time, in order, so that memory stays bounded.

        Raises:
            ValueError: the embedding was made by other weights.
        """
        self.check_made_here(embedding)
        for start in range(0, len(prompts), self.prompts_at_once):
            yield Decoded(*self._decode_some(embedding, prompts[start : start + self.prompts_at_once], mask_tokens))

    def decode_above(
        self,
        embedding: Embedding,
        prompts: PromptBatch,
        min_iou: float,
        mask_tokens: tuple[int, ...] = MULTI_MASK,
        prompts_at_once: int | None = None,
    ) -> Iterator[DecodedAbove]:
        """Decode P prompts, a few at a time, in order; only masks whose predicted IoU is above `min_iou` are drawn.

        Args:
            embedding: see `decode`.
            prompts: see `decode`.
            min_iou: masks with a predicted IoU of this or less are left out; -inf for none, whatever is predicted.
            mask_tokens: see `decode`.
            prompts_at_once: take fewer at a time than the engine would.

        Raises:
            ValueError: the embedding was made by other weights.
        """
        self.check_made_here(embedding)
        num_at_once = min(self.prompts_at_once, prompts_at_once or self.prompts_at_once)
        for start in range(0, len(prompts), num_at_once):
            some = prompts[start : start + num_at_once]
            logits, iou, drawn = self._decode_worthy(embedding, some, mask_tokens, min_iou)
            is_wanted = (iou[drawn] > min_iou) | (min_iou == -np.inf)  # (R, M); NaN is above nothing
            rows, columns = np.nonzero(is_wanted)  # (K,) each
            tokens = np.array(mask_tokens, np.int64)[columns]
            yield DecodedAbove(len(some), start + drawn[rows], tokens, logits[rows, columns], iou[drawn[rows], columns])


def check_image(image: NDArray[np.uint8]) -> None:
    """Check that `image` is (H, W, 3) uint8.

    Raises:
        ValueError: wrong type, rank, channels, dtype, or no pixels.
    """
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        found = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"image must be (H, W, 3) uint8, got {found}; read it with mobile_sam.read_image")
    if 0 in image.shape:
        raise ValueError(f"image has no pixels: {image.shape}")
