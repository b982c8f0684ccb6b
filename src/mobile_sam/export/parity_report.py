"""The parity report of an export, as a file for programs and as a table for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobile_sam.core.files import atomic_path
from mobile_sam.core.manifest import ExportManifest
from mobile_sam.export.parity import Agreement, Parity
from mobile_sam.export.target import Bound

PARITY_FILE = "parity.json"
FORMAT = 1
VARIANT_TITLES = {"reference": "PyTorch fp32", "default": "default engine", "export": "this export"}
STAGE_TITLES = {
    "load": "start and load, s",
    "encode": "encoder, ms",
    "click": "one click, ms",
    "joint": "joint graph, ms",
}


@dataclass(frozen=True)
class ParityReport:
    """What is known of the parity of an export.

    Attributes:
        manifest: of the export.
        bound: what its target promises.
        parity: what was measured; None where the files cannot be run here.
        not_run_here: why they cannot.
        file_bytes: size of each file.
        facts: what the target itself found out, such as structural checks.
    """

    manifest: ExportManifest
    bound: Bound
    parity: Parity | None
    not_run_here: str | None
    file_bytes: Mapping[str, int]
    facts: Mapping[str, Any]

    @property
    def missed(self) -> list[str]:
        """Which bounds are missed, a sentence each; the joint graph must keep them as well."""
        if self.parity is None:
            return []
        missed = bounds_missed(self.parity.agreements["export"], self.bound)
        if self.parity.joint is not None:
            missed += [f"joint graph: {one}" for one in bounds_missed(self.parity.joint, self.bound)]
        return missed

    @property
    def within_bound(self) -> bool | None:
        """Whether the export is as near as its target promises; None where that is not known."""
        return None if self.parity is None else not self.missed

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values; numbers that are not finite are None."""
        manifest, parity = self.manifest, self.parity
        told: dict[str, Any] = {
            "format": FORMAT,
            "target": manifest.target,
            "precision": manifest.precision,
            "architecture": manifest.architecture,
            "model_id": manifest.model_id,
            "input_side": manifest.input_side,
            "input_hw": list(manifest.input_hw),
            "status": "not run here" if parity is None else "run",
            "why_not_run": self.not_run_here,
            "within_bound": self.within_bound,
            "missed": self.missed,
            "bound": asdict(self.bound),
            "files": {
                name: {"bytes": self.file_bytes[name], "sha256": sha256} for name, sha256 in manifest.files.items()
            },
            "facts": dict(self.facts),
            "notes": list(manifest.notes),
            "versions": dict(manifest.versions),
        }
        if parity is not None:
            told |= asdict(parity) | {"relative_to_default": relative_to_default(parity)}
        return dict(_plain(told))

    def write(self, folder: Path) -> Path:
        """Write it to a folder, whole or not at all; return the file."""
        path = folder / PARITY_FILE
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
        with atomic_path(path) as partial:
            partial.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        return path

    def table(self) -> str:
        """How equal, how fast, how large: lines for a terminal."""
        manifest = self.manifest
        title = f"{manifest.target} {manifest.precision}, {manifest.architecture}"
        if self.parity is None:
            return f"{title}: not run here, {self.not_run_here}"
        parity, agreement = self.parity, self.parity.agreements["export"]
        lines = [
            f"{title}: {parity.num_pictures} pictures, {agreement.num_prompts} prompts against PyTorch fp32 on the CPU",
            "",
            *_columns(self._agreement_rows()),
            "",
            *_columns(_speed_rows(parity)),
        ]
        return "\n".join([*lines, *self._remarks()])

    def _agreement_rows(self) -> list[list[str]]:
        assert self.parity is not None
        named = [self.parity.agreements["export"], self.parity.agreements["default"]]
        titles = [VARIANT_TITLES["export"], VARIANT_TITLES["default"]]
        if self.parity.joint is not None:
            named.append(self.parity.joint)
            titles.append("joint graph")
        bound = self.bound
        rows = [["how equal", *titles, "bound"]]
        limits = {
            "embedding error": f"{bound.embedding_error:g} at most" if math.isfinite(bound.embedding_error) else "",
            "mask IoU, mean": f"{bound.mask_iou_mean:g} at least",
            "mask IoU, worst": f"{bound.mask_iou_min:g} at least",
        }
        columns = [_agreement_cells(agreement) for agreement in named]
        return rows + [[name, *(cells[name] for cells in columns), limits.get(name, "")] for name in columns[0]]

    def _remarks(self) -> list[str]:
        assert self.parity is not None
        parity, manifest, remarks = self.parity, self.manifest, []
        if manifest.input_hw != (manifest.input_side, manifest.input_side):
            h, w = manifest.input_hw
            remarks.append(
                f"PyTorch saw the same {h}x{w} px (height x width) as the export; the default engine, which sees the "
                f"whole square, shows what leaving out the rest costs."
            )
        if parity.has_crops:
            remarks.append("No picture given fits that aspect ratio: the built-in ones were cropped to it.")
        elif parity.num_left_out:
            remarks.append(f"Pictures left out, since they do not fit that aspect ratio: {parity.num_left_out}.")
        remarks += [f"BELOW THE BOUND: {one}" for one in self.missed]
        return ["", *remarks] if remarks else []


