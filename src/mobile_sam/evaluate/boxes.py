"""The `boxes` protocol: COCO AP of the masks that a model gives for a detector's boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.geometry import box_xyxy_to_xywh
from mobile_sam.core.masks import encode_rle
from mobile_sam.core.prompts import Prompt
from mobile_sam.data.mask_files import Detections, PictureDetections
from mobile_sam.data.records import Picture
from mobile_sam.evaluate.answers import Answer, ask, tokens_of_rules
from mobile_sam.evaluate.average_precision import METRICS, ApResult, bootstrap_ap, evaluate_ap
from mobile_sam.evaluate.models import Model
from mobile_sam.evaluate.protocols import BoxesProtocol
from mobile_sam.evaluate.report.content import NamedTable
from mobile_sam.evaluate.statistics import Interval
from mobile_sam.evaluate.stopwatch import Stopwatch

BOXES_AT_ONCE = 16
"""Boxes of a picture in work together: each holds up to 4 MiB of logits."""

Results = list[dict[str, Any]]
"""COCO results: image_id, category_id, score, segmentation."""


class BoxesTask:
    """Turns the boxes of detections into masks.

    Args:
        protocols: with unique names.
        models: with unique names.
        detections: boxes, scores and categories by picture.
    """

    def __init__(self, protocols: Sequence[BoxesProtocol], models: Sequence[Model], detections: Detections) -> None:
        self.protocols = tuple(protocols)
        self.models = tuple(models)
        self.detections = detections

    def entry(
        self, picture: Picture, embeddings: Mapping[str, Embedding], stopwatch: Stopwatch, left_out: Counter[str]
    ) -> dict[str, Any]:
        """See `run.Task.entry`: COCO results by protocol and model."""
        found = self.detections.pictures.get(picture.id)
        results: dict[str, dict[str, Results]] = {}
        for protocol in self.protocols:
            of_models = results[protocol.name] = {model.name: [] for model in self.models}
            if found is None:
                continue
            some = _best(found, protocol.max_detections)
            image_hw = next(iter(embeddings.values())).image_hw
            inside = [row for row in range(len(some)) if _prompt(some.boxes_xyxy[row], image_hw) is not None]
            num_outside = len(some) - len(inside)
            left_out["box outside the picture"] = max(left_out["box outside the picture"], num_outside)
            prompts = [prompt for box in some.boxes_xyxy if (prompt := _prompt(box, image_hw)) is not None]
            for model in self.models:
                answers = self._answers(protocol, model, embeddings[model.name], prompts, stopwatch)
                for row, answer in zip(inside, answers, strict=True):
                    with stopwatch.stage("compare"):
                        of_models[model.name].append(_result(protocol, picture.id, some, row, answer))
        return {"results": results}

    def _answers(
        self,
        protocol: BoxesProtocol,
        model: Model,
        embedding: Embedding,
        prompts: Sequence[Prompt],
        stopwatch: Stopwatch,
    ) -> Iterator[Answer]:
        """Answer boxes, giving the mask back as often as the protocol says."""
        tokens = tokens_of_rules([protocol.mask_rule])
        for start in range(0, len(prompts), BOXES_AT_ONCE):
            some = list(prompts[start : start + BOXES_AT_ONCE])
            for is_last in [False] * protocol.num_refinements + [True]:
                answers = ask(model, embedding, some, tokens, stopwatch)
                chosen = (answers.choose(row, protocol.mask_rule) for row in range(len(some)))
                if is_last:
                    yield from chosen
                else:
                    some = [
                        replace(prompt, mask=answer.low_res_logits) for prompt, answer in zip(some, chosen, strict=True)
                    ]


def average_precisions(
    protocols: Sequence[BoxesProtocol],
    model_names: Sequence[str],
    pictures: Sequence[Picture],
    entries: Mapping[str, Mapping[str, Any]],
) -> dict[str, ApResult]:
    """Compute the AP of each protocol and model, by "protocol model".

    Args:
        protocols: whose results the entries hold.
        model_names: likewise.
        pictures: those to count, with their objects, crowds among them.
        entries: what `BoxesTask.entry` gave for each of them, by the picture's id.
    """
    truth, numbers = coco_truth(pictures), _image_ids(pictures)
    aps = {}
    for protocol in protocols:
        for name in model_names:
            results = [
                {**result, "image_id": numbers[picture.id]}
                for picture in pictures
                for result in entries[picture.id]["results"][protocol.name][name]
            ]
            aps[f"{protocol.name} {name}"] = evaluate_ap(truth, results, "segm")
    return aps


def coco_truth(pictures: Sequence[Picture]) -> dict[str, Any]:
    """Return pictures and their objects as the content of a COCO annotation file."""
    numbers = _image_ids(pictures)
    annotations = [
        {
            "id": instance.id,
            "image_id": numbers[picture.id],
            "category_id": instance.category_id,
            "segmentation": instance.rle,
            "bbox": box_xyxy_to_xywh(instance.box_xyxy).tolist(),
            "area": instance.area_px,
            "iscrowd": int(instance.is_crowd),
        }
        for picture in pictures
        for instance in picture.instances
    ]
    categories = sorted({annotation["category_id"] for annotation in annotations})
    return {
        "images": [{"id": numbers[picture.id], **_size(picture)} for picture in pictures],
        "annotations": annotations,
        "categories": [{"id": category} for category in categories],
    }


def box_ap(pictures: Sequence[Picture], detections: Detections) -> ApResult:
    """Compute the AP of the boxes themselves, which bounds what masks made from them can reach."""
    numbers = _image_ids(pictures)
    results = [
        {"image_id": numbers[picture.id], "category_id": category, "score": score, "bbox": box}
        for picture in pictures
        if (found := detections.pictures.get(picture.id)) is not None
        for category, score, box in zip(
            found.category_ids.tolist(),
            found.scores.tolist(),
            box_xyxy_to_xywh(found.boxes_xyxy).tolist(),
            strict=True,
        )
    ]
    return evaluate_ap(coco_truth(pictures), results, "bbox")


def ap_tables(aps: Mapping[str, ApResult], of_boxes: ApResult, num_resamples: int = 500) -> list[NamedTable]:
    """Put APs in tables: all metrics, and differences to the first with bootstrap intervals over pictures."""
    first = next(iter(aps))
    comparisons = bootstrap_ap(aps, first, num_resamples)
    num_pictures = len(aps[first].picture_ids)
    rows: list[tuple[str | float, ...]] = [
        (comparison.model, result.metrics["AP"], _text(comparison.interval), *list(result.metrics.values())[1:])
        for comparison, result in zip(comparisons, aps.values(), strict=True)
    ]
    rows.append(("(the boxes themselves)", of_boxes.metrics["AP"], "", *list(of_boxes.metrics.values())[1:]))
    note = f"{num_pictures} pictures; 95% intervals from {num_resamples} resamples of the pictures"
    tables = [
        NamedTable("COCO AP of masks", ("Protocol and model", "AP", "95% interval", *METRICS[1:]), tuple(rows), note)
    ]
    if len(comparisons) > 1:
        differences = tuple((c.model, c.difference, _text(c.difference_interval)) for c in comparisons[1:])
        columns = ("Protocol and model", "Difference", "95% interval")
        tables.append(NamedTable(f"AP less that of {first}", columns, differences, note))
    return tables


def _size(picture: Picture) -> dict[str, int]:
    """Return height and width as COCO has them; pycocotools wants them, but for run lengths does not use them."""
    height, width = picture.size_hw or next((instance.rle["size"] for instance in picture.instances), (0, 0))
    return {"height": height, "width": width}


def _image_ids(pictures: Sequence[Picture]) -> dict[str, int]:
    """Number the pictures in the order of their ids, numbers by value: pycocotools breaks ties of scores by it."""
    ids = [picture.id for picture in pictures]
    are_numbers = all(picture_id.isdecimal() for picture_id in ids)
    return {picture_id: rank for rank, picture_id in enumerate(sorted(ids, key=int if are_numbers else None), 1)}


def _best(found: PictureDetections, num: int) -> PictureDetections:
    """Keep the detections with the highest scores, in the order of the file among equals."""
    order = np.argsort(-found.scores, kind="stable")[:num]
    return PictureDetections(found.boxes_xyxy[order], found.scores[order], found.category_ids[order])


def _prompt(box_xyxy: NDArray[np.float64], image_hw: tuple[int, int]) -> Prompt | None:
    """Cut a box to the picture; None if nothing is left."""
    height, width = image_hw
    x1, y1, x2, y2 = np.clip(box_xyxy, 0, [width, height, width, height]).astype(np.float32).tolist()
    return Prompt.of(box=(x1, y1, x2, y2)) if x1 < x2 and y1 < y2 else None


def _result(
    protocol: BoxesProtocol, picture_id: str, found: PictureDetections, row: int, answer: Answer
) -> dict[str, Any]:
    factor = answer.predicted_iou if protocol.score == "product" else 1.0
    return {
        "image_id": picture_id,
        "category_id": int(found.category_ids[row]),
        "score": float(found.scores[row]) * factor,
        "segmentation": encode_rle(answer.mask),
    }


def _text(interval: Interval) -> str:
    return f"{interval.low:.4f} to {interval.high:.4f}"
