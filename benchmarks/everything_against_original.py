"""Speed, memory and masks of "segment everything" beside the original MobileSAM code, in one interleaved run.

SamAutomaticMaskGenerator with its defaults, on one photograph that is first resized to a longer side of --size. Every
variant lives in a process of its own and only one computes at a time. A first round in fresh processes gives memory
and masks and warms up; the later rounds, in rotated order, are timed. The original takes minutes, so that it may sit
out some of them (--original-rounds).

    exact, fast              our two modes on onnxruntime
    torch-exact, torch-fast  the same on torch, and so for openvino- and openvino-bf16-

    first_s              generate in a fresh process (after loading)
    median_s, iqr_s,     generate in a warm process; n is how often it ran
    min_s, n
    ratio                the original's median divided by this one: 2 means twice as fast
    paired_ratio         median over the rounds in which both ran of the original's seconds divided by these
    masks, points        masks found, points decoded
    peak_rss_mb          largest resident memory of "import, load, read, generate" in a fresh process, 10^6 bytes
    found_iou_0.99, ..   share of the original's masks that have a partner of at least that mask IoU
    best_iou_mean        mean over the original's masks of the IoU of the mask that fits best
    predicted_iou_error  largest absolute difference between partners of at least IoU 0.99
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from against_original import SECONDS_BETWEEN_VARIANTS, Setup
from numpy.typing import NDArray
from PIL import Image
from remote import RemoteWorker
from report import MachineWatch, facts, publish, summarise

from mobile_sam.core.rle import Rle, encode_rle
from mobile_sam.evaluate.average_recall import overlaps

VARIANTS: dict[str, tuple[str, dict[str, str]]] = {  # name -> engine, settings of the generator
    "original": ("original", {}),
    "exact": ("onnxruntime", {"mode": "exact"}),
    "fast": ("onnxruntime", {"mode": "fast"}),
    "torch-exact": ("torch", {"mode": "exact"}),
    "torch-fast": ("torch", {"mode": "fast"}),
    "openvino-exact": ("openvino", {"mode": "exact"}),
    "openvino-fast": ("openvino", {"mode": "fast"}),
    "openvino-bf16-exact": ("openvino:bf16", {"mode": "exact"}),
    "openvino-bf16-fast": ("openvino:bf16", {"mode": "fast"}),
}
PARTNER_IOUS = (0.99, 0.8)

Seconds = dict[str, dict[int, float]]  # variant -> round -> measurement


@dataclass(frozen=True)
class EverythingSetup(Setup):
    """What is compared: the variants by the names above, on the only one of `pictures`; one cold round comes first."""

    original_rounds: int
    points_per_side: int

    def start(self, variant: str) -> RemoteWorker:
        """A fresh process of a variant."""
        return super().start(VARIANTS[variant][0])

    def settings(self, variant: str) -> dict[str, Any]:
        """The generator's settings, the defaults but for what differs between the variants."""
        return {"points_per_side": self.points_per_side, **VARIANTS[variant][1]}

    def has_turn(self, variant: str, round_index: int) -> bool:
        """Whether a variant runs in a round: the original's rounds are spread evenly over all."""
        turns = {int((i + 0.5) * self.rounds / self.original_rounds) for i in range(self.original_rounds)}
        return variant != "original" or round_index in turns


@dataclass(frozen=True)
class Made:
    """What a variant made of the picture in its first run."""

    answer: dict[str, Any]  # of worker.py
    masks: list[Rle]
    predicted_iou: NDArray[np.float64]  # (N,)


def save_resized(picture: str | Path, longer_side_px: int, folder: Path) -> Path:
    """A picture as a PNG of that longer side, shrunk or enlarged; made only once for each name and size."""
    path = folder / f"{Path(picture).stem}_{longer_side_px}.png"
    if not path.exists():
        image = Image.open(picture).convert("RGB")
        scale = longer_side_px / max(image.size)
        size_wh = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
        image.resize(size_wh, Image.Resampling.LANCZOS).save(path, compress_level=1)
    return path


def read_made(answer: dict[str, Any], path: Path) -> Made:
    """What a worker said and saved."""
    with np.load(path) as saved:
        bits, predicted_iou, (height, width) = saved["masks"], saved["predicted_iou"], saved["size_hw"]
    masks = [
        encode_rle(np.unpackbits(of_mask, count=height * width).view(bool).reshape(height, width)) for of_mask in bits
    ]
    return Made(answer, masks, predicted_iou)


def run_first(setup: EverythingSetup, workers: dict[str, RemoteWorker], stack: ExitStack) -> dict[str, Made]:
    """Start each variant and have it run once; they stay in `workers` until `stack` ends."""
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "masks.npz"
        for variant in setup.variants:
            time.sleep(SECONDS_BETWEEN_VARIANTS)
            worker = workers[variant] = stack.enter_context(setup.start(variant))
            worker.ask("load")
            answer = worker.ask(
                "everything", picture=setup.pictures[0], settings=setup.settings(variant), save=str(path)
            )
            made[variant] = read_made(answer, path)
            print(f"first, {variant}: {answer['seconds']:.1f} s, {answer['num_masks']} masks", file=sys.stderr)
    return made


