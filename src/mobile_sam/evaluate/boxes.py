"""The `boxes` protocol: COCO AP of the masks that a model gives for a detector's boxes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.files import atomic_path
from mobile_sam.core.geometry import box_xyxy_to_xywh
from mobile_sam.core.masks import encode_rle, rle_area
from mobile_sam.core.prompts import Prompt
from mobile_sam.data.mask_files import Detections, PictureDetections
from mobile_sam.data.records import Picture
from mobile_sam.evaluate.answers import Answer, ask, prompts_at_once, tokens_of_rules
from mobile_sam.evaluate.average_precision import METRICS, ApResult, bootstrap_ap, evaluate_ap
from mobile_sam.evaluate.models import Model
from mobile_sam.evaluate.prompts import cut_to_picture
from mobile_sam.evaluate.protocols import BoxesProtocol
from mobile_sam.evaluate.report.content import NamedTable
from mobile_sam.evaluate.report.files import write_rows
from mobile_sam.evaluate.run_folder import MEASUREMENTS_CSV
from mobile_sam.evaluate.statistics import Interval
from mobile_sam.evaluate.stopwatch import Stopwatch

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
            image_hw = next(iter(embeddings.values())).image_hw
            some = usable_detections(found, protocol.max_detections, image_hw, left_out)
            boxes_xyxy = (cut_to_picture(box, image_hw) for box in some.boxes_xyxy)
            prompts = [Prompt.of(box=box_xyxy) for box_xyxy in boxes_xyxy]
            for model in self.models:
                answers = self._answers(protocol, model, embeddings[model.name], prompts, stopwatch)
                for row, answer in enumerate(answers):
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
        at_once = prompts_at_once(embedding.image_hw)
        for start in range(0, len(prompts), at_once):
            some = list(prompts[start : start + at_once])
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


def write_results(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the masks, so that another tool can score them: `masks_PROTOCOL_MODEL.json` and a row each in a CSV.

    Args:
        folder: of the run.
        entries: what `BoxesTask.entry` gave, by the picture's id; those of failed pictures have no results.
    """
    results: dict[tuple[str, str], Results] = {}
    for entry in entries.values():
        for protocol, of_models in entry.get("results", {}).items():
            for model, found in of_models.items():
                results.setdefault((protocol, model), []).extend(found)
    for (protocol, model), found in results.items():
        name = re.sub(r"[^\w.=-]+", "_", f"masks_{protocol}_{model}.json")
        with atomic_path(folder / name) as partial:
            partial.write_text(json.dumps([{**one, "image_id": _number_or_text(one["image_id"])} for one in found]))
    columns = ("picture", "protocol", "model", "category_id", "box_score", "score", "predicted_iou", "mask_px")
    rows = (
        (one["image_id"], *key, one["category_id"], one["box_score"], one["score"], one["predicted_iou"], area_px)
        for key, found in results.items()
        for one in found
        for area_px in (rle_area(one["segmentation"]),)
    )
    write_rows(folder / MEASUREMENTS_CSV, columns, rows)


def _number_or_text(picture_id: str) -> int | str:
    """Return an id as annotation files have it."""
    return int(picture_id) if picture_id.isdecimal() else picture_id


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


def box_ap(pictures: Sequence[Picture], detections: Detections, max_detections: int) -> ApResult:
    """Compute the AP of the boxes that masks are made from."""
    numbers = _image_ids(pictures)
    results = []
    for picture in pictures:
        if picture.id not in detections.pictures:
            continue
        size = _size(picture)
        found = usable_detections(detections.pictures[picture.id], max_detections, (size["height"], size["width"]))
        boxes_xywh = box_xyxy_to_xywh(found.boxes_xyxy)
        for box_xywh, score, category_id in zip(boxes_xywh, found.scores, found.category_ids, strict=True):
            found_box = {"category_id": int(category_id), "score": float(score), "bbox": box_xywh.tolist()}
            results.append({"image_id": numbers[picture.id], **found_box})
    return evaluate_ap(coco_truth(pictures), results, "bbox")


def check_categories(pictures: Sequence[Picture], detections: Detections) -> str:
    """Say how many detections are of categories that no object has, which COCO AP passes over; "" if none is.

    Raises:
        ValueError: all are: the two files number their categories differently.
    """
    of_objects = {instance.category_id for picture in pictures for instance in picture.instances}
    of_detections = np.concatenate([found.category_ids for found in detections.pictures.values()]).tolist()
    foreign = [category_id for category_id in of_detections if category_id not in of_objects]
    if len(foreign) == len(of_detections):
        raise ValueError(
            f"no detection in {detections.name} is of a category that an object has: category_id is "
            f"{sorted(set(foreign))[:5]}... there, {sorted(of_objects)[:5]}... in the annotations; make them agree"
        )
    text = f"{len(foreign)} of {len(of_detections)} detections are of categories that no object here has; COCO AP"
    return f"{text} passes over them." if foreign else ""


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
        NamedTable(
            "COCO AP of masks",
            ("Protocol and model", "AP", "95% interval", *METRICS[1:]),
            tuple(rows),
            note,
            num_digits=4,
        )
    ]
    if len(comparisons) > 1:
        differences = tuple((c.model, c.difference, _text(c.difference_interval, "+")) for c in comparisons[1:])
        columns = ("Protocol and model", "Difference", "95% interval")
        tables.append(NamedTable(f"AP less that of {first}", columns, differences, note, num_digits=4))
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


def usable_detections(
    found: PictureDetections, max_detections: int, image_hw: tuple[int, int], left_out: Counter[str] | None = None
) -> PictureDetections:
    """Keep the detections of a picture with the highest scores, in the order of the file among equals, that lie in it.

    Args:
        found: all of them.
        max_detections: how many at most.
        image_hw: height and width of the picture in pixels.
        left_out: those left out are counted here, by reason; several protocols count the same ones once.
    """
    order = np.argsort(-found.scores, kind="stable")[:max_detections]
    rows = [row for row in order.tolist() if cut_to_picture(found.boxes_xyxy[row], image_hw) is not None]
    if left_out is not None:
        for reason, number in (
            ("box beyond max_detections", len(found) - len(order)),
            ("box outside the picture", len(order) - len(rows)),
        ):
            left_out[reason] = max(left_out[reason], number)
    return PictureDetections(found.boxes_xyxy[rows], found.scores[rows], found.category_ids[rows])


def _result(
    protocol: BoxesProtocol, picture_id: str, found: PictureDetections, row: int, answer: Answer
) -> dict[str, Any]:
    factor = answer.predicted_iou if protocol.score == "product" else 1.0
    return {
        "image_id": picture_id,
        "category_id": int(found.category_ids[row]),
        "score": float(found.scores[row]) * factor,
        "segmentation": encode_rle(answer.mask),
        "box_score": float(found.scores[row]),
        "predicted_iou": answer.predicted_iou,
    }


def _text(interval: Interval, sign: str = "") -> str:
    is_known = interval.low == interval.low
    return f"[{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]" if is_known else "-"
