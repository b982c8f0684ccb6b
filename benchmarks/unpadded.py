"""What `encode(..., unpadded=True)` wins and costs: seconds of the encoder, and masks against the padded encoding.

    python benchmarks/unpadded.py --pictures PICTURES --threads 2

A picture that is no square fills up to a square with zeros. Unpadded encoding runs the encoder on the picture and a
margin alone and fills the embedding up with that of an empty picture. In each round the whole square and each margin
are timed in turns, another one first each time; the part of the square is cut out beforehand. Pictures that are nearly
squares, of which nothing is left out, say so with an area of 1.

    area            share of the square that is encoded
    median_s, ...   wall seconds of the encoder: median, interquartile range, how many runs
    cpu_s           median of its CPU seconds, over all threads: with --threads 1 they hardly feel other processes
    ratio, ...      seconds of the whole square divided by these
    mask_iou_*      of the three masks of each click of a grid of --clicks x --clicks, at low resolution, with those of
                    the padded encoding; best: of the mask alone whose predicted IoU was best
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from clicks import ClickAnswers, click_on_grid, mask_ious
from numpy.typing import NDArray
from report import MachineWatch, facts, publish, summarise

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.images import read_image
from mobile_sam.engines import Engine, make_engine

WHOLE = None  # in place of a margin

Row = dict[str, Any]
Seconds = tuple[float, float]  # of the wall clock, and of all threads together


class Picture:
    """A picture as the encoder gets it, whole and in parts."""

    def __init__(self, engine: Engine, path: str, margins_px: Sequence[int]) -> None:
        self.name = Path(path).name
        pixels = read_image(path)
        self.resize = LongSideResize((pixels.shape[0], pixels.shape[1]), engine.input_side)
        square = engine.normalise_and_pad(self.resize.resize_image(pixels))[None]  # (1, 3, S, S)
        self.inputs: dict[int | None, NDArray[np.float32]] = {WHOLE: square}
        for margin_px in margins_px:
            height, width = engine.part_hw(self.resize.input_hw, margin_px)
            self.inputs[margin_px] = np.ascontiguousarray(square[:, :, :height, :width])

    def encode(self, engine: Engine, margin_px: int | None) -> tuple[Seconds, NDArray[np.float32]]:
        """Wall and CPU seconds of the encoder, and the features filled up."""
        model_input = self.inputs[margin_px]
        encode = engine.encode_input if model_input.shape == self.inputs[WHOLE].shape else engine.encode_part
        start, cpu_start = time.perf_counter(), time.process_time()
        features = encode(model_input)
        taken = (time.perf_counter() - start, time.process_time() - cpu_start)
        return taken, engine.fill_up(features)

    def answers(self, engine: Engine, margin_px: int | None, clicks_per_side: int) -> ClickAnswers:
        """The masks of the grid of clicks."""
        _, features = self.encode(engine, margin_px)
        sizes = (self.resize.image_hw, self.resize.input_hw)
        return click_on_grid(engine, Embedding(features, *sizes, engine.model_id), clicks_per_side)


def time_in_turns(engine: Engine, picture: Picture, rounds: int) -> dict[int | None, list[Seconds]]:
    """Seconds of each way of encoding, the first round left out."""
    seconds: dict[int | None, list[Seconds]] = defaultdict(list)
    ways = list(picture.inputs)
    for round_index in range(rounds + 1):
        shift = round_index % len(ways)
        for way in ways[shift:] + ways[:shift]:
            taken, _ = picture.encode(engine, way)
            if round_index:
                seconds[way].append(taken)
    return seconds


def measure(engine: Engine, picture: Picture, rounds: int, clicks_per_side: int) -> list[Row]:
    """One row for each margin."""
    seconds = time_in_turns(engine, picture, rounds)
    medians = {way: [summarise(clock).median for clock in zip(*taken, strict=True)] for way, taken in seconds.items()}
    (whole_s, whole_cpu_s), whole = medians[WHOLE], picture.inputs[WHOLE]
    expected = picture.answers(engine, WHOLE, clicks_per_side)
    rows = []
    for margin_px, part in picture.inputs.items():
        if margin_px is WHOLE:
            continue
        all_ious, best_ious = mask_ious(picture.answers(engine, margin_px, clicks_per_side), expected)
        summary, cpu_s = summarise([wall_s for wall_s, _ in seconds[margin_px]]), medians[margin_px][1]
        row = {
            "picture": picture.name,
            "margin_px": margin_px,
            "part": f"{part.shape[3]}x{part.shape[2]}",
            "area": part.size / whole.size,
        }
        row |= {"median_s": summary.median, "iqr_s": summary.iqr, "n": summary.n, "cpu_s": cpu_s}
        row |= {"ratio": whole_s / summary.median, "cpu_ratio": whole_cpu_s / cpu_s}
        row |= {"mask_iou_mean": all_ious.mean(), "mask_iou_p05": np.quantile(all_ious, 0.05)}
        rows.append(row | {"mask_iou_best_mean": best_ious.mean(), "mask_iou_best_p05": np.quantile(best_ious, 0.05)})
    return rows


def means(rows: Sequence[Row], margins_px: Sequence[int]) -> list[Row]:
    """One row for each margin, over all pictures."""
    summed_up = []
    for margin_px in margins_px:
        chosen = [row for row in rows if row["margin_px"] == margin_px]
        row: Row = {"picture": "mean", "margin_px": margin_px, "part": ""}
        numbers = [key for key in chosen[0] if key not in row]
        summed_up.append(row | {key: float(np.mean([one[key] for one in chosen])) for key in numbers})
    return [row | {"n": len(rows) // len(margins_px)} for row in summed_up]


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--margins", nargs="+", type=int, default=[0, 48, 96], metavar="PX", help="multiples of 16")
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=0, help="of the engine (default: its own choice)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clicks", type=int, default=6, help="to a side of the grid (default: 6)")
    parser.add_argument("--name", default="unpadded", help="writes results/NAME.csv")
    return parser.parse_args()


def main() -> None:
    """Measure, write and print."""
    given = parse_arguments()
    header, watch = facts(), MachineWatch()
    engine = make_engine(given.engine, num_threads=given.threads)
    rows: list[Row] = []
    for path in given.pictures:
        picture = Picture(engine, path, given.margins)
        rows += measure(engine, picture, given.rounds, given.clicks)
        print(f"{picture.name}: mask IoU {rows[-1]['mask_iou_mean']:.3f} at {given.margins[-1]} px", file=sys.stderr)
    notes = {"engine": given.engine, "threads": str(given.threads or "its own choice"), "clicks": f"{given.clicks**2}"}
    publish(given.name, [*means(rows, given.margins), *rows], {**header, **notes, **watch.facts()})


if __name__ == "__main__":
    main()
