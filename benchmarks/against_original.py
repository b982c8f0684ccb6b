"""Speed, memory and quality of our engines beside the original MobileSAM code, in one interleaved run.

Every variant lives in a process of its own and only one computes at a time. Within a round each variant encodes the
same pictures and answers the same clicks, and the order rotates from round to round, so that a slow spell of the
machine meets all of them. `ratio` is the original's median divided by the variant's, 2 means twice as fast; over all
pictures it is the geometric mean of the pictures' ratios, because their medians differ. Stages:

    encoder     the encoder's network alone, within set_image
    encode      set_image in a warm process; embedding_error is relative, the largest of the pictures
    click       predict of one point in a warm process; mask_iou_*: each of its three masks against the original's
    import      of the package, in a fresh process
    load        building the predictor, in a fresh process
    cold_start  import and load together
    first_mask  from process start to the first mask of the first picture; peak_rss_mb is that process's peak memory
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from remote import RemoteWorker
from report import MachineWatch, facts, publish, summarise

CLICKS_OF_PICTURE = ((0.5, 0.5), (0.25, 0.3), (0.8, 0.75))  # x, y as shares of width and height
SECONDS_BETWEEN_VARIANTS = 0.1  # lets a finished variant's spinning threads fall asleep
WARM_STAGES = ("encoder", "encode", "click")
COLD_STAGES = ("import", "load", "cold_start", "first_mask")

Seconds = dict[
    tuple[str, str, str], list[float]
]  # (variant, stage, picture) -> measurements; no picture in cold stages
Deviations = dict[tuple[str, str], dict[str, list[float]]]  # (variant, picture) -> what differs -> by how much


@dataclass(frozen=True)
class Setup:
    """What is compared and on what."""

    variants: tuple[str, ...]
    original_python: str
    our_python: str
    checkpoint: str
    pictures: tuple[str, ...]
    rounds: int
    cold_rounds: int
    threads: int | None

    def start(self, variant: str) -> RemoteWorker:
        """A fresh process of a variant."""
        python = self.original_python if variant == "original" else self.our_python
        options = ["--checkpoint", self.checkpoint] if variant == "original" else []
        options += ["--threads", str(self.threads)] if self.threads else []
        return RemoteWorker(variant, python, options)

    def order(self, round_index: int) -> tuple[str, ...]:
        """The variants, rotated by one place each round."""
        shift = round_index % len(self.variants)
        return self.variants[shift:] + self.variants[:shift]


def points_of(size_hw: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The clicks of a picture in its pixels, x then y."""
    for share_x, share_y in CLICKS_OF_PICTURE:
        yield int(size_hw[1] * share_x), int(size_hw[0] * share_y)


def measure_warm(setup: Setup, workers: dict[str, RemoteWorker], seconds: Seconds) -> None:
    """Alternate the variants over pictures and clicks; adds to the stages encoder, encode and click."""
    for round_index in range(setup.rounds):
        print(f"round {round_index + 1} of {setup.rounds}", file=sys.stderr)
        for picture in setup.pictures:
            for variant in setup.order(round_index):
                time.sleep(SECONDS_BETWEEN_VARIANTS)
                encoded = workers[variant].ask("encode", picture=picture)
                seconds[variant, "encode", picture].append(encoded["seconds"])
                seconds[variant, "encoder", picture].append(encoded["network_seconds"])
                for x, y in points_of(encoded["size_hw"]):
                    clicked = workers[variant].ask("click", x=x, y=y)
                    seconds[variant, "click", picture].append(clicked["seconds"])


