import json

import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pycocotools import mask as coco_mask

from mobile_sam import Prompt, Results, read_image
from mobile_sam.core.draw import colour

HW = (40, 60)


def disc(centre_x, centre_y, radius):
    y, x = np.mgrid[: HW[0], : HW[1]]
    return np.hypot(x - centre_x, y - centre_y) <= radius


MASKS = np.stack([np.zeros(HW, bool), disc(15, 12, 8.5), disc(59, 39, 20), np.zeros(HW, bool)])
MASKS[0, 5:25, 30:50] = True  # a square of 20 x 20; the last mask is empty
SCORES = np.array([0.9, 0.8, 0.3, 0.1], np.float32)
PROMPTS = [Prompt.of([[40, 15]]), Prompt.of(box=[6, 3, 24, 21]), Prompt.of([[59, 39], [1, 1]], [1, 0])]


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (*HW, 3), np.uint8)


@pytest.fixture
def results(picture):
    return Results(picture, MASKS, SCORES, PROMPTS, np.array([0, 1, 2, 2]), "folder/cat.jpg", {"inference": 1.5})


def test_boxes_enclose_their_masks_exactly(results):
    for mask, (x1, y1, x2, y2) in zip(MASKS[:3], results.boxes.xyxy.astype(int), strict=False):
        assert not np.delete(mask, np.s_[y1:y2], axis=0).any()
        assert not np.delete(mask, np.s_[x1:x2], axis=1).any()
        for edge in (mask[y1], mask[y2 - 1], mask[:, x1], mask[:, x2 - 1]):
            assert edge.any()
    assert_array_equal(results.boxes.xyxy[0], [30, 5, 50, 25])
    assert_array_equal(results.boxes.xyxy[3], np.zeros(4))


def test_all_forms_of_the_boxes_agree(results):
    boxes, sides = results.boxes, np.array([60, 40, 60, 40])
    assert boxes.data.shape == (4, 6)
    assert boxes.data.dtype == np.float32
    assert_array_equal(boxes.data, np.column_stack([boxes.xyxy, boxes.conf, boxes.cls]))
    assert_array_equal(boxes.conf, SCORES)
    assert_array_equal(boxes.cls, [0, 1, 2, 2])
    x, y, width, height = boxes.xywh.T
    assert_allclose(boxes.xyxy.T, [x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    assert_array_equal(boxes.xywh[0], [40, 15, 20, 20])
    assert_allclose(boxes.xyxyn * sides, boxes.xyxy, atol=1e-5)
    assert_allclose(boxes.xywhn * sides, boxes.xywh, atol=1e-5)
    assert boxes.xyxyn.max() <= 1
    assert boxes.orig_shape == results.orig_shape == results.masks.orig_shape == HW
    assert len(boxes) == len(results.masks) == len(results) == 4


def test_outlines_filled_in_give_the_masks_back(results):
    assert results.masks.data is MASKS
    for mask, outline, shares in zip(MASKS, results.masks.xy, results.masks.xyn, strict=True):
        assert outline.dtype == shares.dtype == np.float32
        assert_allclose(shares * [60, 40], outline, atol=1e-4)
        filled = np.zeros(HW, np.uint8)
        if len(outline):
            cv2.fillPoly(filled, [outline.astype(np.int32)], 1)
        assert_array_equal(filled.astype(bool), mask)
    assert results.masks.xy[3].shape == results.masks.xyn[3].shape == (0, 2)


def test_of_a_mask_in_parts_the_largest_is_outlined(picture):
    mask = disc(10, 10, 3) | disc(40, 20, 12)
    (outline,) = Results(picture, mask[None], SCORES[:1], PROMPTS, np.array([0])).masks.xy
    assert outline.min() >= 8
    assert np.ptp(outline[:, 0]) == 24


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (0, [0]),
        (-1, [3]),
        (np.int64(2), [2]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, -1), [3, 2, 1, 0]),
        (np.array([True, False, False, True]), [0, 3]),
        ([2, 0], [2, 0]),
        (slice(4, 9), []),
        (SCORES > 2, []),
    ],
)
def test_some_rows_are_results_of_their_own(results, rows, expected):
    some = results[rows]
    assert isinstance(some, Results)
    assert len(some) == len(expected)
    assert_array_equal(some.masks.data, MASKS[expected])
    assert_array_equal(some.boxes.data, results.boxes.data[expected])
    assert_array_equal(some.prompt_index, results.prompt_index[expected])
    assert some.names == results.names == {0: "0", 1: "1", 2: "2"}
    assert (some.path, some.speed, some.orig_shape) == (results.path, results.speed, HW)
    assert some.plot().shape == (*HW, 3)
    assert [record["object"] for record in json.loads(some.to_json())] == [[0, 1, 2, 2][row] for row in expected]


