"""The models under test: how users name them, how they are made, and what a report has to say of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from mobile_sam._version import __version__
from mobile_sam.core.weights import describe_checkpoint, find_checkpoint, weights_file
from mobile_sam.engines import ENGINES, PRECISIONS, Engine, make_engine

MODEL_HELP = (
    "an engine (onnxruntime, openvino or torch), a checkpoint file or model folder, or both with more as in "
    "name=teacher,engine=torch,checkpoint=sam_vit_h.pth,precision=bf16,device=cuda"
)


@dataclass(frozen=True)
class ModelSpec:
    """A model to evaluate.

    Attributes:
        name: as reports call it; unique in a run.
        engine: see `mobile_sam.engines.make_engine`.
        checkpoint: path of a checkpoint or model folder; None for the bundled weights.
        device: see `make_engine`; None for the engine's default.
        precision: see `make_engine`; None for fp32, or for what a folder was exported in.

    Raises:
        ValueError: no name, or an unknown engine or precision.
    """

    name: str
    engine: str = "auto"
    checkpoint: str | None = None
    device: str | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a model needs a name, got ''; write name=... or leave it out")
        if self.engine not in ("auto", *ENGINES):
            raise ValueError(f"unknown engine {self.engine!r}; expected auto, {', '.join(ENGINES)}")
        if self.precision not in (None, *PRECISIONS):
            raise ValueError(f"unknown precision {self.precision!r}; expected one of {', '.join(PRECISIONS)}")

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Read what users write: "torch", "tuned.pt", or "name=tuned,engine=torch,checkpoint=tuned.pt".

        Without a name it is called by the engine, the checkpoint's file name and the precision, where they are given.
        A file's path may hold "=" and, if it is all there is, commas.

        Raises:
            ValueError: nothing, an unknown key, engine or precision, or a key that comes twice. FileNotFoundError: no
                such file.
        """
        values: dict[str, str] = {}
        parts = [text] if _is_path(text) else [part.strip() for part in text.split(",")]
        for part in filter(None, parts):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or _is_path(part):
                key, value = ("engine" if part in ("auto", *ENGINES) else "checkpoint"), part
            if key not in _KEYS or key in values:
                reason = "comes twice" if key in values else "is unknown"
                raise ValueError(f"--model {text!r}: {key!r} {reason}; expected {MODEL_HELP}")
            values[key] = value
        if not values:
            raise ValueError(f"--model {text!r} names no model; expected {MODEL_HELP}")
        checkpoint = values.get("checkpoint")
        try:
            find_checkpoint(checkpoint)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"--model {text!r}: {error}; expected {MODEL_HELP}") from error
        told = [values.get("engine", ""), Path(checkpoint).stem if checkpoint else "", values.get("precision", "")]
        return cls(**{"name": "-".join(filter(None, told)) or "auto", **values})

    def to_json(self) -> dict[str, str | None]:
        """Return the fields as a plain mapping."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelSpec:
        """Return the model that `to_json` described."""
        return cls(**values)

    def make(self, num_threads: int = 0) -> Engine:
        """Make its engine.

        Raises:
            ValueError, FileNotFoundError, MissingDependencyError: as `make_engine`.
        """
        return make_engine(
            self.engine, self.checkpoint, device=self.device, precision=self.precision, num_threads=num_threads
        )


def _is_path(text: str) -> bool:
    """Tell whether a text is the path of a checkpoint or model folder that exists, and so no engine or key=value."""
    return weights_file(text).is_file()


_KEYS = tuple(field.name for field in fields(ModelSpec))


@dataclass(frozen=True, eq=False)
class Model:
    """A model that is ready to run.

    Attributes:
        spec: how it was asked for.
        engine: what runs it.
        is_of_spec: whether the engine was made from `spec`, which then tells its weights; an engine of the caller's own
            is known by its image encoder's fingerprint only.
    """

    spec: ModelSpec
    engine: Engine
    is_of_spec: bool = False

    @property
    def name(self) -> str:
        """As reports call it."""
        return self.spec.name

    @property
    def encoder_id(self) -> str:
        """Names all that this model's embeddings depend on; equal for models that can share them to the last bit.

        This package is among it, since it reads and resizes the picture.
        """
        facts = {**self.facts_of_engine(), "package_version": __version__}
        return " ".join(f"{key}={value}" for key, value in sorted(facts.items()))

    def facts_of_engine(self) -> dict[str, str]:
        """Say what computes: engine, version, precision, device, and the fingerprint of the image encoder."""
        return {
            "engine": self.engine.name,
            "engine_version": _version_of(self.engine.name),
            "precision": getattr(self.engine, "precision", None) or "fp32",
            "device": str(getattr(self.engine, "device", self.spec.device or "cpu")),
            "model_id": self.engine.model_id,
        }

    def facts(self) -> dict[str, str]:
        """Say all that is needed to have the same model again: also the weights' file and its sha256."""
        checkpoint, sha256 = describe_checkpoint(self.spec.checkpoint) if self.is_of_spec else ("the caller's", "")
        return {"name": self.name, **self.facts_of_engine(), "checkpoint": checkpoint, "weights_sha256": sha256}


def make_models(specs: Sequence[ModelSpec], num_threads: int = 0) -> list[Model]:
    """Make the engines of several models, their names made unique ("torch", "torch-2").

    Raises:
        ValueError: no model. Others as `ModelSpec.make`.
    """
    if not specs:
        raise ValueError("no model to evaluate; pass at least one")
    return [Model(spec, spec.make(num_threads), is_of_spec=True) for spec in with_unique_names(specs)]


def with_unique_names(specs: Sequence[ModelSpec]) -> list[ModelSpec]:
    """Number the models whose name was taken already: "torch", "torch-2".

    >>> [spec.name for spec in with_unique_names([ModelSpec("torch"), ModelSpec("torch")])]
    ['torch', 'torch-2']
    """
    named: list[ModelSpec] = []
    for spec in specs:
        taken, number, name = {other.name for other in named}, 1, spec.name
        while name in taken:
            number += 1
            name = f"{spec.name}-{number}"
        named.append(replace(spec, name=name))
    return named


def _version_of(engine_name: str) -> str:
    from importlib import metadata  # 20 ms, which a timed start should not pay

    try:
        return metadata.version(engine_name)
    except metadata.PackageNotFoundError:  # an engine of the caller's own
        return ""
