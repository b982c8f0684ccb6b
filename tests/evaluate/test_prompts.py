"""The `prompts` protocol on masks made by hand, answered by engines whose every mask is known."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mobile_sam.data.clicks import next_click, next_click_by_distance
from mobile_sam.evaluate import prompts
from mobile_sam.evaluate.measurements import Measurement
from mobile_sam.evaluate.prompts import PromptsTask, Target
from mobile_sam.evaluate.protocols import AreaBin, PromptsProtocol
from mobile_sam.evaluate.stopwatch import Stopwatch


@pytest.fixture
def attempt(embeddings):
    """Measure a picture: the attempts, and what was left out."""

    def run(picture, models, *protocols):
        left_out = Counter()
        found = PromptsTask(protocols, models).attempts(picture, embeddings(*models), Stopwatch(), left_out)
        return list(found), +left_out

    return run


@pytest.fixture
def five_objects(make_picture, make_instance, disc, rectangle):
    """Objects of several sizes, one of them a crowd, one without a click."""
    masks = [disc(60, 60, 22), disc(200, 70, 9), rectangle(20, 120, 140, 150), disc(128, 200, 38), disc(230, 230, 20)]
    instances = [make_instance(str(10 + i), mask, point_xy=(60.0 + i, 70.0)) for i, mask in enumerate(masks)]
    instances[0] = replace(instances[0], box_xyxy=(20.0, 30.0, 90.0, 84.0))
    instances[1] = replace(instances[1], point_xy=None)
    instances[3] = replace(instances[3], is_crowd=True)
    return make_picture("five", instances)


def rows_of(attempts):
    return sorted(attempt.measurement.to_row() for attempt in attempts)


MANY_PROTOCOLS = (
    PromptsProtocol("box"),
    PromptsProtocol("box-tight", box_from="mask", mask_rule="oracle"),
    PromptsProtocol("box-best", mask_rule="best", crowd="include"),
    PromptsProtocol("box-clicks", num_clicks=2, mask_rule="best-of-four", later_mask_rule="oracle"),
    PromptsProtocol("centre", first_prompt="centre", num_clicks=2, next_click="random-error", feeds_mask=False),
    PromptsProtocol("centre-far", first_prompt="centre", mask_rule="best", num_clicks=1, next_click="farthest-error"),
    PromptsProtocol("random", first_prompt="random", mask_rule="best"),
    PromptsProtocol("random-2", first_prompt="random", seed=2, num_clicks=2, next_click="random-object"),
    PromptsProtocol("random-more", first_prompt="random", num_clicks=1, next_click="random-object", mask_rule="oracle"),
    PromptsProtocol("annotated", first_prompt="annotated", area_from="mask"),
)


# What the prompts are


@pytest.mark.parametrize(
    ("annotated", "expected"),
    [
        ((35.5, 40.25, 90.0, 70.5), (35.5, 40.25, 90.0, 70.5)),
        ((-12.0, 40.0, 90.0, 300.0), (0.0, 40.0, 90.0, 256.0)),  # sticks out: cut
        ((300.0, 10.0, 340.0, 20.0), (40.0, 50.0, 80.0, 60.0)),  # outside: the tight one
        ((50.0, 50.0, 50.0, 60.0), (40.0, 50.0, 80.0, 60.0)),  # no width
        ((60.0, 50.0, 50.0, 60.0), (40.0, 50.0, 80.0, 60.0)),  # swapped
        ((50.0, 50.0, 50.000001, 60.0), (40.0, 50.0, 80.0, 60.0)),  # no width that a float32 can hold
    ],
)
def test_boxes_come_from_the_annotation_cut_to_the_picture_or_from_the_mask(
    annotated, expected, make_instance, rectangle
):
    mask = rectangle(40, 50, 80, 60)
    target = Target("p", make_instance("1", mask, box_xyxy=annotated), mask)
    assert target.box_xyxy("annotation") == expected
    assert target.box_xyxy("mask") == (40.0, 50.0, 80.0, 60.0)
    assert_array_equal(target.first_prompt(PromptsProtocol("box")).box_xyxy, np.float32(expected))
    assert_array_equal(target.first_prompt(PromptsProtocol("box", box_from="mask")).box_xyxy, [40, 50, 80, 60])


def test_areas_come_from_the_annotation_or_the_mask_and_choose_the_bin(
    attempt, make_picture, make_instance, rectangle, answering
):
    mask = rectangle(0, 0, 40, 30)
    picture = make_picture("p", [make_instance("1", mask, area_px=99.5)])
    bins = (AreaBin("tiny", 100), AreaBin("other"))
    both = [PromptsProtocol(name, area_from=name, area_bins=bins) for name in ("annotation", "mask")]
    found, _ = attempt(picture, [answering(lambda _: mask)], *both)
    assert [(a.measurement.area_px, a.measurement.area_bin) for a in found] == [(99.5, "tiny"), (1200.0, "other")]


def test_the_first_click_is_the_centre_or_the_annotated_one(make_instance, rectangle):
    mask = rectangle(10, 20, 21, 31)  # 11 x 11: one pixel is farthest from all sides
    target = Target("p", make_instance("1", mask, point_xy=(12.5, 25.25)), mask)
    for first_prompt, xy in (("centre", (15, 25)), ("annotated", (12.5, 25.25))):
        prompt = target.first_prompt(PromptsProtocol("p", first_prompt=first_prompt))
        assert_array_equal(prompt.points_xy, [xy])
        assert prompt.labels.tolist() == [1]
        assert prompt.box_xyxy is None


def test_random_clicks_lie_in_the_mask_and_depend_on_seed_picture_and_object(make_instance, disc):
    mask = disc(100, 100, 60)

    def click(seed=0, picture_id="p", object_id="1"):
        target = Target(picture_id, make_instance(object_id, mask), mask)
        ((x, y),) = target.first_prompt(PromptsProtocol("any", first_prompt="random", seed=seed)).points_xy.tolist()
        assert mask[int(y), int(x)]
        return x, y

    assert click() == click()
    assert len({click(), *(click(seed) for seed in range(1, 6)), click(picture_id="q"), click(object_id="2")}) == 8


@pytest.mark.parametrize("first_prompt", ["box", "centre", "random", "annotated"])
def test_the_model_is_asked_one_prompt_of_the_kind_for_each_object(attempt, five_objects, answering, first_prompt):
    model = answering(lambda _: np.zeros((256, 256), bool))
    attempt(five_objects, [model], PromptsProtocol("p", first_prompt=first_prompt, crowd="include"))
    asked = model.engine.asked
    assert len(asked) == (4 if first_prompt == "annotated" else 5)
    assert [one.box_xyxy is not None for one in asked] == [first_prompt == "box"] * len(asked)
    assert [one.labels for one in asked] == [[] if first_prompt == "box" else [1]] * len(asked)


# Which mask, and its IoU


@pytest.mark.parametrize("radius", [8, 19, 31, 38])
def test_discs_of_known_radii_give_the_iou_counted_with_numpy(
    attempt, make_picture, make_instance, disc, iou, disc_model, radius
):
    truth = disc(128, 120, radius)
    picture = make_picture("p", [make_instance("1", truth, category="cat")])
    rules = ("single", "best", "best-of-four", "oracle")
    found, left_out = attempt(picture, [disc_model], *(PromptsProtocol(rule, mask_rule=rule) for rule in rules))
    ious = [iou(truth, disc(128, 120, 10 * (token + 1))) for token in range(4)]
    tokens = {"single": 0, "best": 3, "best-of-four": 3, "oracle": 1 + int(np.argmax(ious[1:]))}
    assert left_out == {}
    assert len(found) == 4
    for one in found:
        measured = one.measurement
        assert measured.mask_token == tokens[measured.protocol]
        assert measured.iou == pytest.approx(ious[measured.mask_token], abs=0.01)  # a disc's edge is interpolated
        assert measured.iou == iou(one.predicted, one.truth)
        assert measured.predicted_iou == pytest.approx(0.5 + measured.mask_token / 10)
        assert (measured.picture, measured.object, measured.category) == ("p", "1", "cat")
        assert (measured.model, measured.step) == ("disc", 1)
        assert_array_equal(one.truth, truth)


def test_empty_masks_have_an_iou_of_0_and_are_measured(attempt, five_objects, answering):
    model = answering(lambda _: np.zeros((256, 256), bool))
    found, left_out = attempt(five_objects, [model], PromptsProtocol("clicks", num_clicks=2))
    assert [one.measurement.iou for one in found] == [0.0] * 4 * 3
    assert left_out == {"crowd mask": 1}
    for one in found:
        assert all(one.truth[int(y), int(x)] for x, y in one.prompt.points_xy)
        assert one.prompt.labels.tolist() == [1] * (one.measurement.step - 1)


# What is left out


def test_crowds_and_objects_without_a_click_are_left_out_by_those_who_do_not_want_them(
    attempt, five_objects, disc_model
):
    found, left_out = attempt(five_objects, [disc_model], *MANY_PROTOCOLS)
    measured = {
        name: {one.measurement.object for one in found if one.measurement.protocol == name}
        for name in ("box", "box-best", "annotated")
    }
    assert measured == {
        "box": {"10", "11", "12", "14"},
        "box-best": {"10", "11", "12", "13", "14"},
        "annotated": {"10", "12", "14"},
    }
    assert left_out == {
        "crowd mask": 1,
        "object without an annotated click": 1,
    }  # each object once, not once a protocol


def test_a_picture_without_objects_or_of_crowds_alone_has_no_rows(attempt, make_picture, five_objects, disc_model):
    assert attempt(make_picture("none"), [disc_model], *MANY_PROTOCOLS) == ([], {})
    crowd = replace(five_objects, instances=five_objects.instances[3:4])
    assert attempt(crowd, [disc_model], PromptsProtocol("box")) == ([], {"crowd mask": 1})


# What must not change a row


def test_protocols_together_give_the_rows_of_each_alone(attempt, five_objects, disc_model, small_disc_model):
    models = [disc_model, small_disc_model]
    together, _ = attempt(five_objects, models, *MANY_PROTOCOLS)
    alone = [one for protocol in MANY_PROTOCOLS for one in attempt(five_objects, models, protocol)[0]]
    assert rows_of(together) == rows_of(alone)
    assert rows_of(attempt(five_objects, models, *reversed(MANY_PROTOCOLS))[0]) == rows_of(alone)
    assert len(rows_of(alone)) == 2 * (4 + 4 + 5 + 12 + 12 + 8 + 4 + 12 + 8 + 3)


def test_the_order_of_models_and_which_others_run_does_not_change_a_row(
    attempt, five_objects, disc_model, small_disc_model
):
    both, _ = attempt(five_objects, [disc_model, small_disc_model], *MANY_PROTOCOLS)
    turned, _ = attempt(five_objects, [small_disc_model, disc_model], *MANY_PROTOCOLS)
    single = [*attempt(five_objects, [disc_model], *MANY_PROTOCOLS)[0]]
    single += attempt(five_objects, [small_disc_model], *MANY_PROTOCOLS)[0]
    assert rows_of(both) == rows_of(turned) == rows_of(single)
    of_models = {
        model: [one.measurement.iou for one in both if one.measurement.model == model] for model in ("disc", "small")
    }
    assert of_models["disc"] != of_models["small"]


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_the_number_of_objects_at_once_does_not_change_a_row(attempt, five_objects, disc_model, monkeypatch, at_once):
    as_usual, left_out = attempt(five_objects, [disc_model], *MANY_PROTOCOLS)
    monkeypatch.setattr(prompts, "prompts_at_once", lambda image_hw: at_once)
    found, left_out_again = attempt(five_objects, [disc_model], *MANY_PROTOCOLS)
    assert rows_of(found) == rows_of(as_usual)
    assert left_out_again == left_out


@pytest.mark.parametrize("order", [[4, 3, 2, 1, 0], [2, 0, 3, 4, 1]])
def test_the_order_of_objects_does_not_change_a_row(attempt, five_objects, disc_model, order):
    turned = replace(five_objects, instances=tuple(five_objects.instances[i] for i in order))
    assert rows_of(attempt(turned, [disc_model], *MANY_PROTOCOLS)[0]) == rows_of(
        attempt(five_objects, [disc_model], *MANY_PROTOCOLS)[0]
    )


def test_a_choice_of_objects_has_the_rows_that_they_had_among_all(attempt, five_objects, disc_model):
    all_rows = rows_of(attempt(five_objects, [disc_model], *MANY_PROTOCOLS)[0])
    some = replace(five_objects, instances=five_objects.instances[2:4])
    kept = [row for row in all_rows if row[0] in ("12", "13")]
    assert rows_of(attempt(some, [disc_model], *MANY_PROTOCOLS)[0]) == kept
    assert kept


def test_protocols_with_the_same_first_prompts_ask_them_once(attempt, five_objects, answering):
    model = answering(lambda _: np.zeros((256, 256), bool))
    rules = ("single", "best", "oracle")
    attempt(five_objects, [model], *(PromptsProtocol(rule, mask_rule=rule) for rule in rules))
    assert len(model.engine.asked) == 4


# Further clicks


@pytest.fixture
def improving(answering, disc):
    """Says ever larger parts of a disc as it is given more clicks; its tokens differ."""
    stages = [disc(120, 120, radius) for radius in (10, 20, 34, 46, 50)]

    def answer(asked):
        num_clicks = len(asked.points_xy) - (asked.box_xyxy is None)
        return np.stack([stages[num_clicks], *(disc(120, 120, r + 5 * num_clicks) for r in (5, 15, 25))]), [
            0.1,
            0.4,
            0.9,
            0.2,
        ]

    return answering(answer)


@pytest.mark.parametrize("first_prompt", ["box", "centre"])
@pytest.mark.parametrize("feeds_mask", [True, False])
@pytest.mark.parametrize(
    ("next_click_name", "rule"), [("largest-error", next_click), ("farthest-error", next_click_by_distance)]
)
def test_each_click_mends_the_mask_before_it_and_is_added_to_the_prompt(
    attempt, make_picture, make_instance, disc, iou, improving, first_prompt, feeds_mask, next_click_name, rule
):
    truth = disc(120, 120, 50) & (np.arange(256) > 90)
    picture = make_picture("p", [make_instance("1", truth)])
    protocol = PromptsProtocol(
        "clicks",
        first_prompt=first_prompt,
        mask_rule="best",
        num_clicks=4,
        next_click=next_click_name,
        feeds_mask=feeds_mask,
    )
    found, _ = attempt(picture, [improving], protocol)
    asked = improving.engine.asked
    assert [one.measurement.step for one in found] == [1, 2, 3, 4, 5]
    assert [one.measurement.mask_token for one in found] == [2, 0, 0, 0, 0]
    assert_array_equal(found[0].predicted, disc(120, 120, 15))
    for before, after, question in zip(found[:-1], found[1:], asked[1:], strict=True):
        assert before.measurement.iou == iou(before.predicted, truth)
        x, y, label = rule(truth, before.predicted)
        assert after.prompt.points_xy.tolist() == [*before.prompt.points_xy.tolist(), [x, y]]
        assert after.prompt.labels.tolist() == [*before.prompt.labels.tolist(), label]
        assert question.points_xy == after.prompt.points_xy.tolist()
        assert question.labels == after.prompt.labels.tolist()
        if feeds_mask:
            assert_array_equal(question.logits > 0, before.predicted)
        else:
            assert question.logits is None
    boxes = {one.box_xyxy for one in asked}
    assert boxes == ({(91.0, 70.0, 170.0, 170.0)} if first_prompt == "box" else {None})


def test_further_answers_follow_their_own_rule(attempt, make_picture, make_instance, disc, improving):
    picture = make_picture("p", [make_instance("1", disc(120, 120, 50))])
    protocol = PromptsProtocol("clicks", num_clicks=2, later_mask_rule="oracle")
    found, _ = attempt(picture, [improving], protocol)
    assert [one.measurement.mask_token for one in found] == [0, 3, 3]  # the largest of the three
    assert [one.tokens for one in improving.engine.asked] == [(0,), (1, 2, 3), (1, 2, 3)]


def test_the_farthest_error_is_clicked_though_another_is_larger(
    attempt, make_picture, make_instance, rectangle, answering
):
    found_part, thin, wide = rectangle(0, 0, 30, 30), rectangle(0, 100, 250, 103), rectangle(100, 150, 120, 170)
    picture = make_picture("p", [make_instance("1", found_part | thin | wide)])
    clicks = {}
    for next_click_name in ("largest-error", "farthest-error"):
        protocol = PromptsProtocol("p", num_clicks=1, next_click=next_click_name)
        found, _ = attempt(picture, [answering(lambda _: found_part)], protocol)
        ((x, y),) = found[1].prompt.points_xy.astype(int).tolist()
        clicks[next_click_name] = "thin" if thin[y, x] else "wide" if wide[y, x] else "elsewhere"
    assert clicks == {"largest-error": "thin", "farthest-error": "wide"}


def test_random_clicks_are_drawn_from_the_error_or_from_the_object(
    attempt, make_picture, make_instance, rectangle, answering
):
    truth, predicted = rectangle(50, 50, 150, 100), rectangle(100, 50, 200, 100)
    picture = make_picture("p", [make_instance(str(i), truth) for i in range(30)])
    labels, in_both = Counter(), Counter()
    for next_click_name in ("random-error", "random-object"):
        protocol = PromptsProtocol("p", num_clicks=1, next_click=next_click_name)
        found, _ = attempt(picture, [answering(lambda _: predicted)], protocol)
        for prompt in (one.prompt for one in found if one.measurement.step == 2):
            ((x, y),) = prompt.points_xy.astype(int).tolist()
            assert prompt.labels.tolist() == [int(truth[y, x])]
            labels[next_click_name, int(truth[y, x])] += 1
            in_both[next_click_name] += bool(truth[y, x] and predicted[y, x])
    assert labels["random-object", 1] == 30
    assert 0 < in_both["random-object"] < 30
    assert in_both["random-error"] == 0
    assert 0 < labels["random-error", 0] < 30


def test_two_random_clicks_on_one_object_are_drawn_apart(attempt, make_picture, make_instance, rectangle, answering):
    truth = rectangle(0, 0, 256, 256)
    protocol = PromptsProtocol("p", first_prompt="random", num_clicks=3, next_click="random-object")
    model = answering(lambda _: rectangle(0, 0, 1, 1))
    found, _ = attempt(make_picture("p", [make_instance("1", truth)]), [model], protocol)
    assert len({tuple(xy) for xy in found[-1].prompt.points_xy.tolist()}) == 4


def test_a_mask_that_is_right_gets_no_further_click_and_keeps_its_iou(
    attempt, make_picture, make_instance, disc, answering
):
    good, bad = disc(60, 60, 20), disc(180, 180, 30)

    def answer(asked):
        return good if asked.box_xyxy == (40.0, 40.0, 80.0, 80.0) else disc(180, 180, 15 + 5 * len(asked.points_xy))

    model = answering(answer)
    picture = make_picture("p", [make_instance("bad", bad), make_instance("good", good)])
    found, _ = attempt(picture, [model], PromptsProtocol("clicks", num_clicks=4))
    ious = {name: [one.measurement.iou for one in found if one.measurement.object == name] for name in ("good", "bad")}
    assert ious["good"] == [1.0] * 5
    assert ious["bad"] == sorted(ious["bad"])
    assert ious["bad"][3:] == [1.0, 1.0]  # right after its third click
    assert len(model.engine.asked) == 1 + (1 + 3)
    assert all(len(one.prompt.points_xy) == 0 for one in found if one.measurement.object == "good")


def test_a_mask_that_is_right_is_still_given_random_clicks_on_the_object(
    attempt, make_picture, make_instance, disc, answering
):
    truth = disc(60, 60, 20)
    model = answering(lambda _: truth)
    protocol = PromptsProtocol("p", num_clicks=2, next_click="random-object")
    attempt(make_picture("p", [make_instance("1", truth)]), [model], protocol)
    assert [len(one.points_xy) for one in model.engine.asked] == [0, 1, 2]


def test_an_entry_holds_the_rows_of_all_attempts_and_the_time_of_each_stage(five_objects, embeddings, disc_model):
    stopwatch = Stopwatch()
    task = PromptsTask(MANY_PROTOCOLS[:4], [disc_model])
    entry = task.entry(five_objects, embeddings(disc_model), stopwatch, Counter())
    attempts = task.attempts(five_objects, embeddings(disc_model), Stopwatch(), Counter())
    rows = [Measurement.from_row("five", row) for row in entry["rows"]]
    assert rows == [one.measurement for one in attempts]
    assert set(stopwatch.seconds) == {"prompts", "decode", "masks", "compare"}


def test_a_click_outside_the_picture_costs_only_its_object(attempt, make_picture, make_instance, disc, disc_model):
    mask = disc(100, 100, 60)
    objects = [make_instance("in", mask, point_xy=(90.0, 90.0)), make_instance("out", mask, point_xy=(300.0, 10.0))]
    protocols = [PromptsProtocol("annotated", first_prompt="annotated"), PromptsProtocol("box")]
    found, left_out = attempt(make_picture("p", objects), [disc_model], *protocols)
    measured = [(one.measurement.protocol, one.measurement.object) for one in found]
    assert measured == [("annotated", "in"), ("box", "in"), ("box", "out")]
    assert left_out == {"click outside the picture": 1}