def measure(setup: EverythingSetup, workers: dict[str, RemoteWorker]) -> Seconds:
    """Let the variants take turns."""
    seconds: Seconds = defaultdict(dict)
    for round_index in range(setup.rounds):
        for variant in setup.order(round_index):
            if not setup.has_turn(variant, round_index):
                continue
            time.sleep(SECONDS_BETWEEN_VARIANTS)
            answer = workers[variant].ask("everything", picture=setup.pictures[0], settings=setup.settings(variant))
            seconds[variant][round_index] = answer["seconds"]
            print(f"round {round_index + 1} of {setup.rounds}, {variant}: {answer['seconds']:.1f} s", file=sys.stderr)
    return seconds


def quality_columns(made: Made, original: Made) -> dict[str, Any]:
    """How a variant's masks agree with the original's; without any mask of the original nothing can be said."""
    names = (*(f"found_iou_{iou}" for iou in PARTNER_IOUS), "best_iou_mean", "predicted_iou_error")
    if not original.masks:
        return dict.fromkeys(names)
    if not made.masks:
        return dict(zip(names, (*("0" for _ in PARTNER_IOUS), 0.0, None), strict=True))
    ious = overlaps(original.masks, made.masks)  # (N, M)
    best_iou, partner = ious.max(axis=1), ious.argmax(axis=1)  # both (N,)
    error = np.abs(made.predicted_iou[partner] - original.predicted_iou)[best_iou >= max(PARTNER_IOUS)]
    shares = [f"{np.mean(best_iou >= iou):.4f}" for iou in PARTNER_IOUS]
    error_max = float(error.max()) if error.size else None
    return dict(zip(names, (*shares, f"{best_iou.mean():.6f}", error_max), strict=True))


def tabulate(setup: EverythingSetup, seconds: Seconds, made: dict[str, Made]) -> list[dict[str, Any]]:
    """One row per variant."""
    rows = []
    of_original = seconds["original"]
    for variant in setup.variants:
        of_variant, answer = seconds[variant], made[variant].answer
        summary = summarise(list(of_variant.values()))
        paired = [of_original[index] / of_variant[index] for index in of_original]
        num_points = answer["num_points"]
        rows.append(
            {
                "variant": variant,
                "first_s": answer["seconds"],
                "median_s": summary.median,
                "iqr_s": summary.iqr,
                "min_s": min(of_variant.values()),
                "n": summary.n,
                "ratio": summarise(list(of_original.values())).median / summary.median,
                "paired_ratio": summarise(paired).median,
                "masks": answer["num_masks"],
                "points": setup.points_per_side**2 if num_points is None else num_points,
                "peak_rss_mb": answer["peak_rss_mb"],
                **quality_columns(made[variant], made["original"]),
            }
        )
    return rows


def run(setup: EverythingSetup) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The whole comparison: rows, and lines about it for the header."""
    with ExitStack() as stack:
        workers: dict[str, RemoteWorker] = {}
        made = run_first(setup, workers, stack)
        seconds = measure(setup, workers)
    height, width = made["original"].answer["size_hw"]
    notes = {
        "pixels": f"{width} x {height}",
        "points per side": str(setup.points_per_side),
        "threads": str(setup.threads or "each package's default"),
    }
    return tabulate(setup, seconds, made), notes


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original-python", required=True, help="interpreter of make_original_env.py's environment")
    parser.add_argument("--our-python", default=sys.executable, help="interpreter that has our package (default: this)")
    parser.add_argument("--checkpoint", required=True, help="the official mobile_sam.pt")
    parser.add_argument("--picture", required=True, metavar="FILE")
    parser.add_argument("--size", type=int, default=2048, help="longer side to resize to, in pixels (default: 2048)")
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="default: all; original always runs"
    )
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each variant (default: 3)")
    parser.add_argument("--original-rounds", type=int, default=2, help="timed runs of the original (default: 2)")
    parser.add_argument("--points-per-side", type=int, default=32, help="default: 32, as in both packages")
    parser.add_argument("--threads", type=int, help="the same for all; default: what each package picks")
    parser.add_argument("--name", default="everything_against_original", help="writes results/NAME.csv")
    given = parser.parse_args(arguments)
    if not 1 <= given.original_rounds <= given.rounds:
        parser.error(f"--original-rounds must be 1 to --rounds ({given.rounds}), got {given.original_rounds}")
    return given


def main() -> None:
    """Compare, write and print."""
    given = parse_arguments()
    header = facts({"original": given.original_python, "ours": given.our_python})
    with tempfile.TemporaryDirectory() as folder:
        setup = EverythingSetup(
            variants=("original", *(variant for variant in given.variants if variant != "original")),
            original_python=given.original_python,
            our_python=given.our_python,
            checkpoint=given.checkpoint,
            pictures=(str(save_resized(given.picture, given.size, Path(folder))),),
            rounds=given.rounds,
            cold_rounds=1,
            threads=given.threads,
            original_rounds=given.original_rounds,
            points_per_side=given.points_per_side,
        )
        watch = MachineWatch()
        rows, notes = run(setup)
    publish(given.name, rows, {**header, "picture": Path(given.picture).name, **notes, **watch.facts()})


if __name__ == "__main__":
    main()
