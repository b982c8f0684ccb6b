"""What a target of export is, and what may be asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mobile_sam.core.embedding import EMBEDDING_STRIDE

MAX_POINTS = 6
"""Points of a prompt, where a target needs a fixed number and none is given: five clicks and SAM's padding point, or a
box and four clicks."""


@dataclass(frozen=True)
class Bound:
    """How near to fp32 PyTorch an export must be.

    Attributes:
        embedding_error: norm of the difference over the norm, the greatest of all pictures.
        mask_iou_mean: of the masks with those of PyTorch, over all prompts.
        mask_iou_min: of the worst mask. Small masks of ambiguous prompts are easily half another, so that this is loose
            for low precisions.
    """

    embedding_error: float
    mask_iou_mean: float
    mask_iou_min: float


FP32_BOUND = Bound(embedding_error=1e-4, mask_iou_mean=0.9995, mask_iou_min=0.98)
"""What every target must keep to in fp32: rounding only."""


@dataclass(frozen=True)
class ExportOptions:
    """What is to be exported, beside the target.

    Attributes:
        precision: one that the target has; None for its first.
        input_hw: height and width that the encoder takes, multiples of 16, the longer one S; None for the square.
        preprocess: the encoder takes uint8 pixels, and normalises and pads them.
        joint: also write one graph from the picture to the masks.
        num_prompts: fix the decoder to so many prompts; None for any, or for 1 where the target needs a number.
        num_points: fix it to so many points a prompt; None for any, or for MAX_POINTS.
        calibration: pictures, or folders of pictures, to calibrate int8 with; none for the built-in ones.
        return_single_mask: one mask a prompt, chosen as SAM's export script does.
        use_stability_score: judge masks by their stability in place of the predicted IoU, as that script can.
        return_extra_metrics: also give stability scores and areas, as that script can.
        gelu_approximate: GELU by tanh, as that script can.
        opset: of ONNX; None for ours.
    """

    precision: str | None = None
    input_hw: tuple[int, int] | None = None
    preprocess: bool = False
    joint: bool = False
    num_prompts: int | None = None
    num_points: int | None = None
    calibration: tuple[Path, ...] = ()
    return_single_mask: bool = False
    use_stability_score: bool = False
    return_extra_metrics: bool = False
    gelu_approximate: bool = False
    opset: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_prompts", "num_points"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if self.input_hw is not None and any(side < 1 or side % EMBEDDING_STRIDE for side in self.input_hw):
            raise ValueError(
                f"the input size must be multiples of {EMBEDDING_STRIDE} px, got {self.input_hw[0]}x{self.input_hw[1]}"
            )

    def asked_for(self) -> set[str]:
        """Names of the options that differ from their default."""
        return {one.name for one in fields(self) if getattr(self, one.name) != one.default}


@dataclass(frozen=True)
class TargetSpec:
    """What a target is.

    Attributes:
        name: as in `mobile-sam export --to NAME`.
        summary: what for, in one line.
        precisions: that it has; the first is the default.
        extra: of this package, which brings what it needs.
        packages: import names that must be there.
        bounds: how near it must be to PyTorch, by precision.
        options: fields of `ExportOptions` that it takes, "precision" apart.
        not_run_here: why the files cannot be run here; None where they are.
    """

    name: str
    summary: str
    precisions: tuple[str, ...]
    extra: str
    packages: tuple[str, ...]
    bounds: Mapping[str, Bound]
    options: frozenset[str] = frozenset()
    not_run_here: str | None = None


@dataclass(frozen=True)
class Written:
    """What a target wrote.

    Attributes:
        graphs: file name by role: "encoder", "decoder", "joint".
        runtime: module of `mobile_sam.engines.runtimes` that runs them; None where `open_runner` has its own way.
        num_prompts: P of the decoder if it is fixed.
        num_points: N of the decoder if it is fixed.
        notes: what the user must know, a sentence each.
        facts: what else the report shall hold, such as the layers that were left in higher precision.
    """

    graphs: Mapping[str, str]
    runtime: str | None = None
    num_prompts: int | None = None
    num_points: int | None = None
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