def measure_cold(setup: Setup, seconds: Seconds) -> dict[str, list[float]]:
    """Start fresh processes; adds to the other stages and returns each variant's peak memory in MB."""
    peaks_mb: dict[str, list[float]] = defaultdict(list)
    for round_index in range(setup.cold_rounds):
        print(f"cold round {round_index + 1} of {setup.cold_rounds}", file=sys.stderr)
        for variant in setup.order(round_index):
            time.sleep(SECONDS_BETWEEN_VARIANTS)
            with setup.start(variant) as worker:
                loaded = worker.ask("load")
                encoded = worker.ask("encode", picture=setup.pictures[0])
                x, y = next(points_of(encoded["size_hw"]))
                clicked = worker.ask("click", x=x, y=y)
                seconds[variant, "first_mask", ""].append(worker.seconds_since_start())
            seconds[variant, "import", ""].append(loaded["import_seconds"])
            seconds[variant, "load", ""].append(loaded["build_seconds"])
            seconds[variant, "cold_start", ""].append(loaded["seconds"])
            peaks_mb[variant].append(clicked["peak_rss_mb"])
    return peaks_mb


def record_answers(worker: RemoteWorker, picture: str, folder: Path) -> list[dict[str, NDArray[Any]]]:
    """What a worker answers for a picture: its embedding, then the masks of each click. Also warms the worker up."""
    answers = []
    path = str(folder / "answer.npz")
    encoded = worker.ask("encode", picture=picture, save=path)
    answers.append(dict(np.load(path)))
    for x, y in points_of(encoded["size_hw"]):
        worker.ask("click", x=x, y=y, save=path)
        answers.append(dict(np.load(path)))
    return answers


def mask_ious(bits_a: NDArray[np.uint8], bits_b: NDArray[np.uint8]) -> list[float]:
    """IoU of packed masks, pairwise: two (M, bytes) -> M numbers; two empty masks agree."""
    shared_px = np.bitwise_count(bits_a & bits_b).sum(axis=1, dtype=np.int64)  # (M,)
    either_px = np.bitwise_count(bits_a | bits_b).sum(axis=1, dtype=np.int64)  # (M,)
    return [float(shared / either) if either else 1.0 for shared, either in zip(shared_px, either_px, strict=True)]


def compare(ours: list[dict[str, NDArray[Any]]], originals: list[dict[str, NDArray[Any]]]) -> dict[str, list[float]]:
    """Deviations of one variant's recorded answers from the original's."""
    deviations: dict[str, list[float]] = defaultdict(list)
    for our, original in zip(ours, originals, strict=True):
        if "embedding" in our:
            error = np.linalg.norm(our["embedding"] - original["embedding"]) / np.linalg.norm(original["embedding"])
            deviations["embedding_error"].append(float(error))
            continue
        deviations["mask_iou"] += mask_ious(our["masks"], original["masks"])
        deviations["predicted_iou_error"].append(float(np.abs(our["predicted_iou"] - original["predicted_iou"]).max()))
        deviations["logit_error"].append(float(np.abs(our["low_res_logits"] - original["low_res_logits"]).max()))
    return deviations


def judge(setup: Setup, workers: dict[str, RemoteWorker]) -> Deviations:
    """Deviations of every variant from the original, over the clicks of each picture."""
    deviations: Deviations = {}
    with tempfile.TemporaryDirectory() as folder:
        for picture in setup.pictures:
            answers = {variant: record_answers(workers[variant], picture, Path(folder)) for variant in setup.variants}
            for variant in setup.variants:
                deviations[variant, picture] = compare(answers[variant], answers["original"])
    return deviations


def quality_columns(stage: str, found: Sequence[dict[str, list[float]]]) -> dict[str, Any]:
    """The columns of quality that belong to a stage, over the pictures whose deviations are given."""
    columns = dict.fromkeys(("embedding_error", "mask_iou_mean", "mask_iou_min", "predicted_iou_error", "logit_error"))
    if stage == "encode":
        return columns | {"embedding_error": max(chain(*(one["embedding_error"] for one in found)))}
    if stage == "click":
        ious = list(chain(*(one["mask_iou"] for one in found)))
        columns |= {"mask_iou_mean": f"{fmean(ious):.6f}", "mask_iou_min": f"{min(ious):.6f}"}
        for name in ("predicted_iou_error", "logit_error"):
            columns[name] = max(chain(*(one[name] for one in found)))
    return columns


