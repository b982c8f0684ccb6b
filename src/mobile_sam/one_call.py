"""The one-call interface: `SAM("mobile_sam.pt").predict("zidane.jpg", points=[900, 370], labels=[1])`.

Prompts, shapes and results behave as the documentation of the well-known wrapper describes, with two differences: a
mask is never dropped for its score, so row i always answers prompt i, and nothing is downloaded. Without prompts
everything is segmented.
"""

from __future__ import annotations

import glob
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mobile_sam.automatic_mask_generator import SamAutomaticMaskGenerator
from mobile_sam.core.images import ImageSource
from mobile_sam.core.masks import decode_rle
from mobile_sam.core.prompts import Prompt
from mobile_sam.data.folders import PICTURE_SUFFIXES
from mobile_sam.engines import Engine, make_engine
from mobile_sam.everything.config import EverythingConfig
from mobile_sam.predictor import SamPredictor, check_image_format, read_rgb
from mobile_sam.results import Results

logger = logging.getLogger(__name__)


class SAM:
    """A segmentation model in one line.

    Args:
        model: "mobile_sam.pt" or "mobile_sam" for the bundled weights, unless a file of that name exists; else a
            checkpoint (.pt and .pth run on torch, .safetensors on ONNX Runtime) or a model folder; or an `Engine`.
        engine, device, precision: see `mobile_sam.engines.make_engine`.

    Raises:
        FileNotFoundError: there is no such checkpoint. ValueError: it is damaged, or of no known model.
        MissingDependencyError: the engine it needs is not installed.
    """

    def __init__(
        self,
        model: str | Path | Engine = "mobile_sam.pt",
        *,
        engine: str = "auto",
        device: str | None = None,
        precision: str | None = None,
    ) -> None:
        self.engine = (
            model if isinstance(model, Engine) else make_engine(engine, model, device=device, precision=precision)
        )

    def __call__(self, source: Any, *prompts: Any, **options: Any) -> list[Results] | Iterator[Results]:
        """See `predict`."""
        return self.predict(source, *prompts, **options)

    def predict(
        self,
        source: ImageSource | Sequence[ImageSource],
        stream: bool = False,
        bboxes: ArrayLike | None = None,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        masks: ArrayLike | None = None,
        *,
        multimask_output: bool = False,
        image_format: str = "BGR",
        everything: EverythingConfig | None = None,
    ) -> list[Results] | Iterator[Results]:
        """Segment the objects that the prompts point at, or everything if there are none.

        Args:
            source: a picture (path, PIL image, (H, W, 3) array), a folder, a pattern such as "*.jpg", or a list of
                these. The same prompts are put to each picture.
            stream: return an iterator that segments each picture when it is reached.
            bboxes: [x1, y1, x2, y2] or (N, 4), one object each. With points, row i of both is object i.
            points: [x, y] one object; (N, 2) N objects with one point each; (N, K, 2) N objects with K points each.
            labels: 1 (the object) or 0 (not the object) for each point, in the shape of `points`; all 1 when left out.
            masks: (H, W) or (N, H, W) binary masks of the picture's size, one object each.
            multimask_output: three masks for each prompt in place of one; `Results.prompt_index` tells whose.
            image_format: order of an array's channels: "BGR", as cv2.imread gives, or "RGB".
            everything: how everything is segmented where there is no prompt; by default as in SAM.

        Returns:
            One `Results` for each picture; without prompts its rows are masks by falling predicted IoU, and the prompts
            the points that found them. In a folder, pattern or list a picture that cannot be read is logged and
            left out, and when none of them can, that is an error.

        Raises:
            FileNotFoundError, ValueError: no such picture; shapes or counts that do not fit; settings for everything
                together with prompts.
        """
        check_image_format(image_format)
        has_prompts = any(prompt is not None for prompt in (points, labels, bboxes, masks))
        if has_prompts and everything is not None:
            raise ValueError("everything= came together with prompts; leave out one or the other")
        if not has_prompts and multimask_output:
            raise ValueError(
                "multimask_output is for prompts, and there are none; without them everything is segmented"
            )
        segment: _Segment
        if has_prompts:
            prompts = prompts_from_arrays(points, labels, bboxes, masks)
            segment = partial(_segment_prompts, SamPredictor(engine=self.engine), prompts, multimask_output)
        else:
            config = EverythingConfig() if everything is None else everything
            generator = SamAutomaticMaskGenerator.from_config(config, self.engine)
            generator.output_mode = "uncompressed_rle"
            segment = partial(_segment_everything, generator)
        pictures = list_pictures(source)
        is_batch = not (len(pictures) == 1 and pictures[0] is source)
        results = self._segment(pictures, segment, image_format, skip_broken=is_batch)
        return results if stream else list(results)

    def info(self) -> dict[str, str]:
        """Name the engine and the weights."""
        return {"engine": self.engine.name, "model_id": self.engine.model_id}

    def _segment(
        self,
        pictures: Sequence[ImageSource],
        segment: _Segment,
        image_format: str,
        skip_broken: bool,
    ) -> Iterator[Results]:
        num_broken = 0
        for picture in pictures:
            started = time.perf_counter()
            try:
                image = read_rgb(picture, image_format)
                image = image.copy() if image is picture else image  # Results keeps it; a caller may reuse a buffer
            except (ValueError, OSError) as error:
                num_broken += 1
                if not skip_broken or num_broken == len(pictures):
                    raise
                logger.error("left out a picture that cannot be read: %s", error)
                continue
            path = os.fspath(picture) if isinstance(picture, (str, os.PathLike)) else ""
            was_read = time.perf_counter()
            answer = segment(image)
            speed = {
                "preprocess": 1e3 * (was_read - started),
                "inference": 1e3 * (answer.was_segmented - was_read),
                "postprocess": 1e3 * (time.perf_counter() - answer.was_segmented),
            }
            yield Results(image, answer.masks, answer.scores, answer.prompts, answer.prompt_index, path, speed)


