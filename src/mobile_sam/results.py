"""Results: what `SAM(...)` returns for one picture: masks, boxes and scores, row by row with the prompts.

The names follow the interface that users of `SAM("mobile_sam.pt").predict(...)` know. Nothing is dropped: row i is the
answer to prompt i, however low its score, even where the mask is empty.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.draw import draw_overlay
from mobile_sam.core.images import write_image
from mobile_sam.core.masks import encode_rle, mask_areas, mask_to_polygons, masks_to_boxes
from mobile_sam.core.prompts import LABEL_BACKGROUND, LABEL_FOREGROUND, Prompt


class Masks:
    """Masks of a picture.

    Attributes:
        data: (N, H, W) bool, of the picture's size.
    """

    def __init__(self, data: NDArray[np.bool_]) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: int | slice | NDArray[Any]) -> Masks:
        return Masks(self.data[_as_rows(rows)])

    @property
    def orig_shape(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.data.shape[1], self.data.shape[2]

    @cached_property
    def xy(self) -> list[NDArray[np.float32]]:
        """The outline of each mask's largest part: (K, 2) x, y in pixels; (0, 2) for a mask without one."""
        polygons = [mask_to_polygons(mask) for mask in self.data]
        return [parts[0] if parts else np.zeros((0, 2), np.float32) for parts in polygons]

    @property
    def xyn(self) -> list[NDArray[np.float32]]:
        """`xy` as shares of the picture's width and height."""
        height, width = self.orig_shape
        sides_xy = np.array([width, height], np.float32)
        return [np.divide(outline, sides_xy, dtype=np.float32) for outline in self.xy]


class Boxes:
    """Boxes around masks, with scores.

    Attributes:
        data: (N, 6) float32: x1, y1, x2, y2 in pixels (edges, so x2 - x1 is the width), predicted IoU, index of the
            prompt.
        orig_shape: height and width of the picture.
    """

    def __init__(self, data: NDArray[np.float32], orig_shape: tuple[int, int]) -> None:
        self.data = data
        self.orig_shape = orig_shape

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: int | slice | NDArray[Any]) -> Boxes:
        return Boxes(self.data[_as_rows(rows)], self.orig_shape)

    @property
    def xyxy(self) -> NDArray[np.float32]:
        """(N, 4) x1, y1, x2, y2 in pixels."""
        return self.data[:, :4]

    @property
    def xywh(self) -> NDArray[np.float32]:
        """(N, 4) x and y of the centre, width and height in pixels."""
        corners = self.xyxy
        return np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)

    @property
    def xyxyn(self) -> NDArray[np.float32]:
        """`xyxy` as shares of the picture's sides."""
        return self.xyxy / self._sides

    @property
    def xywhn(self) -> NDArray[np.float32]:
        """`xywh` as shares of the picture's sides."""
        return self.xywh / self._sides

    @property
    def conf(self) -> NDArray[np.float32]:
        """(N,) predicted IoU."""
        return self.data[:, 4]

    @property
    def cls(self) -> NDArray[np.float32]:
        """(N,) index of the prompt."""
        return self.data[:, 5]

    @property
    def _sides(self) -> NDArray[np.float32]:
        height, width = self.orig_shape
        return np.array([width, height, width, height], np.float32)


