"""All that the results of a run depend on, and what its workers need to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mobile_sam.bulk.sinks import EMBEDDING_FORMATS, FORMATS
from mobile_sam.bulk.sinks.base import SinkSettings
from mobile_sam.core.errors import MissingDependencyError
from mobile_sam.everything.config import EverythingConfig

TASKS = ("embed", "boxes", "points", "everything")
NEEDS_PROMPTS = ("boxes", "points")
DEFAULT_FORMATS = {"embed": ("shards",), "boxes": ("coco",), "points": ("coco",), "everything": ("coco",)}
SPOOL = "spool"
"""Stem of the folder with masks on their way to formats that are written at the end."""
DEFAULT_BATCH_SIZES = {"embed": 64, "boxes": 32, "points": 32, "everything": 8}


@dataclass(frozen=True)
class BulkSettings:
    """What a run does to each picture, and with what; can be sent to other processes and machines.

    Attributes:
        task: one of TASKS.
        out: folder of the run, absolute; on a cluster each machine must see it at this path.
        formats: of the results; names of FORMATS, or for the task "embed" of EMBEDDING_FORMATS.
        model: a checkpoint or a folder of `export`; None for the bundled weights.
        engine: as for `make_engine`.
        precision: as for `make_engine`.
        device: as for `make_engine`.
        num_threads: CPU threads of each worker; 0 is the engine's own choice.
        batch_size: pictures that a worker takes at once, and those in a shard of embeddings.
        encode_together: pictures encoded in one call.
        config: of the task "everything", and of "boxes" what concerns boxes.
        prompts_sha256: of the file with boxes or points; "" for tasks without.
        categories: names of the detector's categories by number.
        shard: (number from 0, count) of the part of the pictures that this run does.
        roots: folders and files on this machine that were named as sources, absolute; where one of them is gone, a
            picture that cannot be read is no fault of the picture.

    Raises:
        ValueError: an unknown task or format, formats of another task, a number out of range.
    """

    task: str
    out: str
    formats: tuple[str, ...] = ()
    model: str | None = None
    engine: str = "auto"
    precision: str | None = None
    device: str | None = None
    num_threads: int = 0
    batch_size: int = 0
    encode_together: int = 1
    config: EverythingConfig = field(default_factory=lambda: EverythingConfig(output_mode="coco_rle"))
    prompts_sha256: str = ""
    categories: Mapping[int, str] = field(default_factory=dict)
    shard: tuple[int, int] = (0, 1)
    roots: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"unknown task {self.task!r}; expected one of {', '.join(TASKS)}")
        if not Path(self.out).is_absolute():
            raise ValueError(f"out must be an absolute path, got {self.out!r}")
        object.__setattr__(self, "formats", tuple(dict.fromkeys(self.formats)) or DEFAULT_FORMATS[self.task])
        object.__setattr__(self, "batch_size", self.batch_size or DEFAULT_BATCH_SIZES[self.task])
        known = EMBEDDING_FORMATS if self.task == "embed" else FORMATS
        for name in self.formats:
            if name not in known:
                raise ValueError(f"the task {self.task} has no format {name!r}; expected {', '.join(known)}")
        for name in ("batch_size", "encode_together"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        number, count = self.shard
        if not 0 <= number < count:
            raise ValueError(f"shard must be (number from 0, count), got {self.shard}")
        if self.config.output_mode != "coco_rle":
            raise ValueError(f'the config must have output_mode "coco_rle", got {self.config.output_mode!r}')

    @property
    def shard_name(self) -> str:
        """See `SinkSettings.shard_name`."""
        return self._files.shard_name

    @property
    def needs_spool(self) -> bool:
        """Whether a format is written at the end, from what workers spooled."""
        return self.task != "embed" and any(FORMATS[name].is_collected for name in self.formats)

    def named(self, stem: str, suffix: str = "") -> Path:
        """Path in the run's folder of what is this shard's own: out/stem.suffix, or out/stem-2-of-8.suffix."""
        return Path(self.out) / self._files.name(stem, suffix)

    def describe(self) -> dict[str, Any]:
        """Say what results depend on, as what JSON has: a run only goes on where all of this is the same.

        Neither the engine, as engines agree to rounding, nor what changes the time only.

        Raises:
            WeightsError, FileNotFoundError: the model cannot be read.
        """
        described: dict[str, Any] = {
            "task": self.task,
            "formats": list(self.formats),
            "model": dict(self._model),
            "precision": self.precision,
            "shard": self.shard_name or "all",
            "batch_size": self.batch_size,
        }
        if self.task in NEEDS_PROMPTS:
            described["prompts_sha256"] = self.prompts_sha256
        if self.task in ("boxes", "everything"):
            described["config"] = {k: v for k, v in self.config.to_json().items() if k != "points_per_batch"}
        return described

    def sink_settings(self) -> SinkSettings:
        """Give formats what they need to know."""
        from mobile_sam._version import __version__

        info = {"tool": "mobile-sam bulk", "version": __version__, **self.describe()}
        return replace(self._files, categories=dict(self.categories), info=info)

    @cached_property
    def _model(self) -> dict[str, str]:
        """Name and sha256 of the checkpoint, which may take seconds to read."""
        from mobile_sam.core.weights import describe_checkpoint, find_checkpoint

        checkpoint, sha256 = describe_checkpoint(find_checkpoint(self.model))
        return {"checkpoint": checkpoint, "sha256": sha256}

    @property
    def _files(self) -> SinkSettings:
        """What names of files depend on."""
        return SinkSettings(Path(self.out), shard=self.shard)


def require_bulk(package: str, what: str) -> None:
    """Check that a package of the extra is there.

    Raises:
        MissingDependencyError: it is not.
    """
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise MissingDependencyError(f"{what} needs {package}; run: pip install 'mobile-sam[bulk]'", name=package)
