"""What is done to one picture, against the classes that users call themselves."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mobile_sam import SamAutomaticMaskGenerator, SamPredictor, read_image
from mobile_sam.bulk.items import Item, Place
from mobile_sam.bulk.pictures import LoadedPicture, encode_pictures, load_picture
from mobile_sam.bulk.settings import BulkSettings
from mobile_sam.bulk.tasks import make_task
from mobile_sam.core.masks import decode_rle
from mobile_sam.data.json_values import ItemRejectedError
from mobile_sam.everything.coco import json_record
from mobile_sam.everything.config import EverythingConfig

BOXES = [[60, 20, 390, 290], [100, 40, 200, 150], [150.5, 60.25, 250.75, 170]]


@pytest.fixture
def do(engine, examples, tmp_path):
    """Does a task with examples/chelsea.png (300 x 451)."""

    def run(task, prompts=None, config=None, used_engine=engine):
        settings = BulkSettings(task, str(tmp_path), config=config or EverythingConfig(output_mode="coco_rle"))
        item = Item(7, "cats/chelsea", "cats/chelsea.png", Place(str(examples / "chelsea.png")), 139, prompts)
        made = make_task(settings, used_engine)
        picture = load_picture(item, (), None if made.needs_pixels else used_engine.input_side)
        assert isinstance(picture, LoadedPicture)
        (embedding,) = encode_pictures(used_engine, [picture]) if made.needs_embedding(item) else [None]
        return made, made.run(picture, embedding)

    return run


@pytest.fixture
def cat(examples):
    return read_image(examples / "chelsea.png")


def boxes_json(boxes, scores=None, category_ids=None):
    nothing = [None] * len(boxes)
    return json.dumps({"boxes": boxes, "scores": scores or nothing, "category_ids": category_ids or nothing})


def iou(record, mask):
    mine = decode_rle(record["segmentation"])
    return np.count_nonzero(mine & mask) / np.count_nonzero(mine | mask)


def test_an_embedding_is_the_engines_in_half_precision(do, engine, cat):
    _, made = do("embed")
    (expected,) = engine.encode([cat])
    assert (made.item_id, made.key, made.image_hw, made.input_hw) == (7, "cats/chelsea", (300, 451), (681, 1024))
    np.testing.assert_array_equal(made.features, expected.features[0].astype(np.float16))


def test_an_embedding_that_float16_does_not_hold_costs_the_picture(do, disc_engine, monkeypatch):
    encode = type(disc_engine).encode_input
    monkeypatch.setattr(type(disc_engine), "encode_input", lambda self, pixels: encode(self, pixels) + 1e5)
    with pytest.raises(ItemRejectedError) as raised:
        do("embed", used_engine=disc_engine)
    assert raised.value.kind == "infinite embedding"


def test_masks_of_boxes_are_the_generators_of_the_picture_itself(do, engine, cat):
    _, made = do("boxes", boxes_json(BOXES, [0.5, None, 0.25], [18, 17, None]))
    generator = SamAutomaticMaskGenerator(engine=engine, output_mode="coco_rle")
    expected = [json_record(record) for record in generator.generate_from_boxes(cat, BOXES)]
    said = [{"score": 0.5, "category_id": 18}, {"category_id": 17}, {"score": 0.25}]
    assert made.records == [{**record, **more} for record, more in zip(expected, said, strict=True)]
    assert (made.size_hw, made.source_id, made.file_name) == ((300, 451), 139, "cats/chelsea.png")
    assert made.from_line(made.to_line()).records == made.records


def test_boxes_outside_the_picture_are_left_out_counted_and_logged(do, disc_engine, caplog):
    task, made = do("boxes", boxes_json([[500, 10, 600, 50], BOXES[1], [4, 5, 4, 9]]), used_engine=disc_engine)
    assert [record["box"] for record in made.records] == [BOXES[1]]
    assert task.num_unusable == 2
    assert "cats/chelsea.png: left out 2 x unusable box, such as number 1 of 3: box [500, 10, 600, 50]" in caplog.text


@pytest.mark.parametrize(
    ("task", "prompts"), [("boxes", None), ("boxes", boxes_json([])), ("points", None), ("points", "[]")]
)
def test_a_picture_without_prompts_has_no_masks_and_is_not_encoded(do, disc_engine, monkeypatch, task, prompts):
    monkeypatch.setattr(type(disc_engine), "encode_input", None)
    _, made = do(task, prompts, used_engine=disc_engine)
    assert (list(made.records), made.size_hw) == ([], (300, 451))


def test_points_give_the_masks_of_the_predictor(do, engine, cat):
    objects = [
        {"points": [[220, 150]]},
        {"points": [[220, 150], [20, 280]], "labels": [1, 0]},
        {"box": BOXES[1]},
        {"points": [[150, 90]], "box": BOXES[1]},
    ]
    _, made = do("points", json.dumps(objects))
    predictor = SamPredictor(engine=engine)
    predictor.set_image(cat)
    masks, scores, _ = predictor.predict([[220, 150]], [1], multimask_output=True)
    assert iou(made.records[0], masks[scores.argmax()]) > 0.9999
    assert made.records[0]["predicted_iou"] == pytest.approx(float(scores.max()), abs=1e-5)
    others = [([[220, 150], [20, 280]], [1, 0], None), (None, None, BOXES[1]), ([[150, 90]], [1], BOXES[1])]
    for record, (points, labels, box) in zip(made.records[1:], others, strict=True):
        (mask,), (score,), _ = predictor.predict(points, labels, box, multimask_output=False)
        assert iou(record, mask) > 0.9999
        assert record["predicted_iou"] == pytest.approx(float(score), abs=1e-5)
        assert record["area"] == pytest.approx(np.count_nonzero(mask), abs=3)
    keys = {"segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"}
    assert [set(record) - keys for record in made.records] == [set(), set(), {"box"}, {"box"}]
    assert made.records[1]["point_coords"] == [[220, 150], [20, 280]]
    assert (made.records[2]["point_coords"], made.records[2]["box"]) == ([], BOXES[1])
    assert made.from_line(made.to_line()).records == made.records


def test_objects_outside_the_picture_are_left_out(do, disc_engine):
    objects = [{"points": [[1000, 5]]}, {"points": [[20, 30]]}]
    task, made = do("points", json.dumps(objects), used_engine=disc_engine)
    assert [record["point_coords"] for record in made.records] == [[[20, 30]]]
    assert task.num_unusable == 1


FEW_POINTS = {"points_per_side": 6, "pred_iou_thresh": 0.55, "output_mode": "coco_rle"}


@pytest.mark.parametrize("more", [{"mode": "fast"}, {"crop_n_layers": 1, "points_per_side": 3}])
def test_everything_is_what_the_generator_finds(do, engine, disc_engine, cat, more):
    config = EverythingConfig(**{**FEW_POINTS, **more})
    used_engine = disc_engine if config.crop_n_layers else engine
    _, made = do("everything", config=config, used_engine=used_engine)
    expected = SamAutomaticMaskGenerator.from_config(config, used_engine).generate(cat)
    assert made.records == [json_record(record) for record in expected]
    assert len(made.records) > 2


def test_together_or_alone_resized_before_or_not_pictures_are_encoded_the_same(engine, examples):
    item = Item(1, "rocket", "rocket.jpg", Place(str(examples / "rocket.jpg")))
    whole, resized = (load_picture(item, (), side) for side in (None, engine.input_side))
    assert (resized.pixels.shape, whole.pixels.shape) == ((683, 1024, 3), (427, 640, 3))
    (expected,) = engine.encode([read_image(examples / "rocket.jpg")])
    for embedding in encode_pictures(engine, [whole, resized]):
        np.testing.assert_array_equal(embedding.features, expected.features)
        assert (embedding.image_hw, embedding.input_hw) == (expected.image_hw, expected.input_hw)


def test_masks_of_an_embedding_of_another_model_are_refused(do, disc_engine, engine, cat):
    (embedding,) = disc_engine.encode([cat])
    with pytest.raises(ValueError, match="was made by encoder 'disc'"):
        SamAutomaticMaskGenerator(engine=engine).generate_from_boxes(embedding, BOXES)
    generator = SamAutomaticMaskGenerator(engine=disc_engine, output_mode="coco_rle")
    assert generator.generate_from_boxes(embedding, BOXES) == generator.generate_from_boxes(cat, BOXES)
    with pytest.raises(ValueError, match="box 0 of 1"):
        generator.generate_from_boxes(replace(embedding, image_hw=(10, 15)), [[1, 1, 90, 90]])
