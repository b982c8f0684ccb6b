"""Exact mode against stored records of the original `SamAutomaticMaskGenerator`, default settings, two pictures.

tests/fixtures/everything was made with the original code and checkpoint in fp32 on a CPU (torch 2.13).
"""

import json
from pathlib import Path

import pytest
from pycocotools import mask as coco_mask

from mobile_sam import SamAutomaticMaskGenerator, build_sam_vit_t

FIXTURES = Path(__file__).parent.parent / "fixtures" / "everything"
SCORE_ERROR = 1e-3
MASK_IOU = 0.99


def mask_iou(record, other):
    return coco_mask.iou([record["segmentation"]], [other["segmentation"]], [False])[0, 0]


@pytest.mark.parametrize(("name", "num_masks"), [("astronaut", 45), ("coffee", 13)])
def test_records_are_the_original_ones_in_the_original_order(onnx_predictor, examples, name, num_masks):
    expected = json.loads((FIXTURES / f"{name}.json").read_text())["records"]
    generator = SamAutomaticMaskGenerator(output_mode="coco_rle", engine=onnx_predictor.engine)
    records = generator.generate(examples / f"{name}.png")
    assert len(records) == len(expected) == num_masks
    assert generator.num_points == 32 * 32
    for index, (record, wanted) in enumerate(zip(records, expected, strict=True)):
        assert list(record) == list(wanted)
        assert mask_iou(record, wanted) >= MASK_IOU, index
        for key in ("bbox", "point_coords", "crop_box"):
            assert record[key] == wanted[key], index
        assert record["area"] == pytest.approx(wanted["area"], rel=1 - MASK_IOU)
        for key in ("predicted_iou", "stability_score"):
            assert record[key] == pytest.approx(wanted[key], abs=SCORE_ERROR)


def test_a_module_gives_the_records_of_the_bundled_engine(onnx_predictor, examples):
    module = build_sam_vit_t("mobile_sam").eval()
    own = SamAutomaticMaskGenerator(module, 8, output_mode="coco_rle")  # SAM's positions
    assert (own.predictor.engine.name, own.predictor.model) == ("torch", module)
    bundled = SamAutomaticMaskGenerator(points_per_side=8, output_mode="coco_rle", engine=onnx_predictor.engine)
    records, expected = (one.generate(examples / "coffee.png") for one in (own, bundled))
    assert len(records) == len(expected) >= 8
    for record, wanted in zip(records, expected, strict=True):
        assert mask_iou(record, wanted) >= MASK_IOU
        assert record["point_coords"] == wanted["point_coords"]
        assert record["predicted_iou"] == pytest.approx(wanted["predicted_iou"], abs=SCORE_ERROR)
