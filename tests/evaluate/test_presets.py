"""Protocols by name; those of papers hold the choices that the papers' code or text tells."""

import dataclasses

import pytest

from mobile_sam.evaluate.presets import (
    AGREEMENT_GROUPS,
    AGREEMENT_PROTOCOLS,
    PROMPTS_GROUPS,
    PROMPTS_PROTOCOLS,
    agreement_protocols,
    prompts_protocols,
)
from mobile_sam.evaluate.protocols import BoxesProtocol, PromptsProtocol

# What their evaluation code does: first prompt, mask rule, clicks after the first prompt, how these are chosen, their
# mask rule, whether the mask is fed back, crowds, what the mean is over. None: the code does not get so far.
PUBLISHED = {
    "edgesam-box": ("box", "single", 2, "random-error", "single", False, "skip"),
    "edgesam-point": ("centre", "single", 2, "random-error", "single", False, "skip"),
    "nanosam": ("box", "best-of-four", 0, None, None, None, "include"),
    "slimsam": ("annotated", "single", 0, None, None, None, None),
    "efficientvit-box": ("box", "best", 0, None, None, None, "include"),
    "efficientvit-point": ("centre", "best", 4, "farthest-error", "best", False, "include"),
    "sam-oracle": ("centre", "oracle", 0, None, None, None, None),
    "sam-clicks": ("centre", "best", 8, "farthest-error", "single", None, None),
    "efficientsam-box": ("box", "best", 0, None, None, None, None),
    "efficientsam-point": ("random", "best", 2, None, "best", None, None),
}
CHOICES = (
    "first_prompt", "mask_rule", "num_clicks", "next_click", "later_mask_rule", "feeds_mask", "crowd",
)  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_papers_protocol_makes_the_papers_choices(name):
    protocol = PROMPTS_PROTOCOLS[name]
    for choice, published in zip(CHOICES, PUBLISHED[name], strict=True):
        assert published is None or getattr(protocol, choice) == published, choice
    assert (protocol.box_from, protocol.area_from) == ("annotation", "annotation")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_papers_protocol_names_its_source(name):
    source = PROMPTS_PROTOCOLS[name].source
    paper = "NanoSAM (nanosam/tools/eval_coco.py)" if name == "nanosam" else "arXiv 2"
    assert paper in source


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("edgesam-point", "Differs: the centre is the exact Euclidean one"),
        ("nanosam", "Differs: resizing follows SAM"),
        ("nanosam", "falls in one bin, not in two"),
        ("efficientvit-box", "falls in one bin, not in two"),
        ("efficientsam-point", "is a guess"),
        ("efficientsam-box", "not public"),
        ("slimsam", "the column 'by picture'"),
        ("sam-clicks", "not published"),
    ],
)
def test_where_a_choice_differs_or_is_not_known_the_source_says_so(name, words):
    assert words in PROMPTS_PROTOCOLS[name].source


def test_only_papers_protocols_have_sources():
    assert {name for name, protocol in PROMPTS_PROTOCOLS.items() if protocol.source} == set(PUBLISHED)
    with_source = {name for name, protocol in AGREEMENT_PROTOCOLS.items() if protocol.source}
    assert with_source == set(AGREEMENT_GROUPS["pairs"])


@pytest.mark.parametrize("first_prompt", ["box", "centre", "random"])
@pytest.mark.parametrize("mask_rule", ["single", "best", "oracle"])
def test_ours_are_named_by_their_prompt_and_mask_rule(first_prompt, mask_rule):
    name = f"{first_prompt}-{mask_rule}"
    assert PROMPTS_PROTOCOLS[name] == PromptsProtocol(name, first_prompt=first_prompt, mask_rule=mask_rule)


def test_our_clicks_give_the_means_for_one_to_five():
    protocol = PROMPTS_PROTOCOLS["clicks"]
    assert (protocol.first_prompt, protocol.num_clicks, protocol.next_click) == ("centre", 4, "largest-error")
    assert protocol.report_steps == (1, 2, 3, 5)


def test_every_preset_is_filed_under_its_name():
    for presets in (PROMPTS_PROTOCOLS, AGREEMENT_PROTOCOLS):
        assert all(protocol.name == name for name, protocol in presets.items())


def test_steps_to_report_are_among_those_measured_but_for_the_default():
    default = {field.name: field.default for field in dataclasses.fields(PromptsProtocol)}["report_steps"]
    for protocol in PROMPTS_PROTOCOLS.values():
        assert protocol.report_steps == default or max(protocol.report_steps) == protocol.num_clicks + 1


@pytest.mark.parametrize(
    ("groups", "presets"), [(PROMPTS_GROUPS, PROMPTS_PROTOCOLS), (AGREEMENT_GROUPS, AGREEMENT_PROTOCOLS)]
)
def test_groups_name_existing_protocols_and_take_no_protocols_name(groups, presets):
    assert "default" in groups
    for group, names in groups.items():
        assert group not in presets
        assert names
        assert set(names) <= set(presets)
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("distance_px", [100, 200, 300, 400, 500])
def test_table_7_has_a_point_of_each_kind_at_each_distance(distance_px):
    protocol = AGREEMENT_PROTOCOLS[f"pair-{distance_px}"]
    assert (protocol.prompts, protocol.distance_px) == ("pair", distance_px)
    assert "table 7" in protocol.source


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["nanosam"], ["nanosam"]),
        (["edgesam"], ["edgesam-box", "edgesam-point"]),
        (["sam", "nanosam", "sam-oracle"], ["sam-clicks", "sam-oracle", "nanosam"]),
        (["edgesam-point", "edgesam"], ["edgesam-point", "edgesam-box"]),
        ([], []),
    ],
)
def test_names_stand_for_protocols_and_groups_each_once(names, expected):
    assert [protocol.name for protocol in prompts_protocols(names)] == expected


def test_protocols_of_agreement_are_found_likewise():
    names = [protocol.name for protocol in agreement_protocols(["pair-300", "pairs", "grid"])]
    assert names == ["pair-300", "pair-100", "pair-200", "pair-400", "pair-500", "grid"]


@pytest.mark.parametrize("find", [prompts_protocols, agreement_protocols])
def test_unknown_names_are_told_the_known(find):
    with pytest.raises(ValueError, match="unknown protocol 'mine'; expected one of default, "):
        find(["mine"])


def test_boxes_begin_as_the_readers_of_ap_expect():
    protocol = BoxesProtocol()
    assert (protocol.score, protocol.num_refinements, protocol.max_detections) == ("detection", 0, 100)