def prompts_from_arrays(
    points: ArrayLike | None, labels: ArrayLike | None, bboxes: ArrayLike | None, masks: ArrayLike | None
) -> list[Prompt]:
    """Turn the arrays that `SAM.predict` takes into one `Prompt` for each object.

    Raises:
        ValueError: no prompt, shapes that are not described there, or counts that differ.
    """
    columns = {
        "points": None if points is None else _point_rows(points),
        "bboxes": None if bboxes is None else _box_rows(bboxes),
        "masks": None if masks is None else _mask_rows(masks),
    }
    counts = {name: len(rows) for name, rows in columns.items() if rows is not None}
    if not counts:
        raise ValueError("no prompt: pass points=, bboxes= or masks=")
    if len(set(counts.values())) > 1:
        raise ValueError(f"points, bboxes and masks must describe the same objects, row by row, got {counts}")
    labels_by_row = _labels_for(columns["points"], labels)
    box_rows, mask_rows = columns["bboxes"], columns["masks"]
    return [
        Prompt.of(
            None if columns["points"] is None else columns["points"][row],
            None if labels_by_row is None else labels_by_row[row],
            None if box_rows is None else box_rows[row],
            None if mask_rows is None else mask_rows[row],
        )
        for row in range(next(iter(counts.values())))
    ]


def list_pictures(source: Any) -> list[ImageSource]:
    """List what a source names: itself, the pictures of a folder or of a pattern, or those of each entry of a list.

    Raises:
        FileNotFoundError: a pattern that nothing matches. ValueError: a folder without pictures, an empty list.
    """
    if isinstance(source, (list, tuple)):
        if not source:
            raise ValueError("source is an empty list; pass at least one picture")
        return [picture for entry in source for picture in list_pictures(entry)]
    if not isinstance(source, (str, os.PathLike)):
        return [source]
    path = Path(source)
    if path.is_dir():
        pictures = sorted(str(file) for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
        if not pictures:
            raise ValueError(f"{path} holds no picture ({', '.join(PICTURE_SUFFIXES)})")
        return list(pictures)
    if not path.exists() and glob.has_magic(str(source)):
        matches = sorted(glob.glob(str(source), recursive=True))
        if not matches:
            raise FileNotFoundError(f"no file matches {source}")
        return list(matches)
    return [source]


@dataclass(frozen=True, eq=False)
class _Answer:
    """What was found in a picture.

    Attributes:
        masks: (N, H, W) bool.
        scores: (N,) float32, predicted IoU.
        prompts: P prompts.
        prompt_index: (N,) int64, which prompt each mask answers.
        was_segmented: when the last mask was there, on the clock of `time.perf_counter`.
    """

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]
    prompts: list[Prompt]
    prompt_index: NDArray[np.int64]
    was_segmented: float


