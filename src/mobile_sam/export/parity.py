"""Parity: how near an export is to PyTorch, and how fast and large beside the default engine, measured in one run.

Three variants, each in a process of its own, take turns: "reference" is PyTorch in fp32 on the CPU, "default" the
default engine on the same weights, "export" the exported files on their own runtime. On each picture all of them answer
a grid of clicks and the boxes of the masks that the reference finds there. What is compared is the mask that a user of
the reference would get, of a click the best of three by predicted IoU, of a box the single one; or, of a graph that
gives one mask only and tells which it is, that one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.grids import point_grid
from mobile_sam.core.images import read_image, write_image
from mobile_sam.core.manifest import ExportManifest
from mobile_sam.evaluate.machine import MachineWatch, machine_facts
from mobile_sam.evaluate.worker_process import Answer, WorkerError
from mobile_sam.export.parity_worker import ParityProcess
from mobile_sam.export.pictures import default_pictures
from mobile_sam.export.runner import ALL_TOKENS

VARIANTS = ("reference", "default", "export")
CLICKS_PER_SIDE = 4
MAX_TIMED_PICTURES = 4
JOINT_STRIDE = 4  # the joint graph, which encodes anew for each few prompts, answers every fourth


class ParityError(ValueError):
    """An export is not as near to PyTorch as its target promises, or does not run; the message has the figures."""


@dataclass(frozen=True)
class ParityTask:
    """What is compared.

    Attributes:
        folder: what was exported, with its manifest.
        weights: of the same model, for the reference; None for the bundled ones.
        model: the same model as a folder or file for the default engine; None for the bundled one.
        by_stability: whether the export judges masks by their stability.
        num_threads: CPU threads of each variant; 0 for their own choice.
        num_rounds: timed rounds over all pictures.
    """

    folder: Path
    weights: Path | None = None
    model: Path | None = None
    by_stability: bool = False
    num_threads: int = 0
    num_rounds: int = 3


@dataclass(frozen=True)
class Agreement:
    """How near one variant is to the reference; None where there is nothing to tell.

    Attributes:
        embedding_error: norm of the difference over the norm, the greatest of all pictures.
        mask_iou_mean: of the masks with those of the reference, over all prompts.
        mask_iou_min: of the worst one.
        clicks: mean and worst of the clicks alone.
        boxes: mean and worst of the boxes alone.
        predicted_iou_error_max: greatest difference of the scores of these masks.
        predicted_iou_error_mean: mean difference.
        same_choice: share of the clicks of which it finds the same of the three masks best.
        num_prompts: how many were compared.
    """

    embedding_error: float | None
    mask_iou_mean: float
    mask_iou_min: float
    clicks: tuple[float, float] | None
    boxes: tuple[float, float] | None
    predicted_iou_error_max: float
    predicted_iou_error_mean: float
    same_choice: float | None
    num_prompts: int


@dataclass(frozen=True)
class Parity:
    """What was measured.

    Attributes:
        agreements: of "default" and "export" with the reference.
        joint: agreement of the joint graph, if there is one.
        seconds: medians by variant and stage: "load", "encode", "click", and "joint" of a picture with one prompt.
        peak_mb: largest resident memory of each variant's process in MB (10^6 bytes); None where nothing tells.
        num_pictures: how many were compared.
        num_left_out: how many did not fit the aspect ratio of the export.
        has_crops: whether the built-in pictures were cropped, since none of those given fitted.
        machine: what it was measured on, and how busy others kept it.
    """

    agreements: dict[str, Agreement]
    joint: Agreement | None
    seconds: dict[str, dict[str, float]]
    peak_mb: dict[str, float | None]
    num_pictures: int
    num_left_out: int
    has_crops: bool
    machine: dict[str, str]


def measure_parity(
    task: ParityTask, pictures: Sequence[Path], workspace: Path, on_progress: Callable[[str], None] | None = None
) -> Parity:
    """Run the three variants side by side.

    Args:
        task: what to compare.
        pictures: at least one file.
        workspace: an empty folder for what goes between the processes.
        on_progress: told what is being done, a short line each.

    Raises:
        ParityError: a variant does not run. ValueError: a picture cannot be read, or there is none.
    """
    if not pictures:
        raise ValueError("parity is measured on pictures, got none; leave them out for the built-in ones")
    manifest = ExportManifest.read(task.folder)
    fitting = [path for path in pictures if fits(read_image(path).shape[:2], manifest)]
    chosen = fitting or crop_pictures(default_pictures(), manifest.input_hw, workspace)
    watch, machine = MachineWatch(), machine_facts()
    with ExitStack() as stack:
        turns = _Turns(task, manifest, workspace, stack, on_progress or (lambda line: None))
        turns.start()
        rows = turns.compare(chosen)
        turns.time(chosen)
        joint = turns.compare_joint(chosen) if "joint" in manifest.graphs else None
    medians = {
        name: {stage: median(times) for stage, times in stages.items()} for name, stages in turns.seconds.items()
    }
    return Parity(
        {name: found.agreement() for name, found in rows.items()},
        None if joint is None else joint.agreement(),
        medians,
        turns.peak_mb,
        len(chosen),
        len(pictures) - len(fitting),
        not fitting,
        machine | watch.facts(),
    )


def fits(image_hw: tuple[int, ...], manifest: ExportManifest) -> bool:
    """Tell whether a picture fits into what the export's encoder takes."""
    h, w = LongSideResize((image_hw[0], image_hw[1]), manifest.input_side).input_hw
    return h <= manifest.input_hw[0] and w <= manifest.input_hw[1]


