"""Which objects are shown, and how they are drawn."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mobile_sam.evaluate.measurements import Measurement, MeasurementTable
from mobile_sam.evaluate.report.cases import (
    BOTH_RGB,
    PREDICTED_RGB,
    TRUTH_RGB,
    Case,
    choose_cases,
    compact,
    crop_xyxy,
    draw_case,
    largest_differences,
)

GREY = 100


def table_of(ious, model="m", protocol="box", step=1):
    rows = [
        Measurement("p", f"{index:03d}", protocol, model, step, iou, 0.5, 0, 9.0, "small")
        for index, iou in enumerate(ious)
    ]
    return MeasurementTable.of(rows)


def joined(*tables):
    names = tables[0].__dataclass_fields__
    return MeasurementTable(*(np.concatenate([getattr(table, name) for table in tables]) for name in names))


def box_mask(x1, y1, x2, y2, image_hw=(200, 300)):
    mask = np.zeros(image_hw, bool)
    mask[y1:y2, x1:x2] = True
    return mask


def case_of(truth, predicted, **fields):
    image = np.full((*truth.shape, 3), GREY, np.uint8)
    return Case("worst", "box", "m", "p", "1", "", 0.5, 0.75, image, truth, predicted, **fields)


def is_tinted(pixels, rgb):
    return np.abs(pixels.astype(float) - (0.55 * GREY + 0.45 * np.array(rgb))).max(axis=-1) < 2


def test_the_worst_come_lowest_first_and_the_best_highest_first():
    ious = (0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6)
    chosen = choose_cases(table_of(ious), "box", "m", 1, 2)
    assert [ious[row] for row in chosen.worst] == [0.1, 0.2]
    assert [ious[row] for row in chosen.best] == [0.9, 0.8]


def test_rows_are_those_of_the_whole_table():
    others = [table_of((0.0, 1.0), protocol="other"), table_of((0.0, 1.0), model="n"), table_of((0.0, 1.0), step=2)]
    table = joined(*others, table_of((0.4, 0.3, 0.6)))
    chosen = choose_cases(table, "box", "m", 1, 1)
    assert (chosen.worst.tolist(), chosen.best.tolist()) == ([7], [8])


@pytest.mark.parametrize("num_rows", range(7))
def test_no_object_is_chosen_twice_and_few_are_all_chosen(num_rows):
    chosen = choose_cases(table_of(np.linspace(0, 1, num_rows)), "box", "m", 1, 3)
    rows = np.concatenate([chosen.worst, chosen.best])
    assert_array_equal(np.sort(rows), np.arange(num_rows))
    assert len(chosen.worst) >= len(chosen.best)


def test_equal_objects_are_chosen_by_their_names():
    table = table_of((0.5,) * 6)
    shuffled = table[np.array([3, 0, 5, 1, 4, 2])]
    for entry in (table, shuffled):
        chosen = choose_cases(entry, "box", "m", 1, 2)
        assert entry.object[chosen.worst].tolist() == ["000", "001"]
        assert entry.object[chosen.best].tolist() == ["005", "004"]


def test_none_may_be_asked_for_and_fewer_not():
    assert len(choose_cases(table_of((0.1, 0.2)), "box", "m", 1, 0).worst) == 0
    with pytest.raises(ValueError, match="got -1"):
        choose_cases(table_of((0.1, 0.2)), "box", "m", 1, -1)
    with pytest.raises(ValueError, match="got -1"):
        largest_differences(table_of((0.1,)), "box", "m", "n", 1, -1)


def test_the_largest_differences_go_either_way_and_pair_by_object():
    ours, theirs = table_of((0.5, 0.9, 0.1, 0.4, 0.0)), table_of((0.4, 0.5, 0.8, 0.4), model="n")
    table = joined(ours, theirs[np.array([3, 2, 1, 0])])
    pairs = largest_differences(table, "box", "m", "n", 1, 3)
    assert table.object[pairs].tolist() == [["002"] * 2, ["001"] * 2, ["000"] * 2]
    assert table.model[pairs].tolist() == [["m", "n"]] * 3
    assert len(largest_differences(table, "box", "m", "n", 1, 9)) == 4  # the fifth has no partner


def test_models_without_common_objects_have_no_differences():
    assert largest_differences(table_of((0.5,)), "box", "m", "n", 1, 3).shape == (0, 2)


def test_a_caption_says_what_is_shown():
    case = case_of(box_mask(0, 0, 9, 9), box_mask(0, 0, 9, 9))
    assert case.caption == "m: IoU 0.500, predicted 0.750; object 1 of picture p"
    silent = replace(case, predicted_iou=float("nan"), category="cat")
    assert silent.caption == "m: IoU 0.500; object 1 (cat) of picture p"


def test_masks_are_told_apart_by_colour():
    truth, predicted = box_mask(60, 50, 140, 170), box_mask(100, 50, 160, 170)
    drawn = draw_case(case_of(truth, predicted))
    panel = drawn[:, -((drawn.shape[1] - 4) // 2) :]
    x1, y1, x2, _ = crop_xyxy(case_of(truth, predicted))
    scale = panel.shape[1] / (x2 - x1)

    def at(x, y):
        return panel[round((y - y1 + 0.5) * scale), round((x - x1 + 0.5) * scale)]

    assert is_tinted(at(80, 110), TRUTH_RGB)
    assert is_tinted(at(120, 110), BOTH_RGB)
    assert is_tinted(at(150, 110), PREDICTED_RGB)
    assert at(x1 + 3, 110).tolist() == [GREY] * 3
    assert np.abs(at(60, 110).astype(int) - TRUTH_RGB).max() < 60  # the outline


def test_the_picture_itself_stays_visible_beside_the_masks():
    drawn = draw_case(case_of(box_mask(100, 40, 160, 160), box_mask(100, 40, 160, 160)))
    plain = drawn[:, : (drawn.shape[1] - 4) // 2]
    assert (plain == GREY).all()


@pytest.mark.parametrize(
    ("box", "is_side_by_side"), [((100, 20, 130, 180), True), ((20, 90, 280, 110), False), ((140, 95, 145, 99), False)]
)
@pytest.mark.parametrize("max_side_px", [64, 201, 480])
def test_the_two_panels_fill_the_longer_side(box, is_side_by_side, max_side_px):
    drawn = draw_case(case_of(box_mask(*box), box_mask(*box)), max_side_px)
    height, width = drawn.shape[:2]
    assert max_side_px - 3 <= max(height, width) <= max_side_px + 1
    middle = drawn[:, width // 2] if is_side_by_side else drawn[height // 2]
    assert (middle == 255).all()  # the gap
    assert drawn.dtype == np.uint8


def test_a_small_object_is_enlarged():
    truth = box_mask(150, 100, 156, 110)
    drawn = draw_case(case_of(truth, truth))
    assert is_tinted(drawn, BOTH_RGB).sum() > 60 * 4**2  # 60 pixels of the picture, at least 4 times as large


def test_a_large_picture_is_reduced():
    truth = box_mask(100, 100, 1900, 1400, (1500, 2000))
    assert max(draw_case(case_of(truth, truth)).shape) <= 481


@pytest.mark.parametrize("point_xy", [(110.0, 60.0), (150.0, 130.0)])
@pytest.mark.parametrize(("label", "rgb"), [(1, (32, 200, 64)), (0, (230, 40, 40))])
def test_clicks_are_drawn_where_they_were(point_xy, label, rgb):
    truth = box_mask(100, 40, 160, 160)
    case = case_of(truth, truth, points_xy=np.array([point_xy]), labels=np.array([label]))
    drawn = draw_case(case)
    plain = drawn[:, : (drawn.shape[1] - 4) // 2]
    rows, columns = np.nonzero((plain == rgb).all(axis=2))
    x1, y1, x2, _ = crop_xyxy(case)
    scale = plain.shape[1] / (x2 - x1)
    centre_xy = (np.mean(columns) + 0.5) / scale + x1 - 0.5, (np.mean(rows) + 0.5) / scale + y1 - 0.5
    assert_allclose(centre_xy, point_xy, atol=0.6)


def test_boxes_are_drawn_where_they_were():
    truth = box_mask(100, 40, 160, 160)
    case = case_of(truth, truth, box_xyxy=np.array([100.0, 40, 160, 160]))
    drawn = draw_case(case)
    plain = drawn[:, : (drawn.shape[1] - 4) // 2]
    rows, columns = np.nonzero((plain == (255, 200, 0)).all(axis=2))
    x1, y1, x2, _ = crop_xyxy(case)
    scale = plain.shape[1] / (x2 - x1)
    assert_allclose([columns.min() / scale + x1, rows.min() / scale + y1], [100, 40], atol=2)
    assert_allclose([columns.max() / scale + x1, rows.max() / scale + y1], [160, 160], atol=2)


@pytest.mark.parametrize("is_truth_empty", [False, True])
@pytest.mark.parametrize("is_predicted_empty", [False, True])
def test_empty_masks_are_drawn_too(is_truth_empty, is_predicted_empty):
    mask, empty = box_mask(100, 40, 160, 160), np.zeros((200, 300), bool)
    case = case_of(empty if is_truth_empty else mask, empty if is_predicted_empty else mask)
    drawn = draw_case(case)
    expected = {(False, False): BOTH_RGB, (True, False): PREDICTED_RGB, (False, True): TRUTH_RGB}
    rgb = expected.get((is_truth_empty, is_predicted_empty))
    if rgb is None:
        assert crop_xyxy(case) == (0, 0, 300, 200)
        assert set(np.unique(drawn).tolist()) == {GREY, 255}
    else:
        assert is_tinted(drawn, rgb).mean() > 0.1


@pytest.mark.parametrize(
    ("truth", "predicted", "crop"),
    [
        ((100, 80, 140, 120), (100, 80, 140, 120), (84, 64, 156, 136)),  # a margin of 16 pixels
        ((100, 50, 200, 150), (100, 50, 200, 150), (75, 25, 225, 175)),  # a quarter of the side
        ((100, 80, 140, 120), (110, 90, 170, 110), (84, 64, 186, 136)),  # what is near of the other mask
        ((140, 90, 160, 110), (0, 0, 300, 200), (104, 54, 196, 146)),  # and no more than a side to each side
        ((0, 0, 10, 10), (0, 0, 10, 10), (0, 0, 26, 26)),  # not outside the picture
        ((290, 190, 300, 200), (290, 190, 300, 200), (274, 174, 300, 200)),
    ],
)
def test_the_crop_keeps_the_object_in_view(truth, predicted, crop):
    assert crop_xyxy(case_of(box_mask(*truth), box_mask(*predicted))) == crop


def test_the_crop_holds_the_clicks():
    mask = box_mask(100, 80, 140, 120)
    points_xy = np.array([[110.0, 90.0], [290.0, 10.0]])
    x1, y1, x2, y2 = crop_xyxy(case_of(mask, mask, points_xy=points_xy, labels=np.array([1, 0])))
    assert x1 <= 84
    assert y1 == 0
    assert x2 == 300
    assert y2 >= 136


def test_a_picture_of_one_pixel_is_drawn():
    mask = np.ones((1, 1), bool)
    assert draw_case(case_of(mask, mask), 64).shape[1] > 10


def test_neither_picture_nor_masks_are_drawn_on():
    case = case_of(box_mask(100, 40, 160, 160), box_mask(110, 40, 170, 160), points_xy=np.array([[120.0, 60.0]]))
    draw_case(case)
    assert (case.image == GREY).all()
    assert case.truth.sum() == case.predicted.sum() == 60 * 120


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": np.zeros((5, 5), bool)}, r"truth must be bool of the picture's size \(200, 300\), got \(5, 5\)"),
        ({"predicted": np.zeros((200, 300), np.uint8)}, r"predicted must be bool .* uint8"),
        ({"image": np.zeros((200, 300), np.uint8)}, r"image must be \(H, W, 3\) uint8"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    mask = box_mask(100, 40, 160, 160)
    with pytest.raises(ValueError, match=message):
        draw_case(replace(case_of(mask, mask), **change))
    with pytest.raises(ValueError, match="at least 64, got 10"):
        draw_case(case_of(mask, mask), 10)


@pytest.mark.parametrize("size_hw", [(1500, 2000), (4000, 3000)])
def test_a_compact_case_shows_the_same_and_is_small(size_hw):
    height, width = size_hw
    image = np.random.default_rng(0).integers(0, 255, (height // 50, width // 50, 3), np.uint8)
    image = np.repeat(np.repeat(image, 50, axis=0), 50, axis=1)
    truth, predicted = np.zeros((2, height, width), bool)
    truth[200:1300, 300:1700] = True
    predicted[260:1300, 300:1900] = True
    box_xyxy = np.array([300.0, 200.0, 1700.0, 1300.0])
    clicks = {"points_xy": np.array([[900.0, 800.0]]), "labels": np.array([1])}
    case = replace(case_of(truth, predicted, box_xyxy=box_xyxy, **clicks), image=image)
    small = compact(case)
    assert small.image.nbytes + small.truth.nbytes + small.predicted.nbytes <= 5 * 960 * 960
    assert (small.caption, small.title) == (case.caption, case.title)
    drawn, drawn_small = (draw_case(one).astype(float) for one in (case, small))
    height_px, width_px = (min(a, b) for a, b in zip(drawn.shape[:2], drawn_small.shape[:2], strict=True))
    assert np.abs(np.subtract(drawn.shape, drawn_small.shape)).max() <= 4  # a pixel or so of rounding each panel
    difference = np.abs(drawn[:height_px, :width_px] - drawn_small[:height_px, :width_px])
    assert np.median(difference) < 12  # edges move by a pixel, areas keep their colours


def test_a_case_of_a_small_picture_is_kept_as_it_is():
    mask = np.ones((300, 960), bool)
    case = case_of(mask, mask)
    assert compact(case) is case