def row_of(variant: str, stage: str, pictures: Sequence[str], seconds: Seconds) -> dict[str, Any]:
    """The columns of time of a variant in a stage, over some pictures."""
    summary = summarise(list(chain(*(seconds[variant, stage, picture] for picture in pictures))))
    ratios = [
        summarise(seconds["original", stage, picture]).median / summarise(seconds[variant, stage, picture]).median
        for picture in pictures
    ]
    row = {"variant": variant, "stage": stage, "picture": Path(pictures[0]).name if len(pictures) == 1 else "all"}
    times = {"median_s": summary.median, "iqr_s": summary.iqr, "n": summary.n, "ratio": geometric_mean(ratios)}
    return row | times


def tabulate(
    setup: Setup, seconds: Seconds, peaks_mb: dict[str, list[float]], deviations: Deviations
) -> list[dict[str, Any]]:
    """One row per stage, picture and variant, the quality in the row of the stage that makes it."""
    rows = []
    groups = [(stage, [picture]) for stage in WARM_STAGES for picture in setup.pictures]
    if len(setup.pictures) > 1:
        groups = [(stage, list(setup.pictures)) for stage in WARM_STAGES] + groups
    for stage, pictures in [*groups, *((stage, [""]) for stage in COLD_STAGES)]:
        for variant in setup.variants:
            row = row_of(variant, stage, pictures, seconds)
            row["peak_rss_mb"] = summarise(peaks_mb[variant]).median if stage == "first_mask" else None
            rows.append(row | quality_columns(stage, [deviations.get((variant, name), {}) for name in pictures]))
    return rows


def run(setup: Setup) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The whole comparison: rows, and lines about it for the header."""
    seconds: Seconds = defaultdict(list)
    with ExitStack() as stack:
        workers = {variant: stack.enter_context(setup.start(variant)) for variant in setup.variants}
        loaded = {variant: worker.ask("load") for variant, worker in workers.items()}
        deviations = judge(setup, workers)
        measure_warm(setup, workers, seconds)
    peaks_mb = measure_cold(setup, seconds)
    notes = {
        "threads": str(setup.threads or "each package's default"),
        "torch imported": ", ".join(f"{name} {answer['torch_is_imported']}" for name, answer in loaded.items()),
        "masks compared": str(sum(len(deviations["original", picture]["mask_iou"]) for picture in setup.pictures)),
    }
    return tabulate(setup, seconds, peaks_mb, deviations), notes


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original-python", required=True, help="interpreter of make_original_env.py's environment")
    parser.add_argument("--our-python", default=sys.executable, help="interpreter that has our package (default: this)")
    parser.add_argument("--checkpoint", required=True, help="the official mobile_sam.pt")
    parser.add_argument("--pictures", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--variants", nargs="+", default=["onnxruntime", "torch"], help="our engines, beside original")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cold-rounds", type=int, help="fresh processes per variant (default: as many as --rounds)")
    parser.add_argument("--threads", type=int, help="the same for all; default: what each package picks")
    parser.add_argument("--name", default="against_original", help="writes results/NAME.csv")
    return parser.parse_args()


def main() -> None:
    """Compare, write and print."""
    given = parse_arguments()
    setup = Setup(
        variants=("original", *(variant for variant in given.variants if variant != "original")),
        original_python=given.original_python,
        our_python=given.our_python,
        checkpoint=given.checkpoint,
        pictures=tuple(given.pictures),
        rounds=given.rounds,
        cold_rounds=given.cold_rounds or given.rounds,
        threads=given.threads,
    )
    environments = {"original": setup.original_python}
    if len(setup.variants) > 1:
        environments["ours"] = setup.our_python
    header = facts(environments)
    watch = MachineWatch()
    rows, notes = run(setup)
    publish(given.name, rows, {**header, **notes, **watch.facts()})


if __name__ == "__main__":
    main()
