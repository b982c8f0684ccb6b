"""Annotation records as COCO, LVIS and SA-1B write them become instances; what is wrong with a record is noted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.images import MAX_PIXELS
from mobile_sam.core.masks import Rle, decode_rle, encode_rle, masks_to_boxes, rle_area
from mobile_sam.data.json_values import (
    ItemRejectedError,
    require_keys,
    shortened,
    to_id,
    to_number,
    to_numbers,
    to_whole_number,
)
from mobile_sam.data.records import Instance, Problem

_MALFORMED = "malformed segmentation"
_REPEATED_ID = "repeated annotation id"


@dataclass
class InstanceReader:
    """Turns annotation records into instances, one set of ids for all that it reads. Crowds stay, marked as such.

    An id that was taken in another picture becomes "picture/annotation".

    Attributes:
        problems: grows by what is wrong with the records.
        category_names: by category id; None where a file has no categories.
        may_count_anew: whether each picture may number its annotations from the start, so that ids which other
            pictures have are no problem.
    """

    problems: list[Problem]
    category_names: Mapping[str, str] | None = None
    may_count_anew: bool = False
    _taken_ids: dict[str, str] = field(default_factory=dict)  # by whom: ids of pictures

    def read(self, record: Any, picture_id: str, size_hw: tuple[int, int]) -> Instance | None:
        """Read one record of a picture; None, and a problem, where it cannot be used.

        Args:
            record: {"id", "segmentation"} and perhaps "bbox" (XYWH), "area", "category_id", "iscrowd",
                "point_coords" ([[x, y]]).
            picture_id: of the picture that it belongs to.
            size_hw: height and width of that picture.
        """
        where = where_is(record, picture_id)
        try:
            require_keys(record, ("id", "segmentation"))
            own_id, instance_id = self._ids(record["id"], picture_id)
            rle, overshoot_px = read_segmentation(record["segmentation"], size_hw)
            mask_px = rle_area(rle)
            if mask_px == 0:
                raise ItemRejectedError("empty mask", f"its mask has no pixel within the picture's {_by(size_hw)}")
        except ItemRejectedError as reason:
            self.problems.append(reason.to_problem(where))
            return None
        self._taken_ids[instance_id] = picture_id
        if instance_id != own_id and not self.may_count_anew:
            message = f"the id {own_id} came before in picture {self._taken_ids[own_id]}; here it becomes {instance_id}"
            self._note(_REPEATED_ID, where, message)
        if overshoot_px > 1:
            message = f"a corner lies {overshoot_px:.1f} px outside the picture's {_by(size_hw)}; the mask is clipped"
            self._note("polygon outside the picture", where, message)
        area_px = to_number(record.get("area")) or 0.0
        return Instance(
            instance_id,
            rle,
            self._box(record, rle, where),
            area_px if area_px > 0 else float(mask_px),
            self._category(record, where),
            to_whole_number(record.get("category_id")) or 0,
            record.get("iscrowd") in (1, "1"),  # as True is
            self._point(record, where),
        )

    def _ids(self, value: Any, picture_id: str) -> tuple[str, str]:
        """Give an annotation's id, and the one that it has in the dataset."""
        own_id = to_id(value)
        if own_id is None:
            raise ItemRejectedError("missing key", f"its id is {shortened(value)}, expected a number or text")
        is_of_another = self._taken_ids.get(own_id, picture_id) != picture_id
        instance_id = f"{picture_id}/{own_id}" if is_of_another else own_id
        if instance_id in self._taken_ids:
            raise ItemRejectedError(_REPEATED_ID, f"the id {own_id} came before in this picture; the first stays")
        return own_id, instance_id

    def _note(self, kind: str, where: str, message: str) -> None:
        self.problems.append(Problem(kind, where, message, is_left_out=False))

    def _box(self, record: dict[str, Any], rle: Rle, where: str) -> tuple[float, float, float, float]:
        box_xywh = record.get("bbox")
        if box_xywh is not None:
            height, width = rle["size"]
            box_xyxy = read_box(box_xywh)
            if box_xyxy is not None:
                x1, y1, x2, y2 = box_xyxy
                if x1 < width and y1 < height and x2 > 0 and y2 > 0:
                    return box_xyxy
            message = f"bbox is {shortened(box_xywh)}, expected x, y, width and height of a box that meets the picture"
            self._note("malformed box", where, f"{message}; the mask's own is taken")
        return tight_box(decode_rle(rle))

    def _category(self, record: dict[str, Any], where: str) -> str:
        category_id = record.get("category_id")
        if self.category_names is None or (category_id is None and not self.category_names):
            return ""
        name = self.category_names.get(to_id(category_id) or "")
        if name is None:
            message = f"category_id is {shortened(category_id)}, which the file's categories do not have"
            self._note("unknown category", where, message)
            return ""
        return name

    def _point(self, record: dict[str, Any], where: str) -> tuple[float, float] | None:
        points = record.get("point_coords")
        if points is None:
            return None
        point_xy = read_point(points)
        if point_xy is None:
            self._note("malformed point", where, f"point_coords is {shortened(points)}, expected [[x, y]]")
        return point_xy


