"""Pictures a second of `mobile-sam bulk --task embed` beside the bare engine on all cores.

    bare AxB         A processes with an engine of B threads each, which encode pictures that are decoded already
    bulk AxB         `run_bulk` with A workers of B threads: reads, decodes, encodes, writes float16, keeps the manifest
    pace             pictures a second once the workers are at work, from the first picture that is told of to the last
    whole            pictures a second of the whole run: listing, starting the workers, loading the models, finishing
    ratio            of the pace to that of the quickest bare variant

The variants take turns, round by round, with the same pictures, each round into an empty folder.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from report import RESULTS, MachineWatch, facts, publish, summarise

COLUMNS = ("variant", "num_pictures", "pace_per_s", "iqr", "n", "whole_per_s", "ratio")


def encode_share(engine_name: str, threads: int, paths: list[str], barrier: Any, spans: Any) -> None:
    """In a process of its own: load, decode, and when all are ready encode; puts the seconds it began and ended."""
    from mobile_sam import read_image
    from mobile_sam.engines import make_engine

    engine = make_engine(engine_name, num_threads=threads)
    pictures = [read_image(path) for path in paths]
    engine.encode(pictures[:1])  # warm
    barrier.wait()
    begun_s = time.time()
    for picture in pictures:
        engine.encode([picture])
    spans.put((begun_s, time.time()))


def bare(engine: str, workers: int, threads: int, paths: list[str]) -> tuple[float, None]:
    """Pictures a second of the engine alone."""
    context = multiprocessing.get_context("spawn")
    barrier, spans = context.Barrier(workers), context.Queue()
    shares = [paths[number::workers] for number in range(workers)]
    processes = [
        context.Process(target=encode_share, args=(engine, threads, share, barrier, spans)) for share in shares
    ]
    for process in processes:
        process.start()
    found = [spans.get() for _ in processes]
    for process in processes:
        process.join()
    return len(paths) / (max(end for _, end in found) - min(begun for begun, _ in found)), None


def bulk(engine: str, workers: int, threads: int, paths: list[str]) -> tuple[float, float]:
    """Pictures a second of a bulk run: once at work, and of the whole."""
    from mobile_sam.bulk.local import LocalExecutor
    from mobile_sam.bulk.run import BulkRequest, run_bulk
    from mobile_sam.bulk.settings import BulkSettings

    told: list[tuple[float, float]] = []  # when, how many

    def progress(num_done: float, num_failed: int, num_all: float) -> None:
        told.append((time.perf_counter(), num_done))

    with tempfile.TemporaryDirectory() as folder:
        settings = BulkSettings(task="embed", out=str(Path(folder, "out")), engine=engine, num_threads=threads)
        begun_s = time.perf_counter()
        summary = run_bulk(
            BulkRequest(settings, tuple(paths)), lambda filled: LocalExecutor(filled, workers), progress=progress
        )
        whole_s = time.perf_counter() - begun_s
        assert summary.counts.num_done == len(paths), summary
    first = next(entry for entry in told if entry[1] > 0)
    last = max(told)
    return (last[1] - first[1]) / (last[0] - first[0]), len(paths) / whole_s


def main() -> None:
    """Run all variants in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--num-pictures", type=int, default=128)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="bulk_embed")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    found = sorted(str(path) for path in given.pictures.rglob("*.jpg"))[: given.num_pictures]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shapes = [(1, cores), (cores, 1)]
    paces: dict[str, list[float]] = defaultdict(list)
    wholes: dict[str, list[float]] = defaultdict(list)
    header, watch = facts(), MachineWatch()
    with tempfile.TemporaryDirectory() as folder:
        paths = [shutil.copy(path, Path(folder, f"{number:05d}.jpg")) for number, path in enumerate(found)]
        names = [str(path) for path in paths]
        for turn in range(given.rounds):
            variants = [(run, shape) for shape in shapes for run in (bare, bulk)]
            for run, (workers, threads) in variants if turn % 2 == 0 else variants[::-1]:
                variant = f"{run.__name__} {workers}x{threads}"
                pace, whole = run(given.engine, workers, threads, names)
                paces[variant].append(pace)
                if whole is not None:
                    wholes[variant].append(whole)
                print(f"round {turn + 1}: {variant}: {pace:.3f} pictures/s", flush=True)
    best = max(summarise(values).median for variant, values in paces.items() if variant.startswith("bare"))
    rows = []
    for variant, values in paces.items():
        pace_of = summarise(values)
        whole_of = summarise(wholes[variant]).median if variant in wholes else None
        values_of = (variant, len(names), pace_of.median, pace_of.iqr, pace_of.n, whole_of, pace_of.median / best)
        rows.append(dict(zip(COLUMNS, values_of, strict=True)))
    publish(given.name, rows, {**header, **watch.facts(), "engine": given.engine}, given.out)


if __name__ == "__main__":
    main()
