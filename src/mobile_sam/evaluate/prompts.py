"""The `prompts` protocol: boxes and clicks made from annotated objects, masks against the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.prompts import Prompt
from mobile_sam.data.annotations import tight_box
from mobile_sam.data.clicks import (
    centre_pixel,
    next_click,
    next_click_by_distance,
    object_rng,
    random_error_click,
    random_pixel,
)
from mobile_sam.data.records import Instance, Picture
from mobile_sam.evaluate.answers import Answer, Answers, ask, pair_iou, prompts_at_once, tokens_of_rules
from mobile_sam.evaluate.measurements import Attempt, Measurement
from mobile_sam.evaluate.models import Model
from mobile_sam.evaluate.protocols import PromptsProtocol, bin_of
from mobile_sam.evaluate.run import MaskTask
from mobile_sam.evaluate.stopwatch import Stopwatch


@dataclass(frozen=True, eq=False)
class Target:
    """An annotated object of a picture.

    Attributes:
        picture_id: id of the picture.
        instance: the object.
        truth: (H, W) bool.
    """

    picture_id: str
    instance: Instance
    truth: NDArray[np.bool_]

    def box_xyxy(self, box_from: str) -> tuple[float, float, float, float]:
        """Return the annotated box, cut to the picture, or the tight one, also where nothing is left of the other."""
        cut_xyxy = cut_to_picture(self.instance.box_xyxy, self.truth.shape) if box_from == "annotation" else None
        return cut_xyxy or tight_box(self.truth)

    def area_px(self, area_from: str) -> float:
        """Return the annotated area, or the mask's number of pixels."""
        return self.instance.area_px if area_from == "annotation" else float(np.count_nonzero(self.truth))

    def unfit_for(self, protocol: PromptsProtocol) -> str:
        """Say why a protocol cannot or does not want to measure the object; "" if it does."""
        if self.instance.is_crowd and protocol.crowd == "skip":
            return "crowd mask"
        if protocol.first_prompt == "annotated":
            return unfit_click(self.instance.point_xy, self.truth.shape)
        return ""

    def first_prompt(self, protocol: PromptsProtocol) -> Prompt:
        """Make the prompt that a protocol begins with."""
        if protocol.first_prompt == "box":
            return Prompt.of(box=self.box_xyxy(protocol.box_from))
        if protocol.first_prompt == "centre":
            return Prompt.of(points=centre_pixel(self.truth))
        if protocol.first_prompt == "annotated":
            return Prompt.of(points=self.instance.point_xy)
        return Prompt.of(points=random_pixel(self.truth, self._rng(protocol, 1)))

    def further_click(
        self, protocol: PromptsProtocol, predicted: NDArray[np.bool_], step: int
    ) -> tuple[int, int, int] | None:
        """Choose x, y and label of the next click; None where nothing is left to mend."""
        if protocol.next_click == "largest-error":
            return next_click(self.truth, predicted)
        if protocol.next_click == "farthest-error":
            return next_click_by_distance(self.truth, predicted)
        rng = self._rng(protocol, step)
        if protocol.next_click == "random-error":
            return random_error_click(self.truth, predicted, rng)
        return (*random_pixel(self.truth, rng), 1)

    def _rng(self, protocol: PromptsProtocol, step: int) -> np.random.Generator:
        return object_rng(protocol.seed, self.picture_id, f"{self.instance.id} prompt {step}")


def cut_to_picture(
    box_xyxy: Sequence[float] | NDArray[np.float64], image_hw: tuple[int, ...]
) -> tuple[float, float, float, float] | None:
    """Cut a box (4,) XYXY to the picture; None if nothing is left."""
    height, width = image_hw
    clipped = np.clip(box_xyxy, 0, [width, height, width, height])
    x1, y1, x2, y2 = clipped.astype(np.float32).tolist()  # as prompts have it: a sliver may have no width left
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def unfit_click(point_xy: tuple[float, float] | None, image_hw: tuple[int, ...]) -> str:
    """Say why an annotated click cannot be asked; "" if it can."""
    if point_xy is None:
        return "object without an annotated click"
    (x, y), (height, width) = point_xy, image_hw
    return "" if 0 <= x <= width and 0 <= y <= height else "click outside the picture"


