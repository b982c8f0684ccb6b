"""The `boxes` protocol: detections become masks, whose AP is what pycocotools itself computes."""

import contextlib
import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mobile_sam.core.masks import decode_rle
from mobile_sam.data.mask_files import Detections, PictureDetections
from mobile_sam.evaluate import boxes
from mobile_sam.evaluate.average_precision import METRICS
from mobile_sam.evaluate.boxes import (
    BoxesTask,
    ap_tables,
    average_precisions,
    box_ap,
    check_categories,
    coco_truth,
)
from mobile_sam.evaluate.protocols import BoxesProtocol
from mobile_sam.evaluate.stopwatch import Stopwatch

EMPTY = np.zeros((256, 256), bool)


def detections(**of_pictures):
    """Detections by picture, each a list of (box, score, category)."""
    pictures = {
        name.lstrip("_"): PictureDetections(
            np.array([box for box, _, _ in found], float).reshape(-1, 4),
            np.array([score for _, score, _ in found], float),
            np.array([category for _, _, category in found], np.int64),
        )
        for name, found in of_pictures.items()
    }
    return Detections("boxes.json", "0" * 64, pictures)


@pytest.fixture
def entry(embeddings):
    """Turn the detections of a picture into results: those by protocol and model, and what was left out."""

    def run(picture, models, found, *protocols):
        left_out = Counter()
        task = BoxesTask(protocols, models, found)
        return task.entry(picture, embeddings(*models), Stopwatch(), left_out)["results"], +left_out

    return run


@pytest.fixture
def objects(make_picture, make_instance, disc, rectangle):
    """Two pictures with objects of two categories and all sizes, one of them a crowd, and one without."""
    of_nine = [
        make_instance("1", disc(60, 60, 50)),
        make_instance("2", disc(200, 60, 12), category_id=3),
        make_instance("3", rectangle(20, 150, 120, 250), is_crowd=True),
    ]
    of_ten = [make_instance("4", disc(100, 100, 70)), make_instance("5", rectangle(200, 200, 250, 230), category_id=3)]
    return make_picture("9", of_nine), make_picture("10", of_ten), make_picture("11")


def found_exactly(pictures):
    """Each object's own box, with falling scores."""
    return detections(
        **{
            f"_{picture.id}": [(i.box_xyxy, 0.9 - 0.1 * n, i.category_id) for n, i in enumerate(picture.instances)]
            for picture in pictures
            if picture.instances
        }
    )


@pytest.fixture
def knowing(answering, objects):
    """Make a model that answers an object's box with its true mask, and is told what else to do with it."""
    truths = {instance.box_xyxy: instance.mask for picture in objects for instance in picture.instances}

    def make(change=lambda mask: mask, name="knowing"):
        return answering(lambda asked: change(truths.get(asked.box_xyxy, EMPTY)), name)

    return make


def aps_of(entry, pictures, models, found, *protocols):
    entries = {picture.id: {"results": entry(picture, models, found, *protocols)[0]} for picture in pictures}
    return average_precisions(protocols, [model.name for model in models], pictures, entries)


