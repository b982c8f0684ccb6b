"""The student and the teacher of a run."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

import torch

from mobile_sam.build_sam import sam_from_checkpoint, sam_model_registry
from mobile_sam.data.embedding_shards import EmbeddingShards
from mobile_sam.distill.config import TrainConfig
from mobile_sam.modeling.sam import Sam


def make_student(config: TrainConfig) -> Sam:
    """Build the student, on the CPU: a fresh encoder drawn from the seed, or a checkpoint's, and SAM's decoder.

    Raises:
        ValueError: an unknown student, one that does not come in this input size, or a checkpoint that does not fit.
        FileNotFoundError: a checkpoint that is not there.
    """
    names = [name for name in sam_model_registry if name != "default"]  # which is SAM's name for its largest
    if config.student not in names:
        raise ValueError(f"student must be one of {', '.join(names)}, got {config.student!r}")
    build = sam_model_registry[config.student]
    options = {"drop_path_rate": config.drop_path_rate, "input_side": config.input_side}
    known = inspect.signature(build).parameters
    if "input_side" not in known:  # SAM's own ViT
        defaults = {"drop_path_rate": 0.0, "input_side": 1024}
        if options != defaults:
            raise ValueError(f"student {config.student!r} comes as it is: {defaults}, got {options}")
        options = {}
    torch.manual_seed(config.seed)
    if config.start_from:
        options.pop("input_side", None)  # the checkpoint's own
        student = build(config.start_from, **options)
        if student.image_encoder.img_size != config.input_side:
            raise ValueError(
                f"{config.start_from} has input_side {student.image_encoder.img_size}, the run {config.input_side}; "
                "make them equal"
            )
        return student
    student = build(**options)
    decoder = sam_from_checkpoint(config.decoder_from)
    student.prompt_encoder.load_state_dict(decoder.prompt_encoder.state_dict())
    student.mask_decoder.load_state_dict(decoder.mask_decoder.state_dict())
    return student


@dataclass(frozen=True)
class TeacherParts:
    """What a run has of its teacher.

    Attributes:
        sam: its prompt encoder and decoder, and its image encoder where `embeddings` is None; frozen.
        embeddings: what its image encoder said, if that was written down.
    """

    sam: Sam
    embeddings: EmbeddingShards | None

    @property
    def input_side(self) -> int:
        """Side of the square that its image encoder takes, in pixels."""
        return self.sam.image_encoder.img_size if self.embeddings is None else self.embeddings.teacher.input_side


def open_teacher(config: TrainConfig) -> TeacherParts | None:
    """Load what the run needs of its teacher, on the CPU; None where annotations are the target.

    With embeddings the decoder may come from another checkpoint than the teacher's (`decoder_from`): SAM ViT-H's
    decoder is in MobileSAM's file, and to read 2.4 GB for it would be a waste.

    Raises:
        ValueError: neither a teacher nor embeddings are named, or they do not fit together.
        FileNotFoundError: something named is not there.
    """
    if not config.needs_teacher:
        return None
    if not config.teacher and not config.embeddings:
        raise ValueError(
            f"objective {config.objective!r} needs a teacher: set embeddings to a folder that `mobile-sam distill "
            "embed` wrote, or teacher to a checkpoint"
        )
    embeddings = EmbeddingShards(Path(config.embeddings)) if config.embeddings else None
    sam = sam_from_checkpoint(config.teacher or config.decoder_from).eval().requires_grad_(False)
    if embeddings is not None:
        _check_same_teacher(config, embeddings, sam)
    return TeacherParts(sam, embeddings)


def _check_same_teacher(config: TrainConfig, embeddings: EmbeddingShards, sam: Sam) -> None:
    from mobile_sam.engines.pytorch import TorchEngine

    record = embeddings.teacher
    if config.teacher and TorchEngine(sam).model_id != record.model_id:
        raise ValueError(
            f"the embeddings in {config.embeddings} are of another teacher ({record.name}, {record.model_id}) than "
            f"{config.teacher} ({TorchEngine(sam).model_id}); leave teacher out, or embed the pictures with it"
        )
    if record.input_side != sam.image_encoder.img_size:
        raise ValueError(
            f"the embeddings in {config.embeddings} were made at {record.input_side} px, the decoder of "
            f"{config.teacher or config.decoder_from} takes {sam.image_encoder.img_size} px; let decoder_from be the "
            "teacher's own"
        )
