"""Fine-tuning on one's own annotated pictures: the training loop with annotated masks, and guards around it.

The decoder of SAM is small, and its predicted IoU chooses among its masks: trained on a few hundred pictures of one
kind it soon forgets other kinds, or rates its masks so badly that good ones are not chosen. So: small learning rates,
the IoU head trained along, the weights before training among those that the best are chosen from, and a comparison of
before and after on the user's pictures and on general ones.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mobile_sam.build_sam import identify_checkpoint, sam_from_checkpoint
from mobile_sam.data.file_pictures import key_of
from mobile_sam.data.picture_set import PictureSet, SampleError, open_picture_set
from mobile_sam.data.records import Dataset
from mobile_sam.distill.before_after import BeforeAfter, compare_before_and_after, general_dataset
from mobile_sam.distill.config import TrainConfig
from mobile_sam.distill.prompt_targets import make_prompt_targets
from mobile_sam.distill.run_data import keys_and_sizes, shared_keys, split_data
from mobile_sam.distill.train import Tell, TrainReport, train

logger = logging.getLogger(__name__)

BUNDLED_NAME = "mobile_sam"
HELD_OUT_SHARE = 0.2  # of the pictures, where none are named for validation
NUM_VALIDATIONS = 20  # of a run, beside the one before training
NUM_TRIED = 16  # pictures that are looked at before a run, for annotations

_DECODER = TrainConfig(
    start_from=BUNDLED_NAME,
    objective="prompted",
    mask_targets="annotations",
    trains="decoder",
    prompts_per_picture=4,
    num_clicks=1,
    epochs=10,
    batch_size=4,
    lr=3e-5,
    encoder_lr_factor=0.1,
    min_lr_factor=0.1,
    warmup_steps=50,
    weight_decay=0.01,
    ema_decay=0.98,
    freeze_batchnorm=True,
    patience=6,
    num_held_out=50,
    max_skipped=0.9,
    num_workers=1,
    log_every=10,
)

FINE_TUNING = {"decoder": _DECODER, "all": replace(_DECODER, trains="all")}
"""Settings for what is trained; docs/training.md tells what else was tried."""


@dataclass(frozen=True)
class FineTuneReport:
    """How fine-tuning ended.

    Attributes:
        training: see `TrainReport`.
        comparison: before and after; None where the run was interrupted, and in processes but the first.
    """

    training: TrainReport
    comparison: BeforeAfter | None


def fine_tuning_config(
    data: Sequence[str | Path],
    val: Sequence[str | Path] = (),
    *,
    trains: str = "",
    start_from: str = "",
    recipe: TrainConfig | None = None,
    settings: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Make the configuration of a fine-tuning run.

    Args:
        data: pictures with masks, anything that `open_picture_set` reads.
        val: pictures with masks to validate on; () holds a fifth of `data` out, at most `num_held_out`.
        trains: "decoder" or "all"; "" is the recipe's, or "decoder".
        start_from: checkpoint; "" is the recipe's, or the bundled one. It decides the student and its input side.
        recipe: settings to begin with; None for those of FINE_TUNING.
        settings: what to change of them.

    Raises:
        ValueError: settings that do not go with fine-tuning or with the checkpoint, too few pictures, pictures without
            annotations, or the same pictures in `data` and `val`.
        FileNotFoundError: something named is not there.
    """
    chosen = dict(settings or {})
    chosen |= {name: value for name, value in {"trains": trains, "start_from": start_from}.items() if value}
    trained = str(chosen.get("trains", recipe.parts if recipe else "decoder"))
    config = _checked(recipe or FINE_TUNING.get(trained, _DECODER), chosen)
    config = _with_student_of_checkpoint(config, chosen).with_values(
        {"data": tuple(map(str, data)), "held_out": tuple(map(str, val))}
    )

    pictures = open_picture_set(config.data, fraction=config.fraction, seed=config.data_seed)
    if val:
        held_out = open_picture_set(config.held_out)
        shared = shared_keys(pictures, held_out)
        if shared:
            raise ValueError(
                f"{len(shared)} of the {len(held_out)} pictures of {held_out.name} are also trained on, such as "
                f"{', '.join(shared[:3])}; validation would say nothing: take them out of one of the two, or leave "
                "--val out to hold a part of the data out"
            )
    else:
        held_out = pictures
        config = replace(config, num_held_out=_num_held_out(pictures, config.num_held_out))
    for each in [pictures, held_out] if val else [pictures]:
        _require_annotations(each, config)
    return config if recipe else _with_intervals(config, chosen, len(pictures) - (0 if val else config.num_held_out))


