"""Protocols refuse what they do not know, and are changed by words."""

import dataclasses
import json
import math

import numpy as np
import pytest

from mobile_sam.core.masks import encode_rle
from mobile_sam.data.records import Instance
from mobile_sam.evaluate.prompts import Target
from mobile_sam.evaluate.protocols import (
    COCO_BINS,
    FIRST_PROMPTS,
    MASK_RULES,
    NEXT_CLICKS,
    AgreementProtocol,
    AreaBin,
    BoxesProtocol,
    PromptsProtocol,
    bin_of,
    describe,
    with_settings,
)

WRONG_VALUES = {
    PromptsProtocol: [
        ("first_prompt", "circle", "box, centre, random, annotated"),
        ("mask_rule", "worst", "single, best, best-of-four, oracle"),
        ("later_mask_rule", None, "single, best, best-of-four, oracle"),
        ("next_click", "nearest", "largest-error, farthest-error, random-error, random-object"),
        ("box_from", "detector", "annotation, mask"),
        ("area_from", "", "annotation, mask"),
        ("crowd", True, "skip, include"),
        ("feeds_mask", "no", "True or False"),
        ("feeds_mask", 1, "True or False"),
        ("num_clicks", -1, "at least 0"),
        ("num_clicks", 1.5, "a whole number"),
        ("num_clicks", True, "a whole number"),
        ("num_clicks", "2", "a whole number"),
        ("seed", -1, "at least 0"),
        ("seed", 0.5, "a whole number"),
        ("report_steps", (1, 0), "at least 1"),
        ("report_steps", ("1",), "a whole number"),
    ],
    AgreementProtocol: [
        ("prompts", "boxes", "grid, random, pair, box, centre, given"),
        ("mask_rule", "oracle", "single, best, best-of-four, as-reference"),
        ("num_prompts", 0, "at least 1"),
        ("num_prompts", 2.5, "a whole number"),
        ("seed", -1, "at least 0"),
        ("distance_px", 100, "belongs to pairs"),
    ],
    BoxesProtocol: [
        ("mask_rule", "oracle", "single, best, best-of-four, got 'oracle'"),
        ("score", "model", "detection, product"),
        ("num_refinements", -1, "at least 0"),
        ("num_refinements", 0.5, "a whole number"),
        ("max_detections", 0, "at least 1"),
    ],
}
WRONG_BINS = [
    (),
    (AreaBin("small", 10),),
    (AreaBin("all"), AreaBin("large")),
    (AreaBin("a", 10), AreaBin("b", 10), AreaBin("c")),
    (AreaBin("a", 20), AreaBin("b", 10), AreaBin("c")),
    (AreaBin("a", 0), AreaBin("b")),
    (AreaBin("a", math.nan), AreaBin("b")),
]


@pytest.mark.parametrize(
    ("kind", "field", "value", "message"),
    [(kind, *case) for kind, cases in WRONG_VALUES.items() for case in cases],
)
def test_wrong_values_are_refused_in_the_name_of_the_protocol(kind, field, value, message):
    with pytest.raises(ValueError, match=rf"^protocol 'mine': .*{field}.*{message}"):
        kind("mine", **{field: value})


@pytest.mark.parametrize("distance_px", [None, 0, -5.0, math.nan, math.inf, "100", True])
def test_pairs_of_points_need_a_distance(distance_px):
    with pytest.raises(ValueError, match=r"^protocol 'mine': distance_px"):
        AgreementProtocol("mine", prompts="pair", distance_px=distance_px)
    assert AgreementProtocol("mine", prompts="pair", distance_px=1.5).distance_px == 1.5


@pytest.mark.parametrize("kind", [PromptsProtocol, AgreementProtocol])
@pytest.mark.parametrize("bins", WRONG_BINS)
def test_bins_have_rising_limits_and_no_end(kind, bins):
    with pytest.raises(ValueError, match=r"^protocol 'mine': area_bins must have rising limits, the last one None"):
        kind("mine", area_bins=bins)