def crop_pictures(pictures: Sequence[Path], input_hw: tuple[int, int], folder: Path) -> list[Path]:
    """Cut the middle out of pictures, in the aspect ratio of `input_hw`, and write it to a folder."""
    longer = int(np.argmax(input_hw))
    ratio = input_hw[1 - longer] / input_hw[longer]
    written = []
    for path in pictures:
        image = read_image(path)
        sides = [0, 0]
        sides[longer] = min(image.shape[longer], int(image.shape[1 - longer] / ratio))
        sides[1 - longer] = max(1, int(sides[longer] * ratio))
        top, left = ((image.shape[axis] - sides[axis]) // 2 for axis in (0, 1))
        written.append(folder / f"{path.stem}.png")
        write_image(written[-1], image[top : top + sides[0], left : left + sides[1]])
    return written


@dataclass
class _Found:
    """What comparing has found so far: one number a prompt, or a picture."""

    embedding_errors: list[float] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    is_box: list[bool] = field(default_factory=list)
    score_errors: list[float] = field(default_factory=list)
    is_same_choice: list[bool] = field(default_factory=list)

    def agreement(self) -> Agreement:
        """Sum it up."""
        ious, is_box, errors = np.array(self.ious), np.array(self.is_box, bool), np.array(self.score_errors)
        clicks, boxes = (
            (float(some.mean()), float(some.min())) if len(some) else None for some in (ious[~is_box], ious[is_box])
        )
        return Agreement(
            max(self.embedding_errors) if self.embedding_errors else None,
            float(ious.mean()), float(ious.min()), clicks, boxes, float(errors.max()), float(errors.mean()),
            float(np.mean(self.is_same_choice)) if self.is_same_choice else None, len(ious),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Reference:
    """What the reference said of a picture, P prompts.

    Attributes:
        prompts: fields of `Prompt.of`.
        scores: of the four masks of each prompt.
        chosen: best of masks 1 to 3 of each.
        features: (1, 256, s, s).
        packed: (P, 4, ...) uint8, bits of its four masks.
        area_px: H * W.
    """

    prompts: list[dict[str, Any]]
    scores: list[list[float]]
    chosen: list[int]
    features: NDArray[np.float32]
    packed: NDArray[np.uint8]
    area_px: int

    @property
    def candidates(self) -> list[list[int]]:
        """Which mask of each prompt is compared, the others in order where a variant does not have it."""
        pairs = zip(self.prompts, self.chosen, strict=True)
        wanted = [(0, best) if "box" in prompt else (best, 0) for prompt, best in pairs]
        return [list(dict.fromkeys((*first, *ALL_TOKENS))) for first in wanted]


class _Turns:
    """The variants' processes, which take turns.

    Attributes:
        seconds: by variant and stage.
        peak_mb: by variant.
    """

    def __init__(
        self,
        task: ParityTask,
        manifest: ExportManifest,
        workspace: Path,
        stack: ExitStack,
        tell: Callable[[str], None],
    ) -> None:
        self.task, self.workspace, self.stack, self.tell = task, workspace, stack, tell
        side = manifest.input_side
        part_hw = None if manifest.input_hw == (side, side) else manifest.input_hw
        common = {"num_threads": task.num_threads, "by_stability": task.by_stability}
        paths = {"reference": task.weights, "default": task.model, "export": task.folder}
        self.loads: dict[str, dict[str, Any]] = {
            name: {"variant": name, "path": None if path is None else str(path), **common}
            for name, path in paths.items()
        }
        self.loads["reference"]["part_hw"] = part_hw
        self.workers: dict[str, ParityProcess] = {}
        self.seconds: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in VARIANTS}
        self.peak_mb: dict[str, float | None] = {}

    def ask(self, name: str, command: str, **fields: Any) -> Answer:
        """Ask a variant.

        Raises:
            ParityError: its process has ended.
        """
        try:
            return self.workers[name].ask(command, **fields)
        except WorkerError as error:
            raise ParityError(f"the parity report could not be made: the variant {name!r} failed, {error}") from error

    def start(self) -> None:
        """Start processes to fill the disk's cache, then those that are kept, whose loading counts."""
        for is_kept in (False, True):
            for name in VARIANTS if is_kept else VARIANTS[1:]:  # PyTorch has been imported by what wrote the files
                self.tell(f"parity: starting {name}")
                with ExitStack() as briefly:
                    process = ParityProcess()
                    self.workers[name] = (self.stack if is_kept else briefly).enter_context(process)
                    loaded = self.ask(name, "load", **self.loads[name])
                    if is_kept:
                        self.seconds[name]["load"].append(process.seconds_since_start())
                        self.peak_mb[name] = loaded["peak_mb"]

    def compare(self, pictures: Sequence[Path]) -> dict[str, _Found]:
        """Have all variants answer the same prompts; this warms them up as well."""
        found = {"default": _Found(), "export": _Found()}
        for index, path in enumerate(pictures):
            self.tell(f"parity: comparing, picture {index + 1} of {len(pictures)}")
            reference = self.refer(path)
            for name, so_far in found.items():
                self.ask(name, "encode", picture=str(path))
                out = self.workspace / f"{name}.npz"
                answer = self.ask(
                    name, "answer", prompts=reference.prompts, candidates=reference.candidates, out=str(out)
                )
                with np.load(out) as arrays:
                    if arrays["features"].size:
                        so_far.embedding_errors.append(relative_error(arrays["features"], reference.features))
                    add_answers(so_far, reference, answer, arrays["masks"], range(len(reference.prompts)))
        return found

    def refer(self, path: Path) -> _Reference:
        """Have the reference answer clicks, and then the boxes of what it found."""
        self.ask("reference", "encode", picture=str(path))
        h, w = read_image(path).shape[:2]
        clicks = clicks_on((h, w))
        of_clicks, features, packed = self._refer(clicks)
        unlike = {tuple(box) for box in of_clicks["boxes"] if box is not None}
        boxes = [{"box": list(box)} for box in sorted(unlike)]
        if not boxes:
            return _Reference(clicks, of_clicks["scores"], of_clicks["chosen"], features, packed, h * w)
        of_boxes, _, of_boxes_packed = self._refer(boxes)
        scores, chosen = (of_clicks[name] + of_boxes[name] for name in ("scores", "chosen"))
        packed = np.concatenate([packed, of_boxes_packed])
        return _Reference([*clicks, *boxes], scores, chosen, features, packed, h * w)

    def _refer(self, prompts: list[dict[str, Any]]) -> tuple[Answer, NDArray[np.float32], NDArray[np.uint8]]:
        out = self.workspace / "reference.npz"
        answer = self.ask("reference", "refer", prompts=prompts, out=str(out))
        with np.load(out) as arrays:
            return answer, arrays["features"], arrays["masks"]

    def time(self, pictures: Sequence[Path]) -> None:
        """Time all variants on the first pictures in each round; who begins goes round."""
        timed = [(path, clicks_on(read_image(path).shape)) for path in pictures[:MAX_TIMED_PICTURES]]
        for index in range(self.task.num_rounds):
            order = [VARIANTS[(index + place) % len(VARIANTS)] for place in range(len(VARIANTS))]
            for number, (path, clicks) in enumerate(timed):
                self.tell(f"parity: timing, round {index + 1} of {self.task.num_rounds}, picture {number + 1}")
                for name in order:
                    self.seconds[name]["encode"].append(self.ask(name, "encode", picture=str(path))["seconds"])
                    clicked = self.ask(name, "click", prompts=clicks)
                    self.seconds[name]["click"] += clicked["seconds"]
                    self.peak_mb[name] = clicked["peak_mb"]

    def compare_joint(self, pictures: Sequence[Path]) -> _Found:
        """Have the joint graph of the export answer some of the prompts."""
        found = _Found()
        for index, path in enumerate(pictures):
            self.tell(f"parity: joint graph, picture {index + 1} of {len(pictures)}")
            reference, out = self.refer(path), self.workspace / "joint.npz"
            rows = range(0, len(reference.prompts), JOINT_STRIDE)
            prompts, candidates = (
                [of_all[row] for row in rows] for of_all in (reference.prompts, reference.candidates)
            )
            self.ask("export", "encode", picture=str(path))
            answer = self.ask(
                "export", "joint", picture=str(path), prompts=prompts, candidates=candidates, out=str(out)
            )
            self.seconds["export"]["joint"].append(answer["seconds"])
            with np.load(out) as arrays:
                add_answers(found, reference, answer, arrays["masks"], rows)
        return found


def clicks_on(image_hw: tuple[int, ...]) -> list[dict[str, Any]]:
    """Single clicks on a grid over a picture, as fields of `Prompt.of`."""
    h, w = image_hw[:2]
    return [{"points": [[x * w, y * h]], "labels": [1]} for x, y in point_grid(CLICKS_PER_SIDE).tolist()]


def add_answers(
    found: _Found, reference: _Reference, answer: Answer, packed: NDArray[np.uint8], rows: Sequence[int]
) -> None:
    """Compare the answers to some prompts with those of the reference.

    Args:
        found: what they are added to.
        reference: of the same picture.
        answer: "tokens", "scores" and "chosen" of the prompts.
        packed: (R, ...), bits of their masks.
        rows: R prompts of the reference.
    """
    for index, row in enumerate(rows):
        token, is_box = answer["tokens"][index], "box" in reference.prompts[row]
        expected = reference.packed[row, token]
        found.ious.append(iou_of_bits(packed[index], expected, reference.area_px))
        found.is_box.append(is_box)
        found.score_errors.append(abs(answer["scores"][index] - reference.scores[row][token]))
        if not is_box and answer["chosen"][index] is not None:
            found.is_same_choice.append(answer["chosen"][index] == reference.chosen[row])


def relative_error(values: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Norm of the difference over the norm of what was expected."""
    difference = values.astype(np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected.astype(np.float64)))


def iou_of_bits(packed_a: NDArray[np.uint8], packed_b: NDArray[np.uint8], area_px: int) -> float:
    """Intersection over union of two masks, bits as `numpy.packbits` makes them; 1 where both are empty."""
    mask_a, mask_b = (np.unpackbits(packed, count=area_px) for packed in (packed_a, packed_b))
    union = np.count_nonzero(mask_a | mask_b)
    return np.count_nonzero(mask_a & mask_b) / union if union else 1.0
