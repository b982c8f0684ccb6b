"""The `agreement` protocol: the masks of two models for the same prompts against each other; no ground truth needed.

It is the metric of the MobileSAM paper (arXiv 2306.14289, section 4): IoU with the masks of the model that is imitated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.masks import Rle, decode_rle, encode_rle
from mobile_sam.core.prompts import Prompt
from mobile_sam.data.clicks import grid_points, object_rng, point_pair
from mobile_sam.data.mask_files import FileMask, MaskFile
from mobile_sam.data.records import Picture
from mobile_sam.evaluate.answers import Answer, Answers, ask, pair_iou, prompts_at_once, tokens_of_rules
from mobile_sam.evaluate.measurements import Attempt, Measurement
from mobile_sam.evaluate.models import Model
from mobile_sam.evaluate.prompts import Target, cut_to_picture, unfit_click
from mobile_sam.evaluate.protocols import AgreementProtocol, PromptsProtocol, bin_of
from mobile_sam.evaluate.run import NOTED, MaskTask
from mobile_sam.evaluate.stopwatch import Stopwatch

PAIRINGS = ("id", "overlap")
"""How the masks of a file find their prompts. id: they carry the prompt's. overlap: for each mask of the model, the one
of the file that overlaps it best; that flatters, and says nothing of masks which only the file has."""


@dataclass(frozen=True, eq=False)
class Question:
    """A prompt with a name.

    Attributes:
        id: unique in its picture.
        prompt: what is asked.
        reference: the mask that a file has for it; None if the reference is a model, or is found by overlap.
    """

    id: str
    prompt: Prompt
    reference: FileMask | None = None


class AgreementTask(MaskTask):
    """Compares one or more models with a reference, a model or the masks that another tool left in a file.

    Args:
        protocols: with unique names.
        reference: what the others are compared with.
        others: with unique names.
        pairing: one of PAIRINGS, for a file.

    Raises:
        ValueError: a protocol that the reference cannot serve, or an unknown pairing.
    """

    def __init__(
        self,
        protocols: Sequence[AgreementProtocol],
        reference: Model | MaskFile,
        others: Sequence[Model],
        pairing: str = "id",
    ) -> None:
        if pairing not in PAIRINGS:
            raise ValueError(f"pairing must be one of {', '.join(PAIRINGS)}, got {pairing!r}")
        for protocol in protocols:
            if protocol.mask_rule == "as-reference" and isinstance(reference, MaskFile):
                raise ValueError(f"protocol {protocol.name!r}: a file of masks does not tell tokens; use another rule")
        self.protocols = tuple(protocols)
        self.reference = reference
        self.others = tuple(others)
        self.pairing = pairing
        self.models = (*([reference] if isinstance(reference, Model) else []), *self.others)

    def attempts(
        self, picture: Picture, embeddings: Mapping[str, Embedding], stopwatch: Stopwatch, left_out: Counter[str]
    ) -> Iterator[Attempt]:
        """See `MaskTask.attempts`; left out are prompts, and the reference is not measured."""
        image_hw = next(iter(embeddings.values())).image_hw
        for protocol in self.protocols:
            with stopwatch.stage("prompts"):
                questions = self.questions(protocol, picture, image_hw, left_out)
            at_once = prompts_at_once(image_hw)
            for start in range(0, len(questions), at_once):
                some = questions[start : start + at_once]
                yield from self._compare(protocol, picture, some, embeddings, stopwatch, left_out)

    def questions(
        self, protocol: AgreementProtocol, picture: Picture, image_hw: tuple[int, int], left_out: Counter[str]
    ) -> list[Question]:
        """Make the prompts of a protocol for a picture; those that a file has no mask for are counted and left out."""
        in_file = self.reference.masks.get(picture.id, ()) if isinstance(self.reference, MaskFile) else ()
        if protocol.prompts == "given" and isinstance(self.reference, MaskFile):
            prompts_of_masks = [_prompt_of_mask(mask, image_hw) for mask in in_file]
            left_out.update(reason for reason in prompts_of_masks if isinstance(reason, str))
            return [
                Question(mask.id or f"mask {index}", prompt, mask)
                for index, (mask, prompt) in enumerate(zip(in_file, prompts_of_masks, strict=True))
                if isinstance(prompt, Prompt)
            ]
        prompts = make_prompts(protocol, picture, image_hw, left_out)
        if not isinstance(self.reference, MaskFile) or self.pairing == "overlap":
            return [Question(name, prompt) for name, prompt in prompts]
        by_id = {mask.id: mask for mask in in_file}
        if protocol.prompts in ("box", "centre"):  # an annotation's own id names its prompt, too
            by_id = {f"{protocol.prompts_name}/{name}": mask for name, mask in by_id.items()} | by_id
        left_out["prompt without a mask in the file"] += sum(name not in by_id for name, _ in prompts)
        return [Question(name, prompt, by_id[name]) for name, prompt in prompts if name in by_id]

    def _compare(
        self,
        protocol: AgreementProtocol,
        picture: Picture,
        questions: Sequence[Question],
        embeddings: Mapping[str, Embedding],
        stopwatch: Stopwatch,
        left_out: Counter[str],
    ) -> Iterator[Attempt]:
        prompts = [question.prompt for question in questions]
        rule = "best" if protocol.mask_rule == "as-reference" else protocol.mask_rule
        tokens = tokens_of_rules([rule])
        given: Answers | None = None
        if isinstance(self.reference, Model):
            given = ask(self.reference, embeddings[self.reference.name], prompts, tokens, stopwatch)
        for model in self.others:
            answers = ask(model, embeddings[model.name], prompts, tokens, stopwatch)
            for row, question in enumerate(questions):
                if protocol.mask_rule == "as-reference" and given is not None:
                    answer = answers.token(row, given.predicted_best(row, tokens))
                else:
                    answer = answers.choose(row, rule)
                reference = (
                    self._mask_of_file(picture, question, answer) if given is None else given.choose(row, rule).mask
                )
                if reference is None or reference.shape != answer.mask.shape:
                    if model is self.others[0]:  # each prompt is counted once
                        left_out["no mask in the file" if reference is None else "mask of another size"] += 1
                    continue
                with stopwatch.stage("compare"):
                    measurement = _measure(protocol, picture, question, model.name, answer, reference)
                if measurement.iou == 1 and not measurement.area_px and model is self.others[0]:
                    left_out[NOTED + "both masks empty, counted as IoU 1"] += 1
                yield Attempt(measurement, question.prompt, reference, answer.mask)

    def _mask_of_file(self, picture: Picture, question: Question, answer: Answer) -> NDArray[np.bool_] | None:
        """Return the file's mask for a prompt, (H, W) bool; None if it has none."""
        assert isinstance(self.reference, MaskFile)
        if question.reference is not None:
            return decode_rle(question.reference.rle)
        rles = [mask.rle for mask in self.reference.masks.get(picture.id, ())]
        of_size = [rle for rle in rles if tuple(rle["size"]) == answer.mask.shape]
        if not of_size:
            return decode_rle(rles[0]) if rles else None
        return decode_rle(_most_overlapping(of_size, answer.mask))