def where_is(record: Any, picture_id: str | None) -> str:
    """Say which annotation a problem is about, as far as its record tells."""
    annotation_id = to_id(record.get("id")) if isinstance(record, dict) else None
    name = "annotation without id" if annotation_id is None else f"annotation {annotation_id}"
    return name if picture_id is None else f"{name} of picture {picture_id}"


def no_picture_message(source: Path, pictures: Path, problems: Sequence[Problem]) -> str:
    """Say why nothing is left of a dataset: its problems counted, and the first of them in full."""
    counts = ", ".join(f"{count} x {kind}" for kind, count in Counter(p.kind for p in problems).most_common())
    first = f"; the first: {problems[0].where}: {problems[0].message}" if problems else ""
    return f"{source} has no picture that can be used with {pictures} ({counts or 'it lists none'}){first}"


def read_size(record: dict[str, Any]) -> tuple[int, int]:
    """Read "height" and "width" of a picture's record.

    Raises:
        ItemRejectedError: "malformed picture size": no whole numbers above 0, or more pixels than are read.
    """
    height, width = to_whole_number(record.get("height")), to_whole_number(record.get("width"))
    if height is None or width is None or min(height, width) < 1 or height * width > MAX_PIXELS:
        came = f"height {shortened(record.get('height'))} and width {shortened(record.get('width'))}"
        raise ItemRejectedError(
            "malformed picture size", f"{came}, expected whole numbers of pixels, {MAX_PIXELS} in all at most"
        )
    return height, width


def read_segmentation(segmentation: Any, size_hw: tuple[int, int]) -> tuple[Rle, float]:
    """Bring a segmentation to COCO's compressed form.

    Args:
        segmentation: a list of polygons [x, y, x, y, ...], or run lengths, compressed or plain.
        size_hw: height and width of the picture.

    Returns:
        The mask, of the picture's size, and how far in pixels the outermost corner lies outside the picture, at least
        0. Polygons are clipped.

    Raises:
        ItemRejectedError: "malformed segmentation", "mask of another size", or "empty mask" for no polygon at all.
    """
    if isinstance(segmentation, dict):
        rle = read_rle(segmentation)
        if tuple(rle["size"]) != size_hw:
            raise ItemRejectedError(
                "mask of another size", f"its mask is of {_by(rle['size'])} (H x W), its picture of {_by(size_hw)}"
            )
        return rle, 0.0
    if not isinstance(segmentation, list):
        raise ItemRejectedError(_MALFORMED, f"expected polygons or run lengths, got {shortened(segmentation)}")
    if not segmentation:
        raise ItemRejectedError("empty mask", "its segmentation is an empty list")
    from pycocotools import mask as coco_mask

    polygons = [_corners(polygon, size_hw) for polygon in segmentation]  # each (2 K,), x and y by turns
    codes = coco_mask.frPyObjects(polygons, *size_hw)
    code = codes[0] if len(codes) == 1 else coco_mask.merge(codes)
    return Rle(size=list(size_hw), counts=code["counts"].decode("ascii")), _overshoot_px(polygons, size_hw)


