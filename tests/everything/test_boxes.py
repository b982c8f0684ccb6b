"""Masks for the boxes of a detector."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mobile_sam import SamAutomaticMaskGenerator, SamPredictor, read_image
from mobile_sam.core.masks import decode_rle, mask_iou, masks_to_boxes
from mobile_sam.data.mask_files import PictureDetections

BOXES = np.array([[60, 20, 390, 290], [100, 40, 200, 150], [150.5, 60.25, 250.75, 170], [0, 0, 451, 300]])
KEYS = ["segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box", "box"]


@pytest.fixture
def generator(blob_engine):
    return SamAutomaticMaskGenerator(engine=blob_engine)


@pytest.fixture
def picture(make_picture):
    return make_picture((300, 451))


def test_masks_are_those_of_the_predictor_for_each_box(onnx_predictor, examples):
    picture = read_image(examples / "chelsea.png")
    generator = SamAutomaticMaskGenerator(engine=onnx_predictor.engine, stability_score_offset=0.5)
    records = generator.generate_from_boxes(picture, BOXES)
    predictor = SamPredictor(engine=onnx_predictor.engine)
    predictor.set_image(picture)
    assert len(records) == 4
    for record, box in zip(records, BOXES, strict=True):
        (mask,), (iou,), _ = predictor.predict(box=box, multimask_output=False)
        logits, _, _ = predictor.predict(box=box, multimask_output=False, return_logits=True)
        assert list(record) == KEYS
        assert mask_iou(record["segmentation"][None], mask[None])[0, 0] > 0.9999
        assert record["predicted_iou"] == pytest.approx(float(iou), abs=1e-5)
        stability = np.count_nonzero(logits > 0.5) / np.count_nonzero(logits > -0.5)
        assert record["stability_score"] == pytest.approx(stability, abs=1e-4)
        x1, y1, x2, y2 = masks_to_boxes(record["segmentation"][None])[0].tolist()
        assert record["bbox"] == [x1, y1, x2 - x1, y2 - y1]
        assert record["box"] == box.tolist()
        assert (record["point_coords"], record["crop_box"]) == ([], [0, 0, 451, 300])


def test_hundreds_of_boxes_take_one_encoding(generator, picture, blob_engine):
    random = np.random.default_rng(0)
    corners = random.random((300, 2)) * (400, 250)
    boxes = np.concatenate([corners, corners + 1 + 40 * random.random((300, 2))], axis=1)
    told = []
    generator.output_mode = "coco_rle"
    records = generator.generate_from_boxes(picture, boxes, progress=lambda *numbers: told.append(numbers))
    assert (blob_engine.num_encoded, blob_engine.num_decoded) == (1, 300)
    assert told[-1] == (300, 300)
    assert np.allclose([record["box"] for record in records], boxes, rtol=1e-6)
    (alone,) = generator.generate_from_boxes(picture, boxes[170:171])
    assert alone == records[170]


def detections(**fields):
    """What supervision.Detections has, without the package."""
    return SimpleNamespace(**({"xyxy": BOXES.astype(np.float32), "mask": None, "confidence": None} | fields))


@pytest.mark.parametrize(
    ("boxes", "facts"),
    [
        (BOXES, {}),
        (BOXES.tolist(), {}),
        (BOXES.astype(np.float16), {}),
        (detections(), {}),
        (detections(class_id=None), {}),
        (detections(confidence=np.array([0.5, 0.25, 1, 0], np.float32)), {"score": 0.25}),
        (detections(confidence=np.full(4, 0.25), class_id=np.array([3, 7, 7, 0])), {"score": 0.25, "category_id": 7}),
        (PictureDetections(BOXES, np.full(4, 0.75), np.array([1, 18, 3, 4])), {"score": 0.75, "category_id": 18}),
    ],
)
def test_scores_and_categories_are_carried_along(generator, picture, boxes, facts):
    records = generator.generate_from_boxes(picture, boxes)
    assert len(records) == 4
    assert list(records[1]) == [*KEYS, *facts]
    assert records[1]["box"] == BOXES[1].tolist()
    for name, value in facts.items():
        assert records[1][name] == value
        assert type(records[1][name]) is type(value)


@pytest.mark.parametrize(
    "boxes", [[], np.zeros((0, 4)), np.zeros(0), detections(xyxy=np.zeros((0, 4)), confidence=np.zeros(0))]
)
def test_no_boxes_have_no_masks(generator, picture, blob_engine, boxes):
    assert generator.generate_from_boxes(picture, boxes) == []
    assert blob_engine.num_encoded == 0


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([BOXES[0], [10, 10, 500, 20]], r"box 1 of 2: box \[10, 10, 500, 20\] lies outside the picture of 451 x 300"),
        ([BOXES[0], BOXES[1], [20, 10, 10, 20]], r"box 2 of 3: box \[20, 10, 10, 20\] has swapped or equal corners"),
        ([[5, 5, 5, 9]], "box 0 of 1: .* swapped or equal corners"),
        ([[5, 5, np.nan, 9]], r"box 0 of 1: box must be finite, got \[nan\]"),
        ([BOXES[0], [-np.inf, 5, 20, 9]], "box 1 of 2: box must be finite"),
        (BOXES[0], r"boxes must be \(N, 4\): .* got shape \(4,\); use boxes\[None\] for a single box"),
        (BOXES[:, :3], r"boxes must be \(N, 4\): .* got shape \(4, 3\)$"),
        (BOXES[None], r"got shape \(1, 4, 4\)"),
        ("boxes", "boxes must be numbers, .* got str"),
        ([[1, 2, 3, 4], [1, 2]], "boxes must be numbers, .* got list"),
        (None, r"boxes must be"),
        (detections(confidence=np.ones(3)), r"there are 4 boxes, and scores of shape \(3,\); expected \(4,\)"),
        (detections(class_id=np.ones((4, 1))), r"there are 4 boxes, and category ids of shape \(4, 1\)"),
        (PictureDetections(BOXES, np.ones(4), np.ones(5, int)), r"and category ids of shape \(5,\)"),
    ],
)
def test_wrong_boxes_are_refused_by_number(generator, picture, blob_engine, boxes, message):
    with pytest.raises(ValueError, match=message):
        generator.generate_from_boxes(picture, boxes)
    assert blob_engine.num_encoded == 0


def test_a_box_may_stick_out_a_little(generator, picture):
    (record,) = generator.generate_from_boxes(picture, [[-20, -10, 470, 310]])
    assert record["box"] == [-20, -10, 470, 310]


def test_the_box_settings_take_no_masks_away(generator, picture):
    """Thresholds and suppression are for points: every box has its mask."""
    generator.pred_iou_thresh, generator.stability_score_thresh, generator.box_nms_thresh = 5.0, 1.0, 0.0
    assert len(generator.generate_from_boxes(picture, np.repeat(BOXES, 3, axis=0))) == 12


def test_small_regions_are_cleaned(generator, picture):
    before = generator.generate_from_boxes(picture, BOXES)
    generator.min_mask_region_area = 200_000  # more than the picture has: all around a mask is a small hole
    for record, raw in zip(generator.generate_from_boxes(picture, BOXES), before, strict=True):
        assert record["area"] == np.count_nonzero(record["segmentation"]) == 300 * 451
        assert record["bbox"] == [0, 0, 450, 299]
        assert raw["area"] < record["area"]
        for key in ("predicted_iou", "stability_score", "box", "crop_box"):
            assert record[key] == raw[key]


@pytest.mark.parametrize("min_mask_region_area", [0, 50])
def test_an_empty_mask_is_answered_too(blob_engine, picture, monkeypatch, min_mask_region_area):
    def nothing(embedding, prompts, mask_tokens):
        shape = (len(prompts), len(mask_tokens))
        return np.full((*shape, 256, 256), -5, np.float32), np.full(shape, 0.25, np.float32)

    monkeypatch.setattr(blob_engine, "_decode_some", nothing)
    generator = SamAutomaticMaskGenerator(
        engine=blob_engine, output_mode="coco_rle", min_mask_region_area=min_mask_region_area
    )
    (record, _) = generator.generate_from_boxes(picture, BOXES[:2])
    assert (record["area"], record["bbox"], record["stability_score"]) == (0, [0, 0, 0, 0], 0.0)
    assert record["predicted_iou"] == 0.25
    assert not decode_rle(record["segmentation"]).any()
    assert generator.generate(picture) == []


def test_the_callers_boxes_are_not_changed(generator, picture):
    boxes = BOXES.copy()
    given = detections(xyxy=boxes)
    before = copy.deepcopy(given)
    generator.generate_from_boxes(picture, given)
    assert_array_equal(given.xyxy, before.xyxy)


def test_a_box_without_a_prediction_keeps_its_place(blob_engine, picture, monkeypatch):
    """As when half precision overflows."""
    decode = blob_engine._decode_some

    def one_is_nan(embedding, prompts, mask_tokens):
        logits, iou = decode(embedding, prompts, mask_tokens)
        iou[prompts.coords_xy[:, 0, 0] < 100] = np.nan
        return logits, iou

    monkeypatch.setattr(blob_engine, "_decode_some", one_is_nan)
    boxes = np.array([[200, 20, 390, 290], [10, 40, 60, 90], [150, 60, 250, 170]])
    records = SamAutomaticMaskGenerator(engine=blob_engine).generate_from_boxes(picture, boxes)
    assert [record["box"] for record in records] == boxes.tolist()
    assert [np.isnan(record["predicted_iou"]) for record in records] == [False, True, False]


@pytest.mark.parametrize(
    ("class_id", "message"),
    [
        (np.array([1.0, np.nan, 2.0]), "category ids must be whole numbers"),
        (np.array([1.0, 2.5, 2.0]), "category ids must be whole numbers"),
        (np.array(["cat", "dog", "cup"]), "category ids must be numbers, one for each box"),
    ],
)
def test_categories_that_are_no_numbers_are_refused(generator, picture, class_id, message):
    found = SimpleNamespace(xyxy=BOXES[:3], confidence=None, class_id=class_id)
    with pytest.raises(ValueError, match=message):
        generator.generate_from_boxes(picture, found)
