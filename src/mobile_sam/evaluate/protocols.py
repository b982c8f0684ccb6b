"""Protocols: every choice that changes a number, in one frozen value that is printed with the number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any, TypeVar

FIRST_PROMPTS = ("box", "centre", "random", "annotated")
"""box: the object's box. centre: its pixel farthest from the boundary. random: any of its pixels. annotated: the click
that the annotation file names (SA-1B)."""

NEXT_CLICKS = ("largest-error", "farthest-error", "random-error", "random-object")
"""largest-error: the middle of the largest region of error. farthest-error: the error pixel farthest from the edge of
its region. random-error: any error pixel. random-object: any pixel of the object."""

TOKENS_OF_RULE = {"single": (0,), "best": (1, 2, 3), "best-of-four": (0, 1, 2, 3), "oracle": (1, 2, 3)}
"""The decoder's masks that each rule chooses from."""

MASK_RULES = tuple(TOKENS_OF_RULE)
"""single: the token for unambiguous prompts. best: of the three others, the one that the model predicts to be best.
best-of-four: the same over all four. oracle: of the three, the one that is best."""

PROMPT_SOURCES = ("grid", "random", "pair", "box", "centre", "given")
"""grid, random: single foreground points. pair: a foreground and a background point at some distance. box, centre: of
annotated objects. given: the clicks or boxes that an annotation or mask file names."""

AGREEMENT_RULES = ("single", "best", "best-of-four", "as-reference")
"""As MASK_RULES, for each model by itself; as-reference: the token that the reference predicts to be best, for all."""

BOX_SCORES = ("detection", "product")
"""detection: the detector's own score. product: times the mask's predicted IoU."""


@dataclass(frozen=True)
class AreaBin:
    """A range of object areas.

    Attributes:
        name: as reports call it.
        below_px: areas less than this, and not less than the bin before; None for no limit.
    """

    name: str
    below_px: float | None = None

    def __str__(self) -> str:
        return self.name if self.below_px is None else f"{self.name} below {self.below_px:g} px"


COCO_BINS = (AreaBin("small", 32**2), AreaBin("medium", 96**2), AreaBin("large"))
"""COCO's: limits at 32 x 32 and 96 x 96 pixels of the picture."""


def bin_of(area_px: float, bins: tuple[AreaBin, ...]) -> str:
    """Return the name of the bin that an area falls in.

    >>> [bin_of(area, COCO_BINS) for area in (1023, 1024, 9216)]
    ['small', 'medium', 'large']
    """
    return next(area_bin.name for area_bin in bins if area_bin.below_px is None or area_px < area_bin.below_px)


@dataclass(frozen=True)
class Config:
    """What all protocols can do."""

    def to_json(self) -> dict[str, Any]:
        """Return all fields as a plain mapping."""
        return asdict(self)


@dataclass(frozen=True)
class PromptsProtocol(Config):
    """Masks against ground truth, for prompts made from it.

    Attributes:
        name: unique in a run.
        source: whose protocol it follows, and what there is to say of that; "" for ours.
        first_prompt: one of FIRST_PROMPTS.
        mask_rule: one of MASK_RULES, for the answer to the first prompt.
        num_clicks: further clicks after the first prompt.
        next_click: one of NEXT_CLICKS.
        later_mask_rule: one of MASK_RULES, for the answers to further clicks.
        feeds_mask: whether the mask chosen before is given back beside further clicks.
        report_steps: numbers of prompts to print, from 1 (the first prompt); all are measured and in the files.
        box_from: "annotation" or "mask" (the tight box, to the far edges of its pixels).
        area_from: "annotation" or "mask" (number of pixels): what chooses the area bin.
        area_bins: the bins, by rising limit, the last without.
        crowd: "skip" or "include" masks that COCO marks as crowds.
        seed: of random points.

    Raises:
        ValueError: a value that is not among those above.
    """

    name: str
    source: str = ""
    first_prompt: str = "box"
    mask_rule: str = "single"
    num_clicks: int = 0
    next_click: str = "largest-error"
    later_mask_rule: str = "single"
    feeds_mask: bool = True
    report_steps: tuple[int, ...] = (1, 2, 3, 5)
    box_from: str = "annotation"
    area_from: str = "annotation"
    area_bins: tuple[AreaBin, ...] = COCO_BINS
    crowd: str = "skip"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice(self.name, "first_prompt", self.first_prompt, FIRST_PROMPTS)
        check_choice(self.name, "mask_rule", self.mask_rule, MASK_RULES)
        check_choice(self.name, "later_mask_rule", self.later_mask_rule, MASK_RULES)
        check_choice(self.name, "next_click", self.next_click, NEXT_CLICKS)
        check_choice(self.name, "box_from", self.box_from, ("annotation", "mask"))
        check_choice(self.name, "area_from", self.area_from, ("annotation", "mask"))
        check_choice(self.name, "crowd", self.crowd, ("skip", "include"))
        if not isinstance(self.feeds_mask, bool):
            raise ValueError(f"protocol {self.name!r}: feeds_mask must be True or False, got {self.feeds_mask!r}")
        check_whole_number(self.name, "num_clicks", self.num_clicks, 0)
        check_whole_number(self.name, "seed", self.seed, 0)
        for step in self.report_steps:
            check_whole_number(self.name, "report_steps", step, 1)
        check_bins(self.name, self.area_bins)

    @property
    def first_key(self) -> tuple[object, ...]:
        """Equal for protocols whose first prompts are the same, so that they can share an answer."""
        box_from = self.box_from if self.first_prompt == "box" else None
        return (self.first_prompt, box_from, self.crowd, self.seed if self.first_prompt == "random" else None)


