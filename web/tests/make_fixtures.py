"""Writes fixtures.json: what Pillow, torch, pycocotools and the Python predictor say of small inputs.

Run it with `python web/tests/make_fixtures.py` in an environment with the [test] extra.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from mobile_sam import SamAutomaticMaskGenerator, SamPredictor, read_image
from mobile_sam.core.geometry import LongSideResize

FOLDER = Path(__file__).parent
EXAMPLES = FOLDER.parents[1] / "examples"


def main() -> None:
    """Write the file."""
    fixtures = {
        "resize": [resized(*sizes) for sizes in RESIZES],
        "rle": [run_lengths(mask) for mask in masks()],
        "upscale": [upscaled(width, height) for width, height in ((300, 200), (640, 427), (427, 640), (1700, 900))],
        "chelsea": chelsea(),
    }
    (FOLDER / "fixtures.json").write_text(json.dumps(fixtures, separators=(",", ":")) + "\n")


RESIZES = (
    ((40, 30), (13, 9)),
    ((31, 2), (5, 1)),
    ((7, 5), (16, 11)),
    ((12, 9), (12, 4)),
    ((9, 12), (4, 12)),
    ((64, 3), (7, 3)),
)


def resized(from_wh: tuple[int, int], to_wh: tuple[int, int]) -> dict[str, Any]:
    """Pillow's bilinear filter on noise."""
    noise = np.random.default_rng(7).integers(0, 256, (from_wh[1], from_wh[0], 3), np.uint8)
    result = Image.fromarray(noise).resize(to_wh, Image.Resampling.BILINEAR)
    return {"from": from_wh, "to": to_wh, "rgb": noise.ravel().tolist(), "expected": np.array(result).ravel().tolist()}


def masks() -> list[NDArray[np.bool_]]:
    """Masks with what run lengths stumble over: corners, full columns, nothing, everything."""
    rng = np.random.default_rng(3)
    full_columns = np.zeros((5, 9), bool)
    full_columns[:, 2:5] = True
    full_columns[3:, 1] = full_columns[:2, 5] = True
    noise = rng.random((13, 17)) > 0.5
    island = np.zeros((6, 8), bool)
    island[2:4, 3:7] = True
    return [full_columns, noise, ~noise, island, ~island, np.zeros((3, 4), bool), np.ones((3, 4), bool)]


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's run lengths by their definition, and box and area by pycocotools, which also has to understand them."""
    runs = [(bool(value), len(list(group))) for value, group in groupby(mask.ravel(order="F").tolist())]
    counts = ([0] if runs[0][0] else []) + [length for _, length in runs]
    rle = coco_mask.frPyObjects({"size": list(mask.shape), "counts": counts}, *mask.shape)
    assert np.array_equal(coco_mask.decode(rle), mask)
    return {
        "size": mask.shape,
        "pixels": mask.ravel().astype(int).tolist(),
        "counts": counts,
        "box": coco_mask.toBbox(rle).astype(int).tolist(),
        "area": int(coco_mask.area(rle)),
    }


def logits_256() -> NDArray[np.float32]:
    """A ring and a ramp with some texture; the tests make the same numbers."""
    y, x = np.mgrid[:256, :256].astype(np.float64)
    squared = (x - 90) ** 2 + 1.5 * (y - 70) ** 2
    ring = 5 - np.abs(squared - 2500) / 300
    ramp = (x - 150) / 9 - np.abs(y - 120) / 4
    return (np.maximum(ring, ramp) + ((x * 7 + y * 13) % 11) * 0.25 - 1.25).astype(np.float32)


def upscaled(width: int, height: int) -> dict[str, Any]:
    """SAM's two steps by torch, as in `Sam.postprocess_masks`."""
    input_hw = LongSideResize((height, width)).input_hw
    square = torch.nn.functional.interpolate(torch.from_numpy(logits_256())[None, None], (1024, 1024), mode="bilinear")
    frame = square[..., : input_hw[0], : input_hw[1]]
    logits = torch.nn.functional.interpolate(frame, (height, width), mode="bilinear")[0, 0].numpy()
    stability = np.count_nonzero(logits > 1) / np.count_nonzero(logits > -1)
    return {"counts": run_lengths(logits > 0)["counts"], "width": width, "height": height, "stability": stability}


def chelsea() -> dict[str, Any]:
    """What the predictor and the mask generator find in one of the examples."""
    image = read_image(EXAMPLES / "chelsea.png")
    predictor = SamPredictor(engine="onnxruntime")
    predictor.set_image(image)
    prompts = []
    for points, labels, box in (
        ([[220, 150]], [1], None),
        ([[220, 150], [400, 40]], [1, 0], None),
        (None, None, [90, 20, 380, 290]),
        ([[150, 110]], [1], [120, 85, 185, 140]),
    ):
        arrays = {"point_coords": points and np.array(points), "point_labels": labels and np.array(labels)}
        found = [
            predictor.predict(**arrays, box=box and np.array(box), multimask_output=multi) for multi in (False, True)
        ]
        both_masks, both_ious = (np.concatenate([part[i] for part in found]) for i in (0, 1))
        counts = [run_lengths(mask)["counts"] for mask in both_masks]
        prompts.append(
            {"points": points or [], "labels": labels or [], "box": box, "counts": counts, "ious": both_ious.tolist()}
        )
    generator = SamAutomaticMaskGenerator(points_per_side=4, engine="onnxruntime", output_mode="uncompressed_rle")
    records = [
        {"counts": record["segmentation"]["counts"]}
        | {key: record[key] for key in ("area", "predicted_iou", "stability_score")}
        for record in generator.generate(image)
    ]
    return {"prompts": prompts, "everything_4": records}


if __name__ == "__main__":
    main()