def test_bins_have_names_of_their_own():
    with pytest.raises(ValueError, match=r"^protocol 'mine': area_bins must have unique names, got a, a"):
        PromptsProtocol("mine", area_bins=(AreaBin("a", 10), AreaBin("a")))
    assert PromptsProtocol("mine", area_bins=(AreaBin("all"),)).area_bins[0].name == "all"


@pytest.mark.parametrize(
    ("area_px", "expected"),
    [
        (0, "small"),
        (1023.999, "small"),
        (1024, "medium"),  # 32 * 32
        (9215.999, "medium"),
        (9216, "large"),  # 96 * 96
        (1e12, "large"),
    ],
)
def test_an_area_at_a_limit_falls_in_the_larger_bin(area_px, expected):
    assert bin_of(area_px, COCO_BINS) == expected


@pytest.mark.parametrize(
    ("protocol", "setting", "field", "value"),
    [
        (PromptsProtocol("p"), "first_prompt=random", "first_prompt", "random"),
        (PromptsProtocol("p"), "num_clicks=3", "num_clicks", 3),
        (PromptsProtocol("p"), "seed=12", "seed", 12),
        (PromptsProtocol("p"), "report_steps=1+4+9", "report_steps", (1, 4, 9)),
        (PromptsProtocol("p"), "report_steps=2", "report_steps", (2,)),
        *((PromptsProtocol("p"), f"feeds_mask={word}", "feeds_mask", False) for word in ("no", "False", "0")),
        *(
            (PromptsProtocol("p", feeds_mask=False), f"feeds_mask={word}", "feeds_mask", True)
            for word in ("YES", "true", "1")
        ),
        (AgreementProtocol("p"), "num_prompts=7", "num_prompts", 7),
        (AgreementProtocol("p", prompts="pair", distance_px=5), "distance_px=12.5", "distance_px", 12.5),
        (AgreementProtocol("p"), "distance_px=none", "distance_px", None),
        (BoxesProtocol("p"), "score=product", "score", "product"),
        (BoxesProtocol("p"), "max_detections=300", "max_detections", 300),
    ],
)
def test_words_change_one_field_and_the_name(protocol, setting, field, value):
    changed = with_settings(protocol, [setting])
    assert changed == dataclasses.replace(protocol, name=f"p {setting}", **{field: value})
    assert type(getattr(changed, field)) is type(value)


def test_every_field_but_name_source_and_bins_can_be_set():
    for kind in (PromptsProtocol, AgreementProtocol, BoxesProtocol):
        with pytest.raises(ValueError, match="expected NAME=VALUE") as caught:
            with_settings(kind("p"), ["nothing"])
        named = set(str(caught.value).partition("names ")[2].split(", "))
        assert named == {field.name for field in dataclasses.fields(kind)} - {"name", "source", "area_bins"}
        for name in named:  # a reader for each type, or the message would not be about the value
            with pytest.raises(ValueError, match=rf"--set '{name}=~': {name} is |^protocol 'p {name}=~'"):
                with_settings(kind("p"), [f"{name}=~"])


def test_several_words_change_several_fields():
    pair = with_settings(AgreementProtocol("grid"), ["prompts=pair", "distance_px = 50"])
    assert (pair.prompts, pair.distance_px, pair.name) == ("pair", 50.0, "grid prompts=pair distance_px=50")
    back = with_settings(pair, ["prompts=grid", "distance_px=none"])
    assert (back.prompts, back.distance_px) == ("grid", None)


