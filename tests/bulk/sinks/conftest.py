"""Two pictures with masks of all kinds, as records and as plain arrays, for the tests of formats."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mobile_sam.bulk.results import PictureMasks
from mobile_sam.core.masks import encode_rle

Masks = list[NDArray[np.bool_]]


def box_of(mask: NDArray[np.bool_]) -> list[int]:
    """x, y, x2 - x1, y2 - y1, as SAM's records have it."""
    y, x = np.nonzero(mask)
    return [int(x.min()), int(y.min()), int(np.ptp(x)), int(np.ptp(y))]


def record(mask: NDArray[np.bool_], **facts: Any) -> dict[str, Any]:
    """What SAM's generator says of a mask, by hand."""
    height, width = mask.shape
    y, x = (int(values[0]) for values in np.nonzero(mask))
    return {
        "segmentation": dict(encode_rle(mask)),
        "area": int(mask.sum()),
        "bbox": box_of(mask),
        "predicted_iou": 0.9375,
        "point_coords": [[x + 0.5, y + 0.5]],
        "stability_score": 0.96875,
        "crop_box": [0, 0, width, height],
        **facts,
    }


@pytest.fixture
def plain_masks() -> list[Masks]:
    """The masks of `two_pictures`: a disc, an L, a ring; two islands, a pixel, the whole picture."""
    y, x = np.mgrid[:60, :80]
    disc = np.hypot(x - 30, y - 25) <= 18
    corner = ((x >= 40) & (x < 52) & (y >= 5) & (y < 55)) | ((x >= 40) & (x < 78) & (y >= 45) & (y < 55))
    ring = disc & (np.hypot(x - 30, y - 25) > 9)
    y, x = np.mgrid[:40, :50]
    islands = (np.hypot(x - 10, y - 10) <= 7) | ((x >= 25) & (x < 45) & (y >= 20) & (y < 35))
    pixel = (x == 31) & (y == 17)
    return [[disc, corner, ring], [islands, pixel, np.ones((40, 50), bool)]]


@pytest.fixture
def two_pictures(plain_masks: list[Masks]) -> list[PictureMasks]:
    """A picture of everything's masks, which a COCO file listed as 397133, and one of boxes' masks with categories."""
    everything = [record(mask) for mask in plain_masks[0]]
    boxes = []
    for mask, score, category_id in zip(plain_masks[1], (0.5, 0.25, 0.75), (7, 3, 7), strict=True):
        left, top, width, height = box_of(mask)
        box = [float(left), float(top), float(left + width + 1), float(top + height + 1)]
        boxes.append(record(mask, point_coords=[], box=box, score=score, category_id=category_id))
    return [
        PictureMasks(1, "täglich/日本/sa_1", "täglich/日本/sa_1.png", (60, 80), everything, 397133),
        PictureMasks(2, "b", "b.JPG", (40, 50), boxes),
    ]


@pytest.fixture
def files_in() -> Callable[[Path], dict[str, bytes]]:
    """Read all files below a folder, by path with "/"."""
    return lambda folder: {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