@pytest.mark.parametrize("row", [4, -5])
def test_a_row_that_is_not_there_is_an_index_error(results, row):
    with pytest.raises(IndexError):
        results[row]


def test_results_can_be_walked_through(results):
    assert [one.boxes.conf.item() for one in results] == SCORES.tolist()


def test_the_picture_is_bgr_and_ready_for_opencv(results, picture):
    assert_array_equal(results.orig_img, picture[:, :, [2, 1, 0]])
    assert results.orig_img.flags.c_contiguous
    cv2.rectangle(results.orig_img, (0, 0), (9, 9), (255, 0, 0))  # OpenCV refuses to draw on reversed views
    assert_array_equal(results.orig_img, picture[:, :, [2, 1, 0]])


def test_the_plot_is_bgr_and_tints_the_masks_only(results, picture):
    plotted = results[[0]].plot()
    assert plotted.flags.c_contiguous
    is_changed = (plotted[:, :, ::-1] != picture).any(axis=2)
    assert is_changed[5:25, 30:50].mean() > 0.95
    assert not is_changed[:, :25].any()
    inside = plotted[20, 35].astype(int)  # between outline and point
    expected_rgb = (picture[20, 35].astype(int) + colour(0)) / 2
    assert_allclose(inside[::-1], expected_rgb, atol=1)


def test_only_the_prompts_of_the_rows_are_drawn(results, picture):
    plotted = results[[3]].plot()[:, :, ::-1]  # an empty mask of the last prompt
    assert (plotted[1, 1] != picture[1, 1]).any()  # its background point
    assert_array_equal(plotted[15, 40], picture[15, 40])  # the first prompt's point


def test_a_saved_overlay_is_the_plot(results, tmp_path):
    written = results.save(tmp_path / "out.png")
    assert written == str(tmp_path / "out.png")
    assert_array_equal(read_image(written), results.plot()[:, :, ::-1])
    assert_array_equal(read_image(results.save(str(tmp_path / "again.bmp"))), results.plot()[:, :, ::-1])


def test_without_a_name_the_overlay_is_named_after_the_picture(results, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nameless = Results(picture, MASKS, SCORES, PROMPTS, np.array([0, 1, 2, 2]))
    assert [results.save(), nameless.save()] == ["results_cat.png", "results_picture.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results_cat.png", "results_picture.png"]


def test_json_decodes_to_the_same_masks(results):
    records = json.loads(results.to_json())
    assert records == results.summary()
    for record, mask, box_xyxy in zip(records, MASKS, results.boxes.xyxy, strict=True):
        assert_array_equal(coco_mask.decode(record["segmentation"]).astype(bool), mask)
        assert record["area"] == coco_mask.area(record["segmentation"]) == mask.sum()
        x, y, width, height = record["bbox"]
        assert_array_equal([x, y, x + width, y + height], box_xyxy)
        assert_array_equal(coco_mask.toBbox(record["segmentation"]), record["bbox"])
    assert [record["object"] for record in records] == [0, 1, 2, 2]
    assert_allclose([record["predicted_iou"] for record in records], SCORES)


def test_everything_is_in_main_memory_already(results):
    assert results.cpu() is results.numpy() is results