def _most_overlapping(rles: Sequence[Rle], mask: NDArray[np.bool_]) -> Rle:
    """Return the mask of the highest IoU with another, (H, W) bool; the run lengths themselves are compared."""
    from pycocotools import mask as coco_mask

    overlaps = coco_mask.iou([encode_rle(mask)], list(rles), [0] * len(rles))  # (1, N)
    return rles[int(np.argmax(overlaps))]


def _prompt_of_mask(mask: FileMask, image_hw: tuple[int, int]) -> Prompt | str:
    """Ask for a mask by the click that made it, else by its box, or say why that cannot be done.

    Both would tell more than the mask's maker was told.
    """
    if mask.point_xy is not None:
        return unfit_click(mask.point_xy, image_hw) or Prompt.of(points=mask.point_xy)
    if mask.box_xyxy is None:
        return "mask without a click or box"
    box_xyxy = cut_to_picture(mask.box_xyxy, image_hw)
    return "box outside the picture" if box_xyxy is None else Prompt.of(box=box_xyxy)


def make_prompts(
    protocol: AgreementProtocol, picture: Picture, image_hw: tuple[int, int], left_out: Counter[str]
) -> list[tuple[str, Prompt]]:
    """Make a protocol's prompts for a picture, each with an id of its own.

    Args:
        protocol: says which.
        picture: for prompts of annotated objects.
        image_hw: height and width of the picture in pixels.
        left_out: prompts that cannot be made are counted here, by reason.
    """
    rng = object_rng(protocol.seed, picture.id, protocol.prompts_name)
    height, width = image_hw
    if protocol.prompts == "grid":
        named = [(str(i), Prompt.of(points=xy)) for i, xy in enumerate(grid_points(image_hw, protocol.num_prompts))]
    elif protocol.prompts == "random":
        points_xy = rng.uniform((0, 0), (width, height), (protocol.num_prompts, 2))
        named = [(str(i), Prompt.of(points=xy)) for i, xy in enumerate(points_xy)]
    elif protocol.prompts == "pair":
        assert protocol.distance_px is not None
        pairs = [point_pair(image_hw, protocol.distance_px, rng) for _ in range(protocol.num_prompts)]
        left_out[f"no room for points {protocol.distance_px:g} px apart"] += sum(pair is None for pair in pairs)
        named = [(str(i), Prompt.of(pair, [1, 0])) for i, pair in enumerate(pairs) if pair is not None]
    else:
        named = _prompts_of_objects(protocol, picture, left_out)
    return [(f"{protocol.prompts_name}/{name}", prompt) for name, prompt in named]


def _prompts_of_objects(
    protocol: AgreementProtocol, picture: Picture, left_out: Counter[str]
) -> list[tuple[str, Prompt]]:
    first_prompt = {"given": "annotated"}.get(protocol.prompts, protocol.prompts)
    like = PromptsProtocol(protocol.name, first_prompt=first_prompt, seed=protocol.seed)
    targets = [Target(picture.id, instance, instance.mask) for instance in picture.instances]
    reasons = [target.unfit_for(like) for target in targets]
    left_out.update(reason for reason in reasons if reason)
    fit = [target for target, reason in zip(targets, reasons, strict=True) if not reason]
    return [(target.instance.id, target.first_prompt(like)) for target in fit]


def _measure(
    protocol: AgreementProtocol,
    picture: Picture,
    question: Question,
    model_name: str,
    answer: Answer,
    reference: NDArray[np.bool_],
) -> Measurement:
    area_px = float(np.count_nonzero(reference))
    both_are_empty = not area_px and not answer.mask.any()
    return Measurement(
        picture=picture.id,
        object=question.id,
        protocol=protocol.name,
        model=model_name,
        step=1,
        iou=1.0 if both_are_empty else pair_iou(answer.mask, reference),
        predicted_iou=answer.predicted_iou,
        mask_token=answer.mask_token,
        area_px=area_px,
        area_bin=bin_of(area_px, protocol.area_bins),
    )
