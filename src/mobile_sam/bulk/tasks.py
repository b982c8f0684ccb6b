"""What is done to one picture: a pure function of its pixels and prompts, the same on one core and on a cluster."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mobile_sam.bulk.items import Item
from mobile_sam.bulk.pictures import LoadedPicture
from mobile_sam.bulk.prompt_values import boxes_of, objects_of
from mobile_sam.bulk.results import PictureEmbedding, PictureMasks
from mobile_sam.core.embedding import Embedding
from mobile_sam.data.json_values import ItemRejectedError
from mobile_sam.data.records import Problem
from mobile_sam.everything.coco import json_record

if TYPE_CHECKING:
    from mobile_sam.bulk.settings import BulkSettings
    from mobile_sam.core.prompts import Prompt
    from mobile_sam.engines import Engine
    from mobile_sam.everything.found import FoundMask

logger = logging.getLogger(__name__)

TaskResult = PictureMasks | PictureEmbedding


class Task(ABC):
    """Makes of a picture what the task asks for.

    Args:
        settings: of the run.
        engine: that runs the networks.

    Attributes:
        needs_pixels: whether the picture must come in its own size; else the size of the model frame will do.
        num_unusable: prompts so far that lie outside of their pictures or have no area, and were left out.
    """

    needs_pixels = False

    def __init__(self, settings: BulkSettings, engine: Engine) -> None:
        self.settings = settings
        self.engine = engine
        self.num_unusable = 0

    def needs_embedding(self, item: Item) -> bool:
        """Whether the picture has to be encoded for `run`."""
        return True

    @abstractmethod
    def run(self, picture: LoadedPicture, embedding: Embedding | None) -> TaskResult:
        """Do the task.

        Args:
            picture: in its own size if `needs_pixels`.
            embedding: of the picture; None if `needs_embedding` says so.

        Raises:
            ItemRejectedError: the picture cannot be done, by kind.
        """

    def _masks(self, picture: LoadedPicture, records: Sequence[dict[str, Any]]) -> PictureMasks:
        item = picture.item
        plain = [json_record(record) for record in records]
        return PictureMasks(item.id, item.key, item.file_name, picture.image_hw, plain, item.source_id)

    def _leave_out(self, item: Item, problems: Sequence[Problem]) -> None:
        """Count prompts that cannot be asked, and note them in the log."""
        if problems:
            self.num_unusable += len(problems)
            first = f"{problems[0].where}: {problems[0].message}"
            logger.warning("%s: left out %d x %s, such as %s", item.file_name, len(problems), problems[0].kind, first)


class EmbedTask(Task):
    """The embedding of a picture, in half precision."""

    def run(self, picture: LoadedPicture, embedding: Embedding | None) -> PictureEmbedding:
        """See `Task.run`."""
        assert embedding is not None
        with np.errstate(over="ignore"):
            features = embedding.features[0].astype(np.float16)  # (256, S/16, S/16)
        if not np.isfinite(features).all():
            message = f"{picture.item.file_name}: its embedding has values that float16 does not hold"
            raise ItemRejectedError("infinite embedding", message)
        return PictureEmbedding(picture.item.id, picture.item.key, features, picture.image_hw, embedding.input_hw)


class EverythingTask(Task):
    """Masks of everything in a picture."""

    def __init__(self, settings: BulkSettings, engine: Engine) -> None:
        super().__init__(settings, engine)
        from mobile_sam.automatic_mask_generator import SamAutomaticMaskGenerator

        self._generator = SamAutomaticMaskGenerator.from_config(settings.config, engine)
        self.needs_pixels = settings.config.crop_n_layers > 0

    def needs_embedding(self, item: Item) -> bool:
        """See `Task.needs_embedding`: crops are encoded by the generator, the whole picture among them."""
        return not self.needs_pixels

    def run(self, picture: LoadedPicture, embedding: Embedding | None) -> PictureMasks:
        """See `Task.run`."""
        if embedding is None:
            return self._masks(picture, self._generator.generate(picture.pixels))
        return self._masks(picture, self._generator.generate_from_embedding(embedding))


class BoxesTask(Task):
    """A mask for each box of a detector; boxes that cannot be asked are left out."""

    def __init__(self, settings: BulkSettings, engine: Engine) -> None:
        super().__init__(settings, engine)
        from mobile_sam.automatic_mask_generator import SamAutomaticMaskGenerator

        self._generator = SamAutomaticMaskGenerator.from_config(settings.config, engine)

    def needs_embedding(self, item: Item) -> bool:
        """See `Task.needs_embedding`."""
        return len(boxes_of(item)) > 0

    def run(self, picture: LoadedPicture, embedding: Embedding | None) -> PictureMasks:
        """See `Task.run`."""
        from mobile_sam.everything.detections import usable_boxes

        if embedding is None:
            return self._masks(picture, [])
        usable, problems = usable_boxes(boxes_of(picture.item), picture.image_hw)
        self._leave_out(picture.item, problems)
        return self._masks(picture, self._generator.generate_from_boxes(embedding, usable))


class PointsTask(Task):
    """A mask for each object, which is points and perhaps a box; objects that lie outside are left out.

    A lone click, which is ambiguous, has the best of three masks, as with `mobile-sam segment`.
    """

    def __init__(self, settings: BulkSettings, engine: Engine) -> None:
        super().__init__(settings, engine)
        from mobile_sam.predictor import SamPredictor

        self._mask_threshold = SamPredictor(engine=engine).mask_threshold

    def needs_embedding(self, item: Item) -> bool:
        """See `Task.needs_embedding`."""
        return len(objects_of(item)) > 0

    def run(self, picture: LoadedPicture, embedding: Embedding | None) -> PictureMasks:
        """See `Task.run`."""
        if embedding is None:
            return self._masks(picture, [])
        prompts = self._usable(picture)
        found: dict[int, FoundMask] = {}
        for is_lone in (True, False):
            rows = [row for row, prompt in enumerate(prompts) if prompt.is_lone_click == is_lone]
            found.update(zip(rows, self._draw([prompts[row] for row in rows], embedding, is_lone), strict=True))
        records = [_record(found[row], prompt) for row, prompt in enumerate(prompts)]
        return self._masks(picture, records)

    def _usable(self, picture: LoadedPicture) -> list[Prompt]:
        prompts, problems = [], []
        for index, prompt in enumerate(objects_of(picture.item)):
            try:
                prompt.check_inside(picture.image_hw)
            except ValueError as error:
                problems.append(Problem("object outside the picture", f"object {index}", str(error)))
            else:
                prompts.append(prompt)
        self._leave_out(picture.item, problems)
        return prompts

    def _draw(self, prompts: Sequence[Prompt], embedding: Embedding, is_lone: bool) -> list[FoundMask]:
        from mobile_sam.everything.prompted import masks_of_prompts

        if not prompts:
            return []
        return masks_of_prompts(
            self.engine, embedding, prompts, mask_threshold=self._mask_threshold, best_of_three=is_lone
        )


def _record(found: FoundMask, prompt: Prompt) -> dict[str, Any]:
    record = {**found.to_record("coco_rle"), "point_coords": prompt.points_xy}
    return record if prompt.box_xyxy is None else {**record, "box": prompt.box_xyxy}


_TASKS: dict[str, type[Task]] = {
    "embed": EmbedTask,
    "boxes": BoxesTask,
    "points": PointsTask,
    "everything": EverythingTask,
}


def make_task(settings: BulkSettings, engine: Engine) -> Task:
    """Make the task that the settings name."""
    return _TASKS[settings.task](settings, engine)
