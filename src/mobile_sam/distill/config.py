"""What a training run is: every choice in one frozen value, that recipes fill in and checkpoints keep."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_args, get_origin, get_type_hints

OBJECTIVES = ("decoupled", "semi-coupled", "coupled", "prompted")
MASK_TARGETS = ("teacher", "annotations")
TRAINABLE_PARTS = ("encoder", "decoder", "all")
PRECISIONS = ("fp32", "bf16")

PARTS_OF_OBJECTIVE = {"decoupled": "encoder", "semi-coupled": "encoder", "coupled": "all", "prompted": "all"}
"""What an objective trains unless it is said otherwise: the paper's section 3.2 and figure 3."""


def setting(default: Any, help_text: str) -> Any:
    """Make a field with a help text."""
    return field(default=default, metadata={"help": help_text})


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    A value that is wrong raises a ValueError that names the field, what came and what is expected.
    """

    # data
    data: tuple[str, ...] = setting((), "tar shards, patterns, folders or COCO files with the pictures")
    fraction: float = setting(1.0, "share of the pictures to train on, in (0, 1]; whole shards first")
    data_seed: int = setting(0, "of the choice of that share; as --seed of `distill embed`")
    held_out: tuple[str, ...] = setting((), "pictures to validate on; () takes num_held_out from data")
    num_held_out: int = setting(16, "pictures to validate on, at least 1")
    num_workers: int = setting(2, "processes that read pictures; 0 reads in the loop")
    max_skipped: float = setting(0.01, "share of unusable pictures at which the run stops, in [0, 1]")
    # teacher
    teacher: str = setting("", "checkpoint of the teacher, or mobile_sam; may be '' with embeddings")
    embeddings: str = setting("", "folder that `distill embed` wrote; '' runs the teacher in the loop")
    # student
    student: str = setting("vit_t", "name in sam_model_registry")
    input_side: int = setting(1024, "side of the student's input in pixels, a multiple of 16")
    start_from: str = setting("", "checkpoint to start from; '' initialises the encoder afresh")
    decoder_from: str = setting("mobile_sam", "checkpoint of prompt encoder and mask decoder, SAM ViT-H's by default")
    match_channels: bool = setting(True, "start a fresh encoder with the teacher's mean and spread of each channel")
    drop_path_rate: float = setting(0.0, "stochastic depth of the student's last block, in [0, 1)")
    # objective
    objective: str = setting("decoupled", "decoupled, semi-coupled, coupled, or prompted (the second stage)")
    trains: str = setting("", "encoder, decoder or all; '' is the objective's own")
    mask_targets: str = setting("teacher", "teacher or annotations: whose masks objectives with masks imitate")
    prompts_per_picture: int = setting(4, "prompts for each picture in objectives with masks")
    num_clicks: int = setting(2, "clicks in the error region after the first prompt, objective prompted")
    box_rate: float = setting(0.5, "share of first prompts that are boxes, objective prompted, in [0, 1]")
    # length
    epochs: float = setting(8.0, "passes over the data")
    max_steps: int = setting(0, "stop after so many steps, with the schedule made for them; 0 for epochs alone")
    batch_size: int = setting(8, "pictures in one optimizer step, over all processes")
    accumulate: int = setting(1, "parts that each process takes its share of a batch in")
    # optimizer
    lr: float = setting(1e-3, "peak learning rate")
    min_lr_factor: float = setting(0.01, "learning rate at the end, as a factor of lr")
    warmup_steps: int = setting(500, "steps of linear warm-up; at most a tenth of the run is used")
    weight_decay: float = setting(0.05, "of AdamW, on matrices and kernels only")
    betas: tuple[float, float] = setting((0.9, 0.999), "of AdamW")
    clip_norm: float = setting(1.0, "largest norm of the gradient; 0 for no limit")
    encoder_lr_factor: float = setting(1.0, "learning rate of the encoder over that of the decoder")
    layer_lr_decay: float = setting(1.0, "factor of the encoder's learning rate for each block below the last")
    ema_decay: float = setting(0.999, "of the moving average of the weights, warmed up; 0 for none")
    freeze_batchnorm: bool = setting(False, "keep BatchNorm's statistics as they are: for fine-tuning")
    # how it runs
    device: str = setting("", "torch device; '' takes CUDA, then the CPU")
    precision: str = setting("fp32", "fp32, or bf16 through autocast")
    channels_last: bool = setting(True, "memory layout of the convolutions")
    compile: bool = setting(False, "torch.compile the student's encoder")
    sync_batchnorm: bool = setting(True, "BatchNorm over all processes")
    num_threads: int = setting(0, "CPU threads of torch; 0 is its own choice")
    embedding_cache_gb: float = setting(2.0, "memory for embeddings of an encoder that is not trained; 0 for none")
    seed: int = setting(0, "of initial weights, order and prompts")
    # what is written
    log_every: int = setting(20, "steps")
    checkpoint_every: int = setting(500, "steps")
    keep_checkpoints: int = setting(2, "how many of the latest are kept, beside the best")
    validate_every: int = setting(500, "steps; the last step always is validated")
    patience: int = setting(0, "validations without a better mIoU after which to stop; 0 for never")
    tensorboard: bool = setting(True, "write TensorBoard's event files")
    diverged_factor: float = setting(10.0, "stop when the smoothed loss is so many times its lowest")

    def __post_init__(self) -> None:
        self._check_types()
        for name, known in (
            ("objective", OBJECTIVES),
            ("mask_targets", MASK_TARGETS),
            ("trains", ("", *TRAINABLE_PARTS)),
            ("precision", PRECISIONS),
        ):
            _require(getattr(self, name) in known, name, getattr(self, name), f"one of {', '.join(map(repr, known))}")
        for name in ("fraction", "lr", "epochs", "encoder_lr_factor", "layer_lr_decay"):
            _require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "a number above 0")
        for name in ("fraction", "layer_lr_decay", "min_lr_factor", "max_skipped", "box_rate"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "at most 1, and not below 0")
        for name in ("drop_path_rate", "ema_decay"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        for name in ("weight_decay", "clip_norm", "embedding_cache_gb"):
            _require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "0 or more")
        _require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "two numbers in [0, 1)")
        _require(self.diverged_factor > 1, "diverged_factor", self.diverged_factor, "above 1")
        for name in (
            "num_workers",
            "max_steps",
            "warmup_steps",
            "num_clicks",
            "patience",
            "num_threads",
            "seed",
            "data_seed",
        ):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in _AT_LEAST_ONE:
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        is_multiple = self.input_side >= 64 and self.input_side % 16 == 0
        _require(is_multiple, "input_side", self.input_side, "a multiple of 16, at least 64")
        self._check_choices()

    @property
    def parts(self) -> str:
        """What is trained: one of TRAINABLE_PARTS."""
        return self.trains or PARTS_OF_OBJECTIVE[self.objective]

    def num_steps(self, num_pictures: int) -> int:
        """Steps of the whole run on a number of pictures, at least 1."""
        return self.max_steps or max(1, round(self.epochs * num_pictures / self.batch_size))

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss compares with a teacher, and not with annotations."""
        return self.objective != "prompted" or self.mask_targets == "teacher"

    @property
    def draws_prompts(self) -> bool:
        """Whether the loss is of masks, for prompts."""
        return self.objective != "decoupled"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Make a configuration of values by name, lists standing for tuples.

        Raises:
            ValueError: a name that is no field, with the one that may be meant; or as the constructor does.
        """
        names = [known.name for known in fields(cls)]
        for name in values:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names)}"
                raise ValueError(f"a training run has no setting {name!r}; {hint}")
        chosen: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**chosen)

    def with_values(self, values: Mapping[str, Any]) -> TrainConfig:
        """Return a copy with other values, checked as in `from_mapping`."""
        return TrainConfig.from_mapping(
            {known.name: getattr(self, known.name) for known in fields(self)} | dict(values)
        )

    def differences(self, other: TrainConfig) -> list[str]:
        """Say which fields differ: "lr: 0.001 here, 0.002 there"."""
        pairs = [(known.name, getattr(self, known.name), getattr(other, known.name)) for known in fields(self)]
        return [f"{name}: {mine!r} here, {theirs!r} there" for name, mine, theirs in pairs if mine != theirs]

    def _check_types(self) -> None:
        for name, kind in get_type_hints(TrainConfig).items():
            value = getattr(self, name)
            if kind is float and type(value) is int:  # 1 is as good as 1.0
                object.__setattr__(self, name, float(value))
            elif not _is_of(value, kind):
                _require(False, name, value, f"a value of type {_type_name(kind)}")

    def _check_choices(self) -> None:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be taken in accumulate={self.accumulate} equal parts"
            )
        if self.objective == "decoupled" and self.parts != "encoder":
            raise ValueError(f"objective 'decoupled' trains the encoder alone, got trains={self.trains!r}")
        if self.mask_targets == "annotations" and self.objective != "prompted":
            raise ValueError(f"mask_targets 'annotations' goes with objective 'prompted', got {self.objective!r}")


_AT_LEAST_ONE = (
    "num_held_out", "prompts_per_picture", "batch_size", "accumulate", "log_every", "checkpoint_every",
    "keep_checkpoints", "validate_every",
)  # fmt: skip


def parse_settings(texts: list[str]) -> dict[str, Any]:
    """Read settings as users write them: ["lr=3e-4", "data=a.tar,b.tar"] -> values of the fields' types.

    Raises:
        ValueError: no "=", an unknown name, or a value of another type.
    """
    hints = get_type_hints(TrainConfig)
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals:
            raise ValueError(f"--set {text!r} has no '='; write it as in --set lr=3e-4")
        if name not in hints:
            TrainConfig.from_mapping({name: value})  # which knows what may be meant
        values[name] = _parse(name, value.strip(), hints[name])
    return values


def _parse(name: str, text: str, kind: Any) -> Any:
    try:
        if get_origin(kind) is tuple:
            (item_kind, *_) = get_args(kind)
            return tuple(_parse(name, part.strip(), item_kind) for part in text.split(",") if part.strip())
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        return kind(text)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{name} must be of type {_type_name(kind)}, got {text!r}") from error


def _is_of(value: Any, kind: Any) -> bool:
    if get_origin(kind) is tuple:
        item_kinds = get_args(kind)
        is_sequence = isinstance(value, tuple) and (item_kinds[-1] is Ellipsis or len(value) == len(item_kinds))
        return is_sequence and all(_is_of(item, item_kinds[0]) for item in value)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


def _type_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and get_origin(kind) is None else str(kind)


def _require(is_fine: bool, name: str, value: Any, expected: str) -> None:
    if not is_fine:
        raise ValueError(f"{name} must be {expected}, got {value!r}")
