import json
import logging

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from pycocotools import mask as coco_mask

from mobile_sam import SamAutomaticMaskGenerator, build_sam_vit_t, read_image
from mobile_sam.core.masks import decode_rle, masks_to_boxes
from mobile_sam.utils.amg import MaskData, area_from_rle, mask_to_rle_pytorch

SAMS_KEYS = ["segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"]
LENIENT = {"pred_iou_thresh": 0.55, "stability_score_thresh": 0.5}  # discs: token 3 is 0.8, token 1 is 0.6


@pytest.fixture
def generator(disc_engine):
    return SamAutomaticMaskGenerator(engine=disc_engine, points_per_side=4, **LENIENT)


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)


@pytest.fixture
def picture_file(picture, tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(picture).save(path)
    return path


def as_json(records):
    return json.dumps([record | {"segmentation": record["segmentation"].tolist()} for record in records])


def test_a_record_has_sams_keys_and_plain_values(generator, picture):
    records = generator.generate(picture)
    assert len(records) >= 4
    for record in records:
        assert list(record) == SAMS_KEYS
        mask = record["segmentation"]
        assert (mask.dtype, mask.shape) == (np.bool_, (90, 120))
        assert record["area"] == np.count_nonzero(mask)
        x1, y1, x2, y2 = masks_to_boxes(mask[None])[0].tolist()
        assert record["bbox"] == [x1, y1, x2 - x1, y2 - y1]
        assert record["crop_box"] == [0, 0, 120, 90]
        ((x, y),) = record["point_coords"]
        assert mask[int(y), int(x)]  # discs are around their points
        assert type(record["area"]) is int
        assert {type(value) for value in (*record["bbox"], *record["crop_box"])} == {int}
        assert {type(value) for value in (x, y, record["predicted_iou"], record["stability_score"])} == {float}
    ious = [record["predicted_iou"] for record in records]
    assert ious == sorted(ious, reverse=True)


def test_points_are_those_of_the_grid(disc_engine, picture):
    generator = SamAutomaticMaskGenerator(
        engine=disc_engine, points_per_side=2, box_nms_thresh=1.0, pred_iou_thresh=0.75, stability_score_thresh=0.0
    )
    points = [tuple(record["point_coords"][0]) for record in generator.generate(picture)]
    assert points == [(30.0, 22.5), (90.0, 22.5), (30.0, 67.5), (90.0, 67.5)]


@pytest.mark.parametrize("form", ["path", "str", "bytes", "pil", "rgba"])
def test_every_form_of_a_picture_gives_the_same_records(generator, picture, picture_file, form):
    source = {
        "path": picture_file,
        "str": str(picture_file),
        "bytes": picture_file.read_bytes(),
        "pil": Image.fromarray(picture),
        "rgba": np.dstack([picture, np.full((90, 120), 255, np.uint8)]),
    }[form]
    assert as_json(generator.generate(source)) == as_json(generator.generate(picture))


def test_a_grey_picture_is_taken(generator, picture):
    grey = picture[..., 0]
    assert as_json(generator.generate(grey)) == as_json(generator.generate(np.repeat(grey[..., None], 3, axis=2)))


def test_output_modes_say_the_same(disc_engine, picture):
    by_mode = {
        mode: SamAutomaticMaskGenerator(
            engine=disc_engine, points_per_side=4, output_mode=mode, crop_n_layers=1, min_mask_region_area=5, **LENIENT
        ).generate(picture)
        for mode in ("binary_mask", "uncompressed_rle", "coco_rle")
    }
    assert len(by_mode["binary_mask"]) >= 4
    for binary, plain, coco in zip(*by_mode.values(), strict=True):
        mask = binary.pop("segmentation")
        assert coco["segmentation"]["size"] == plain["segmentation"]["size"] == [90, 120]
        counts = plain["segmentation"]["counts"]
        assert {type(run) for run in counts} == {int}
        assert_array_equal(np.repeat(np.arange(len(counts)) % 2, counts).reshape(120, 90).T, mask)
        assert_array_equal(coco_mask.decode(coco["segmentation"]), mask)
        assert json.loads(json.dumps(coco)) == coco
        for record in (plain, coco):
            assert {key: value for key, value in record.items() if key != "segmentation"} == binary


def test_sams_arguments_keep_their_positions(disc_engine):
    grid = [np.array([[0.5, 0.5]])] * 3
    generator = SamAutomaticMaskGenerator(
        None, None, 16, 0.8, 0.9, 0.5, 0.6, 2, 0.65, 0.25, 3, grid, 40, "coco_rle", engine=disc_engine
    )
    assert (generator.points_per_side, generator.points_per_batch, generator.pred_iou_thresh) == (None, 16, 0.8)
    assert (generator.stability_score_thresh, generator.stability_score_offset) == (0.9, 0.5)
    assert (generator.box_nms_thresh, generator.crop_n_layers, generator.crop_nms_thresh) == (0.6, 2, 0.65)
    assert (generator.crop_overlap_ratio, generator.crop_n_points_downscale_factor) == (0.25, 3)
    assert (len(generator.point_grids), generator.min_mask_region_area, generator.output_mode) == (3, 40, "coco_rle")


def test_a_change_of_a_setting_counts_from_the_next_picture_on(generator, picture):
    assert {round(record["predicted_iou"], 2) for record in generator.generate(picture)} >= {0.6, 0.8}
    generator.pred_iou_thresh = 0.75
    assert {round(record["predicted_iou"], 2) for record in generator.generate(picture)} == {0.8}
    generator.points_per_side, generator.output_mode = 1, "coco_rle"
    (record,) = generator.generate(picture)
    assert record["point_coords"] == [[60.0, 45.0]]
    assert decode_rle(record["segmentation"])[45, 60]
    assert generator.num_points == 1


def test_many_pictures_come_one_by_one_and_broken_ones_as_none(generator, picture, tmp_path, caplog):
    broken, read = tmp_path / "broken.png", []
    broken.write_bytes(b"no picture")

    def pictures():
        for source in (picture, broken, tmp_path / "nowhere.png", np.zeros((2, 2, 7)), picture[:40]):
            read.append(source)
            yield source

    answers = generator.generate_many(pictures())
    assert read == []
    assert as_json(next(answers)) == as_json(generator.generate(picture))
    assert len(read) == 1
    with caplog.at_level(logging.ERROR, "mobile_sam"):
        *nothing, last = answers
    assert nothing == [None] * 3
    assert as_json(last) == as_json(generator.generate(picture[:40]))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    assert all("left out a picture that cannot be read: " in message for message in messages)
    assert "broken.png" in messages[0]
    assert "nowhere.png" in messages[1]


@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize("image_hw", [(1, 1), (1, 300), (300, 1), (64, 64)])
def test_a_picture_of_one_colour_gives_masks_or_none(onnx_predictor, mode, image_hw):
    """With the real weights, at the lowest thresholds, and with crops that may be of one pixel."""
    generator = SamAutomaticMaskGenerator(
        engine=onnx_predictor.engine, mode=mode, points_per_side=2, crop_n_layers=1, crop_n_points_downscale_factor=2,
        pred_iou_thresh=0.0, stability_score_thresh=0.0, min_mask_region_area=2,
    )  # fmt: skip
    if image_hw == (64, 64):
        generator.crop_n_layers = 0
    for record in generator.generate(np.full((*image_hw, 3), 128, np.uint8)):
        assert record["segmentation"].shape == image_hw
        assert 0 < record["area"] == np.count_nonzero(record["segmentation"])


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.zeros((4, 4, 5), np.uint8), ValueError, "5"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, "pixel"),
        (None, ValueError, "source must be a path"),
        ("nowhere.png", FileNotFoundError, "nowhere"),
    ],
)
def test_what_is_no_picture_is_refused(generator, source, error, message):
    with pytest.raises(error, match=message):
        generator.generate(source)
    with pytest.raises(error, match=message):
        generator.generate_from_boxes(source, [[0, 0, 2, 2]])