def bounds_missed(agreement: Agreement, bound: Bound) -> list[str]:
    """Which bounds an agreement misses, a sentence each; a figure that is no number misses its bound."""
    missed = []
    error = agreement.embedding_error
    if error is not None and not error <= bound.embedding_error:
        missed.append(f"embedding error {error:.3g}, at most {bound.embedding_error:g} was promised")
    for name, found, least in (
        ("mean mask IoU", agreement.mask_iou_mean, bound.mask_iou_mean),
        ("worst mask IoU", agreement.mask_iou_min, bound.mask_iou_min),
    ):
        if not found >= least:
            missed.append(f"{name} {found:.5g}, at least {least:g} was promised")
    if not math.isfinite(agreement.predicted_iou_error_max):
        missed.append("predicted IoU is not finite")
    return missed


def relative_to_default(parity: Parity) -> dict[str, float | None]:
    """The export's seconds by stage and its peak memory, over those of the default engine in the same run."""
    ours, theirs = parity.seconds["export"], parity.seconds["default"]
    ratios: dict[str, float | None] = {stage: ours[stage] / theirs[stage] for stage in theirs if stage in ours}
    ratios["peak_mb"] = _ratio(parity.peak_mb["export"], parity.peak_mb["default"])
    return ratios


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None


def _agreement_cells(agreement: Agreement) -> dict[str, str]:
    """The figures of one column, by the name of their row."""
    of_pair = {"clicks": agreement.clicks, "boxes": agreement.boxes}
    pairs = {name: "-" if pair is None else f"{pair[0]:.5f} / {pair[1]:.4f}" for name, pair in of_pair.items()}
    error, same = agreement.embedding_error, agreement.same_choice
    mean, greatest = agreement.predicted_iou_error_mean, agreement.predicted_iou_error_max
    return {
        "embedding error": "-" if error is None else f"{error:.1e}",
        "mask IoU, mean": f"{agreement.mask_iou_mean:.5f}",
        "mask IoU, worst": f"{agreement.mask_iou_min:.4f}",
        "  clicks, mean / worst": pairs["clicks"],
        "  boxes, mean / worst": pairs["boxes"],
        "score error, mean / max": f"{mean:.1e} / {greatest:.1e}",
        "same best of three": "-" if same is None else f"{same:.1%}",
    }


def _speed_rows(parity: Parity) -> list[list[str]]:
    variants = ("reference", "default", "export")
    rows = [["how fast", *(VARIANT_TITLES[name] for name in variants), "export / default"]]
    ratios = relative_to_default(parity)
    for stage, title in STAGE_TITLES.items():
        if stage not in parity.seconds["export"]:
            continue
        scale, digits = (1, 2) if stage == "load" else (1000, 1)
        cells = [
            f"{parity.seconds[name][stage] * scale:.{digits}f}" if stage in parity.seconds[name] else "-"
            for name in variants
        ]
        rows.append([title, *cells, _times(ratios.get(stage))])
    memory = [parity.peak_mb[name] for name in variants]
    rows.append(
        ["peak memory, MB", *("-" if value is None else f"{value:.0f}" for value in memory), _times(ratios["peak_mb"])]
    )
    return rows


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the first column to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return lines


def _plain(value: Any) -> Any:
    """What JSON holds: mappings, lists, and numbers that are finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    item = getattr(value, "item", None)  # of numpy's and torch's numbers
    return _plain(item()) if callable(item) else str(value)
