"""The loop of `everything` over pictures: skip, segment, write, and go on after a picture that fails."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from mobile_sam.cli.everything_outputs import Outputs, Segmented, write_coco, write_overlay
from mobile_sam.cli.progress import progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mobile_sam.automatic_mask_generator import SamAutomaticMaskGenerator
    from mobile_sam.cli.everything_folder import Place
    from mobile_sam.data.mask_files import PictureDetections
    from mobile_sam.data.records import Picture
    from mobile_sam.everything.coco import PictureRecords

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
SortBy = Literal["area", "predicted_iou", "stability_score"]


@dataclass(frozen=True)
class Selection:
    """Which masks stay, and in what order.

    Attributes:
        sort: what to sort by, the greatest first; None for the order in which they came.
        min_area: in pixels.
        max_masks: how many of the first ones; None for all.
    """

    sort: SortBy | None = None
    min_area: int = 0
    max_masks: int | None = None

    def of(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Apply to the records of one picture."""
        from mobile_sam.core.selection import limit_records, sort_records

        if self.sort is not None:
            records = sort_records(records, self.sort)
        return limit_records(records, max_masks=self.max_masks, min_area_px=self.min_area)


@dataclass(frozen=True, eq=False)
class Work:
    """All that is the same for each picture.

    Attributes:
        make_generator: called when the first picture needs it.
        outputs: where results go.
        parts: what a picture's folder gets; none if run lengths take its place.
        overwrites: whether results of other settings are replaced.
        detections: by picture id; None for the grid.
        selection: which masks stay.
        made_by: how masks are made, for JSON.
    """

    make_generator: Callable[[], SamAutomaticMaskGenerator]
    outputs: Outputs
    parts: tuple[str, ...]
    overwrites: bool
    detections: dict[str, PictureDetections] | None
    selection: Selection
    made_by: dict[str, Any]

    @cached_property
    def generator(self) -> SamAutomaticMaskGenerator:
        """Made once."""
        return self.make_generator()

    def describe(self, picture: Picture) -> dict[str, Any]:
        """Say how a picture's masks are made, and of which file."""
        from mobile_sam.core.weights import sha256_of_file

        return {**self.made_by, "picture": {"file": picture.path.name, "sha256": sha256_of_file(picture.path)}}

    def segment(self, picture: Picture, progress: Progress) -> Segmented:
        """Find the masks of a picture."""
        from mobile_sam.core.images import check_image_path, read_image
        from mobile_sam.everything.coco import PictureRecords

        image = read_image(picture.path)
        image_hw = (image.shape[0], image.shape[1])
        if self.outputs.overlay is not None:
            check_image_path(self.outputs.overlay, size_hw=image_hw)
        if self.detections is None:
            records = self.generator.generate(image, progress=progress)
        elif picture.id in self.detections:
            records = self._segment_boxes(picture.id, self.detections[picture.id], image, progress)
        else:
            records = []
        found = PictureRecords(picture.id, image_hw, self.selection.of(records))
        return Segmented(image, found, self.describe(picture))

    def _segment_boxes(
        self, picture_id: str, detections: PictureDetections, image: NDArray[np.uint8], progress: Progress
    ) -> list[dict[str, Any]]:
        """Make the masks of a picture (H, W, 3) for the boxes that lie in it; the others are counted on stderr."""
        from mobile_sam.cli.everything_boxes import tell_problems
        from mobile_sam.everything.detections import usable_boxes

        usable, problems = usable_boxes(detections, (image.shape[0], image.shape[1]))
        tell_problems(picture_id, problems)
        records = self.generator.generate_from_boxes(image, usable.boxes_xyxy, progress=progress)
        return [record | usable.facts(row) for row, record in enumerate(records)]

    def has_prompts(self, picture: Picture) -> bool:
        """Tell whether there is anything to segment: not where a detector found nothing."""
        return self.detections is None or picture.id in self.detections


