"""What training costs beside the arithmetic: reading, the loop itself, checkpoints, going on after a stop, memory.

    read_alone            pictures per second that the loader delivers when nothing else is done
    step                  pictures per second of training, and read_alone over it
    own_share             share of the steps' time that is in none of reading, forward, backward, update, averaging
    embeddings_MB_s       read from the shards by key in a shuffled order, checksums compared; from the disk
    plain_MB_s            the same file read from end to end
    read_and_save_s       reading and writing a checkpoint
    fresh_s, resume_s     from the start of the process to the end of the first step: of a new run, and after a stop
    rss_MB                resident memory of the training process at the end of the first epochs and of the last ones

Run it on a machine with nothing else to do. Training goes on for --epochs passes over the data with the student of the
recipe; the loader has as many processes as the recipe says.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import MachineWatch, facts, publish

from mobile_sam.data.embedding_shards import EmbeddingShards
from mobile_sam.distill.config import TrainConfig
from mobile_sam.distill.loading import Samples, StepSampler, load_batches
from mobile_sam.distill.recipe import load_recipe
from mobile_sam.distill.run_data import split_data
from mobile_sam.distill.run_log import read_log
from mobile_sam.distill.train import train

MB = 1e6


def read_alone(config: TrainConfig, num_batches: int) -> float:
    """Pictures per second of the loader; the first batch, for which its processes start, is not timed."""
    pictures, _ = split_data(config)
    samples = Samples(pictures, config, EmbeddingShards(config.embeddings))
    sampler = StepSampler(samples.order, (0, num_batches), config.batch_size, 1, 0, 1)
    batches = load_batches(samples, sampler, torch.device("cpu"))
    next(batches)
    started = time.perf_counter()
    num_rest = sum(1 for _ in batches)
    return num_rest * config.batch_size / (time.perf_counter() - started)


def forget(path: Path) -> None:
    """Ask the system to drop a file from memory, so that it is read from the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_rates(folder: Path) -> tuple[float, float]:
    """MB per second of all embeddings by key, in a shuffled order, and of the files read from end to end."""
    shards = EmbeddingShards(folder)
    files = sorted(folder.glob("*.tar"))
    keys = np.random.default_rng(0).permutation(sorted(shards.keys))

    def by_key() -> float:
        return sum(shards.read(str(key)).features.nbytes for key in keys) / MB

    def plain() -> float:
        num_bytes = 0
        for path in files:
            with open(path, "rb", buffering=0) as file:
                while block := file.read(1 << 21):
                    num_bytes += len(block)
        return num_bytes / MB

    def rate(read: Callable[[], float]) -> float:
        for path in files:
            forget(path)
        started = time.perf_counter()
        return read() / (time.perf_counter() - started)

    rounds = [(rate(by_key), rate(plain)) for _ in range(5)]
    return statistics.median(a for a, _ in rounds), statistics.median(b for _, b in rounds)


def rss_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


def seconds_to_first_step(recipe: Path, variant: str | None, folder: Path, settings: dict[str, Any]) -> float:
    """From the start of a new process to its first step."""
    code = (
        "import sys, time, json; from pathlib import Path\n"
        "from mobile_sam.distill.recipe import load_recipe; from mobile_sam.distill.train import train\n"
        "class Done(Exception): pass\n"
        "calls = []\n"
        "def tell(step, num_steps, found):\n"
        "    calls.append(step)\n"
        "    if step > calls[0] or (step and len(calls) == 1): raise Done\n"
        "recipe, variant, folder, settings = json.loads(sys.argv[1])\n"
        "try: train(load_recipe(Path(recipe), variant).with_values(settings), Path(folder), tell=tell)\n"
        "except Done: pass\n"
    )
    started = time.perf_counter()
    asked = json.dumps([str(recipe), variant, str(folder), settings])
    subprocess.run([sys.executable, "-c", code, asked], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure all of it and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--variant")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--embeddings", required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the run; must not exist")
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    watch = MachineWatch()
    given = {"data": tuple(arguments.data), "embeddings": arguments.embeddings}
    settings = {**given, "max_steps": 0, "epochs": float(arguments.epochs), "log_every": 10}
    config = load_recipe(arguments.recipe, arguments.variant).with_values(settings)
    alone = read_alone(config, 40)
    by_key, plain = read_rates(Path(arguments.embeddings))

    per_epoch = len(split_data(config)[0]) // config.batch_size
    memory_mb: list[float] = []

    def tell(step: int, _num_steps: int, _found: dict[str, Any]) -> None:
        if step and step % per_epoch == 0:
            memory_mb.append(rss_mb())

    config = config.with_values({"validate_every": per_epoch, "checkpoint_every": per_epoch, "keep_checkpoints": 9})
    train(config, arguments.work, tell=tell)
    lines = [line for line in read_log(arguments.work / "log.jsonl") if "time/step_ms" in line][1:]
    pace = statistics.median(line["pictures_per_s"] for line in lines)
    own = sum(line["time/own_ms"] for line in lines) / sum(line["time/step_ms"] for line in lines)
    saved = sorted((arguments.work / "checkpoints").glob("*.pt"))[-1]
    started = time.perf_counter()
    torch.save(torch.load(saved, weights_only=True), arguments.work / "again.pt")
    save_s = time.perf_counter() - started
    longer = {**config.to_json(), "epochs": config.epochs}
    fresh_s = seconds_to_first_step(arguments.recipe, arguments.variant, arguments.work / "fresh", longer)
    resume_s = resume_seconds(arguments, longer)
    row = {
        "student": config.student, "input_side": config.input_side, "precision": config.precision,
        "batch_size": config.batch_size, "num_workers": config.num_workers, "read_alone": alone, "step": pace,
        "read_over_step": alone / pace, "own_share": own, "embeddings_MB_s": by_key, "plain_MB_s": plain,
        "read_and_save_s": save_s, "fresh_s": fresh_s, "resume_s": resume_s,
        "rss_MB_by_epoch": " ".join(f"{value:.0f}" for value in memory_mb),
    }  # fmt: skip
    publish("training_pipeline", [row], {**facts(), **watch.facts()})


def resume_seconds(arguments: argparse.Namespace, settings: dict[str, Any]) -> float:
    """Seconds to the first step of a run that has a checkpoint but is not done: the later ones are taken away."""
    folder = arguments.work
    _, *later = sorted((folder / "checkpoints").glob("*.pt"))
    if not later:
        raise SystemExit("only one checkpoint: let --epochs be larger")
    for path in later:
        path.unlink()
    return seconds_to_first_step(arguments.recipe, arguments.variant, folder, settings)


if __name__ == "__main__":
    main()
