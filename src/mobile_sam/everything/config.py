"""Every setting of "segment everything" in one frozen value; the command line's flags are made from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # else `mobile-sam --help` would wait for it
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

MODES = ("exact", "fast")
"""exact: all points of the grid, the original's masks. fast: points only where the picture is not yet explained."""

OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
"""What `segmentation` of a record is: (H, W) bool; {"size", "counts": list of int}; the same with COCO's string."""

MAX_POINTS_PER_SIDE = 1024
MAX_CROP_LAYERS = 6


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, eq=False)
class EverythingConfig:
    """How "segment everything" is done. Names, meanings and defaults are SAM's (`SamAutomaticMaskGenerator`).

    Attributes:
        mode: one of MODES.
        points_per_side: points along each side of the grid, N * N in all; None if point_grids is given.
        points_per_batch: at most so many points are decoded together; an engine takes fewer where that is quicker.
        pred_iou_thresh: masks of which the model predicts no greater IoU are left out; 0 or less for no limit, as in
            SAM.
        stability_score_thresh: masks less stable than this under a shift of the threshold are left out, 0 to 1. Masks
            without a pixel always are; SAM keeps them if this is 0.
        stability_score_offset: that shift, in logits.
        box_nms_thresh: of two masks whose boxes have a greater IoU, the one with the lower predicted IoU is left out.
        crop_n_layers: layers of enlarged parts of the picture to run on as well; layer i has 2 ** i per side.
        crop_nms_thresh: as box_nms_thresh, between masks of different crops; the smaller crop's stays.
        crop_overlap_ratio: overlap of the first layer's crops, as a share of the picture's shorter side.
        crop_n_points_downscale_factor: points per side in layer i are divided by this ** i.
        point_grids: in place of points_per_side, for each layer (N, 2) x, y as shares of the crop's sides, 0 to 1.
        min_mask_region_area: holes and islands with fewer pixels are filled and removed; 0 for not at all. Masks that
            were changed then come last.
        output_mode: one of OUTPUT_MODES.

    Raises:
        ValueError: a value out of its range; both or neither of points_per_side and point_grids.
    """

    mode: str = _setting("exact", "exact, the original's masks; or fast, points only where they are needed.")
    points_per_side: int | None = _setting(32, "Points along each side of the grid.")
    points_per_batch: int = _setting(64, "Points decoded together at most.")
    pred_iou_thresh: float = _setting(0.88, "Leave out masks whose predicted IoU is not above this.")
    stability_score_thresh: float = _setting(0.95, "Leave out masks less stable than this.")
    stability_score_offset: float = _setting(1.0, "Shift of the threshold that stability is measured with, in logits.")
    box_nms_thresh: float = _setting(0.7, "Of two masks whose boxes have a greater IoU only the better one stays.")
    crop_n_layers: int = _setting(0, "Layers of enlarged crops to run on as well.")
    crop_nms_thresh: float = _setting(0.7, "Of overlapping masks of different crops, as --box-nms-thresh.")
    crop_overlap_ratio: float = _setting(512 / 1500, "Overlap of crops, as a share of the photo's shorter side.")
    crop_n_points_downscale_factor: int = _setting(1, "Divides points per side once for each further layer.")
    point_grids: Sequence[NDArray[np.float64]] | None = None
    min_mask_region_area: int = _setting(0, "Fill holes and remove islands with fewer pixels.")
    output_mode: str = _setting("binary_mask", "binary_mask, uncompressed_rle or coco_rle.")

    def __post_init__(self) -> None:
        _check_choice("mode", self.mode, MODES)
        _check_choice("output_mode", self.output_mode, OUTPUT_MODES)
        if (self.points_per_side is None) == (self.point_grids is None):
            given = "both" if self.point_grids is not None else "neither"
            raise ValueError(f"exactly one of points_per_side and point_grids must be given, got {given}")
        for name, (least, most) in _WHOLE_NUMBERS.items():
            if name != "points_per_side" or self.points_per_side is not None:
                object.__setattr__(self, name, _whole_number(name, getattr(self, name), least, most))
        for name, (low, high) in _NUMBERS.items():
            object.__setattr__(self, name, _number(name, getattr(self, name), low, high))
        factor, num_layers = self.crop_n_points_downscale_factor, self.crop_n_layers
        if self.points_per_side is not None and factor**num_layers > self.points_per_side:
            raise ValueError(
                f"crop_n_points_downscale_factor {factor} leaves layer {num_layers} of crops without points: "
                f"points_per_side is {self.points_per_side}"
            )
        if self.point_grids is not None:
            object.__setattr__(self, "point_grids", _checked_grids(self.point_grids, num_layers + 1))

    def to_json(self) -> dict[str, Any]:
        """Return all fields as what JSON has."""
        values = {known.name: getattr(self, known.name) for known in fields(self)}
        if self.point_grids is not None:
            values["point_grids"] = [grid.tolist() for grid in self.point_grids]
        return values


