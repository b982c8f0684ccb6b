"""Choices of segmenting everything: what is refused, what JSON and names tell, and the presets."""

import json
import math

import pytest

from mobile_sam.evaluate.everything_protocol import (
    EverythingProtocol,
    describe_everything,
    with_everything_settings,
)
from mobile_sam.evaluate.presets import EVERYTHING_GROUPS, EVERYTHING_PROTOCOLS, everything_protocols
from mobile_sam.evaluate.protocols import AreaBin
from mobile_sam.everything.config import EverythingConfig

EXACT = EVERYTHING_PROTOCOLS["exact"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank_by": "area"}, "rank_by must be one of predicted_iou, stability_score, product, got 'area'"),
        ({"partner_iou": 0}, "partner_iou must be above 0 and at most 1, got 0"),
        ({"partner_iou": 1.5}, "partner_iou must be above 0"),
        ({"partner_iou": math.nan}, "partner_iou must be above 0"),
        ({"partner_iou": True}, "partner_iou must be above 0"),
        ({"area_bins": (AreaBin("small", 9),)}, "area_bins must have rising limits"),
        ({"area_bins": (AreaBin("a", 9), AreaBin("a"))}, "area_bins must have unique names"),
    ],
)
def test_choices_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=f"protocol 'mine': {message}"):
        EverythingProtocol("mine", **fields)


def test_masks_come_as_run_lengths_whatever_the_config_says():
    protocol = EverythingProtocol("mine", config=EverythingConfig(output_mode="binary_mask"))
    assert protocol.config.output_mode == "coco_rle"
    assert "output_mode" not in protocol.to_json()


def test_json_tells_every_choice_side_by_side():
    config = EverythingConfig(points_per_side=None, point_grids=[[[0.5, 0.5]]])
    values = json.loads(json.dumps(EverythingProtocol("mine", "paper", config, "product", 0.7).to_json()))
    assert (values["name"], values["source"], values["rank_by"], values["partner_iou"]) == (
        "mine", "paper", "product", 0.7
    )  # fmt: skip
    assert (values["mode"], values["points_per_side"], values["point_grids"]) == ("exact", None, [[[0.5, 0.5]]])
    assert [area_bin["name"] for area_bin in values["area_bins"]] == ["small", "medium", "large"]
    assert set(values) >= set(EverythingConfig.__dataclass_fields__) - {"output_mode"}


def test_settings_change_the_config_or_the_evaluation_and_the_name():
    words = ["points_per_side=16", " pred_iou_thresh = 0.5 ", "mode=fast", "rank_by=product", "partner_iou=0.5"]
    changed = with_everything_settings(EXACT, words)
    assert changed.name == "exact points_per_side=16 pred_iou_thresh=0.5 mode=fast rank_by=product partner_iou=0.5"
    config = changed.config
    assert (config.points_per_side, config.pred_iou_thresh, config.mode) == (16, 0.5, "fast")
    assert (changed.rank_by, changed.partner_iou) == ("product", 0.5)
    assert with_everything_settings(EXACT, []).to_json() == EXACT.to_json()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("points=16", r"--set 'points=16': expected NAME=VALUE with one of the names mode, points_per_side, "),
        ("points_per_side", "expected NAME=VALUE"),
        ("output_mode=binary_mask", "expected NAME=VALUE"),
        ("point_grids=1", "expected NAME=VALUE"),
        ("name=mine", "expected NAME=VALUE"),
        ("points_per_side=many", "points_per_side is int"),
        ("points_per_side=0", "points_per_side must be a whole number, 1 to 1024, got 0"),
        ("stability_score_thresh=2", "stability_score_thresh must be a finite number from 0 to 1, got 2"),
        ("pred_iou_thresh=nan", "pred_iou_thresh must be a finite number"),
        ("mode=quick", "mode must be one of exact, fast, got 'quick'"),
        ("rank_by=area", "rank_by must be one of"),
        ("partner_iou=2", "partner_iou must be above 0"),
    ],
)
def test_a_setting_that_cannot_be_is_named(word, message):
    with pytest.raises(ValueError, match=message):
        with_everything_settings(EXACT, [word])


def test_a_setting_comes_once():
    with pytest.raises(ValueError, match="mode comes twice"):
        with_everything_settings(EXACT, ["mode=fast", "mode=exact"])


def test_exact_and_fast_differ_in_the_mode_alone_and_have_sams_defaults():
    exact, fast = (EVERYTHING_PROTOCOLS[name].to_json() for name in ("exact", "fast"))
    assert {key for key in exact if exact[key] != fast[key]} == {"name", "mode"}
    assert (exact["points_per_side"], exact["pred_iou_thresh"], exact["stability_score_thresh"]) == (32, 0.88, 0.95)
    assert exact["box_nms_thresh"] == 0.7


def test_after_mobilesamv2_no_mask_is_left_out_for_its_score():
    protocol = EVERYTHING_PROTOCOLS["mobilesamv2"]
    config = protocol.config
    assert (config.mode, config.points_per_side) == ("exact", 32)
    assert (config.pred_iou_thresh, config.stability_score_thresh) == (0, 0)
    for words in ("arXiv 2312.09579", "LVIS", "Differs: which 100 pictures", "not published"):
        assert words in protocol.source


def test_protocols_are_found_by_name_and_group():
    assert [one.name for one in everything_protocols(["fast", "default"])] == ["fast", "exact"]
    assert set(EVERYTHING_GROUPS["default"]) <= set(EVERYTHING_PROTOCOLS)
    assert all(protocol.name == name for name, protocol in EVERYTHING_PROTOCOLS.items())
    with pytest.raises(ValueError, match="unknown protocol 'quick'; expected one of default, exact, fast, mobilesamv2"):
        everything_protocols(["quick"])


def test_a_protocol_is_described_in_a_line():
    assert describe_everything(with_everything_settings(EXACT, ["crop_n_layers=2", "rank_by=product"])) == (
        "exact, 32 x 32 points, 2 layers of crops, predicted IoU above 0.88, stability at least 0.95, box NMS 0.7; "
        "ranked by predicted IoU times stability"
    )
    given = EverythingConfig(points_per_side=None, point_grids=[[[0.5, 0.5]]])
    assert describe_everything(EverythingProtocol("mine", config=given)).startswith("exact, points of its own, ")