def test_no_words_change_nothing():
    assert with_settings(BoxesProtocol(), []) == BoxesProtocol()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["seed"], r"--set 'seed': expected NAME=VALUE with one of the names first_prompt, "),
        (["sed=1"], r"--set 'sed=1': expected NAME=VALUE"),
        (["name=x"], r"--set 'name=x': expected NAME=VALUE"),
        (["source=x"], r"--set 'source=x': expected NAME=VALUE"),
        (["area_bins=10"], r"--set 'area_bins=10': expected NAME=VALUE"),
        (["seed=one"], r"--set 'seed=one': seed is int, got 'one'"),
        (["num_clicks=1.5"], r"num_clicks is int, got '1.5'"),
        (["feeds_mask=maybe"], r"feeds_mask is bool, got 'maybe'"),
        (["report_steps=1;2"], r"report_steps is tuple\[int, ...\], got '1;2'"),
        (["report_steps="], r"report_steps is tuple"),
        (["seed=1", "seed=2"], r"--set 'seed=2': seed comes twice"),
        (["seed=-1"], r"protocol 'p seed=-1': seed must be a whole number of at least 0, got -1"),
        (["mask_rule=worst"], r"protocol 'p mask_rule=worst': mask_rule must be one of single, "),
        (["crowd="], r"crowd must be one of skip, include, got ''"),
    ],
)
def test_words_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        with_settings(PromptsProtocol("p"), settings)


def test_protocols_are_plain_values_for_json():
    for protocol in (PromptsProtocol("p"), AgreementProtocol("p"), BoxesProtocol("p")):
        values = json.loads(json.dumps(protocol.to_json()))
        assert set(values) == {field.name for field in dataclasses.fields(protocol)}
    assert PromptsProtocol("p").to_json()["area_bins"][0] == {"name": "small", "below_px": 1024}


@pytest.fixture
def target():
    """An object whose annotated box is not its tight one, with an annotated click that is not its centre."""
    mask = np.zeros((60, 80), bool)
    mask[10:50, 20:70] = True
    instance = Instance("7", encode_rle(mask), (18.0, 9.0, 72.0, 51.0), 2000.0, point_xy=(22.0, 12.0))
    return Target("139", instance, mask)


def test_first_prompts_are_the_same_exactly_when_their_keys_are(target):
    protocols = [
        PromptsProtocol(f"{first_prompt} {box_from} {seed} {mask_rule}", "", first_prompt, mask_rule, 1, next_click,
                        box_from=box_from, seed=seed)
        for first_prompt in FIRST_PROMPTS
        for box_from in ("annotation", "mask")
        for seed in (0, 1)
        for mask_rule, next_click in zip(MASK_RULES, NEXT_CLICKS, strict=True)
    ]  # fmt: skip
    prompts = [json.dumps(target.first_prompt(protocol).to_json()) for protocol in protocols]
    assert len(set(prompts)) == 2 + 1 + 2 + 1  # boxes, centre, random points of two seeds, annotated click
    for one, prompt in zip(protocols, prompts, strict=True):
        for other, other_prompt in zip(protocols, prompts, strict=True):
            assert (one.first_key == other.first_key) == (prompt == other_prompt), (one.name, other.name)


def test_protocols_for_other_objects_share_no_first_prompts():
    assert PromptsProtocol("p").first_key != PromptsProtocol("p", crowd="include").first_key


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        (PromptsProtocol("p"), "box, single mask; crowds left out"),
        (PromptsProtocol("p", crowd="include"), "box, single mask; crowds included"),
        (PromptsProtocol("p", num_clicks=2, next_click="random-error", feeds_mask=False),
         "box, single mask; then 2 clicks, random-error, single mask, mask not fed back; crowds left out"),
        (AgreementProtocol("p"), "5 per side grid, best mask"),
        (AgreementProtocol("p", prompts="random", num_prompts=16), "16 random, best mask"),
        (AgreementProtocol("p", prompts="pair", num_prompts=4, distance_px=100), "4 pair 100 px apart, best mask"),
        (AgreementProtocol("p", prompts="box", mask_rule="single"), "box, single mask"),
    ],
)  # fmt: skip
def test_protocols_are_told_in_a_line(protocol, expected):
    assert describe(protocol) == expected