def finetune(
    config: TrainConfig,
    folder: Path,
    *,
    general: Sequence[str | Path] = (),
    restart: bool = False,
    tell: Tell | None = None,
) -> FineTuneReport:
    """Train as `train` does, then compare the best weights with those before.

    Args:
        config: of `fine_tuning_config`.
        folder: see `train`; `finetune.json` comes to the other files, and `before-after` with the evaluator's reports.
        general: pictures of other kinds, annotated or not, that shall not suffer; () for none.
        restart: see `train`.
        tell: see `train`.

    Raises:
        ValueError, FileNotFoundError, OSError: as `train`, and as `compare_before_and_after`.
    """
    general_pictures = general_dataset(general) if general else None  # said before hours of training
    if general_pictures is not None:
        _warn_of_trained(general_pictures, config)
    training = train(config, folder, restart=restart, tell=tell)
    is_first = os.environ.get("RANK", "0") == "0"
    if training.ending == "interrupted" or not is_first:
        return FineTuneReport(training, None)
    validation = open_picture_set(config.held_out) if config.held_out else split_data(config)[1]
    return FineTuneReport(training, compare_before_and_after(config, training, validation, general_pictures))


def _checked(base: TrainConfig, chosen: Mapping[str, Any]) -> TrainConfig:
    """Change settings, and see that they are those of fine-tuning."""
    config = base.with_values({"start_from": base.start_from or BUNDLED_NAME, **chosen})
    if config.parts == "encoder":
        raise ValueError(
            "fine-tuning trains 'decoder' or 'all', got 'encoder': a decoder that does not learn along would be given "
            "embeddings that it was not made for, and its predicted IoU would no longer fit its masks"
        )
    if (config.objective, config.mask_targets) != ("prompted", "annotations"):
        raise ValueError(
            "fine-tuning has objective 'prompted' and mask_targets 'annotations', got "
            f"{config.objective!r} and {config.mask_targets!r}; for others use `mobile-sam distill train`"
        )
    return config


def _with_student_of_checkpoint(config: TrainConfig, chosen: Mapping[str, Any]) -> TrainConfig:
    """Take the student's name and input side from the checkpoint; what the user said of them must fit."""
    sam = sam_from_checkpoint(config.start_from)
    found = {"student": identify_checkpoint(sam.state_dict()), "input_side": sam.image_encoder.img_size}
    for name, value in found.items():
        if chosen.get(name, value) != value:
            raise ValueError(
                f"{config.start_from} has {name} {value!r}, got {chosen[name]!r}; fine-tuning changes the weights of a "
                "model, not its architecture: leave the setting out, or name another --start-from"
            )
    return config.with_values(found)


def _with_intervals(config: TrainConfig, chosen: Mapping[str, Any], num_pictures: int) -> TrainConfig:
    """Validate and save some NUM_VALIDATIONS times in a run, however long it is."""
    every = max(1, round(config.num_steps(num_pictures) / NUM_VALIDATIONS))
    return config.with_values({"validate_every": every, "checkpoint_every": every, **chosen})


def _num_held_out(pictures: PictureSet, at_most: int) -> int:
    if len(pictures) < 2:
        raise ValueError(
            f"{pictures.name} holds a single picture, and one is needed to validate on; add pictures, or name others "
            "with --val"
        )
    return min(at_most, max(1, round(HELD_OUT_SHARE * len(pictures))))


def _warn_of_trained(general: Dataset, config: TrainConfig) -> None:
    """Say which general pictures are trained on, by name and size of their files."""
    pictures = open_picture_set(config.data, fraction=config.fraction, seed=config.data_seed)
    trained_on = {(key.rpartition("/")[2], size_bytes) for key, size_bytes in keys_and_sizes(pictures)}
    paths = [picture.path for picture in general.pictures if picture.path.exists()]
    shared = [path for path in paths if (key_of(path.name, Path()), path.stat().st_size) in trained_on]
    if shared:
        logger.warning(
            "%d of the %d general pictures are also in the data, such as %s; they do not tell what is forgotten",
            len(shared),
            len(general.pictures),
            shared[0],
        )


def _require_annotations(pictures: PictureSet, config: TrainConfig) -> None:
    """See that some of the pictures, spread over the set, have objects to learn from."""
    tried = np.unique(np.linspace(0, len(pictures) - 1, NUM_TRIED).round().astype(int)).tolist()
    error: SampleError | None = None
    for index in tried:
        try:
            make_prompt_targets(config, pictures.read(index, with_instances=True), epoch=0)
        except SampleError as found:
            error = found
        else:
            return
    raise ValueError(
        f"none of {len(tried)} pictures of {pictures.name} has an object to learn from, the last one {error}; "
        "fine-tuning needs masks: a COCO or LVIS JSON, SA-1B, or a folder with images/ and masks/"
    )
