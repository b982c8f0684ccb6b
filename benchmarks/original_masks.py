"""Answers a prompt file with the original code, for `mobile-sam evaluate agreement --reference-masks`.

Run it with the Python of the original's environment (make_original_env.py). Of each prompt one mask is kept: the single
one, or the one that the model predicts to be the best of three. It shows what any other tool has to do to be compared:

    mobile-sam evaluate agreement PICTURES --protocol grid --write-prompts prompts.json
    ORIGINAL/bin/python benchmarks/original_masks.py prompts.json PICTURES --checkpoint mobile_sam.pt -o masks.json
    mobile-sam evaluate agreement PICTURES --protocol grid --reference-masks masks.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import original_shim  # noqa: F401  (makes the next import work)
from PIL import Image

from mobile_sam import SamPredictor, sam_model_registry


def uncompressed_rle(mask: Any) -> dict[str, Any]:
    """COCO's plain run lengths of a mask (H, W) bool: down the columns, background first."""
    pixels = mask.ravel(order="F")
    borders = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    runs = np.diff(np.concatenate([[0], borders, [pixels.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if pixels[0] else runs}


def answer(predictor: Any, prompt: dict[str, Any], rule: str) -> dict[str, Any]:
    """The entry of one prompt."""
    masks, scores, _ = predictor.predict(
        point_coords=np.array(prompt["point_coords"]) if prompt["point_coords"] else None,
        point_labels=np.array(prompt["point_labels"]) if prompt["point_coords"] else None,
        box=np.array(prompt["box"]) if prompt["box"] else None,
        multimask_output=rule == "best",
    )
    best = int(np.argmax(scores))
    keys = {"image_id": prompt["image_id"], "prompt_id": prompt["prompt_id"], "score": float(scores[best])}
    return {**keys, "segmentation": uncompressed_rle(masks[best])}


def main() -> None:
    """Answer all prompts of the file, picture by picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path, help="written by `evaluate agreement --write-prompts`")
    parser.add_argument("pictures", type=Path, help="folder of the pictures")
    parser.add_argument("--checkpoint", required=True, help="the official mobile_sam.pt")
    parser.add_argument("--rule", choices=("single", "best"), default="best", help="which mask to keep")
    parser.add_argument("-o", "--output", type=Path, required=True, help="masks, as JSON")
    arguments = parser.parse_args()
    predictor = SamPredictor(sam_model_registry["vit_t"](checkpoint=arguments.checkpoint).eval())
    prompts = json.loads(arguments.prompts.read_text())
    entries, started = [], time.perf_counter()
    for file_name, of_picture in itertools.groupby(prompts, key=lambda prompt: prompt["file_name"]):
        predictor.set_image(np.array(Image.open(arguments.pictures / file_name).convert("RGB")))
        entries += [answer(predictor, prompt, arguments.rule) for prompt in of_picture]
        print(f"{len(entries)} of {len(prompts)} prompts, {time.perf_counter() - started:.0f} s", file=sys.stderr)
    partial = arguments.output.with_suffix(".partial")
    partial.write_text(json.dumps(entries))
    os.replace(partial, arguments.output)


if __name__ == "__main__":
    main()
