"""Fast mode: fewer points, no masks of its own."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pycocotools import mask as coco_mask

from mobile_sam import SamAutomaticMaskGenerator
from mobile_sam.core.grids import point_grid
from mobile_sam.everything.adaptive import levels
from mobile_sam.everything.config import EverythingConfig


@pytest.fixture(scope="module")
def cat_records(onnx_predictor, examples):
    """Records of examples/chelsea.png in fast mode and, without suppression, of all points; and points decoded."""
    options = {"points_per_side": 16, "output_mode": "coco_rle", "engine": onnx_predictor.engine}
    fast = SamAutomaticMaskGenerator(mode="fast", **options)
    exact = SamAutomaticMaskGenerator(box_nms_thresh=1.0, **options)
    return *(one.generate(examples / "chelsea.png") for one in (fast, exact)), fast.num_points, exact.num_points


def test_fewer_points_are_decoded(cat_records):
    _, _, num_fast, num_exact = cat_records
    assert num_exact == 256
    assert 16 <= num_fast < 0.8 * num_exact


def test_every_mask_is_one_that_exact_mode_makes_of_the_same_point(cat_records):
    fast, exact, _, _ = cat_records
    assert len(fast) >= 8
    for record in fast:
        of_point = [one for one in exact if one["point_coords"] == record["point_coords"]]
        ious = coco_mask.iou(
            [record["segmentation"]], [one["segmentation"] for one in of_point], [False] * len(of_point)
        )[0]
        same = of_point[int(np.argmax(ious))]
        assert ious.max() > 0.99
        assert record["predicted_iou"] == pytest.approx(same["predicted_iou"], abs=1e-4)
        assert record["stability_score"] == pytest.approx(same["stability_score"], abs=1e-2)


def test_boxes_do_not_overlap_more_than_is_asked_for(cat_records):
    boxes = np.array([record["bbox"] for record in cat_records[0]], float)
    overlaps = coco_mask.iou(boxes, boxes, [False] * len(boxes))
    assert (overlaps - np.eye(len(boxes)) <= 0.7).all()


@pytest.mark.parametrize("num_per_side", range(1, 41))
def test_levels_hold_each_point_of_a_grid_once(num_per_side):
    parts = levels(point_grid(num_per_side))
    assert_array_equal(np.sort(np.concatenate(parts)), np.arange(num_per_side**2))
    if num_per_side % 4 == 0:
        assert len(parts[0]) == num_per_side**2 // 16


def test_the_first_level_is_spread_over_the_picture():
    """No point is more than four steps from one that is decoded in any case."""
    points = point_grid(32)
    first = points[levels(points)[0]]
    distance = np.abs(points[:, None] - first).max(axis=2).min(axis=1)
    assert (distance <= 4 / 32).all()


@pytest.mark.parametrize("num_points", [0, 1, 2, 15, 16, 17, 36, 100])
def test_levels_hold_each_point_of_any_points_once(num_points):
    points = np.random.default_rng(num_points).random((num_points, 2))
    parts = levels(points)
    assert_array_equal(np.sort(np.concatenate(parts)), np.arange(num_points))
    assert all(np.array_equal(part, again) for part, again in zip(parts, levels(points), strict=True))


ONE_POINT = {"points_per_side": None, "point_grids": [np.array([[0.4, 0.6]])]}
ANY_POINTS = {"points_per_side": None, "point_grids": [np.random.default_rng(0).random((50, 2))]}


@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize("points_per_batch", [1, 8])
@pytest.mark.parametrize(
    ("options", "num_points"),
    [
        ({"points_per_side": 9}, 81),
        ({"points_per_side": 1}, 1),
        ({"points_per_side": 4, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2}, 16 + 4 * 4),
        (ONE_POINT, 1),
        (ANY_POINTS, 50),
    ],
)
def test_progress_comes_to_the_number_of_points(blob_engine, make_picture, mode, points_per_batch, options, num_points):
    generator = SamAutomaticMaskGenerator(
        engine=blob_engine, mode=mode, points_per_batch=points_per_batch, pred_iou_thresh=0.7, **options
    )
    told = []
    generator.generate(make_picture((150, 200)), progress=lambda *numbers: told.append(numbers))
    assert {num_all for _, num_all in told} == {num_points}
    counts = [num_done for num_done, _ in told]
    assert counts == sorted(counts)
    assert counts[-1] == num_points
    assert generator.num_points == blob_engine.num_decoded <= num_points
    if mode == "exact":
        assert generator.num_points == num_points


@pytest.mark.parametrize("options", [{"points_per_side": 12}, ANY_POINTS, {"points_per_side": 6, "crop_n_layers": 1}])
def test_the_same_picture_gives_the_same_records(blob_engine, make_picture, options):
    generator = SamAutomaticMaskGenerator(
        engine=blob_engine, mode="fast", output_mode="coco_rle", pred_iou_thresh=0.7, **options
    )
    picture = make_picture((200, 300))
    records = generator.generate(picture)
    num_points = generator.num_points
    generator.generate(make_picture((80, 90), seed=1))
    assert generator.generate(picture) == records
    assert generator.num_points == num_points
    assert records


def test_a_picture_of_one_look_needs_few_points(disc_engine):
    """All places look the same, so what is decoded first speaks for its neighbours."""
    generator = SamAutomaticMaskGenerator(engine=disc_engine, mode="fast", points_per_side=16, pred_iou_thresh=0.7)
    generator.generate(np.full((160, 160, 3), 200, np.uint8))
    assert 16 <= generator.num_points <= 40


def test_an_engines_batches_change_nothing(blob_engine, make_picture):
    """What is passed over must not depend on how many points an engine takes at once."""
    found = []
    for num_at_once in (1, 4, 64):
        blob_engine.prompts_at_once = num_at_once
        settings = EverythingConfig(points_per_side=12, mode="fast", output_mode="coco_rle")
        generator = SamAutomaticMaskGenerator.from_config(settings, blob_engine)
        found.append((generator.generate(make_picture((200, 300))), generator.num_points))
    assert found[0] == found[1] == found[2]
    assert found[0][1] < 144
