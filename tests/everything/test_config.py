"""Settings out of their range are refused by name, on construction and when they are changed."""

import json
import math

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mobile_sam import SamAutomaticMaskGenerator
from mobile_sam.everything.config import EverythingConfig

GRID = np.array([[0.5, 0.5]])

WRONG = [
    ({"mode": "quick"}, "mode must be one of exact, fast, got 'quick'"),
    ({"output_mode": "rle"}, "output_mode must be one of binary_mask, uncompressed_rle, coco_rle, got 'rle'"),
    ({"points_per_side": None}, "exactly one of points_per_side and point_grids must be given, got neither"),
    ({"point_grids": [GRID]}, "exactly one of points_per_side and point_grids must be given, got both"),
    ({"points_per_side": 0}, "points_per_side must be a whole number, 1 to 1024, got 0"),
    ({"points_per_side": 1025}, "points_per_side must be a whole number, 1 to 1024, got 1025"),
    ({"points_per_side": 32.5}, r"points_per_side must be a whole number, 1 to 1024, got 32\.5"),
    ({"points_per_side": True}, "points_per_side must be a whole number"),
    ({"points_per_batch": 0}, "points_per_batch must be a whole number, at least 1, got 0"),
    ({"points_per_batch": None}, "points_per_batch must be a whole number"),
    ({"pred_iou_thresh": math.nan}, "pred_iou_thresh must be a finite number from -inf to inf, got nan"),
    ({"pred_iou_thresh": 10**400}, "pred_iou_thresh must be a finite number"),
    ({"pred_iou_thresh": math.inf}, "pred_iou_thresh must be a finite number"),
    ({"pred_iou_thresh": "0.9"}, "pred_iou_thresh must be a finite number"),
    ({"stability_score_thresh": 1.01}, r"stability_score_thresh must be a finite number from 0 to 1, got 1\.01"),
    ({"stability_score_thresh": -0.1}, "stability_score_thresh must be a finite number from 0 to 1"),
    ({"stability_score_offset": -1.0}, "stability_score_offset must be a finite number from 0"),
    ({"stability_score_offset": math.nan}, "stability_score_offset must be a finite number"),
    ({"box_nms_thresh": 1.5}, "box_nms_thresh must be a finite number from 0 to 1"),
    ({"box_nms_thresh": math.nan}, "box_nms_thresh must be a finite number"),
    ({"crop_nms_thresh": -1}, "crop_nms_thresh must be a finite number from 0 to 1"),
    ({"crop_overlap_ratio": 1.1}, "crop_overlap_ratio must be a finite number from 0 to 1"),
    ({"crop_n_layers": -1}, "crop_n_layers must be a whole number, 0 to 6, got -1"),
    ({"crop_n_layers": 7}, "crop_n_layers must be a whole number, 0 to 6, got 7"),
    ({"crop_n_points_downscale_factor": 0}, "crop_n_points_downscale_factor must be a whole number, at least 1"),
    ({"crop_n_points_downscale_factor": 1.5}, "crop_n_points_downscale_factor must be a whole number"),
    (
        {"points_per_side": 3, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2},
        "crop_n_points_downscale_factor 2 leaves layer 2 of crops without points: points_per_side is 3",
    ),
    ({"min_mask_region_area": -1}, "min_mask_region_area must be a whole number, at least 0"),
    ({"min_mask_region_area": 0.5}, "min_mask_region_area must be a whole number"),
    (
        {"points_per_side": None, "point_grids": [GRID], "crop_n_layers": 1},
        r"point_grids must have a grid for each of 2 layers \(crop_n_layers \+ 1\), got 1",
    ),
    ({"points_per_side": None, "point_grids": 3}, r"point_grids must be a list with a grid \(N, 2\) .* got int"),
    ({"points_per_side": None, "point_grids": [[["a", "b"]]]}, r"point_grids\[0\] must be \(N, 2\) numbers, got"),
    ({"points_per_side": None, "point_grids": []}, "point_grids must have a grid for each of 1 layers"),
    ({"points_per_side": None, "point_grids": [GRID[0]]}, r"point_grids\[0\] must be \(N, 2\) .* got shape \(2,\)"),
    ({"points_per_side": None, "point_grids": [GRID[:0]]}, r"point_grids\[0\] must be \(N, 2\) with N at least 1"),
    ({"points_per_side": None, "point_grids": [GRID * 300]}, r"point_grids\[0\] must hold shares .* got 150 to 150; "),
    ({"points_per_side": None, "point_grids": [GRID * np.nan]}, r"point_grids\[0\] must hold shares"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_settings_out_of_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EverythingConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"), [case for case in WRONG if len(case[0]) == 1 and "both" not in case[1]]
)
def test_a_change_to_a_wrong_value_is_refused_and_changes_nothing(disc_engine, settings, message):
    generator = SamAutomaticMaskGenerator(engine=disc_engine)
    before = generator.config
    with pytest.raises(ValueError, match=message):
        setattr(generator, *next(iter(settings.items())))
    assert generator.config is before


@pytest.mark.parametrize(
    "settings",
    [
        {"points_per_side": 1024, "points_per_batch": 1, "crop_n_layers": 6},
        {"points_per_side": np.int64(8), "pred_iou_thresh": np.float32(0.5), "min_mask_region_area": np.int32(4)},
        {"pred_iou_thresh": -5, "stability_score_thresh": 0, "box_nms_thresh": 1, "crop_nms_thresh": 0},
        {"points_per_side": 4, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2},
        {"points_per_side": None, "point_grids": [[[0, 0], [1, 1]]], "output_mode": "coco_rle", "mode": "fast"},
        {"points_per_side": None, "point_grids": [GRID] * 3, "crop_n_layers": 1},
    ],
)
def test_the_ends_of_the_ranges_are_settings(settings):
    config = EverythingConfig(**settings)
    assert all(getattr(config, name) == value for name, value in settings.items() if name != "point_grids")


def test_settings_are_read_and_changed_by_sams_names(disc_engine):
    generator = SamAutomaticMaskGenerator(engine=disc_engine, points_per_side=5, pred_iou_thresh=0.7)
    assert (generator.points_per_side, generator.pred_iou_thresh) == (5, 0.7)
    generator.pred_iou_thresh = 0.9
    generator.mode = "fast"
    assert (generator.config.pred_iou_thresh, generator.pred_iou_thresh, generator.config.mode) == (0.9, 0.9, "fast")
    assert generator.points_per_side == 5
    assert "pred_iou_thresh" not in vars(generator)
    with pytest.raises(AttributeError, match="SamAutomaticMaskGenerator has no attribute 'pred_iou_threshold'"):
        _ = generator.pred_iou_threshold


def test_point_grids_are_those_in_effect_and_replace_points_per_side(disc_engine):
    """As in SAM, whose users read and set this attribute."""
    generator = SamAutomaticMaskGenerator(engine=disc_engine, points_per_side=2)
    (grid,) = generator.point_grids
    assert_array_equal(grid, [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    generator.point_grids = [GRID]
    assert_array_equal(generator.point_grids[0], GRID)
    assert generator.points_per_side is None
    generator.points_per_side = 3
    assert len(generator.point_grids[0]) == 9


def test_the_grids_of_a_config_cannot_be_changed_afterwards():
    grid = GRID.copy()
    config = EverythingConfig(points_per_side=None, point_grids=[grid])
    grid[:] = 7
    assert config.point_grids is not None
    assert_array_equal(config.point_grids[0], GRID)
    with pytest.raises(ValueError, match="read-only"):
        config.point_grids[0][0, 0] = 0.1


def test_numbers_of_any_kind_become_what_json_has():
    config = EverythingConfig(points_per_side=np.int64(4), pred_iou_thresh=np.float32(0.5), min_mask_region_area=100.0)
    stored = json.loads(json.dumps(config.to_json()))
    assert (stored["points_per_side"], stored["pred_iou_thresh"], stored["min_mask_region_area"]) == (4, 0.5, 100)


def test_a_generator_is_made_of_a_config(disc_engine):
    config = EverythingConfig(points_per_side=None, point_grids=[GRID], min_mask_region_area=3, mode="fast")
    generator = SamAutomaticMaskGenerator.from_config(config, disc_engine)
    assert generator.predictor.engine is disc_engine
    assert generator.config.to_json() == config.to_json()
    assert_array_equal(generator.point_grids[0], GRID)


def test_settings_go_into_json():
    config = EverythingConfig(points_per_side=None, point_grids=[GRID], box_nms_thresh=0.5)
    values = json.loads(json.dumps(config.to_json()))
    assert values["point_grids"] == [[[0.5, 0.5]]]
    again = EverythingConfig(**values)
    assert again.to_json() == config.to_json()
