"""Label Studio's import format: tasks with masks as predictions, which annotators correct."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mobile_sam.bulk.results import PictureMasks
from mobile_sam.bulk.sinks.base import CollectedSink
from mobile_sam.core.brush_rle import mask_to_brush
from mobile_sam.core.files import atomic_path
from mobile_sam.core.label_studio import label_studio_region
from mobile_sam.core.masks import decode_rle

FROM_NAME, TO_NAME, DATA_KEY = "tag", "image", "image"
LOCAL_FILES_URL = "/data/local-files/?d="

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class LabelStudioSink(CollectedSink):
    """Writes label_studio.json: a list of tasks, one for each picture, with its masks as brush regions.

    Before it is imported, the project needs this labelling configuration, with a `Label` for each category:

        <View>
          <Image name="image" value="$image" zoom="true"/>
          <BrushLabels name="tag" toName="image">
            <Label value="object"/>
          </BrushLabels>
        </View>

    Pictures are named as Label Studio's local storage names them: `/data/local-files/?d=` and the file name, relative
    to the storage's document root, quoted as URLs are. For pictures elsewhere, or in a folder below that root, search
    for `/data/local-files/?d=` and replace it, such as with `https://pictures.example.org/` or
    `/data/local-files/?d=my-folder/`.

    Brush masks are packed at the size of the picture, row by row in four channels, as lists of bytes in decimal. It
    takes 7 to 20 times the room of COCO's run lengths: as measured, 6 KB for a mask of a picture of 600 x 400, and
    24 KB at 2400 x 1600, so 300 MB for a thousand small pictures of 50 masks. Label Studio takes files of at most
    250 MB if it was not started with another DATA_UPLOAD_MAX_MEMORY_SIZE; `--shard` writes several smaller ones. Masks
    without pixels are left out, since a brush region has some.

    A Label Studio that checks predictions and has a label-studio-sdk older than 2.0.18 refuses every brush mask
    ("Invalid value for control"), those of its own encoder too; a newer one takes these.
    """

    def write(self, pictures: Iterable[PictureMasks]) -> list[Path]:
        """Write the file, holding one picture and one of its masks in memory.

        Raises:
            ValueError: a mask is no run-length code, or a number is not finite.
            OSError: as the disk does.
        """
        path = self.settings.out / self.settings.name("label_studio", ".json")
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            file.write(b"[")
            for index, picture in enumerate(pictures):
                file.write(b",\n" if index else b"\n")
                for piece in self._task(picture):
                    file.write(piece.encode("ascii"))
            file.write(b"\n]\n")
        return [path]

    def _task(self, picture: PictureMasks) -> Iterator[str]:
        """Give the text of a task in pieces."""
        scores = [float(record["predicted_iou"]) for record in picture.records]
        prediction = {
            "model_version": f"mobile-sam {self.settings.info.get('version', '')}".strip(),
            "score": sum(scores) / len(scores) if scores else 0.0,
        }
        yield f'{{"data":{_encode({DATA_KEY: LOCAL_FILES_URL + quote(picture.file_name)})},'
        yield f'"predictions":[{_encode(prediction)[:-1]},"result":['
        for number, region in enumerate(self._regions(picture)):
            yield ("," if number else "") + _encode(region)
        yield "]}]}"

    def _regions(self, picture: PictureMasks) -> Iterator[dict[str, Any]]:
        names = (FROM_NAME, TO_NAME)
        for index, record in enumerate(picture.records):
            if not record["area"]:
                continue
            _, label = self.settings.category_of(record)
            value = {"format": "rle", "rle": mask_to_brush(decode_rle(record["segmentation"]))}
            region_id, score = f"{picture.item_id}-{index}", record["predicted_iou"]
            yield label_studio_region(region_id, names, "brushlabels", picture.size_hw, score, value, label)