@dataclass(frozen=True)
class AgreementProtocol(Config):
    """Masks of two models for the same prompts against each other.

    Attributes:
        name: unique in a run.
        source: whose protocol it follows; "" for ours.
        prompts: one of PROMPT_SOURCES.
        num_prompts: for each picture: points per side of a grid, or number of random points or pairs.
        distance_px: between the two points of a pair, in pixels of the picture.
        mask_rule: one of AGREEMENT_RULES.
        area_bins: of the reference's masks.
        seed: of random points.

    Raises:
        ValueError: a value that is not among those above.
    """

    name: str
    source: str = ""
    prompts: str = "grid"
    num_prompts: int = 5
    distance_px: float | None = None
    mask_rule: str = "best"
    area_bins: tuple[AreaBin, ...] = COCO_BINS
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice(self.name, "prompts", self.prompts, PROMPT_SOURCES)
        check_choice(self.name, "mask_rule", self.mask_rule, AGREEMENT_RULES)
        check_whole_number(self.name, "num_prompts", self.num_prompts, 1)
        check_whole_number(self.name, "seed", self.seed, 0)
        if (self.prompts == "pair") != (self.distance_px is not None):
            raise ValueError(f"protocol {self.name!r}: distance_px belongs to pairs of points, and they need one")
        if self.distance_px is not None:
            check_number(self.name, "distance_px", self.distance_px, 1)
        check_bins(self.name, self.area_bins)

    @property
    def prompts_name(self) -> str:
        """Names the prompts, whatever is done with the answers: equal names in a picture are equal prompts.

        >>> AgreementProtocol("mine", prompts="random", num_prompts=16, seed=3).prompts_name
        'random-16-seed3'
        """
        parts: list[object] = [self.prompts]
        if self.prompts in ("grid", "random", "pair"):
            parts.append(self.num_prompts)
        if self.distance_px is not None:
            parts.append(f"{self.distance_px:g}px")
        if self.prompts in ("random", "pair"):
            parts.append(f"seed{self.seed}")
        return "-".join(map(str, parts))


@dataclass(frozen=True)
class BoxesProtocol(Config):
    """COCO AP of the masks that detected boxes give.

    Attributes:
        name: unique in a run.
        source: whose protocol it follows; "" for ours.
        mask_rule: one of MASK_RULES but the oracle.
        score: one of BOX_SCORES, what detections are ranked by.
        num_refinements: how often the mask is given back beside the box, as SAM's paper does once.
        max_detections: for each picture, the best by the detector's score.

    Raises:
        ValueError: a value that is not among those above.
    """

    name: str = "boxes"
    source: str = ""
    mask_rule: str = "single"
    score: str = "detection"
    num_refinements: int = 0
    max_detections: int = 100

    def __post_init__(self) -> None:
        check_choice(self.name, "mask_rule", self.mask_rule, ("single", "best", "best-of-four"))
        check_choice(self.name, "score", self.score, BOX_SCORES)
        check_whole_number(self.name, "num_refinements", self.num_refinements, 0)
        check_whole_number(self.name, "max_detections", self.max_detections, 1)


_NOT_BY_WORDS = ("name", "source", "area_bins")

AnyProtocol = TypeVar("AnyProtocol", PromptsProtocol, AgreementProtocol, BoxesProtocol)


def with_settings(protocol: AnyProtocol, settings: Sequence[str]) -> AnyProtocol:
    """Change fields of a protocol by words, as in "seed=1"; its name then tells what was changed.

    Raises:
        ValueError: a word that is no setting, an unknown field, one that comes twice, or a value that it cannot have.

    >>> with_settings(PromptsProtocol("box"), ["seed=1", "feeds_mask=no"]).name
    'box seed=1 feeds_mask=no'
    """
    kinds = {field.name: str(field.type) for field in fields(protocol)}
    values: dict[str, Any]
    words: list[str]
    values, words = read_settings(settings, {name: kinds[name] for name in kinds if name not in _NOT_BY_WORDS})
    return replace(protocol, name=" ".join([protocol.name, *words]), **values)