class Results:
    """The masks of one picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: (N, H, W) bool.
        scores: (N,) predicted IoU.
        prompts: the P prompts.
        prompt_index: (N,) which prompt each mask answers; with one mask for each prompt, 0 to N - 1.
        path: where the picture came from, or "".
        speed: milliseconds: preprocess (reading), inference (encoding and decoding), postprocess.
    """

    def __init__(
        self,
        image: NDArray[np.uint8],
        masks: NDArray[np.bool_],
        scores: NDArray[np.float32],
        prompts: list[Prompt],
        prompt_index: NDArray[np.int64],
        path: str = "",
        speed: dict[str, float] | None = None,
    ) -> None:
        self._image = image
        self.masks = Masks(masks)
        self.prompts = prompts
        self.prompt_index = prompt_index
        self.path = path
        self.speed = speed or {}
        self._scores = scores

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.masks)

    def __getitem__(self, rows: int | slice | NDArray[Any]) -> Results:
        """Return some of the masks as Results of their own."""
        wanted = _as_rows(rows)
        return Results(
            self._image, self.masks.data[wanted], self._scores[wanted], self.prompts, self.prompt_index[wanted],
            self.path, self.speed,
        )  # fmt: skip

    @property
    def orig_img(self) -> NDArray[np.uint8]:
        """The picture, (H, W, 3) uint8 BGR, as OpenCV shows it."""
        return np.ascontiguousarray(self._image[:, :, ::-1])

    @property
    def orig_shape(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self._image.shape[0], self._image.shape[1]

    @property
    def names(self) -> dict[int, str]:
        """A name for each prompt: its number."""
        return {index: str(index) for index in range(len(self.prompts))}

    @cached_property
    def boxes(self) -> Boxes:
        """The boxes of the masks; zeros for an empty mask."""
        rows = np.zeros((len(self), 6), np.float32)
        rows[:, :4] = masks_to_boxes(self.masks.data)  # inclusive corners
        rows[:, 2:4] += (mask_areas(self.masks.data) > 0)[:, None]  # to the far edge of the last pixel
        rows[:, 4], rows[:, 5] = self._scores, self.prompt_index
        return Boxes(rows, self.orig_shape)

    def cpu(self) -> Results:
        """Return self: everything is in main memory already."""
        return self

    def numpy(self) -> Results:
        """Return self: everything is an array already."""
        return self

    def plot(self) -> NDArray[np.uint8]:
        """Draw masks and prompts over the picture: (H, W, 3) uint8 BGR."""
        return np.ascontiguousarray(self._overlay()[:, :, ::-1])

    def save(self, filename: str | Path | None = None) -> str:
        """Write the overlay and return where; by default `results_` and the picture's name, in the current folder."""
        stem = Path(self.path).stem if self.path else "picture"
        target = Path(filename) if filename else Path(f"results_{stem}.png")
        write_image(target, self._overlay())
        return str(target)

    def show(self) -> None:
        """Open the overlay in the system's picture viewer."""
        from PIL import Image

        Image.fromarray(self._overlay()).show()

    def summary(self) -> list[dict[str, Any]]:
        """One `mask_record` for each mask."""
        rows = zip(self.masks.data, self._scores.tolist(), self.prompt_index.tolist(), strict=True)
        return [mask_record(mask, score, index, self.prompts[index]) for mask, score, index in rows]

    def to_json(self) -> str:
        """Return `summary` as JSON."""
        return json.dumps(self.summary())

    def _overlay(self) -> NDArray[np.uint8]:
        return draw_result(self._image, self.masks.data, [self.prompts[i] for i in np.unique(self.prompt_index)])


def draw_result(image: NDArray[np.uint8], masks: NDArray[np.bool_], prompts: list[Prompt]) -> NDArray[np.uint8]:
    """Draw masks and the prompts they answer over a picture: (H, W, 3) uint8 RGB, (N, H, W) bool -> (H, W, 3) uint8."""
    points_xy = np.concatenate([prompt.points_xy for prompt in prompts] or [np.zeros((0, 2), np.float32)])
    labels = np.concatenate([prompt.labels for prompt in prompts] or [np.zeros(0, np.int64)])
    is_click = np.isin(labels, (LABEL_BACKGROUND, LABEL_FOREGROUND))
    boxes_xyxy = np.array([prompt.box_xyxy for prompt in prompts if prompt.box_xyxy is not None]).reshape(-1, 4)
    return draw_overlay(image, masks, points_xy=points_xy[is_click], labels=labels[is_click], boxes_xyxy=boxes_xyxy)


def mask_record(mask: NDArray[np.bool_], score: float, index: int, prompt: Prompt) -> dict[str, Any]:
    """Describe a mask, ready for JSON.

    Args:
        mask: (H, W) bool.
        score: predicted IoU.
        index: number of the prompt it answers.
        prompt: that prompt.

    Returns:
        `object` (the number), `predicted_iou`, `area` in pixels, `bbox` (x, y, width, height in pixels; zeros for an
        empty mask), `segmentation` (COCO RLE) and `prompt`.
    """
    area_px = int(np.count_nonzero(mask))
    ((x1, y1, x2, y2),) = masks_to_boxes(mask[None]).tolist()  # inclusive corners
    return {
        "object": index,
        "predicted_iou": float(score),
        "area": area_px,
        "bbox": [x1, y1, x2 - x1 + 1, y2 - y1 + 1] if area_px else [0, 0, 0, 0],
        "segmentation": encode_rle(mask),
        "prompt": prompt.to_json(),
    }


def _as_rows(rows: int | slice | NDArray[Any]) -> slice | NDArray[Any] | list[int]:
    """Make an index one that keeps the first axis: a single number becomes a list of one."""
    return [int(rows)] if isinstance(rows, (int, np.integer)) else rows