class PromptsTask(MaskTask):
    """Measures pictures by one or more protocols with one or more models.

    Protocols that begin with the same prompts share the decoder's answers to them.

    Args:
        protocols: with unique names.
        models: with unique names.
    """

    def __init__(self, protocols: Sequence[PromptsProtocol], models: Sequence[Model]) -> None:
        self.protocols = tuple(protocols)
        self.models = tuple(models)

    def attempts(
        self, picture: Picture, embeddings: Mapping[str, Embedding], stopwatch: Stopwatch, left_out: Counter[str]
    ) -> Iterator[Attempt]:
        """See `MaskTask.attempts`; left out are objects, each once for a reason."""
        at_once = prompts_at_once(next(iter(embeddings.values())).image_hw)
        for start in range(0, len(picture.instances), at_once):
            some = picture.instances[start : start + at_once]
            with stopwatch.stage("prompts"):
                targets = [Target(picture.id, instance, instance.mask) for instance in some]
            missed = {(reason, t.instance.id) for p in self.protocols for t in targets if (reason := t.unfit_for(p))}
            left_out.update(reason for reason, _ in missed)
            for group in _sharing_first_prompts(self.protocols):
                fit = [target for target in targets if not target.unfit_for(group[0])]
                yield from self._attempts_of_group(group, fit, embeddings, stopwatch)

    def _attempts_of_group(
        self,
        group: Sequence[PromptsProtocol],
        targets: Sequence[Target],
        embeddings: Mapping[str, Embedding],
        stopwatch: Stopwatch,
    ) -> Iterator[Attempt]:
        """Measure by protocols whose first prompts are the same."""
        if not targets:
            return
        with stopwatch.stage("prompts"):
            prompts = [target.first_prompt(group[0]) for target in targets]
        tokens = tokens_of_rules([protocol.mask_rule for protocol in group])
        for model in self.models:
            embedding = embeddings[model.name]
            answers = ask(model, embedding, prompts, tokens, stopwatch)
            for protocol in group:
                chosen = _choose(answers, protocol.mask_rule, targets)
                yield from self._steps(protocol, model, embedding, targets, prompts, chosen, stopwatch)

    def _steps(
        self,
        protocol: PromptsProtocol,
        model: Model,
        embedding: Embedding,
        targets: Sequence[Target],
        prompts: Sequence[Prompt],
        answers: Sequence[Answer],
        stopwatch: Stopwatch,
    ) -> Iterator[Attempt]:
        """Measure the answers to the first prompts, then click on."""
        prompts, answers = list(prompts), list(answers)
        tokens = tokens_of_rules([protocol.later_mask_rule])
        for step in range(1, protocol.num_clicks + 2):
            for target, prompt, answer in zip(targets, prompts, answers, strict=True):
                with stopwatch.stage("compare"):
                    measurement = _measure(protocol, model.name, target, answer, step)
                yield Attempt(measurement, prompt, target.truth, answer.mask)
            if step > protocol.num_clicks:
                return
            with stopwatch.stage("prompts"):
                clicks = [
                    target.further_click(protocol, answer.mask, step + 1)
                    for target, answer in zip(targets, answers, strict=True)
                ]
            rows = [row for row, click in enumerate(clicks) if click is not None]  # the others are right already
            for row in rows:
                prompts[row] = _with_click(prompts[row], clicks[row], answers[row] if protocol.feeds_mask else None)
            if rows:
                asked = ask(model, embedding, [prompts[row] for row in rows], tokens, stopwatch)
                chosen = _choose(asked, protocol.later_mask_rule, [targets[row] for row in rows])
                for row, answer in zip(rows, chosen, strict=True):
                    answers[row] = answer


def _sharing_first_prompts(protocols: Sequence[PromptsProtocol]) -> list[list[PromptsProtocol]]:
    groups: dict[tuple[object, ...], list[PromptsProtocol]] = {}
    for protocol in protocols:
        groups.setdefault(protocol.first_key, []).append(protocol)
    return list(groups.values())


def _choose(answers: Answers, rule: str, targets: Sequence[Target]) -> list[Answer]:
    return [answers.choose(row, rule, target.truth) for row, target in enumerate(targets)]


def _with_click(prompt: Prompt, click: tuple[int, int, int] | None, fed: Answer | None) -> Prompt:
    """Add a click to a prompt, and the mask that was chosen before if it is to be fed back."""
    assert click is not None
    x, y, label = click
    points_xy = np.concatenate([prompt.points_xy, [[x, y]]])
    labels = np.append(prompt.labels, label)
    return Prompt.of(points_xy, labels, prompt.box_xyxy, fed.low_res_logits if fed else None)


def _measure(protocol: PromptsProtocol, model_name: str, target: Target, answer: Answer, step: int) -> Measurement:
    area_px = target.area_px(protocol.area_from)
    return Measurement(
        picture=target.picture_id,
        object=target.instance.id,
        protocol=protocol.name,
        model=model_name,
        step=step,
        iou=pair_iou(answer.mask, target.truth),
        predicted_iou=answer.predicted_iou,
        mask_token=answer.mask_token,
        area_px=area_px,
        area_bin=bin_of(area_px, protocol.area_bins),
        category=target.instance.category,
    )