@pytest.mark.parametrize("further", [{}, {"mode": "fast"}, {"min_mask_region_area": 50}])
def test_an_embedding_gives_the_records_of_its_picture(disc_engine, picture, further):
    generator = SamAutomaticMaskGenerator(engine=disc_engine, points_per_side=4, **LENIENT, **further)
    (embedding,) = disc_engine.encode([picture])
    told = []
    found = generator.generate_from_embedding(embedding, lambda done, of: told.append((done, of)))
    assert (generator.num_points > 0, told[-1]) == (True, (16, 16))
    assert as_json(found) == as_json(generator.generate(picture))
    assert found


def test_what_progress_raises_ends_the_search(generator, disc_engine, picture):
    def stop(num_done, num_all):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generator.generate_from_embedding(disc_engine.encode([picture])[0], stop)
    assert generator.num_points == 0


def test_crops_need_the_picture_itself(disc_engine, picture, cat_embedding):
    generator = SamAutomaticMaskGenerator(engine=disc_engine, points_per_side=4, crop_n_layers=1)
    with pytest.raises(ValueError, match="crop_n_layers must be 0, got 1"):
        generator.generate_from_embedding(disc_engine.encode([picture])[0])
    with pytest.raises(ValueError, match="made by encoder"):
        SamAutomaticMaskGenerator(engine=disc_engine).generate_from_embedding(cat_embedding)


