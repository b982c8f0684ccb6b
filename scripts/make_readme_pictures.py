"""Make the pictures of the README from examples/: python scripts/make_readme_pictures.py [FOLDER]."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobile_sam import Prompt, SamPredictor, read_image
from mobile_sam.core.draw import cutout
from mobile_sam.core.images import write_image
from mobile_sam.results import draw_result

ROOT = Path(__file__).resolve().parent.parent
GAP_PX = 12
CHECKER_PX = 16


def on_checkerboard(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay a cut-out over grey squares: (H, W, 4) uint8 -> (H, W, 3) uint8."""
    height, width, _ = rgba.shape
    y, x = np.indices((height, width)) // CHECKER_PX
    squares = np.where((x + y) % 2 == 0, 255, 224)[..., None].astype(np.uint8)
    return np.where(rgba[..., 3:] > 0, rgba[..., :3], squares)


def main(folder: Path) -> None:
    """Write one strip: boxes on the astronaut, a click on the cup, and both cut out."""
    predictor = SamPredictor()
    astronaut = read_image(ROOT / "examples" / "astronaut.png")
    predictor.set_image(astronaut)
    prompts = [
        Prompt.of(box=[20, 10, 365, 511]),
        Prompt.of(box=[350, 2, 465, 290]),
        Prompt.of(box=[270, 340, 508, 511]),
    ]
    predictions = predictor.predict_batch(prompts, multimask_output=False)
    overlay = draw_result(astronaut, np.concatenate([prediction.masks for prediction in predictions]), prompts)
    person = on_checkerboard(cutout(astronaut, predictions[0].masks[0]))
    gap = np.full((astronaut.shape[0], GAP_PX, 3), 255, np.uint8)
    write_image(folder / "astronaut.jpg", np.concatenate([astronaut, gap, overlay, gap, person], axis=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "docs" / "images")
    main(parser.parse_args().folder)
