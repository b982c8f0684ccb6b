"""SA-1B's form: a JSON file for each picture, which lies beside the picture where it is read."""

from __future__ import annotations

from typing import Any

from mobile_sam.bulk.results import PictureMasks
from mobile_sam.bulk.sinks.base import PictureSink
from mobile_sam.bulk.sinks.picture_files import place_of, write_json


class Sa1bSink(PictureSink):
    """Writes sa1b/KEY.json.

    Annotations are numbered from 1 in each picture; the rest of them are the records as they are: `bbox` is x, y, width
    and height, with a width of x2 - x1 as SAM's own generator has it, `segmentation` compressed run lengths. Those made
    of boxes keep `box`, `score` and `category_id`, which SA-1B has not.
    """

    def write(self, masks: PictureMasks) -> None:
        """Write one picture's file, see `PictureSink`."""
        write_json(
            place_of(self.settings.out / "sa1b", masks, ".json"),
            sa1b_json(masks, self.settings.picture_number(masks)),
            masks,
        )


def sa1b_json(masks: PictureMasks, image_id: int) -> dict[str, Any]:
    """Put a picture's masks in SA-1B's form, as what JSON has."""
    height, width = masks.size_hw
    header = {"image_id": image_id, "width": width, "height": height, "file_name": masks.file_name}
    annotations = [{"id": number, **record} for number, record in enumerate(masks.records, start=1)]
    return {"image": header, "annotations": annotations}
