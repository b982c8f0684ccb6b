"""The torch engine on a GPU: encoder, click, pictures per second and everything mode, in each precision.

    python benchmarks/gpu.py --pictures PICTURES
    python benchmarks/gpu.py --pictures PICTURES --compile

The variants (precision, with and without CUDA graphs, with --compile also compiled) take turns in each round. Inputs
and features stay on the device but for stage `pictures`; the device is waited for before and after what is timed. With
--device cpu --rounds 1 it runs anywhere, which shows that it runs and no more.

    stage           encoder: normalised squares to features; click: features and a point to three low-resolution masks;
                    pictures: arrays to embeddings in memory, with resizing and both transfers; everything:
                    SamAutomaticMaskGenerator with its defaults on the first picture
    batch           pictures encoded at once
    median_ms, ...  for the whole batch: median, interquartile range, how many runs
    per_s           pictures (or clicks) per second, from the median
    mask_iou_*      of the three masks of each click of a grid, on all pictures, with those of fp32 without graphs, for
                    embeddings made in batches of that size; best: of the mask alone whose predicted IoU was best
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clicks import ClickAnswers, click_on_grid, mask_ious
from numpy.typing import NDArray
from report import MachineWatch, facts, publish, summarise

from mobile_sam import SamAutomaticMaskGenerator, build_sam_vit_t
from mobile_sam.core.embedding import Embedding
from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.images import read_image
from mobile_sam.core.predictions import MULTI_MASK
from mobile_sam.engines.pytorch import AUTOCAST_DTYPES, TorchEngine

PRECISIONS = ("fp32", *AUTOCAST_DTYPES)

Row = dict[str, Any]
Seconds = dict[tuple[str, int], list[float]]  # by stage and batch


@dataclass(frozen=True)
class Variant:
    """One way to run the torch engine."""

    precision: str
    cuda_graphs: bool = False
    compile: bool = False


class Subject:
    """A variant with the pictures on its device."""

    def __init__(
        self, variant: Variant, device: str, pictures: Sequence[NDArray[np.uint8]], batches: list[int]
    ) -> None:
        self.variant, self.pictures, self.batches = variant, pictures, batches
        self.engine = TorchEngine(
            build_sam_vit_t("mobile_sam"),
            device=device,
            precision=variant.precision,
            cuda_graphs=variant.cuda_graphs,
            compile=variant.compile,
        )
        self.engine.images_at_once = max(batches)
        self.resizes = [LongSideResize((one.shape[0], one.shape[1]), self.engine.input_side) for one in pictures]
        inputs = [
            self.engine.normalise_and_pad(resize.resize_image(one))
            for one, resize in zip(pictures, self.resizes, strict=True)
        ]
        self.inputs = {batch: self._repeated(inputs, batch) for batch in batches}
        self.point_xy = torch.tensor([[[512.0, 340.0], [0.0, 0.0]]], device=device)  # and SAM's padding point
        self.labels = torch.tensor([[1.0, -1.0]], device=device)
        self.generator = SamAutomaticMaskGenerator(engine=self.engine)

    def _repeated(self, inputs: list[NDArray[np.float32]], batch: int) -> torch.Tensor:
        rows = [inputs[index % len(inputs)] for index in range(batch)]
        return torch.from_numpy(np.stack(rows)).to(self.engine.device)  # (B, 3, S, S)

    def seconds_of(self, function: Callable[[], object]) -> float:
        """Seconds that a call takes until the device is done."""
        self.wait()
        start = time.perf_counter()
        function()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        """Wait for what runs on the device."""
        if self.engine.device.type == "cuda":
            torch.cuda.synchronize(self.engine.device)

    def run_round(self, has_everything: bool) -> dict[tuple[str, int], float]:
        """Seconds of each stage and batch, once."""
        engine = self.engine
        features = engine.encode_tensor(self.inputs[min(self.batches)])[:1]
        prompt = (self.point_xy, self.labels, MULTI_MASK)
        engine.decode_tensors(features, *prompt)
        found = {("click", 1): self.seconds_of(lambda: engine.decode_tensors(features, *prompt))}
        for batch in self.batches:
            model_input = self.inputs[batch]
            found["encoder", batch] = self.seconds_of(lambda given=model_input: engine.encode_tensor(given))
            arrays = [self.pictures[index % len(self.pictures)] for index in range(batch)]
            found["pictures", batch] = self.seconds_of(lambda given=arrays: engine.encode(given))
        if has_everything:
            found["everything", 1] = self.seconds_of(lambda: self.generator.generate(self.pictures[0]))
        return found

    def answers(self, batch: int, clicks_per_side: int) -> list[ClickAnswers]:
        """The masks of the grid of clicks on each picture, encoded in batches of that size."""
        answers = []
        rows = iter(range(len(self.pictures)))
        while some := list(islice(rows, batch)):
            picked = [some[index % len(some)] for index in range(batch)]  # the last batch filled up
            arrays = [
                self.engine.normalise_and_pad(self.resizes[row].resize_image(self.pictures[row])) for row in picked
            ]
            features = self.engine.encode_tensor(torch.from_numpy(np.stack(arrays)).to(self.engine.device))
            for row, one in zip(some, features.cpu().numpy(), strict=False):
                sizes = (self.resizes[row].image_hw, self.resizes[row].input_hw)
                embedding = Embedding(one[None].copy(), *sizes, self.engine.model_id)
                answers.append(click_on_grid(self.engine, embedding, clicks_per_side))
        return answers


def quality(found: Sequence[ClickAnswers], expected: Sequence[ClickAnswers]) -> Row:
    """The columns of quality."""
    ious = [mask_ious(*pair) for pair in zip(found, expected, strict=True)]
    every = np.concatenate([all_of.ravel() for all_of, _ in ious])
    best = np.concatenate([best_of for _, best_of in ious])
    return {"mask_iou_mean": every.mean(), "mask_iou_p05": np.quantile(every, 0.05), "mask_iou_best_mean": best.mean()}


def time_in_turns(subjects: Sequence[Subject], rounds: int, everything_rounds: int) -> list[Seconds]:
    """Seconds of each variant; one round that warms up (and records and compiles) does not count."""
    seconds: list[Seconds] = [defaultdict(list) for _ in subjects]
    for round_index in range(rounds + 1):
        shift = round_index % len(subjects)
        for index in [*range(shift, len(subjects)), *range(shift)]:
            found = subjects[index].run_round(has_everything=0 < round_index <= everything_rounds)
            if round_index:
                for key, taken_s in found.items():
                    seconds[index][key].append(taken_s)
        print(f"round {round_index} of {rounds}", file=sys.stderr)
    return seconds


def tabulate(subjects: Sequence[Subject], seconds: Sequence[Seconds], clicks_per_side: int) -> list[Row]:
    """One row for each stage, batch and variant."""
    batches = subjects[0].batches
    expected = subjects[0].answers(min(batches), clicks_per_side)
    rows: list[Row] = []
    for subject, taken in zip(subjects, seconds, strict=True):
        qualities = {batch: quality(subject.answers(batch, clicks_per_side), expected) for batch in batches}
        for (stage, batch), runs in taken.items():
            variant, summary = subject.variant, summarise([1e3 * one for one in runs])
            row: Row = {"stage": stage, "batch": batch, "precision": variant.precision}
            row |= {"cuda_graphs": variant.cuda_graphs, "compile": variant.compile}
            row |= {"median_ms": summary.median, "iqr_ms": summary.iqr, "n": summary.n}
            rows.append(row | {"per_s": 1e3 * batch / summary.median} | qualities.get(batch, qualities[min(batches)]))
    return sorted(rows, key=lambda row: (row["stage"], row["batch"]))


def variants_for(device: str, compiles: bool) -> list[Variant]:
    """All variants of a device, fp32 without anything first."""
    has_graphs = (False, True) if device.startswith("cuda") else (False,)
    ways = [(graphs, compiled) for compiled, graphs in product((False, True) if compiles else (False,), has_graphs)]
    return [Variant(precision, *way) for way in ways for precision in PRECISIONS]


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--compile", action="store_true", help="also with torch.compile, which takes minutes to begin")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--everything-rounds", type=int, default=3, help="0 leaves it out")
    parser.add_argument("--clicks", type=int, default=6, help="to a side of the grid (default: 6)")
    parser.add_argument("--tf32", action="store_true", help="let fp32 use TF32, which it is not exact with")
    parser.add_argument("--name", default="gpu", help="writes results/NAME.csv")
    return parser.parse_args()


def main() -> None:
    """Measure, write and print."""
    given = parse_arguments()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = given.tf32
    header, watch = facts(), MachineWatch()
    pictures = [read_image(Path(path)) for path in given.pictures]
    variants = variants_for(given.device, given.compile)
    subjects = [Subject(variant, given.device, pictures, sorted(given.batches)) for variant in variants]
    rows = tabulate(subjects, time_in_turns(subjects, given.rounds, given.everything_rounds), given.clicks)
    is_cuda = given.device.startswith("cuda")
    notes = {"device": torch.cuda.get_device_name(given.device) if is_cuda else given.device, "tf32": str(given.tf32)}
    publish(given.name, rows, {**header, **notes, **watch.facts()})


if __name__ == "__main__":
    main()
