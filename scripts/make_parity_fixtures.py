"""Extract small test fixtures from the answers of the original implementation.

    python scripts/make_parity_fixtures.py PARITY_FOLDER tests/fixtures/parity NAME...

PARITY_FOLDER holds NAME.json (prompts, predicted IoU, areas) and NAME.npz (embedding, low-resolution logits) as the
original code gave them in fp32 on a CPU. Kept of it: the prompts, predicted IoU and areas; the final masks, made here
from the logits with torch's own bilinear interpolation (not with this package's) as COCO RLE; and every fourth row and
column of the embedding in fp32. Needs the `torch` extra.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch.nn.functional import interpolate

GRID_STEP = 4
MODEL_SIDE = 1024


def final_masks(low_res_logits: NDArray[np.float16], input_hw: list[int], image_hw: list[int]) -> NDArray[np.uint8]:
    """Apply SAM's two bilinear steps and threshold: (M, 256, 256) -> (M, H, W) of 0 and 1."""
    logits = torch.from_numpy(low_res_logits.astype(np.float32))[None]
    logits = interpolate(logits, (MODEL_SIDE, MODEL_SIDE), mode="bilinear", align_corners=False)
    logits = logits[..., : input_hw[0], : input_hw[1]]
    logits = interpolate(logits, (image_hw[0], image_hw[1]), mode="bilinear", align_corners=False)
    masks: NDArray[np.uint8] = (logits[0] > 0).numpy().astype(np.uint8)
    return masks


def extract(folder: Path, name: str, output: Path) -> None:
    """Write NAME.json and NAME.embedding.npy to `output`."""
    answers: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    arrays = np.load(folder / f"{name}.npz")
    worst_px = 0
    for prompt in answers["prompts"]:
        logits = arrays[f"{prompt['name']}.low_res_logits"]
        masks = final_masks(logits, answers["input_size_hw"], answers["size_hw"])
        encoded = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
        prompt["rle_counts"] = [code["counts"].decode("ascii") for code in encoded]
        areas = [int(mask.sum()) for mask in masks]
        worst_px = max(worst_px, *(abs(ours - theirs) for ours, theirs in zip(areas, prompt["area_px"], strict=True)))
    (output / f"{name}.json").write_text(json.dumps(answers, indent=1) + "\n")
    np.save(output / f"{name}.embedding.npy", arrays["embedding"][:, :, ::GRID_STEP, ::GRID_STEP])
    print(f"{name}: areas differ from the original's by at most {worst_px} px (its logits are stored in fp16)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("names", nargs="+")
    arguments = parser.parse_args()
    for picture_name in arguments.names:
        extract(arguments.folder, picture_name, arguments.output)