def run(work: Work, pictures: Sequence[Picture], places: dict[str, Place]) -> int:
    """Segment pictures and print a line for each.

    Args:
        work: what to do.
        pictures: at least one.
        places: where the results of each go in the folder, by the picture's id; none if there is no folder.

    Returns:
        How many failed, each told on stderr; the error of a single one is raised instead.
    """
    what = "pictures" if len(pictures) > 1 else "points" if work.detections is None else "boxes"
    try:
        with progress_bar(what) as tell:
            return _Run(work, places, len(pictures), tell).do_all(pictures)
    except KeyboardInterrupt:
        if len(places) > 1:
            print("stopped; the same command goes on here", file=sys.stderr)
        raise


class _Run:
    """One run over pictures: what is done and what failed so far."""

    def __init__(
        self, work: Work, places: dict[str, Place], num_pictures: int, tell: Callable[[float, int, float], None]
    ) -> None:
        self.work = work
        self.places = places
        self.num_pictures = num_pictures
        self.tell = tell
        self.num_done = 0
        self.num_failed = 0
        self.for_coco: list[PictureRecords] = []

    def do_all(self, pictures: Sequence[Picture]) -> int:
        """Refuse and skip first, so that bad news comes early, then segment."""
        todo = [picture for picture in pictures if self._attempt(self._is_open, picture)]
        if todo:
            _ = self.work.generator  # an engine that cannot run is no picture's failure
        for picture in todo:
            self._attempt(self._do, picture)
        if self.work.outputs.coco is not None and self.for_coco:
            write_coco(self.work.outputs.coco, self.for_coco, self.work.made_by)
            print(f"wrote {self.work.outputs.coco}")
        return self.num_failed

    def _attempt(self, step: Callable[[Picture], bool], picture: Picture) -> bool:
        """Take one step of one picture; whether it goes on from there."""
        try:
            return step(picture)
        except Exception as error:
            if self.num_pictures == 1 or isinstance(error, BrokenPipeError):  # nobody reads what is printed
                raise
            logger.debug("picture %s failed", picture.id, exc_info=error)
            is_expected = isinstance(error, (ValueError, OSError)) and str(error)
            reason = str(error) if is_expected else f"{type(error).__name__}: {error}"
            print(f"{picture.id} failed: {reason}", file=sys.stderr)
            self.num_failed += 1
            self.num_done += 1
            return False

    def _is_open(self, picture: Picture) -> bool:
        """Tell whether a picture is to be segmented: unless that was done before."""
        place = self.places.get(picture.id)
        if place is None or not place.is_done(lambda: self.work.describe(picture), self.work.overwrites):
            return True
        print(f"{picture.id}: done before, skipped: {place.target}", flush=True)
        del self.places[picture.id]
        is_wanted_elsewhere = bool(self.work.outputs.overlay or self.work.outputs.coco)
        self.num_done += not is_wanted_elsewhere
        return is_wanted_elsewhere

    def _do(self, picture: Picture) -> bool:
        """Segment a picture and write its results."""
        started = time.perf_counter()
        self._tell_points(0, 1)
        segmented = self.work.segment(picture, self._tell_points)
        where = self._write(segmented, self.places.get(picture.id))
        remark = "" if self.work.has_prompts(picture) else " (no boxes)"
        spent_s = time.perf_counter() - started
        num_masks = len(segmented.found.records)
        count = f"{num_masks} mask{'' if num_masks == 1 else 's'}{remark}"
        print(f"{picture.id}: {', '.join([count, f'{spent_s:.1f} s', *where])}", flush=True)
        self.num_done += 1
        return True

    def _tell_points(self, num_done: int, num_all: int) -> None:
        """Tell the bar of points; where there are several pictures, as a share of one."""
        if self.num_pictures == 1:
            self.tell(num_done, 0, num_all)
        else:
            self.tell(self.num_done + num_done / max(num_all, 1), self.num_failed, self.num_pictures)

    def _write(self, segmented: Segmented, place: Place | None) -> list[str]:
        """Write the results of a picture, or keep them for the JSON of all; where they are."""
        outputs = self.work.outputs
        where = []
        if outputs.overlay is not None:
            write_overlay(outputs.overlay, segmented)
            where.append(str(outputs.overlay))
        if outputs.coco is not None:
            self.for_coco.append(segmented.found)
        if place is not None:
            place.write(segmented, self.work.parts)
            where.append(str(place.target))
        return where
