"""Memory of a bulk run, and whether it grows with the number of pictures.

`run_bulk` with two workers over N small pictures, with an engine that only pretends (its frame is 64 px, its embeddings
are 8 KiB), so that all but the network is as in a real run: listing, reading, decoding, queues, a file for each,
manifest. Resident memory of the parent and of the largest worker is noted each time another tenth is done.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from report import RESULTS, MachineWatch, facts, publish

from mobile_sam.bulk.local import LocalExecutor
from mobile_sam.bulk.run import BulkRequest, run_bulk
from mobile_sam.bulk.settings import BulkSettings
from mobile_sam.bulk.worker import Worker
from mobile_sam.engines import Engine

SIDE = 64
PICTURES_IN_FOLDER = 1000


class PretendingEngine(Engine):
    """An engine whose embeddings are the means of 16 x 16 px of the picture."""

    name = "pretending"

    @property
    def model_id(self) -> str:
        """Of no weights."""
        return "pretending"

    @property
    def input_side(self) -> int:
        """Of a small frame."""
        return SIDE

    def encode_input(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, 3, S, S) -> (B, 256, S/16, S/16)."""
        cells = model_input.reshape(-1, 3, SIDE // 16, 16, SIDE // 16, 16).mean((1, 3, 5))  # (B, S/16, S/16)
        return np.repeat(cells[:, None], 256, axis=1)

    def _decode_some(self, *_: Any) -> Any:
        raise NotImplementedError


def make_worker(settings: BulkSettings) -> Worker:
    """A real worker with that engine."""
    return Worker(settings, PretendingEngine())


def resident_mb(pid: int) -> float:
    """Resident memory of a process in 10^6 bytes; what it shares with others counts as well."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


def make_pictures(folder: Path, num_pictures: int, source: Path) -> None:
    """As many names of one small file, in folders of a thousand."""
    from PIL import Image

    small = folder / "source.jpg"
    Image.open(source).convert("RGB").resize((96, 64)).save(small)
    for number in range(num_pictures):
        below = folder / "pictures" / f"{number // PICTURES_IN_FOLDER:05d}"
        if number % PICTURES_IN_FOLDER == 0:
            below.mkdir(parents=True)
        path = below / f"{number % PICTURES_IN_FOLDER:03d}.jpg"
        path.write_bytes(small.read_bytes())


def main() -> None:
    """Run once and note memory on the way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-pictures", type=int, default=100_000)
    parser.add_argument("--picture", type=Path, default=Path(__file__).parent.parent / "examples" / "rocket.jpg")
    parser.add_argument("--name", default="bulk_memory")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    header, watch = facts(), MachineWatch()
    rows: list[dict[str, Any]] = []
    begun_s = time.perf_counter()

    def progress(num_done: float, num_failed: int, num_all: float) -> None:
        wanted = num_all * (len(rows) + 1) / 10
        if num_done >= wanted or (not rows and num_done >= num_all / 100):
            found = [resident_mb(child) for child in children(os.getpid())]
            rows.append(
                {
                    "num_done": int(num_done),
                    "spent_s": time.perf_counter() - begun_s,
                    "parent_mb": resident_mb(os.getpid()),
                    "largest_worker_mb": max(found, default=0.0),
                }
            )
            print(rows[-1], flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder, given.num_pictures, given.picture)
        begun_s = time.perf_counter()
        settings = BulkSettings(task="embed", out=str(folder / "out"), formats=("safetensors",), num_threads=1)
        request = BulkRequest(settings, (str(folder / "pictures"),))
        summary = run_bulk(request, lambda filled: LocalExecutor(filled, 2, make_worker), progress=progress)
        assert summary.counts.num_done == given.num_pictures, summary
    publish(given.name, rows, {**header, **watch.facts()}, given.out)


if __name__ == "__main__":
    main()
