"""From the n-th sample of a run to tensors: the part of training that runs in the loader's processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mobile_sam.core.geometry import LongSideResize
from mobile_sam.data.embedding_shards import EmbeddingShards, StoredEmbedding
from mobile_sam.data.order import EpochOrder
from mobile_sam.data.picture_set import PictureSample, PictureSet, SampleError
from mobile_sam.distill.batches import Batch
from mobile_sam.distill.config import TrainConfig
from mobile_sam.distill.processes import start_readers
from mobile_sam.distill.prompt_targets import PicturePrompts, make_prompt_targets, stack_prompt_targets

NUM_SUBSTITUTES = 16  # pictures that are tried in place of one that cannot be used


@dataclass(frozen=True, eq=False)
class Item:
    """One picture of a batch.

    Attributes:
        key: of the picture.
        image: (3, S, S) uint8, padded.
        input_hw: height and width of the part that is picture.
        features: (256, h, w) float16, of the teacher, from shards; else None.
        prompts: for objectives with masks.
        teacher_image: (3, T, T) uint8 and the part of it that is picture, for an online teacher with another side.
        skipped: pictures that came first and cannot be used.
    """

    key: str
    image: NDArray[np.uint8]
    input_hw: tuple[int, int]
    features: NDArray[np.float16] | None = None
    prompts: PicturePrompts | None = None
    teacher_image: tuple[NDArray[np.uint8], tuple[int, int]] | None = None
    skipped: tuple[SampleError, ...] = ()


class NoPictureError(ValueError):
    """Neither a picture nor any of those after it can be used."""


class Samples(Dataset["Item | NoPictureError"]):
    """The samples of a run by their number, from 0 on through all epochs.

    A picture that cannot be used gives way to the next one in the order, so that batches stay whole.

    Args:
        pictures: to train on.
        config: of the run.
        embeddings: of the teacher; None where it runs in the loop, or is not needed.
        teacher_side: input side of a teacher that runs in the loop, in pixels; else None.
    """

    def __init__(
        self,
        pictures: PictureSet,
        config: TrainConfig,
        embeddings: EmbeddingShards | None = None,
        teacher_side: int | None = None,
    ) -> None:
        self.pictures = pictures
        self.config = config
        self.embeddings = embeddings
        self.teacher_side = teacher_side if teacher_side != config.input_side else None
        self.order = EpochOrder(len(pictures), config.seed)

    def __getitem__(self, number: int) -> Item | NoPictureError:
        """Return a sample, or why there is none: raised in a loader's process it would lose its words."""
        skipped: list[SampleError] = []
        for substitute in range(number, number + 1 + NUM_SUBSTITUTES):
            try:
                item = self.read(self.order.index(substitute), epoch=number // len(self.pictures))
            except SampleError as error:
                skipped.append(error)
                continue
            return Item(**{**vars(item), "skipped": tuple(skipped)})
        return NoPictureError(
            f"{len(skipped)} pictures in a row cannot be used, the last one {skipped[-1]}; check the data and the "
            "embeddings"
        )

    def read(self, index: int, epoch: int) -> Item:
        """Read a picture by its place in the set, with what the objective needs.

        Raises:
            SampleError: it cannot be used.
        """
        config = self.config
        has_annotations = config.draws_prompts and config.mask_targets == "annotations"
        sample = self.pictures.read(index, with_instances=has_annotations)
        features = None if self.embeddings is None else embedding_of(sample, self.embeddings)
        image, input_hw = padded_square(sample, config.input_side)
        return Item(
            key=sample.key,
            image=image,
            input_hw=input_hw,
            features=None if features is None else features.features,
            prompts=make_prompt_targets(config, sample, epoch) if config.draws_prompts else None,
            teacher_image=None if self.teacher_side is None else padded_square(sample, self.teacher_side),
        )


def embedding_of(sample: PictureSample, embeddings: EmbeddingShards) -> StoredEmbedding:
    """Read what a teacher said of a picture.

    Raises:
        SampleError: there is no embedding, it is damaged, or it is of a picture of another size.
    """
    stored = embeddings.read(sample.key)
    if stored.image_hw != sample.image.shape[:2]:
        raise SampleError(
            sample.key,
            "embedding of another picture",
            f"the embedding is of a picture of {stored.image_hw}, this one is {sample.image.shape[:2]} (H, W); embed "
            "these pictures again",
        )
    return stored


def padded_square(sample: PictureSample, side: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Resize a picture by its long side and pad it: (3, side, side) uint8, and its height and width therein."""
    resize = LongSideResize((sample.image.shape[0], sample.image.shape[1]), side)
    height, width = resize.input_hw
    square = np.zeros((3, side, side), np.uint8)
    square[:, :height, :width] = resize.resize_image(sample.image).transpose(2, 0, 1)
    return square, (height, width)


def collate(found: Sequence[Item | NoPictureError]) -> tuple[Batch, list[SampleError]] | NoPictureError:
    """Make a batch of items, and list the pictures that were passed over for them."""
    items = [item for item in found if isinstance(item, Item)]
    for error in found:
        if isinstance(error, NoPictureError):
            return error
    prompts = [item.prompts for item in items if item.prompts is not None]
    teacher_images = [item.teacher_image for item in items if item.teacher_image is not None]
    features = [item.features for item in items if item.features is not None]
    batch = Batch(
        keys=tuple(item.key for item in items),
        images=_stack([item.image for item in items]),
        input_hw=torch.tensor([item.input_hw for item in items]),
        teacher_features=_stack(features) if features else None,
        prompts=stack_prompt_targets(prompts) if prompts else None,
        teacher_images=_stack([image for image, _ in teacher_images]) if teacher_images else None,
        teacher_input_hw=torch.tensor([input_hw for _, input_hw in teacher_images]) if teacher_images else None,
    )
    return batch, [error for item in items for error in item.skipped]


def _stack(arrays: Sequence[NDArray[np.uint8] | NDArray[np.float16]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


class StepSampler:
    """Sample numbers of one process, part by part of each step, from any step on.

    Args:
        order: of the samples.
        steps: first step, and the one after the last.
        batch_size: pictures of a step, over all processes.
        parts: the process takes its share of a step in so many parts.
        rank: number of this process.
        num_processes: how many there are.
    """

    def __init__(
        self, order: EpochOrder, steps: tuple[int, int], batch_size: int, parts: int, rank: int, num_processes: int
    ) -> None:
        self.order, self.steps = order, steps
        self.batch_size, self.parts = batch_size, parts
        self.rank, self.num_processes = rank, num_processes

    def __len__(self) -> int:
        return (self.steps[1] - self.steps[0]) * self.parts

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(*self.steps):
            numbers = self.order.batch(step, self.batch_size, self.rank, self.num_processes)
            size = len(numbers) // self.parts
            for part in range(self.parts):
                yield numbers[part * size : (part + 1) * size]


def load_batches(
    samples: Samples, sampler: StepSampler, device: torch.device
) -> Iterator[tuple[Batch, list[SampleError]]]:
    """Read batches, in as many processes as the configuration says, each a few batches ahead.

    Raises:
        NoPictureError: too many pictures in a row cannot be used.
    """
    config = samples.config
    made_by_loader = start_readers(
        samples,
        sampler,
        config.num_workers,
        collate,
        pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(config.seed),  # else it draws from the one that a checkpoint keeps
    )
    for made in made_by_loader:
        if isinstance(made, NoPictureError):
            raise made
        yield made
