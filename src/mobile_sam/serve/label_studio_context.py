"""What a labeller has marked, as Label Studio sends it, as prompts for objects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mobile_sam.core.prompts import Prompt

MAX_NUMBER = 1e6  # of percents and degrees that can be meant
MIN_SIDE_PX = 0.01  # of a box; what is less may vanish in float32

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass
class MarkedObject:
    """An object that was marked, in pixels of the picture.

    Attributes:
        label: what the labeller calls it; None where the tool has no labels.
        box_xyxy: x1, y1, x2, y2, or None.
        points: x, y and whether it is on the object.
    """

    label: str | None
    box_xyxy: Box | None = None
    points: list[tuple[Point, bool]] = field(default_factory=list)

    @property
    def says_what_it_is(self) -> bool:
        """Whether there is a box or a point on the object, and not only points beside it."""
        return self.box_xyxy is not None or any(is_object for _, is_object in self.points)

    def prompt(self) -> Prompt:
        """Bring it to what the model takes."""
        return Prompt.of(
            points=[point for point, _ in self.points] or None,
            labels=[int(is_object) for _, is_object in self.points] or None,
            box=self.box_xyxy,
        )


@dataclass(frozen=True)
class _Mark:
    label: str | None
    box_xyxy: Box | None
    point: Point | None
    is_object: bool


def target_of(context: Sequence[Mapping[str, Any]]) -> str | None:
    """Name of the image that was marked; None if the marks do not say."""
    names = [mark.get("to_name") for mark in context]
    return next((name for name in names if isinstance(name, str)), None)


def marked_objects(context: Sequence[Mapping[str, Any]], image_hw: tuple[int, int]) -> list[MarkedObject]:
    """Sort what was marked into objects.

    Key points are points, rectangles and ellipses are boxes; other regions are passed over. Each label is at least one
    object, and with several boxes each box is one. Points go with the one box of their label, or of several boxes with
    those that hold them; points that no box holds make an object of their own. Points that are not on an object and
    belong to none of their label count for all objects.

    Args:
        context: the list `result` of the request's context; x, y, width and height are in percent of the picture.
        image_hw: height and width of the picture.

    Raises:
        ValueError: a region without numbers, or on a picture that was turned.
    """
    marks = [mark for region in context if (mark := _mark(region, image_hw)) is not None]
    objects: list[MarkedObject] = []
    for label in dict.fromkeys(mark.label for mark in marks):
        objects += _objects_of_a_label(label, [mark for mark in marks if mark.label == label])
    found = [marked for marked in objects if marked.says_what_it_is]
    loose = [point for marked in objects if not marked.says_what_it_is for point in marked.points]
    for marked in found:
        marked.points += loose
    return found


def _objects_of_a_label(label: str | None, marks: Sequence[_Mark]) -> list[MarkedObject]:
    boxed = [MarkedObject(label, mark.box_xyxy) for mark in marks if mark.box_xyxy is not None]
    others = MarkedObject(label)
    for mark in marks:
        if mark.point is None:
            continue
        holders = boxed if len(boxed) == 1 else [marked for marked in boxed if _holds(marked.box_xyxy, mark.point)]
        for marked in holders or [others]:
            marked.points.append((mark.point, mark.is_object))
    return [*boxed, others] if others.points else boxed


def _holds(box_xyxy: Box | None, point: Point) -> bool:
    assert box_xyxy is not None
    x1, y1, x2, y2 = box_xyxy
    return x1 <= point[0] <= x2 and y1 <= point[1] <= y2


def _mark(region: Mapping[str, Any], image_hw: tuple[int, int]) -> _Mark | None:
    """Read a region; None for one that says nothing to the model."""
    kind = str(region.get("type", "")).removesuffix("labels")
    if kind not in ("keypoint", "rectangle", "ellipse"):
        return None
    value = region.get("value")
    if not isinstance(value, Mapping):
        raise ValueError(f"a {kind} region must have a value with its place, got {value!r}")
    if region.get("image_rotation") not in (None, 0):
        raise ValueError("the picture was turned in Label Studio, which is not supported; turn it back to mark objects")
    labels = value.get(f"{kind}labels")
    label = str(labels[0]) if isinstance(labels, list) and labels else None
    point = _point(value, image_hw) if kind == "keypoint" else None
    box_xyxy = None if kind == "keypoint" else _box(kind, value, image_hw)
    if point is None and box_xyxy is None:
        return None
    is_object = region.get("is_positive")  # is left out where it says nothing, as of boxes
    return _Mark(label, box_xyxy, point, is_object is None or bool(is_object))


def _point(value: Mapping[str, Any], image_hw: tuple[int, int]) -> Point:
    height, width = image_hw
    x, y = _number(value, "x") * width / 100, _number(value, "y") * height / 100
    return min(max(x, 0.0), float(width)), min(max(y, 0.0), float(height))


def _box(kind: str, value: Mapping[str, Any], image_hw: tuple[int, int]) -> Box | None:
    """Return the upright box around a rectangle or an ellipse, within the picture; None if nothing is left of it."""
    height, width = image_hw
    x, y = _number(value, "x") * width / 100, _number(value, "y") * height / 100
    if kind == "ellipse":  # around its centre
        across, down = _number(value, "radiusX") * width / 100, _number(value, "radiusY") * height / 100
        corners_xy = np.array([[-across, -down], [across, -down], [across, down], [-across, down]])
    else:  # from its upper left corner, around which it is turned
        across, down = _number(value, "width") * width / 100, _number(value, "height") * height / 100
        corners_xy = np.array([[0, 0], [across, 0], [across, down], [0, down]])
    angle = math.radians(_number(value, "rotation") if value.get("rotation") is not None else 0.0)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    corners_xy = corners_xy @ turn + (x, y)
    (x1, y1), (x2, y2) = (np.clip(end, 0, (width, height)).tolist() for end in (corners_xy.min(0), corners_xy.max(0)))
    return (x1, y1, x2, y2) if min(x2 - x1, y2 - y1) > MIN_SIDE_PX else None


def _number(value: Mapping[str, Any], key: str) -> float:
    number = value.get(key)
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    if not is_number or not abs(number) <= MAX_NUMBER:  # type: ignore[arg-type]
        raise ValueError(f"a region's {key} must be a number, in percent of the picture or degrees, got {number!r:.40}")
    return float(number)  # type: ignore[arg-type]
