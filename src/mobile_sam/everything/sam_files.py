"""The files of masks that SAM's own scripts/amg.py writes of a picture: a PNG for each, and a table."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

METADATA_CSV = "metadata.csv"
METADATA_COLUMNS = (
    *("id", "area", "bbox_x0", "bbox_y0", "bbox_w", "bbox_h", "point_input_x", "point_input_y"),
    *("predicted_iou", "stability_score", "crop_box_x0", "crop_box_y0", "crop_box_w", "crop_box_h"),
)
"""Of metadata.csv, as SAM's scripts/amg.py writes it."""


def write_mask_files(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write 0.png, 1.png, ... (0 and 255) and metadata.csv, which comes last.

    Args:
        folder: there already.
        records: as `SamAutomaticMaskGenerator.generate` gives with output_mode "coco_rle".

    Raises:
        OSError: as the disk does.
    """
    from mobile_sam.core.images import write_image
    from mobile_sam.core.masks import decode_rle

    for index, record in enumerate(records):
        write_image(folder / f"{index}.png", decode_rle(record["segmentation"]))
    with open(folder / METADATA_CSV, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(METADATA_COLUMNS)
        for index, record in enumerate(records):
            point_xy = record["point_coords"][0] if len(record["point_coords"]) else ("", "")  # none: made of a box
            scores = record["predicted_iou"], record["stability_score"]
            writer.writerow([index, record["area"], *record["bbox"], *point_xy, *scores, *record["crop_box"]])
