"""Pictures for an encoder, read and resized by other processes while it works on earlier ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from mobile_sam.core.geometry import LongSideResize
from mobile_sam.data.picture_set import PictureSet, SampleError
from mobile_sam.distill.processes import start_readers


@dataclass(frozen=True, eq=False)
class ResizedPicture:
    """A picture in the size of the model frame.

    Attributes:
        key: of the picture.
        pixels: (h, w, 3) uint8 RGB, the longer side being the frame's; an array, since a tensor would come through
            shared memory, whose loss at a stop torch reports with a traceback.
        image_hw: height and width of the picture in pixels.
    """

    key: str
    pixels: NDArray[np.uint8]
    image_hw: tuple[int, int]

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width in the model frame in pixels."""
        return (self.pixels.shape[0], self.pixels.shape[1])


def read_ahead(
    pictures: PictureSet, batches: Sequence[Sequence[int]], input_side: int, num_workers: int
) -> Iterator[list[ResizedPicture | SampleError]]:
    """Read pictures in a given order; no more than a few batches lie ready at a time.

    Args:
        pictures: the set.
        batches: numbers of the pictures of each batch.
        input_side: of the model frame in pixels.
        num_workers: processes that read; 0 reads when a batch is asked for.

    Returns:
        The pictures of each batch; for one that cannot be used, why.
    """
    return start_readers(_Resized(pictures, input_side), batches, num_workers, list)


class _Resized(Dataset["ResizedPicture | SampleError"]):
    def __init__(self, pictures: PictureSet, input_side: int) -> None:
        self.pictures = pictures
        self.input_side = input_side

    def __getitem__(self, index: int) -> ResizedPicture | SampleError:
        try:
            sample = self.pictures.read(index)
        except SampleError as error:
            return error
        resize = LongSideResize((sample.image.shape[0], sample.image.shape[1]), self.input_side)
        return ResizedPicture(sample.key, resize.resize_image(sample.image), resize.image_hw)