def pycocotools_ap(truth, results, iou_type="segm"):
    """AP as COCO's own script has it."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        numbered = [{**one, "id": number} for number, one in enumerate(truth["annotations"], 1)]
        coco.dataset = {**truth, "annotations": numbered}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


# From boxes to results


def test_each_box_becomes_a_result_with_the_mask_category_and_score(entry, objects, knowing):
    picture = objects[0]
    results, left_out = entry(picture, [knowing()], found_exactly(objects), BoxesProtocol())
    some = results["boxes"]["knowing"]
    assert [(one["image_id"], one["category_id"], one["score"]) for one in some] == [
        ("9", 1, 0.9), ("9", 3, pytest.approx(0.8)), ("9", 1, pytest.approx(0.7))
    ]  # fmt: skip
    for one, instance in zip(some, picture.instances, strict=True):
        assert_array_equal(decode_rle(one["segmentation"]), instance.mask)
    assert left_out == {}


@pytest.mark.parametrize(
    ("protocol", "token", "factor"),
    [
        (BoxesProtocol(), 0, 1),
        (BoxesProtocol(score="product"), 0, 0.95),
        (BoxesProtocol(mask_rule="best", score="product"), 2, 0.8),
        (BoxesProtocol(mask_rule="best-of-four", score="product"), 0, 0.95),
        (BoxesProtocol(mask_rule="best"), 2, 1),
    ],
)
def test_mask_and_score_follow_their_rules(entry, make_picture, answering, rectangle, protocol, token, factor):
    masks = np.stack([rectangle(0, 0, 10 + i, 10) for i in range(4)])
    model = answering(lambda _: (masks, [0.95, 0.2, 0.8, 0.6]))
    found = detections(p=[((0, 0, 9, 9), 0.5, 1)])
    results, _ = entry(make_picture("p"), [model], found, protocol)
    ((one,),) = results["boxes"].values()
    assert_array_equal(decode_rle(one["segmentation"]), masks[token])
    assert one["score"] == pytest.approx(0.5 * factor)


@pytest.mark.parametrize("max_detections", [1, 10, 20, 30, 99])
def test_the_best_detections_are_kept_in_the_order_of_the_file_among_equals(
    entry, make_picture, disc_model, max_detections
):
    scores = [0.2, 0.9, 0.5] * 10  # so many that a sort that is not stable would show
    found = detections(p=[((10, 10, 90, 90), score, number) for number, score in enumerate(scores)])
    results, _ = entry(make_picture("p"), [disc_model], found, BoxesProtocol(max_detections=max_detections))
    in_order = [*range(1, 30, 3), *range(2, 30, 3), *range(0, 30, 3)]
    assert [one["category_id"] for one in results["boxes"]["disc"]] == in_order[:max_detections]


def test_boxes_are_cut_to_the_picture_and_those_outside_are_counted_once(entry, make_picture, answering):
    model = answering(lambda _: EMPTY)
    found = detections(
        p=[
            ((-50, 10, 90, 400), 0.9, 1),
            ((300, 10, 390, 90), 0.8, 2),
            ((50, 50, 50.000001, 60), 0.7, 3),  # no width in float32
            ((5, 5, 20, 20), 0.6, 4),
        ]
    )
    protocols = BoxesProtocol("all"), BoxesProtocol("two", max_detections=2), BoxesProtocol("best", mask_rule="best")
    results, left_out = entry(make_picture("p"), [model], found, *protocols)
    assert [one["category_id"] for one in results["all"]["answering"]] == [1, 4]
    assert [one["category_id"] for one in results["two"]["answering"]] == [1]
    assert [one.box_xyxy for one in model.engine.asked[:2]] == [(0.0, 10.0, 90.0, 256.0), (5.0, 5.0, 20.0, 20.0)]
    assert left_out == {"box outside the picture": 2, "box beyond max_detections": 2}  # the most of any protocol


@pytest.mark.parametrize("num_refinements", [0, 1, 3])
def test_refinements_give_the_chosen_mask_back_beside_the_box(entry, make_picture, answering, disc, num_refinements):
    def answer(asked):
        radius = 10 if asked.logits is None else np.sqrt((asked.logits > 0).sum() / np.pi) + 5
        return np.stack([disc(100, 100, radius + extra) for extra in (0, 20, 30, 40)])

    model = answering(answer)
    found = detections(p=[((50, 50, 150, 150), 0.9, 1), ((60, 60, 140, 140), 0.8, 1)])
    results, _ = entry(make_picture("p"), [model], found, BoxesProtocol(num_refinements=num_refinements))
    asked = model.engine.asked
    assert [one.box_xyxy[0] for one in asked] == [50, 60] * (num_refinements + 1)
    assert [one.logits is not None for one in asked] == [False] * 2 + [True] * 2 * num_refinements
    area_px = decode_rle(results["boxes"]["answering"][0]["segmentation"]).sum()
    assert area_px == pytest.approx(np.pi * (10 + 5 * num_refinements) ** 2, rel=0.05)


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_the_number_of_boxes_at_once_does_not_change_a_result(entry, make_picture, disc_model, monkeypatch, at_once):
    found = detections(p=[((10 + i, 10, 90, 90 + 5 * i), 0.9 - i / 100, 1) for i in range(20)])
    protocols = BoxesProtocol("once"), BoxesProtocol("twice", mask_rule="best", num_refinements=1, score="product")
    as_usual = entry(make_picture("p"), [disc_model], found, *protocols)
    monkeypatch.setattr(boxes, "prompts_at_once", lambda image_hw: at_once)
    assert entry(make_picture("p"), [disc_model], found, *protocols) == as_usual
    assert [len(of_models["disc"]) for of_models in as_usual[0].values()] == [20, 20]


def test_a_picture_without_detections_has_no_result_of_any_model(entry, make_picture, disc_model, small_disc_model):
    results, left_out = entry(make_picture("p"), [disc_model, small_disc_model], detections(), BoxesProtocol())
    assert results == {"boxes": {"disc": [], "small": []}}
    assert left_out == {}


# From results to AP


def test_true_masks_for_all_boxes_have_an_ap_of_1(entry, objects, knowing):
    found = found_exactly(objects)
    aps = aps_of(entry, objects, [knowing()], found, BoxesProtocol())
    assert aps["boxes knowing"].metrics["AP"] == 1
    assert box_ap(objects, found, 100).metrics["AP"] == 1


def test_a_crowd_is_nothing_to_be_found_and_masks_on_it_are_no_mistake(entry, objects, knowing):
    crowd_box = objects[0].instances[2].box_xyxy
    on_crowd = [(crowd_box, 0.99, 1)] * 3  # would come first, were they counted
    found = found_exactly(objects)
    nine = found.pictures["9"]
    more = PictureDetections(
        np.concatenate([nine.boxes_xyxy[:2], [box for box, _, _ in on_crowd]]),
        np.append(nine.scores[:2], [0.99] * 3),
        np.append(nine.category_ids[:2], [1] * 3),
    )
    found = replace(found, pictures={**found.pictures, "9": more})
    aps = aps_of(entry, objects, [knowing()], found, BoxesProtocol())
    assert aps["boxes knowing"].metrics["AP"] == 1


def test_an_object_that_no_box_was_found_for_lowers_ap_by_its_share(entry, objects, knowing):
    found = found_exactly(objects)
    without = replace(found, pictures={"9": found.pictures["9"]})
    aps = aps_of(entry, objects, [knowing()], without, BoxesProtocol())
    assert aps["boxes knowing"].metrics["AP"] == pytest.approx(51 / 101)  # recall up to 0.5, in both categories


@pytest.mark.parametrize("protocol", [BoxesProtocol(), BoxesProtocol(mask_rule="best", score="product")])
def test_ap_is_what_pycocotools_says_of_the_same_masks(entry, objects, disc_model, protocol):
    found = detections(
        _9=[
            ((10, 10, 110, 110), 0.9, 1),
            ((188, 48, 213, 72), 0.8, 3),
            ((20, 150, 120, 250), 0.9, 1),  # the crowd
            ((0, 0, 30, 30), 0.3, 1),
        ],
        _10=[
            ((30, 30, 170, 170), 0.9, 1),
            ((60, 60, 150, 150), 0.6, 1),
            ((200, 200, 250, 230), 0.9, 3),
            ((9, 9, 40, 40), 1, 1),
        ],
        _11=[((10, 10, 60, 60), 0.85, 3)],
    )
    ours = aps_of(entry, objects, [disc_model], found, protocol)["boxes disc"].metrics
    results = [
        {**result, "image_id": int(result["image_id"])}
        for picture in objects
        for result in entry(picture, [disc_model], found, protocol)[0]["boxes"]["disc"]
    ]
    truth = coco_truth(objects)
    true_ids = {1: 9, 2: 10, 3: 11}
    as_annotated = {
        **truth,
        "images": [{**image, "id": true_ids[image["id"]]} for image in truth["images"]],
        "annotations": [{**one, "image_id": true_ids[one["image_id"]]} for one in truth["annotations"]],
    }
    expected = pycocotools_ap(as_annotated, results)
    assert list(ours.values()) == pytest.approx(expected[: len(METRICS)].tolist(), nan_ok=True)
    assert 0 < ours["AP"] < 1


def test_the_boxes_own_ap_is_what_pycocotools_says_of_them(objects):
    rows = {"_9": [((12, 9, 108, 112), 0.9, 1), ((180, 48, 213, 72), 0.8, 3)], "_10": [((30, 25, 170, 160), 0.7, 1)]}
    ours = box_ap(objects, detections(**rows, _77=[((0, 0, 9, 9), 1.0, 1)]), 100).metrics  # picture 77 is not ours
    results = [
        {"image_id": image_id, "category_id": category, "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for image_id, name in ((1, "_9"), (2, "_10"))
        for (x1, y1, x2, y2), score, category in rows[name]
    ]
    expected = pycocotools_ap(coco_truth(objects), results, "bbox")
    known = [value if value >= 0 else np.nan for value in expected[: len(METRICS)]]
    assert list(ours.values()) == pytest.approx(known, nan_ok=True)
    assert 0 < ours["AP"] < 1


def test_the_truth_is_written_as_coco_has_it(objects):
    truth = coco_truth(objects)
    assert truth["images"] == [{"id": number, "height": 256, "width": 256} for number in (1, 2, 3)]
    assert truth["categories"] == [{"id": 1}, {"id": 3}]
    assert [(one["image_id"], one["category_id"], one["iscrowd"]) for one in truth["annotations"]] == [
        (1, 1, 0), (1, 3, 0), (1, 1, 1), (2, 1, 0), (2, 3, 0)
    ]  # fmt: skip
    assert truth["annotations"][4]["bbox"] == [200, 200, 50, 30]
    assert truth["annotations"][4]["area"] == 1500
    assert_array_equal(decode_rle(truth["annotations"][4]["segmentation"]), objects[1].instances[1].mask)


@pytest.mark.parametrize(
    ("ids", "in_order"),
    [
        (["10", "9", "139"], ["9", "10", "139"]),
        (["10", "9", "cat"], ["10", "9", "cat"]),
        (["b.jpg", "a.jpg"], ["a.jpg", "b.jpg"]),
    ],
)
def test_pictures_are_numbered_by_the_value_of_their_ids(make_picture, make_instance, disc, ids, in_order):
    pictures = [make_picture(name, [make_instance(name, disc(99, 99, 9), category=name)]) for name in ids]
    numbers = {one["id"]: one["image_id"] for one in coco_truth(pictures)["annotations"]}
    assert sorted(ids, key=numbers.get) == in_order


def test_a_picture_of_unknown_size_takes_that_of_its_masks(objects):
    unknown = [replace(picture, size_hw=None) for picture in objects]
    images = coco_truth(unknown)["images"]
    assert [(image["height"], image["width"]) for image in images] == [(256, 256), (256, 256), (0, 0)]
    assert box_ap(unknown, found_exactly(objects), 100).metrics == box_ap(objects, found_exactly(objects), 100).metrics


def test_the_boxes_own_ap_is_of_the_boxes_that_masks_are_made_from(entry, objects, knowing):
    found = found_exactly(objects)
    decoys = [((200, 1, 220, 9), 0.95, 9)] * 3  # of a category that no object has, before all others
    nine = found.pictures["9"]
    more = PictureDetections(
        np.concatenate([nine.boxes_xyxy, [box for box, _, _ in decoys]]),
        np.append(nine.scores - 0.5, [0.95] * 3),
        np.append(nine.category_ids, [9] * 3),
    )
    found = replace(found, pictures={**found.pictures, "9": more})
    three = BoxesProtocol("three", max_detections=3)
    masks = aps_of(entry, objects, [knowing()], found, three)["three knowing"].metrics["AP"]
    assert box_ap(objects, found, 3).metrics["AP"] == pytest.approx(masks)
    assert masks < box_ap(objects, found, 100).metrics["AP"] == 1


def test_detections_of_other_categories_are_refused_or_told(objects):
    found = detections(_9=[((12, 9, 108, 112), 0.9, 0)], _10=[((30, 25, 170, 160), 0.7, 79)])
    with pytest.raises(ValueError, match=r"category_id is \[0, 79\]... there, \[1, 3\]... in the annotations"):
        check_categories(objects, found)
    found = detections(_9=[((12, 9, 108, 112), 0.9, 1), ((12, 9, 108, 112), 0.9, 17)])
    assert check_categories(objects, found).startswith("1 of 2 detections are of categories that no object here has")
    assert check_categories(objects, found_exactly(objects)) == ""


# Tables


def test_tables_name_all_metrics_and_the_differences_to_the_first(entry, objects, knowing):
    found = found_exactly(objects)
    models = [knowing(), knowing(lambda mask: np.roll(mask, 3, axis=0), "shifted")]
    aps = aps_of(entry, objects, models, found, BoxesProtocol())
    metrics, differences = ap_tables(aps, box_ap(objects, found, 100), num_resamples=20)
    assert [name for name in metrics.columns if name in METRICS] == list(METRICS)
    assert [row[0] for row in metrics.rows] == ["boxes knowing", "boxes shifted", "(the boxes themselves)"]
    assert [row[1] for row in metrics.rows] == [1, aps["boxes shifted"].metrics["AP"], 1]
    assert metrics.texts[0][1] == "1.0000"
    assert metrics.rows[0][2] == "[1.0000, 1.0000]"
    assert list(metrics.rows[1][3:]) == pytest.approx(list(aps["boxes shifted"].metrics.values())[1:], nan_ok=True)
    assert metrics.note.startswith("3 pictures")
    assert [row[:2] for row in differences.rows] == [("boxes shifted", pytest.approx(metrics.rows[1][1] - 1))]
    assert metrics.rows[1][1] < 1


def test_one_model_alone_has_no_table_of_differences(entry, objects, knowing):
    found = found_exactly(objects)
    aps = aps_of(entry, objects, [knowing()], found, BoxesProtocol())
    assert len(ap_tables(aps, box_ap(objects, found, 100), num_resamples=5)) == 1
