"""What an exported folder says of itself: `export.json`, which engines read to run it and people to know what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mobile_sam.core.errors import WeightsError
from mobile_sam.core.files import atomic_path
from mobile_sam.core.geometry import INPUT_SIDE
from mobile_sam.core.weights import MANIFEST_FILE, sha256_of_file

FORMAT = 1
MODEL_FOLDER, OPENVINO_ENGINE = "model_folder", "openvino_engine"
"""Runtimes that are engines of their own: a folder that each engine takes, and one of the OpenVINO engine."""
EXPORT_ADVICE = "make it again with `mobile-sam export`"


@dataclass(frozen=True)
class ExportManifest:
    """An export: what it was made of, what it takes, and which files it has.

    Attributes:
        target: what it was made for, a name of `mobile_sam.export.targets`.
        runtime: the module of `mobile_sam.engines.runtimes` that runs the files here, or MODEL_FOLDER or
            OPENVINO_ENGINE; None where none does.
        precision: "fp32", "fp16", "bf16" or "int8".
        model_id: `Engine.model_id` of the model, so that embeddings go from engine to engine.
        architecture: name in the registry of models.
        input_side: side S of the model frame in pixels.
        input_hw: what the encoder takes; (S, S), or less where one aspect ratio was asked for.
        has_preprocessing: whether the encoder takes pixels, see `mobile_sam.export.modules`.
        num_prompts: P of the decoder if it is fixed.
        num_points: N of the decoder if it is fixed.
        graphs: file name of each graph, by role: "encoder", "decoder", "joint".
        files: sha256 of each file, by name.
        versions: of the packages that wrote it.
        notes: what its user must know.
    """

    target: str
    runtime: str | None
    precision: str
    model_id: str
    architecture: str
    input_side: int = INPUT_SIDE
    input_hw: tuple[int, int] = (INPUT_SIDE, INPUT_SIDE)
    has_preprocessing: bool = False
    num_prompts: int | None = None
    num_points: int | None = None
    graphs: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def engine(self) -> str | None:
        """What runs the files, by the name of the engine or else of the runtime."""
        return "openvino" if self.runtime == OPENVINO_ENGINE else self.runtime

    def write(self, folder: Path) -> None:
        """Write it to a folder."""
        with atomic_path(folder / MANIFEST_FILE) as partial:
            partial.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> ExportManifest:
        """Read it from a folder.

        Raises:
            WeightsError: it is damaged, or of a later version of this package.
        """
        path = folder / MANIFEST_FILE
        try:
            told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if told.pop("format") == FORMAT:
                h, w = (int(side) for side in told.pop("input_hw"))
                told |= {"input_hw": (h, w), "notes": tuple(told.get("notes", ()))}
                return cls(**told)
        except (OSError, TypeError, LookupError, AttributeError, ValueError) as error:
            raise WeightsError(f"{path} is missing or damaged ({error}); {EXPORT_ADVICE}") from error
        raise WeightsError(f"{path} is of another version of mobile-sam; {EXPORT_ADVICE}")

    def check_files(self, folder: Path) -> None:
        """Check that each file is there and is the one that was exported.

        Raises:
            WeightsError: one is missing or another.
        """
        for name, sha256 in self.files.items():
            path = folder / name
            if not path.is_file() or sha256_of_file(path) != sha256:
                raise WeightsError(f"{path} is missing or is not what was exported; {EXPORT_ADVICE}")