def read_settings(settings: Sequence[str], kinds: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Read words as in "seed=1" into values by name, and the words as names of protocols tell them.

    Args:
        settings: the words.
        kinds: of the settings there are, the type of each as its annotation says.

    Raises:
        ValueError: a word that is no setting, an unknown name, one that comes twice, or a value of another type.
    """
    values: dict[str, Any] = {}
    words: list[str] = []
    for setting in settings:
        name, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or name not in kinds:
            raise ValueError(f"--set {setting!r}: expected NAME=VALUE with one of the names {', '.join(kinds)}")
        if name in values:
            raise ValueError(f"--set {setting!r}: {name} comes twice")
        try:
            values[name] = _READERS[kinds[name]](text)
        except (KeyError, ValueError) as error:
            raise ValueError(f"--set {setting!r}: {name} is {kinds[name]}, got {text!r}") from error
        words.append(f"{name}={text}")
    return values, words


def describe(protocol: PromptsProtocol | AgreementProtocol | BoxesProtocol) -> str:
    """Say in a line what a protocol does.

    >>> describe(PromptsProtocol("clicks", first_prompt="centre", mask_rule="best", num_clicks=4))
    'centre, best mask; then 4 clicks, largest-error, single mask, mask fed back; crowds left out'
    """
    if isinstance(protocol, BoxesProtocol):
        refined = f", given back {protocol.num_refinements} times" if protocol.num_refinements else ""
        score = "the box's score" if protocol.score == "detection" else "the box's score times predicted IoU"
        return f"{protocol.mask_rule} mask{refined}, ranked by {score}, {protocol.max_detections} boxes a picture"
    if isinstance(protocol, AgreementProtocol):
        distance = "" if protocol.distance_px is None else f" {protocol.distance_px:g} px apart"
        per_side = " per side" if protocol.prompts == "grid" else ""
        number = f"{protocol.num_prompts}{per_side} " if protocol.prompts in ("grid", "random", "pair") else ""
        return f"{number}{protocol.prompts}{distance}, {protocol.mask_rule} mask"
    text = f"{protocol.first_prompt}, {protocol.mask_rule} mask"
    if protocol.num_clicks:
        fed = "mask fed back" if protocol.feeds_mask else "mask not fed back"
        text += f"; then {protocol.num_clicks} clicks, {protocol.next_click}, {protocol.later_mask_rule} mask, {fed}"
    return text + ("; crowds included" if protocol.crowd == "include" else "; crowds left out")


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.replace("+", ",").split(","))


def _yes_or_no(text: str) -> bool:
    return {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}[text.lower()]


def _number_or_none(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)


_READERS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "int | None": int,
    "float": float,
    "float | None": _number_or_none,
    "bool": _yes_or_no,
    "tuple[int, ...]": _whole_numbers,
}


def check_choice(name: str, field: str, value: object, choices: tuple[str, ...]) -> None:
    """Check that a field of the protocol `name` holds one of some words.

    Raises:
        ValueError: it does not.
    """
    if value not in choices:
        raise ValueError(f"protocol {name!r}: {field} must be one of {', '.join(choices)}, got {value!r}")


def check_number(name: str, field: str, value: float, least: float) -> None:
    """Check that a field of the protocol `name` is not below a limit.

    Raises:
        ValueError: it is, or is no finite number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < math.inf:
        raise ValueError(f"protocol {name!r}: {field} must be a number of at least {least:g}, got {value!r}")


def check_whole_number(name: str, field: str, value: int, least: int) -> None:
    """Check that a field of the protocol `name` is a whole number, and not below a limit.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"protocol {name!r}: {field} must be a whole number of at least {least}, got {value!r}")


def check_bins(name: str, bins: tuple[AreaBin, ...]) -> None:
    """Check the area bins of the protocol `name`.

    Raises:
        ValueError: their limits do not rise, the last has one, or two have one name.
    """
    limits = [area_bin.below_px for area_bin in bins]
    is_rising = all(low is not None and (high is None or low < high) for low, high in pairwise([0, *limits]))
    if not bins or limits[-1] is not None or not is_rising:
        raise ValueError(f"protocol {name!r}: area_bins must have rising limits, the last one None, got {limits}")
    names = [area_bin.name for area_bin in bins]
    if len(set(names)) < len(names):
        raise ValueError(f"protocol {name!r}: area_bins must have unique names, got {', '.join(names)}")
