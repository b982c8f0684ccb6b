"""Pictures for an encoder, read and resized by other processes while it works on earlier ones."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mobile_sam.core.geometry import LongSideResize
from mobile_sam.data.picture_set import PictureSet, SampleError

BATCHES_AHEAD = 2  # of each process


@dataclass(frozen=True, eq=False)
class ResizedPicture:
    """A picture in the size of the model frame.

    Attributes:
        key: of the picture.
        pixels: (h, w, 3) uint8 RGB, the longer side being the frame's.
        image_hw: height and width of the picture in pixels.
    """

    key: str
    pixels: Tensor
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

    Yields:
        The pictures of each batch; for one that cannot be used, why.

    Raises:
        OSError: one of the processes was killed.
    """
    loader = DataLoader(
        _Resized(pictures, input_side),
        batch_sampler=batches,  # type: ignore[arg-type]  # any sequence of sequences will do
        num_workers=num_workers,
        collate_fn=list,
        prefetch_factor=BATCHES_AHEAD if num_workers else None,
        worker_init_fn=_leave_signals_to_the_parent,
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OSError(
            f"a process that reads pictures has died ({str(error).partition('.')[0]}); was memory or shared "
            "memory full? Finished shards stay: run the same command again, with fewer --workers"
        ) from error


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
        return ResizedPicture(sample.key, torch.from_numpy(resize.resize_image(sample.image)), resize.image_hw)


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; the parent ends its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