def _checked_grids(grids: Sequence[ArrayLike], num_layers: int) -> tuple[NDArray[np.float64], ...]:
    """Check the grids and copy them, so that nobody can change them afterwards."""
    if not hasattr(grids, "__len__"):
        raise ValueError(f"point_grids must be a list with a grid (N, 2) for each layer, got {type(grids).__name__}")
    if len(grids) < num_layers:
        raise ValueError(
            f"point_grids must have a grid for each of {num_layers} layers (crop_n_layers + 1), got {len(grids)}"
        )
    import numpy as np

    checked = []
    for layer, grid in enumerate(grids):
        try:
            points_xy = np.array(grid, np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"point_grids[{layer}] must be (N, 2) numbers, got {grid!r}") from error
        if points_xy.ndim != 2 or points_xy.shape[1] != 2 or not len(points_xy):
            raise ValueError(f"point_grids[{layer}] must be (N, 2) with N at least 1, got shape {points_xy.shape}")
        if not ((points_xy >= 0) & (points_xy <= 1)).all():
            raise ValueError(
                f"point_grids[{layer}] must hold shares of width and height, 0 to 1, got {points_xy.min():g} to "
                f"{points_xy.max():g}; divide pixels by the picture's size"
            )
        points_xy.setflags(write=False)
        checked.append(points_xy)
    return tuple(checked)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


_WHOLE_NUMBERS: dict[str, tuple[int, float]] = {
    "points_per_side": (1, MAX_POINTS_PER_SIDE),
    "points_per_batch": (1, math.inf),
    "crop_n_layers": (0, MAX_CROP_LAYERS),
    "crop_n_points_downscale_factor": (1, math.inf),
    "min_mask_region_area": (0, math.inf),
}
"""The least and the greatest value of each."""

_NUMBERS: dict[str, tuple[float, float]] = {
    "pred_iou_thresh": (-math.inf, math.inf),
    "stability_score_thresh": (0, 1),
    "stability_score_offset": (0, math.inf),
    "box_nms_thresh": (0, 1),
    "crop_nms_thresh": (0, 1),
    "crop_overlap_ratio": (0, 1),
}
"""The least and the greatest value of each."""


def _whole_number(name: str, value: Any, least: float, most: float) -> int:
    """Return a setting as a plain int; 100.0 is one."""
    is_whole = _is_number(value) and value == int(value)
    if not is_whole or not least <= value <= most:
        limit = f"{least} to {most:g}" if most < math.inf else f"at least {least}"
        raise ValueError(f"{name} must be a whole number, {limit}, got {value!r}")
    return int(value)


def _number(name: str, value: Any, least: float, most: float) -> float:
    """Return a setting as a plain float."""
    if not _is_number(value) or not least <= value <= most:
        raise ValueError(f"{name} must be a finite number from {least:g} to {most:g}, got {value!r}")
    return float(value)


def _is_number(value: Any) -> bool:
    if value is True or value is False or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number too large for a float, as JSON may hold
        return False