def test_a_module_and_an_engine_are_one_too_many(disc_engine):
    with pytest.raises(ValueError, match="pass one of the two"):
        SamAutomaticMaskGenerator(build_sam_vit_t(), engine=disc_engine)


def test_the_threshold_of_a_module_is_used(picture):
    """A module says itself where masks are cut; below the lowest logit everything is mask."""
    module = build_sam_vit_t("mobile_sam").eval()
    module.mask_threshold = -1000.0
    generator = SamAutomaticMaskGenerator(module, points_per_side=1, pred_iou_thresh=0.0)
    (record,) = generator.generate(picture)
    assert (record["area"], record["bbox"], record["stability_score"]) == (90 * 120, [0, 0, 119, 89], 1.0)


def test_small_regions_are_cleaned_in_a_photo(onnx_predictor, examples):
    """No record of examples/chelsea.png has a hole or an island below the limit, and some had before."""
    options = {"engine": onnx_predictor.engine, "points_per_side": 4, **LENIENT}
    picture = read_image(examples / "chelsea.png")
    for least_area_px, has_small in ((0, True), (200, False)):
        generator = SamAutomaticMaskGenerator(min_mask_region_area=least_area_px, **options)
        records = generator.generate(picture)
        assert len(records) >= 5
        assert any(smallest_part(record["segmentation"]) < 200 for record in records) == has_small


def smallest_part(mask):
    import cv2

    parts = (cv2.connectedComponentsWithStats(np.uint8(pixels), connectivity=8)[2][1:, 4] for pixels in (mask, ~mask))
    return min(np.concatenate(list(parts)))


@pytest.mark.parametrize("form", ["path", "array"])
def test_one_picture_is_not_taken_for_many(generator, picture, picture_file, form):
    with pytest.raises(ValueError, match=r"images must be several pictures, got one .*; use generate, or \[image\]"):
        generator.generate_many({"path": str(picture_file), "array": picture}[form])


def test_a_mistake_of_ours_is_not_taken_for_a_broken_picture(disc_engine, picture, monkeypatch):
    monkeypatch.setattr(disc_engine, "encode_input", lambda model_input: np.full((1, 256, 64, 64), np.nan, np.float32))
    with pytest.raises(ValueError, match="features must be finite"):
        next(SamAutomaticMaskGenerator(engine=disc_engine).generate_many([picture]))


def test_what_is_no_config_is_refused():
    with pytest.raises(ValueError, match="config must be an EverythingConfig, got str"):
        SamAutomaticMaskGenerator.from_config("fast")


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_small_regions_of_mask_data_are_cleaned_as_in_sam(kind):
    """Of two masks that become the same, the one that was so before stays; what is changed has a new box."""
    whole = np.zeros((20, 30), bool)
    whole[5:15, 5:25] = True
    with_hole, with_island = whole.copy(), np.zeros((20, 30), bool)
    with_hole[8, 8] = False
    with_island[0:5, 0:4] = with_island[19, 29] = True
    masks = np.stack([with_hole, whole, with_island])
    boxes = masks_to_boxes(masks)
    if kind == "tensor":
        boxes = pytest.importorskip("torch").from_numpy(boxes)
    data = MaskData(rles=mask_to_rle_pytorch(masks), boxes=boxes, iou_preds=np.array([0.9, 0.8, 0.7]))
    cleaned = SamAutomaticMaskGenerator.postprocess_small_regions(data, 5, 0.7)
    assert cleaned["iou_preds"].tolist() == [0.8, 0.7]
    assert np.asarray(cleaned["boxes"]).tolist() == [[5, 5, 24, 14], [0, 0, 3, 4]]
    assert [area_from_rle(rle) for rle in cleaned["rles"]] == [200, 20]
