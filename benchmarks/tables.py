"""The tables MobileSAM is known by, on one machine: encoders of SAM and MobileSAM, the decoder, the whole pipeline.

Times and parameter counts do not depend on what the weights are, so they are random where no checkpoint comes with the
package. Everything runs in torch fp32 on a 1024 x 1024 input, networks only (no resizing, no final masks); the decoder
answers one click. Models take turns, each as often as `--rounds` says; `pipeline` is encoder plus decoder of the same
round, `ratio` the model's median divided by vit_t's: how many times as fast vit_t is.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from report import MachineWatch, facts, publish, summarise
from torch import Tensor, nn

DEFAULT_ROUNDS = {"vit_h": 3, "vit_l": 3, "vit_b": 5, "vit_t": 9}


def schedule(rounds: dict[str, int]) -> list[str]:
    """All rounds of all models, each model's spread evenly over the run."""
    turns = [((i + 0.5) / count, model) for model, count in rounds.items() for i in range(count)]
    return [model for _, model in sorted(turns)]


def num_parameters(modules: Iterable[nn.Module]) -> int:
    """Number of trained numbers in some modules."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds a call takes, and its result."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def decode_one_click(sam: Any, embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Low-resolution masks and their predicted IoU for a click in the middle: (1, 3, 256, 256), (1, 3)."""
    points_xy, labels = torch.tensor([[[512.0, 512.0]]]), torch.tensor([[1]])  # (1, 1, 2), (1, 1)
    sparse, dense = sam.prompt_encoder(points=(points_xy, labels), boxes=None, masks=None)
    masks, predicted_iou = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    return masks, predicted_iou


def measure(models: dict[str, Any], rounds: dict[str, int]) -> dict[tuple[str, str], list[float]]:
    """Seconds by (model, part); a model of several rounds is warmed up by one more that does not count."""
    picture = torch.rand(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0)) * 4 - 2  # (1, 3, 1024, 1024)
    seconds: dict[tuple[str, str], list[float]] = {
        (model, part): [] for model in rounds for part in ("encoder", "decoder", "pipeline")
    }
    warm_up = [model for model in rounds if rounds[model] > 1]
    for turn, model in enumerate([*warm_up, *schedule(rounds)]):
        sam = models[model]
        encoder_s, embedding = timed(sam.image_encoder, picture)
        decode_one_click(sam, embedding)
        decoder_s, _ = timed(decode_one_click, sam, embedding)
        print(f"{model}: encoder {encoder_s:.2f} s, decoder {decoder_s:.3f} s", file=sys.stderr)
        if turn >= len(warm_up):
            seconds[model, "encoder"].append(encoder_s)
            seconds[model, "decoder"].append(decoder_s)
            seconds[model, "pipeline"].append(encoder_s + decoder_s)
    return seconds


def tabulate(models: dict[str, Any], seconds: dict[tuple[str, str], list[float]]) -> list[dict[str, Any]]:
    """One row per part and model."""
    rows = []
    for part in ("encoder", "decoder", "pipeline"):
        for model, sam in models.items():
            modules = {
                "encoder": [sam.image_encoder],
                "decoder": [sam.prompt_encoder, sam.mask_decoder],
                "pipeline": [sam],
            }[part]
            summary = summarise(seconds[model, part])
            ratio = summary.median / summarise(seconds["vit_t", part]).median if "vit_t" in models else None
            row = {"part": part, "model": model, "parameters": num_parameters(modules)}
            rows.append(row | {"median_s": summary.median, "iqr_s": summary.iqr, "n": summary.n, "ratio": ratio})
    return rows


def build(names: Iterable[str], original: bool) -> dict[str, Any]:
    """The models by name, ready for inference; of the original code if asked, in its own environment."""
    warnings.simplefilter("ignore")
    if original:
        import original_shim  # noqa: F401
    from mobile_sam.build_sam import sam_model_registry

    return {name: sam_model_registry[name]().eval() for name in names}


def parse_rounds(text: str) -> tuple[str, int]:
    """`vit_h=3` as a model's name and its rounds."""
    name, _, count = text.partition("=")
    if name not in DEFAULT_ROUNDS or not count.isdigit() or int(count) < 1:
        raise argparse.ArgumentTypeError(
            f"expected one of {', '.join(DEFAULT_ROUNDS)} and a count, as vit_h=3; got {text}"
        )
    return name, int(count)


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = " ".join(f"{name}={count}" for name, count in DEFAULT_ROUNDS.items())
    parser.add_argument(
        "--rounds", nargs="+", type=parse_rounds, metavar="MODEL=N", help=f"only these models (default: {default})"
    )
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--original", action="store_true", help="time the original code; run with its environment")
    parser.add_argument("--name", default="tables", help="writes results/NAME.csv")
    given = parser.parse_args()
    rounds = dict(given.rounds) if given.rounds else DEFAULT_ROUNDS
    if given.threads:
        torch.set_num_threads(given.threads)
    header, watch = facts(), MachineWatch()
    with torch.inference_mode():
        models = build(rounds, given.original)
        rows = tabulate(models, measure(models, rounds))
    publish(given.name, rows, {**header, "threads": str(torch.get_num_threads()), **watch.facts()})


if __name__ == "__main__":
    main()
