"""Pictures a second and core, and bytes a picture, of each task of `mobile-sam bulk`, for docs/scale.md.

    pace_per_core    pictures a second once the workers are at work, over the workers, which have a thread each
    bytes            of all files of the results (without manifest and spool), over the number of pictures
    spool_bytes      of the spool, likewise
    masks            for each picture
    bytes_per_mask   of the results

Boxes are the annotated ones of the pictures' instances.json; points are the middles of these boxes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from report import RESULTS, MachineWatch, facts, publish

from mobile_sam.bulk.local import LocalExecutor
from mobile_sam.bulk.run import BulkRequest, run_bulk
from mobile_sam.bulk.settings import BulkSettings
from mobile_sam.everything.config import EverythingConfig

COLUMNS = ("task", "format", "num_pictures", "pace_per_core", "bytes", "spool_bytes", "masks", "bytes_per_mask")


def size_of(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(name: str, settings: BulkSettings, sources: tuple[str, ...], prompts: Path | None, workers: int) -> Any:
    """Run a task once."""
    told: list[tuple[float, float]] = []
    summary = run_bulk(
        BulkRequest(settings, sources, prompts),
        lambda filled: LocalExecutor(filled, workers),
        progress=lambda num_done, *_: told.append((time.perf_counter(), num_done)),
    )
    first, last = next(entry for entry in told if entry[1] > 0), max(told)
    out, num = Path(settings.out), summary.counts.num_done
    spool = size_of(out / "spool")
    results = size_of(out) - spool - size_of_manifest(out)
    masks = 0
    if settings.task != "embed":
        lines = (line for part in (out / "spool").iterdir() for line in part.read_bytes().splitlines())
        masks = sum(len(json.loads(line)["records"]) for line in lines)
    values = (
        name,
        "+".join(settings.formats),
        num,
        (last[1] - first[1]) / (last[0] - first[0]) / workers,
        results / num,
        spool / num,
        masks / num,
        results / masks if masks else None,
    )
    return dict(zip(COLUMNS, values, strict=True))


def size_of_manifest(out: Path) -> int:
    """Bytes of the manifest's files."""
    return sum(path.stat().st_size for path in out.glob("bulk.sqlite*"))


def points_of(annotations: Path, file: Path) -> Path:
    """Write the middles of annotated boxes as a file of points."""
    content = json.loads(annotations.read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    objects: dict[str, list[Any]] = {}
    for one in content["annotations"]:
        x, y, width, height = one["bbox"]
        objects.setdefault(names[one["image_id"]], []).append({"points": [[x + width / 2, y + height / 2]]})
    file.write_text(json.dumps(objects))
    return file


def main() -> None:
    """Measure each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder with instances.json and images/")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--num-pictures", type=int, default=100, help="of embed, boxes and points")
    parser.add_argument("--num-everything", type=int, default=24)
    parser.add_argument("--tasks", nargs="+", default=["embed", "boxes", "points", "fast", "exact"])
    parser.add_argument("--name", default="bulk_rates")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    header, watch, rows = facts(), MachineWatch(), []
    annotations = given.pictures / "instances.json"
    found = sorted(str(path) for path in given.pictures.rglob("*.jpg"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = {"boxes": annotations, "points": points_of(annotations, folder / "points.json")}
        for task in given.tasks:
            is_everything = task in ("fast", "exact")
            settings = BulkSettings(
                task="everything" if is_everything else task,
                out=str(folder / task),
                engine=given.engine,
                num_threads=1,
                config=EverythingConfig(mode=task if is_everything else "exact", output_mode="coco_rle"),
            )
            sources = tuple(found[: given.num_everything if is_everything else given.num_pictures])
            rows.append(measure(task, settings, sources, prompts.get(task), workers))
            print(rows[-1], flush=True)
    publish(given.name, rows, {**header, **watch.facts(), "engine": given.engine, "workers": str(workers)}, given.out)


if __name__ == "__main__":
    main()