_Segment: TypeAlias = Callable[[NDArray[np.uint8]], _Answer]


def _segment_prompts(
    predictor: SamPredictor, prompts: list[Prompt], multimask_output: bool, image: NDArray[np.uint8]
) -> _Answer:
    """Answer prompts on a picture (H, W, 3)."""
    predictor.set_image(image)
    predictions = predictor.predict_batch(prompts, multimask_output)
    was_segmented = time.perf_counter()
    masks = np.concatenate([prediction.masks for prediction in predictions])
    scores = np.concatenate([prediction.iou_predictions for prediction in predictions])
    prompt_index = np.repeat(np.arange(len(prompts)), [len(prediction.masks) for prediction in predictions])
    return _Answer(masks, scores, prompts, prompt_index, was_segmented)


def _segment_everything(generator: SamAutomaticMaskGenerator, image: NDArray[np.uint8]) -> _Answer:
    """Find everything in a picture (H, W, 3)."""
    records = generator.generate(image)
    was_segmented = time.perf_counter()
    masks = np.zeros((len(records), *image.shape[:2]), np.bool_)
    for mask, record in zip(masks, records, strict=True):
        mask[:] = decode_rle(record["segmentation"])
    scores = np.array([record["predicted_iou"] for record in records], np.float32)
    prompts = [Prompt.of(record["point_coords"]) for record in records]
    return _Answer(masks, scores, prompts, np.arange(len(records)), was_segmented)


def _point_rows(points: ArrayLike) -> NDArray[Any]:
    """Bring points to (N, K, 2): N objects, K points each."""
    rows = _rectangular(points, "points")
    if rows.ndim not in (1, 2, 3) or rows.shape[-1] != 2:
        raise ValueError(f"points must be [x, y], (N, 2) or (N, K, 2), got shape {rows.shape}")
    return rows if rows.ndim == 3 else rows.reshape(-1, 1, 2)


def _box_rows(bboxes: ArrayLike) -> NDArray[Any]:
    """Bring boxes to (N, 4)."""
    rows = _rectangular(bboxes, "bboxes")
    if rows.ndim not in (1, 2) or rows.shape[-1] != 4:
        raise ValueError(f"bboxes must be [x1, y1, x2, y2] or (N, 4), got shape {rows.shape}")
    return rows.reshape(-1, 4)


def _mask_rows(masks: ArrayLike) -> NDArray[np.bool_]:
    """Bring binary masks of any dtype to (N, H, W) bool."""
    rows = _rectangular(masks, "masks")
    if rows.ndim not in (2, 3):
        raise ValueError(f"masks must be (H, W) or (N, H, W), got shape {rows.shape}")
    if np.issubdtype(rows.dtype, np.floating) and not np.isin(rows, (0, 1)).all():
        raise ValueError(
            f"masks of dtype {rows.dtype} must hold 0 and 1 only; pass probabilities > 0.5 or logits > 0, or give "
            "logits to SamPredictor.predict(mask_input=...)"
        )
    return rows.reshape(-1, *rows.shape[-2:]).astype(bool)


def _labels_for(points: NDArray[Any] | None, labels: ArrayLike | None) -> NDArray[Any] | None:
    """Bring labels to the shape (N, K) of points (N, K, 2); a single row or column may come flat."""
    if labels is None:
        return None
    if points is None:
        raise ValueError("labels came without points; pass points= beside them, or drop the labels")
    values, expected = _rectangular(labels, "labels"), points.shape[:2]
    is_flat = values.ndim < 2 and 1 in expected
    if values.shape != expected and not (is_flat and values.size == expected[0] * expected[1]):
        raise ValueError(f"labels must be {expected}, one for each point, got shape {values.shape}")
    return values.reshape(expected)


def _rectangular(values: ArrayLike, name: str) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be a rectangular array: every object the same number of values") from error
    if array.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {array.shape}; leave it out when there are none")
    return array
