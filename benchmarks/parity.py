"""Our engines against stored answers of the original, picture by picture: embedding, logits, predicted IoU, masks.

PARITY_FOLDER holds for each picture NAME.json (prompts with predicted IoU and areas of four masks each) and NAME.npz
(`embedding` (1, 256, 64, 64) float32, `PROMPT.low_res_logits` (4, 256, 256) float16), as the original gave them in fp32
on a CPU. The masks compared are those at the picture's size; the original's are made here from its stored logits with
torch's bilinear interpolation. A prompt named point_then_mask feeds back the best mask of point_centre.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from report import facts, publish

from mobile_sam import SamPredictor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from make_parity_fixtures import final_masks

Row = dict[str, Any]


def answers_of(predictor: SamPredictor, prompts: list[dict[str, Any]]) -> Iterator[tuple[str, Any, Any, Any]]:
    """Yield for each prompt its name, four masks (4, H, W), predicted IoU (4,) and logits (4, 256, 256)."""
    best_click = None
    for prompt in prompts:
        mask_input = best_click if prompt["name"] == "point_then_mask" else None
        asked = (prompt.get("points"), prompt.get("labels"), prompt.get("box"), mask_input)
        parts = [predictor.predict(*asked, multimask_output=several) for several in (False, True)]
        if prompt["name"] == "point_centre":
            best_click = parts[1][2][np.argmax(parts[1][1])][None]
        masks, iou, logits = (np.concatenate(pair) for pair in zip(*parts, strict=True))
        yield prompt["name"], masks, iou, logits


def compare(predictor: SamPredictor, folder: Path, picture: Path) -> Row:
    """Measure the largest deviations of one engine on one picture."""
    stored = json.loads((folder / f"{picture.stem}.json").read_text())
    arrays = np.load(folder / f"{picture.stem}.npz")
    predictor.set_image(picture)
    error = np.linalg.norm(predictor.embedding.features - arrays["embedding"]) / np.linalg.norm(arrays["embedding"])
    row: Row = {"engine": predictor.engine.name, "picture": picture.name, "embedding_error": float(error)}
    ious, iou_errors, logit_errors, area_errors = [], [], [], []
    expected = {prompt["name"]: prompt for prompt in stored["prompts"]}
    for name, masks, iou, logits in answers_of(predictor, stored["prompts"]):
        official_logits = arrays[f"{name}.low_res_logits"]
        official = final_masks(official_logits, stored["input_size_hw"], stored["size_hw"]).astype(bool)
        ious += [
            np.count_nonzero(ours & theirs) / np.count_nonzero(ours | theirs)
            for ours, theirs in zip(masks, official, strict=True)
        ]
        iou_errors.append(np.abs(iou - expected[name]["iou_predictions"]).max())
        logit_errors.append(np.abs(logits - official_logits).max())
        areas_px = masks.sum(axis=(1, 2))
        area_errors.append((np.abs(areas_px - expected[name]["area_px"]) / expected[name]["area_px"]).max())
    return row | {
        "masks": len(ious),
        "mask_iou_mean": f"{np.mean(ious):.6f}",
        "mask_iou_min": f"{min(ious):.6f}",
        "predicted_iou_error": float(max(iou_errors)),
        "area_error": float(max(area_errors)),
        "logit_error": float(max(logit_errors)),
    }


def main() -> None:
    """Compare, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="PARITY_FOLDER")
    parser.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE")
    parser.add_argument("--name", default="parity", help="writes results/NAME.csv")
    given = parser.parse_args()
    header = facts() | {"logit_error": "includes the rounding of the stored logits to float16, up to 0.016"}
    rows = []
    for engine in ("onnxruntime", "torch"):
        predictor = SamPredictor(engine=engine, device="cpu")
        rows += [compare(predictor, given.folder, picture) for picture in given.pictures]
    publish(given.name, rows, header)


if __name__ == "__main__":
    main()