def read_rle(segmentation: Any) -> Rle:
    """Check run lengths that came from a file and bring them to the compressed form.

    Raises:
        ItemRejectedError: "malformed segmentation".
    """
    size_hw = segmentation.get("size") if isinstance(segmentation, dict) else None
    lengths = [to_whole_number(length) for length in size_hw] if isinstance(size_hw, list) else []
    if len(lengths) != 2 or None in lengths:
        raise ItemRejectedError(
            _MALFORMED, f"expected run lengths with 'size' [H, W] and 'counts', got {shortened(segmentation)}"
        )
    height, width = (length for length in lengths if length is not None)
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ItemRejectedError(_MALFORMED, f"expected a mask of 1 to {MAX_PIXELS} pixels, got {height} x {width}")
    counts = segmentation.get("counts")
    try:
        if not isinstance(counts, str):
            return encode_rle(decode_rle({"size": lengths, "counts": counts}))
        rle = Rle(size=[height, width], counts=counts)
        rle_area(rle)  # checks the runs
        return rle
    except ValueError as error:
        raise ItemRejectedError(_MALFORMED, str(error)) from error


def read_box(box_xywh: Any) -> tuple[float, float, float, float] | None:
    """Read [x, y, width, height] as x1, y1, x2, y2; None unless it is four finite numbers with an area."""
    numbers = to_numbers(box_xywh, 4)
    if numbers is None:
        return None
    x, y, width, height = numbers
    box_xyxy = x, y, x + width, y + height
    return box_xyxy if x < box_xyxy[2] < np.inf and y < box_xyxy[3] < np.inf else None


def read_point(points: Any) -> tuple[float, float] | None:
    """Read the first of [[x, y], ...]; None where there is none."""
    point_xy = to_numbers(points[0], 2) if isinstance(points, list) and points else None
    return None if point_xy is None else (point_xy[0], point_xy[1])


def tight_box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Box around a mask, (H, W) bool, up to the far edges of its last pixels: x2 - x1 is its width in pixels.

    >>> tight_box(np.array([[False, True, True], [False, False, False]]))
    (1.0, 0.0, 3.0, 1.0)
    """
    x1, y1, x2, y2 = masks_to_boxes(mask[None])[0].tolist()
    return float(x1), float(y1), x2 + 1.0, y2 + 1.0


def _corners(polygon: Any, size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """(2 K,) float64, x and y by turns, fit for pycocotools.

    That reads past odd lists, takes four numbers for a box, and draws the outline at five points a pixel, so that one
    corner far away fills the memory.
    """
    try:
        corners = np.asarray(polygon)
    except ValueError:  # lists of several lengths
        corners = np.array(None)
    if corners.ndim != 1 or corners.dtype.kind not in "iuf" or corners.size < 6 or corners.size % 2:
        raise ItemRejectedError(
            _MALFORMED, f"a polygon must be [x, y, x, y, x, y, ...], three corners at least, got {shortened(polygon)}"
        )
    corners = corners.astype(np.float64)
    limit_px = 10 * max(size_hw)
    if not (np.abs(corners) <= limit_px).all():  # NaN is not
        raise ItemRejectedError(
            _MALFORMED, f"a polygon has a corner that is not finite or more than {limit_px} px away from the picture"
        )
    return corners


def _overshoot_px(polygons: list[NDArray[np.float64]], size_hw: tuple[int, int]) -> float:
    height, width = size_hw
    overshoots_px = [
        (-corners.min(), corners[0::2].max() - width, corners[1::2].max() - height) for corners in polygons
    ]  # each beyond the left or upper, the right, the lower edge
    return float(max(0.0, *(overshoot for sides in overshoots_px for overshoot in sides)))


def _by(size_hw: Any) -> str:
    return " x ".join(str(length) for length in size_hw)
