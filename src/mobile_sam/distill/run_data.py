"""Which pictures a run is trained and validated on, and what the numbers depend on beside the configuration."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from mobile_sam.core.weights import describe_checkpoint
from mobile_sam.data.embedding_shards import EmbeddingShards
from mobile_sam.data.picture_set import PictureSet, hold_out, open_picture_set
from mobile_sam.data.stored_pictures import StoredPictures
from mobile_sam.distill.config import TrainConfig
from mobile_sam.distill.guard import are_too_many
from mobile_sam.distill.models import TeacherParts

logger = logging.getLogger(__name__)

NUM_TRIED = 1000  # keys that are looked up in the embeddings before a run


def split_data(config: TrainConfig) -> tuple[PictureSet, PictureSet]:
    """Open the pictures to train on, and those held out for validation.

    Raises:
        ValueError: no data, or not more pictures than are held out.
        FileNotFoundError: something is not there.
    """
    if not config.data:
        raise ValueError("data names no pictures; set it in the recipe, or use --data")
    index_folder = Path(config.embeddings) / "index" if config.embeddings else None
    pictures = open_picture_set(config.data, fraction=config.fraction, seed=config.data_seed, index_folder=index_folder)
    if config.held_out:
        held_out = open_picture_set(config.held_out)
        shared = shared_keys(pictures, held_out)
        if shared:
            logger.warning(
                "%d of the %d pictures to validate on are also trained on, such as %s; mIoU will flatter",
                len(shared), len(held_out), shared[0],
            )  # fmt: skip
        if config.num_held_out < len(held_out):
            _, held_out = hold_out(held_out, config.num_held_out, config.seed)
        return pictures, held_out
    if len(pictures) <= config.num_held_out:
        raise ValueError(
            f"{pictures.name} holds {len(pictures)} pictures, of which num_held_out={config.num_held_out} would be "
            "held out; take more pictures, or lower num_held_out"
        )
    return hold_out(pictures, config.num_held_out, config.seed)


def shared_keys(pictures: PictureSet, held_out: PictureSet) -> list[str]:
    """List pictures that are in both sets, by key and size of the file: another file of the same key is another."""
    trained_on = set(keys_and_sizes(pictures))
    return [key for key, size_bytes in keys_and_sizes(held_out) if (key, size_bytes) in trained_on]


def keys_and_sizes(pictures: PictureSet) -> Iterator[tuple[str, int]]:
    """Each picture's key, and the size of its file in bytes."""
    assert isinstance(pictures, StoredPictures)  # which `open_picture_set` returns
    return zip(pictures.keys, map(int, pictures.sizes_bytes), strict=True)


def check_embeddings(pictures: PictureSet, embeddings: EmbeddingShards, max_skipped: float) -> None:
    """See early that the embeddings are of these pictures, by a thousand keys that are spread over the set.

    Raises:
        ValueError: so many have none that the run would stop for it.
    """
    tried = [pictures.keys[index] for index in range(0, len(pictures), -(-len(pictures) // NUM_TRIED))]
    missing = [key for key in tried if key not in embeddings]
    if len(missing) == len(tried) or are_too_many(len(missing), len(tried), max_skipped):
        raise ValueError(
            f"{len(missing)} of {len(tried)} pictures that were looked up have no embedding, such as {missing[0]}; "
            "embed the same sources, with the same --fraction and --seed (here data_seed)"
        )


def facts_of(
    config: TrainConfig, pictures: PictureSet, held_out: PictureSet, teacher: TeacherParts | None
) -> dict[str, str]:
    """Return what a checkpoint must agree in with the run that goes on from it: contents, wherever they lie."""
    embeddings = None if teacher is None else teacher.embeddings
    record = None if embeddings is None else embeddings.teacher
    return {
        "data": pictures.fingerprint,
        "held out": held_out.fingerprint,
        "teacher": f"{record.model_id} {record.precision}" if record else _sha256(config.teacher),
        "start_from": _sha256(config.start_from),
        "decoder_from": _sha256(config.decoder_from),
    }


def _sha256(checkpoint: str) -> str:
    return describe_checkpoint(checkpoint)[1] if checkpoint else ""
