"""`mobile-sam distill embed`: the teacher's embeddings of a set of pictures, written once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mobile_sam.cli.distill_train import require_torch
from mobile_sam.cli.evaluate import SOME_FAILED
from mobile_sam.cli.part_option import parse_part
from mobile_sam.cli.progress import progress_bar

INDEX_FOLDER = "index"  # in --out: where the pictures lie in their tars, so that another run need not look again


def embed(
    source: Annotated[
        list[str],
        typer.Argument(
            help="Pictures: tar files of SA-1B or of `mobile-sam data pack`, patterns of them (sa_*.tar), folders, "
            "COCO or LVIS JSON.",
            show_default=False,
        ),
    ],
    teacher: Annotated[
        str,
        typer.Option(
            help="Checkpoint: sam_vit_h_4b8939.pth, sam_vit_l_0b3195.pth or sam_vit_b_01ec64.pth of Segment Anything, "
            "one of ours, or mobile_sam for the bundled one, to try things out.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for the shards; an interrupted run goes on there.", show_default=False
        ),
    ],
    fraction: Annotated[float, typer.Option(help="Share of the pictures, in (0, 1]; 0.01 is 1 % of SA-1B.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the choice of that share.", min=0)] = 0,
    part: Annotated[
        str | None,
        typer.Option(
            help="Make only shards of part I of N, as in 2/4, and let other processes or machines make the others. "
            "[default: by torchrun's RANK and WORLD_SIZE, else 1/1]"
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Pictures encoded together. [default: by teacher and device]", min=1)
    ] = None,
    shard_size: Annotated[int, typer.Option(help="Pictures in a shard; each takes 2 MiB.", min=1)] = 500,
    precision: Annotated[str, typer.Option(help="Of the encoder: fp32, bf16 or fp16.")] = "fp32",
    device: Annotated[str | None, typer.Option(help="Of torch. [default: CUDA, then MPS, then the CPU]")] = None,
    workers: Annotated[int, typer.Option(help="Processes that read pictures; 0 for none.", min=0)] = 4,
    max_skipped: Annotated[
        float, typer.Option(help="Share of unusable pictures at which to stop, in [0, 1].", min=0, max=1)
    ] = 0.01,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read finished shards again and make damaged ones anew.")
    ] = False,
) -> None:
    """Write the teacher's embeddings of pictures, 2 MiB each, for `distill train`.

    Finished shards are kept: the same command goes on where it was stopped. Pictures that cannot be used are named and
    skipped, and the exit code is then 3 (0 under torchrun, which would stop the other processes).
    """
    require_torch()
    from mobile_sam.data.picture_set import open_picture_set
    from mobile_sam.distill.embed import EmbedOptions, part_from_environment
    from mobile_sam.distill.embed import embed as write_embeddings
    from mobile_sam.distill.teacher import Teacher

    chosen_part = part_from_environment() if part is None else parse_part(part, "--part")
    pictures = open_picture_set(source, fraction=fraction, seed=seed, index_folder=out / INDEX_FOLDER)
    for problem in pictures.problems[:_MAX_TOLD]:
        _tell(f"{problem.where}: {problem.message}")
    if len(pictures.problems) > _MAX_TOLD:
        _tell(f"... and {len(pictures.problems) - _MAX_TOLD} more problems of the source")
    model = Teacher(teacher, device=device or _device_of_rank(), precision=precision)
    try:
        with progress_bar("pictures") as progress:
            options = EmbedOptions(chosen_part, batch_size, workers, max_skipped, verify, _tell, progress)
            report = write_embeddings(pictures, model, out, shard_size=shard_size, options=options)
    except KeyboardInterrupt:
        _tell("stopped; finished shards stay, the same command goes on here")
        raise
    pace = f", {report.pictures_per_s:.3g} pictures/s" if report.num_embedded else ""
    print(
        f"{out}: {report.num_shards} shards ({report.num_kept} were there), {report.num_embedded} pictures embedded, "
        f"{len(report.skipped)} skipped{pace}"
    )
    is_whole = not report.skipped and not any(problem.is_left_out for problem in pictures.problems)
    if not is_whole and "WORLD_SIZE" not in os.environ:
        raise typer.Exit(SOME_FAILED)


_MAX_TOLD = 10  # problems of the source


def _device_of_rank() -> str | None:
    """The GPU of a process that torchrun started, if there are GPUs."""
    import torch

    from mobile_sam.distill.processes import gpu_of

    if "LOCAL_RANK" not in os.environ or not torch.cuda.is_available():
        return None
    return str(gpu_of(int(os.environ["LOCAL_RANK"])))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
