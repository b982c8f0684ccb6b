"""`mobile-sam data ...`: pictures made ready for training."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobile_sam.cli.evaluate import SOME_FAILED
from mobile_sam.cli.progress import progress_bar

if TYPE_CHECKING:
    from mobile_sam.data.packing import Packing
    from mobile_sam.data.picture_set import PictureSet, SampleError

MAX_SHOWN = 20  # problems of a kind in the source; pictures that cannot be read are named all


def pack(
    source: Annotated[
        list[str],
        typer.Argument(
            help="Pictures: folders with all sub-folders, SA-1B as unpacked, COCO or LVIS JSON files, tars, patterns "
            "of these such as sa_*.tar or sa_{000000..000009}.tar.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for the shards; an interrupted run goes on there.", show_default=False
        ),
    ],
    shard_size: Annotated[int, typer.Option(help="Pictures in a shard.", min=1)] = 1000,
    max_side: Annotated[
        int, typer.Option(help="Shrink larger pictures to this side in pixels (JPEG, quality 95). 0 keeps all.", min=0)
    ] = 0,
    with_annotations: Annotated[
        bool, typer.Option("--with-annotations", help="Write each picture's masks beside it (JSON, as SA-1B has them).")
    ] = False,
    fraction: Annotated[float, typer.Option(help="Share of the pictures, drawn by --seed, such as 0.01.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of that draw.", min=0)] = 0,
    max_failures: Annotated[
        int | None, typer.Option(help="Stop when more pictures than this cannot be used. [default: never]", min=0)
    ] = None,
) -> None:
    """Pack pictures into tar shards, as SA-1B is published: KEY.jpg, and KEY.json with masks.

    Files are taken as they are, without loss. Pictures that cannot be used are left out and named on stderr; the exit
    code is 3 then.
    """
    from mobile_sam.data.packing import Packing, PackOptions
    from mobile_sam.data.picture_sources import open_sources

    options = PackOptions(shard_size, max_side, with_annotations)
    for one in source:
        if Path(one).resolve() == out.resolve():
            raise ValueError(f"--out {out} is the source, which stays as it is; name another folder")
    pictures = open_sources(source, fraction, seed, None)
    _tell(pictures)
    packing = Packing(pictures, out, options)
    try:
        with progress_bar("pictures") as tell:
            num_failed = _Run(packing, max_failures, tell).write_all()
    except KeyboardInterrupt:
        print("stopped; the same command goes on here", file=sys.stderr)
        raise
    num_left_out = sum(problem.is_left_out for problem in pictures.problems)
    print(f"{len(pictures) - num_failed} pictures in {len(packing.shard_names)} shards: {out}")
    if num_failed or num_left_out:
        print(f"{num_failed + num_left_out} pictures, annotations or tars could not be used", file=sys.stderr)
        raise typer.Exit(SOME_FAILED)


class _Run:
    """One run over all shards: how many pictures are done, and how many failed."""

    def __init__(self, packing: Packing, max_failures: int | None, tell: Callable[[float, int, float], None]) -> None:
        self.packing = packing
        self.max_failures = max_failures
        self.tell = tell
        self.num_done = 0
        self.num_failed = 0

    def write_all(self) -> int:
        """Write the shards that are not finished; how many pictures failed, those of finished shards included."""
        from mobile_sam.data.picture_set import SampleError

        for number, name in enumerate(self.packing.shard_names):
            shard = self.packing.finished.get(name)
            if shard is None:
                shard = self.packing.write(number, self._note)
                print(f"{self.packing.folder / name}: {shard.num_pictures} pictures", flush=True)
                continue
            print(f"{self.packing.folder / name}: done before, kept", flush=True)
            for failure in shard.failures:
                self._note(SampleError(*failure))
            for _ in range(shard.num_pictures):
                self._note(None)
        return self.num_failed

    def _note(self, error: SampleError | None) -> None:
        self.num_done += 1
        if error is not None:
            self.num_failed += 1
            print(f"{error.key}: {error.kind}: {error.message}", file=sys.stderr)
        self.tell(self.num_done, self.num_failed, len(self.packing.pictures))
        if self.max_failures is not None and self.num_failed > self.max_failures:
            raise ValueError(
                f"{self.num_failed} of the first {self.num_done} pictures cannot be used, more than --max-failures "
                f"{self.max_failures}; finished shards are kept"
            )


def _tell(pictures: PictureSet) -> None:
    """Say on stderr what is about to be packed, and what is wrong with it."""
    print(f"{pictures.name}: {len(pictures)} pictures", file=sys.stderr)
    shown: Counter[str] = Counter()
    for problem in pictures.problems:
        shown[problem.kind] += 1
        if shown[problem.kind] <= MAX_SHOWN:
            print(f"{problem.where}: {problem.kind}: {problem.message}", file=sys.stderr)
    for kind, count in shown.items():
        if count > MAX_SHOWN:
            print(f"... and {count - MAX_SHOWN} more x {kind}", file=sys.stderr)
