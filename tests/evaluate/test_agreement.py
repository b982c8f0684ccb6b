"""The `agreement` protocol: models against each other and against masks of a file, on masks made by hand."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mobile_sam.core.masks import encode_rle
from mobile_sam.data.mask_files import FileMask, MaskFile
from mobile_sam.evaluate import agreement
from mobile_sam.evaluate.agreement import AgreementTask, make_prompts
from mobile_sam.evaluate.models import Model, ModelSpec
from mobile_sam.evaluate.protocols import COCO_BINS, AgreementProtocol, AreaBin, bin_of
from mobile_sam.evaluate.stopwatch import Stopwatch

EMPTY = np.zeros((256, 256), bool)

MANY_PROTOCOLS = (
    AgreementProtocol("grid", num_prompts=5),
    AgreementProtocol("random", prompts="random", num_prompts=7, mask_rule="single"),
    AgreementProtocol("pair", prompts="pair", num_prompts=3, distance_px=100, mask_rule="best-of-four"),
    AgreementProtocol("box", prompts="box", mask_rule="as-reference"),
    AgreementProtocol("centre", prompts="centre", mask_rule="best"),
    AgreementProtocol("given", prompts="given", mask_rule="single"),
)


@pytest.fixture
def compare(embeddings):
    """Compare models with a reference on a picture: the attempts, and what was left out."""

    def run(picture, reference, others, *protocols, pairing="id"):
        task, left_out = AgreementTask(protocols, reference, others, pairing), Counter()
        size_hw = picture.size_hw
        found = task.attempts(picture, embeddings(*task.models, size_hw=size_hw), Stopwatch(), left_out)
        return list(found), +left_out

    return run


@pytest.fixture
def two_objects(make_picture, make_instance, disc, rectangle):
    instances = [
        make_instance("17", disc(60, 60, 20), point_xy=(61.5, 58.0)),
        make_instance("18", rectangle(9, 99, 90, 120)),
    ]
    return make_picture("p", instances)


def mask_file(*masks, picture_id="p"):
    return MaskFile("masks.json", "0" * 64, {picture_id: masks})


def file_mask(mask_id, mask, **fields):
    return FileMask(mask_id, encode_rle(mask), **fields)


def rows_of(attempts):
    return sorted(attempt.measurement.to_row() for attempt in attempts)


# Models against models


def test_a_model_agrees_with_itself_on_every_prompt(compare, two_objects, disc_engine):
    models = [Model(ModelSpec(name), disc_engine) for name in ("first", "second")]
    found, left_out = compare(two_objects, models[0], models[1:], *MANY_PROTOCOLS)
    assert len(found) == 25 + 7 + 3 + 2 + 2 + 1
    assert {one.measurement.iou for one in found} == {1.0}
    assert {one.measurement.model for one in found} == {"second"}
    assert left_out == {"object without an annotated click": 1}


@pytest.mark.parametrize(
    ("ours", "theirs", "iou"), [(0, 0, 1.0), (0, 40, 0.0), (40, 0, 0.0), (40, 40, 1.0), (20, 40, 0.5)]
)
def test_two_empty_masks_agree_and_an_empty_one_agrees_with_no_other(
    compare, make_picture, rectangle, answering, ours, theirs, iou
):
    models = [
        answering(lambda _, w=width: rectangle(0, 0, w, 9), name) for name, width in (("ref", theirs), ("new", ours))
    ]
    found, _ = compare(make_picture("p"), models[0], models[1:], AgreementProtocol("grid", num_prompts=1))
    assert [one.measurement.iou for one in found] == [iou]
    assert found[0].measurement.area_px == 9 * theirs


@pytest.mark.parametrize(
    ("rule", "tokens"),
    [
        ("single", (0, 0)),
        ("best", (3, 1)),
        ("best-of-four", (3, 0)),
        ("as-reference", (3, 3)),  # the reference's favourite of the three, for both
    ],
)
def test_each_model_takes_its_own_token_or_both_the_reference_s(
    compare, make_picture, iou, disc, disc_model, small_disc_model, rule, tokens
):
    # The small discs' model predicts the first to be best: of the three, token 1.
    protocol = AgreementProtocol("one", num_prompts=1, mask_rule=rule)
    ((found,), _) = compare(make_picture("p"), disc_model, [small_disc_model], protocol)
    reference, ours = disc(128, 128, 10 * (tokens[0] + 1)), disc(128, 128, 10 * (tokens[1] + 1) - 7)
    assert found.measurement.mask_token == tokens[1]
    assert found.measurement.iou == pytest.approx(iou(reference, ours), abs=0.01)
    assert found.measurement.iou == iou(found.truth, found.predicted)
    assert found.measurement.area_px == found.truth.sum() == pytest.approx(reference.sum(), rel=0.01)
    assert found.measurement.area_bin == bin_of(float(reference.sum()), COCO_BINS)
    assert found.measurement.predicted_iou == pytest.approx(0.5 - tokens[1] / 10)


def test_the_reference_s_token_is_the_best_predicted_of_the_three_for_ambiguous_prompts(
    compare, make_picture, disc_model, small_disc_model
):
    protocol = AgreementProtocol("one", num_prompts=1, mask_rule="as-reference")
    ((found,), _) = compare(make_picture("p"), small_disc_model, [disc_model], protocol)
    assert found.measurement.mask_token == 1  # token 0 is predicted to be better, but is for unambiguous prompts


def test_protocols_and_models_together_give_the_rows_of_each_alone(
    compare, two_objects, disc_model, small_disc_model, answering, disc
):
    others = [small_disc_model, answering(lambda asked: disc(100, 100, 30))]
    together, _ = compare(two_objects, disc_model, others, *MANY_PROTOCOLS)
    alone = [
        one
        for protocol in MANY_PROTOCOLS
        for other in reversed(others)
        for one in compare(two_objects, disc_model, [other], protocol)[0]
    ]
    assert rows_of(together) == rows_of(alone)
    assert len(together) == 2 * 40


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_the_number_of_prompts_at_once_does_not_change_a_row(
    compare, two_objects, disc_model, small_disc_model, monkeypatch, at_once
):
    as_usual, _ = compare(two_objects, disc_model, [small_disc_model], *MANY_PROTOCOLS)
    monkeypatch.setattr(agreement, "prompts_at_once", lambda image_hw: at_once)
    found, _ = compare(two_objects, disc_model, [small_disc_model], *MANY_PROTOCOLS)
    assert rows_of(found) == rows_of(as_usual)


def test_ids_of_prompts_are_unique_in_a_picture(compare, two_objects, disc_model, small_disc_model):
    found, _ = compare(two_objects, disc_model, [small_disc_model], *MANY_PROTOCOLS)
    ids = [one.measurement.object for one in found]
    assert len(set(ids)) == len(ids) == 40


# Prompts


def prompts_of(protocol, picture):
    left_out = Counter()
    made = make_prompts(protocol, picture, picture.size_hw, left_out)
    return dict(made), +left_out


def test_a_grid_has_its_points_in_the_middle_of_its_cells(make_picture):
    made, _ = prompts_of(AgreementProtocol("g", num_prompts=2), make_picture("p", size_hw=(100, 40)))
    assert [prompt.points_xy.tolist() for prompt in made.values()] == [
        [[10, 25]], [[30, 25]], [[10, 75]], [[30, 75]]
    ]  # fmt: skip
    assert {tuple(prompt.labels) for prompt in made.values()} == {(1,)}
    assert list(made) == ["grid-2/0", "grid-2/1", "grid-2/2", "grid-2/3"]


def test_random_points_lie_all_over_the_picture_and_depend_on_picture_and_seed(make_picture):
    wide, other = make_picture("wide", size_hw=(20, 200)), make_picture("other", size_hw=(20, 200))
    protocol = AgreementProtocol("random", prompts="random", num_prompts=200)

    def points(protocol, picture):
        return np.concatenate([prompt.points_xy for prompt in prompts_of(protocol, picture)[0].values()])

    points_xy = points(protocol, wide)
    assert points_xy.shape == (200, 2)
    assert (points_xy >= 0).all()
    assert (points_xy <= (200, 20)).all()
    assert_allclose(points_xy.mean(axis=0), (100, 10), rtol=0.2)
    assert_allclose(np.ptp(points_xy, axis=0), (200, 20), rtol=0.1)
    assert_array_equal(points(protocol, wide), points_xy)
    assert not np.isin(points(replace(protocol, seed=1), wide), points_xy).any()
    assert not np.isin(points(protocol, other), points_xy).any()


@pytest.mark.parametrize("distance_px", [1, 100, 200.5])
def test_pairs_are_a_foreground_and_a_background_point_at_the_distance(make_picture, distance_px):
    protocol = AgreementProtocol("pair", prompts="pair", num_prompts=20, distance_px=distance_px)
    made, left_out = prompts_of(protocol, make_picture("p", size_hw=(101, 201)))
    assert len(made) == 20
    assert left_out == {}
    for prompt in made.values():
        assert prompt.labels.tolist() == [1, 0]
        foreground_xy, background_xy = prompt.points_xy.astype(float)
        assert np.hypot(*(foreground_xy - background_xy)) == pytest.approx(distance_px, abs=1e-4)  # prompts are float32
        prompt.check_inside((101, 201))
    assert len({tuple(prompt.points_xy.ravel()) for prompt in made.values()}) == 20


def test_what_is_done_with_the_answers_does_not_change_the_prompts(make_picture):
    one = AgreementProtocol("one", prompts="random", num_prompts=4, mask_rule="single")
    other = AgreementProtocol("other", prompts="random", num_prompts=4, mask_rule="best")
    (made, _), (again, _) = (prompts_of(protocol, make_picture("p")) for protocol in (one, other))
    assert list(made) == list(again)
    assert all((made[name].points_xy == again[name].points_xy).all() for name in made)


def test_crowds_give_no_prompt(two_objects):
    crowd = replace(two_objects.instances[0], is_crowd=True)
    picture = replace(two_objects, instances=(crowd, *two_objects.instances[1:]))
    made, left_out = prompts_of(AgreementProtocol("box", prompts="box"), picture)
    assert (list(made), left_out) == (["box/18"], {"crowd mask": 1})


def test_pairs_that_find_no_room_are_counted(compare, make_picture, disc_model, small_disc_model):
    near, far = (AgreementProtocol(f"{d}", prompts="pair", num_prompts=4, distance_px=d) for d in (100, 500))
    found, left_out = compare(make_picture("p"), disc_model, [small_disc_model], near, far)
    assert [one.measurement.protocol for one in found] == ["100"] * 4
    assert left_out == {"no room for points 500 px apart": 4}


def test_prompts_of_objects_are_their_boxes_centres_or_annotated_clicks(two_objects):
    boxes, _ = prompts_of(AgreementProtocol("b", prompts="box"), two_objects)
    assert {name: prompt.box_xyxy.tolist() for name, prompt in boxes.items()} == {
        "box/17": [40, 40, 80, 80], "box/18": [9, 99, 90, 120]
    }  # fmt: skip
    centres, _ = prompts_of(AgreementProtocol("c", prompts="centre"), two_objects)
    ((x, y),) = centres["centre/18"].points_xy.tolist()
    assert y == 109
    assert 19 <= x <= 79  # all along the middle are as far from the edges
    given, left_out = prompts_of(AgreementProtocol("g", prompts="given"), two_objects)
    assert {name: prompt.points_xy.tolist() for name, prompt in given.items()} == {"given/17": [[61.5, 58.0]]}
    assert left_out == {"object without an annotated click": 1}


# Masks of a file


def test_masks_are_found_by_the_id_of_their_prompt(compare, two_objects, answering, disc, iou):
    model = answering(lambda _: disc(60, 60, 30))
    reference = mask_file(
        file_mask("box/18", disc(70, 60, 30)), file_mask("box/17", disc(60, 60, 25)), file_mask("17", EMPTY)
    )
    found, left_out = compare(
        two_objects, reference, [model], AgreementProtocol("box", prompts="box", mask_rule="single")
    )
    assert {one.measurement.object: one.measurement.iou for one in found} == {
        "box/17": iou(disc(60, 60, 30), disc(60, 60, 25)),
        "box/18": iou(disc(60, 60, 30), disc(70, 60, 30)),
    }
    assert left_out == {}


@pytest.mark.parametrize("num_models", [1, 2])
def test_prompts_without_a_mask_and_masks_of_another_size_are_counted_once_each(
    compare, make_picture, answering, disc, num_models
):
    reference = mask_file(
        file_mask("grid-2/0", disc(9, 9, 9)),
        file_mask("grid-2/1", np.ones((50, 40), bool)),
        file_mask("grid-2/9", EMPTY),
    )
    models = [answering(lambda _: disc(9, 9, 9), f"model {i}") for i in range(num_models)]
    found, left_out = compare(make_picture("p"), reference, models, AgreementProtocol("grid", num_prompts=2))
    assert [(one.measurement.object, one.measurement.iou) for one in found] == [("grid-2/0", 1.0)] * num_models
    assert left_out == {"mask of another size": 1, "prompt without a mask in the file": 2}


def test_an_empty_mask_of_a_file_is_an_answer(compare, make_picture, answering, disc):
    reference = mask_file(file_mask("grid-1/0", EMPTY))
    for mask, iou in ((EMPTY, 1.0), (disc(9, 9, 9), 0.0)):
        found, left_out = compare(
            make_picture("p"), reference, [answering(lambda _, m=mask: m)], AgreementProtocol("grid", num_prompts=1)
        )
        assert [one.measurement.iou for one in found] == [iou]
        assert left_out == ({"noted: both masks empty, counted as IoU 1": 1} if iou else {})


def test_an_annotations_own_id_names_its_prompt(compare, two_objects, answering, disc):
    reference = mask_file(file_mask("17", disc(60, 60, 25)), file_mask("18", disc(70, 60, 30)))
    protocol = AgreementProtocol("box", prompts="box", mask_rule="single")
    found, left_out = compare(two_objects, reference, [answering(lambda _: disc(60, 60, 25))], protocol)
    assert [one.measurement.object for one in found] == ["box/17", "box/18"]
    assert found[0].measurement.iou == 1
    assert left_out == {}


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        ({"point_xy": (300.0, 10.0)}, "click outside the picture"),
        ({"box_xyxy": (-90.0, 10.0, -20.0, 40.0)}, "box outside the picture"),
        ({}, "mask without a click or box"),
    ],
)
def test_a_mask_that_cannot_be_asked_for_costs_only_itself(compare, make_picture, answering, disc, mask, reason):
    good, bad = replace(file_mask("good", disc(9, 9, 9)), point_xy=(9.0, 9.0)), replace(file_mask("bad", EMPTY), **mask)
    sticks_out = replace(file_mask("cut", disc(9, 9, 9)), box_xyxy=(-90.0, -5.0, 18.0, 18.0))
    model = answering(lambda _: disc(9, 9, 9))
    given = AgreementProtocol("given", prompts="given", mask_rule="single")
    found, left_out = compare(make_picture("p"), mask_file(good, bad, sticks_out), [model], given)
    assert [one.measurement.object for one in found] == ["good", "cut"]
    assert found[1].prompt.box_xyxy.tolist() == [0, 0, 18, 18]
    assert left_out == {reason: 1}


def test_by_overlap_each_mask_is_compared_with_the_one_that_fits_it_best(compare, make_picture, answering, disc, iou):
    near, far = disc(64, 64, 30), disc(192, 192, 30)
    reference = mask_file(file_mask("", far), file_mask("", np.ones((9, 9), bool)), file_mask("", near))
    model = answering(lambda asked: disc(*asked.points_xy[0], 25))
    protocol = AgreementProtocol("grid", num_prompts=2)
    found, left_out = compare(make_picture("p"), reference, [model], protocol, pairing="overlap")
    ious = {one.measurement.object: one.measurement.iou for one in found}
    assert ious["grid-2/0"] == iou(near, disc(64, 64, 25))
    assert ious["grid-2/3"] == iou(far, disc(192, 192, 25))
    assert ious["grid-2/1"] == ious["grid-2/2"] == 0
    assert left_out == {}


def test_the_best_overlap_among_many_masks_is_that_found_by_counting(compare, make_picture, answering, disc, iou):
    rng = np.random.default_rng(0)
    masks = [disc(*rng.uniform(0, 256, 2), rng.uniform(5, 90)) for _ in range(40)]
    model = answering(lambda asked: disc(*asked.points_xy[0], 45))
    found, _ = compare(
        make_picture("p"),
        mask_file(*(file_mask("", mask) for mask in (EMPTY, *masks, masks[3]))),
        [model],
        AgreementProtocol("grid", num_prompts=4),
        pairing="overlap",
    )
    assert len(found) == 16
    for one in found:
        assert one.measurement.iou == max(iou(mask, one.predicted) for mask in masks)
        assert one.measurement.iou == iou(one.truth, one.predicted)


@pytest.mark.parametrize(
    ("masks", "reason"),
    [((), "no mask in the file"), ((file_mask("", np.ones((9, 9), bool)),), "mask of another size")],
)
def test_by_overlap_pictures_without_a_mask_of_their_size_are_counted(compare, make_picture, answering, masks, reason):
    models = [answering(lambda _: EMPTY, name) for name in ("a", "b")]
    found, left_out = compare(
        make_picture("p"), mask_file(*masks), models, AgreementProtocol("grid", num_prompts=2), pairing="overlap"
    )
    assert found == []
    assert left_out == {reason: 4}


@pytest.mark.parametrize("pairing", ["id", "overlap"])
def test_given_prompts_are_the_file_s_clicks_else_its_boxes(compare, make_picture, answering, rectangle, pairing):
    square = rectangle(10, 10, 30, 30)
    reference = mask_file(
        file_mask("click", square, point_xy=(12.0, 14.0)),
        file_mask("", square, box_xyxy=(10.0, 10.0, 30.0, 30.0)),
        file_mask("neither", square),
        file_mask("both", square, point_xy=(20.0, 20.0), box_xyxy=(10.0, 10.0, 30.0, 30.0)),
        file_mask("1", rectangle(10, 10, 20, 30), point_xy=(11.0, 11.0)),
    )
    model = answering(lambda _: square)
    protocol = AgreementProtocol("given", prompts="given", mask_rule="single")
    found, left_out = compare(make_picture("p"), reference, [model], protocol, pairing=pairing)
    assert [(one.points_xy, one.box_xyxy) for one in model.engine.asked] == [
        ([[12.0, 14.0]], None),
        ([], (10.0, 10.0, 30.0, 30.0)),
        ([[20.0, 20.0]], None),  # the box tells of the mask what the click did not
        ([[11.0, 11.0]], None),
    ]
    assert [one.measurement.iou for one in found] == [1.0, 1.0, 1.0, 0.5]
    assert left_out == {"mask without a click or box": 1}
    assert len({one.measurement.object for one in found}) == 4


def test_a_picture_that_the_file_does_not_know_has_no_rows(compare, make_picture, answering):
    reference, model = mask_file(file_mask("grid-1/0", EMPTY), picture_id="q"), answering(lambda _: EMPTY)
    protocols = AgreementProtocol("grid", num_prompts=1), AgreementProtocol("given", prompts="given")
    found, left_out = compare(make_picture("p"), reference, [model], *protocols)
    assert found == []
    assert left_out == {"prompt without a mask in the file": 1}


def test_the_area_bin_is_that_of_the_reference_s_mask(compare, make_picture, answering, rectangle):
    reference = mask_file(file_mask("grid-1/0", rectangle(0, 0, 10, 10)))
    model = answering(lambda _: rectangle(0, 0, 200, 200))
    protocol = AgreementProtocol("grid", num_prompts=1, area_bins=(AreaBin("tiny", 101), AreaBin("other")))
    ((found,), _) = compare(make_picture("p"), reference, [model], protocol)
    assert (found.measurement.area_px, found.measurement.area_bin) == (100.0, "tiny")


# Mistakes


def test_the_reference_s_token_cannot_be_taken_from_a_file(disc_model):
    with pytest.raises(ValueError, match="'box': a file of masks does not tell tokens; use another rule"):
        AgreementTask([MANY_PROTOCOLS[3]], mask_file(), [disc_model])


def test_an_unknown_pairing_is_refused(disc_model):
    with pytest.raises(ValueError, match="pairing must be one of id, overlap, got 'name'"):
        AgreementTask(MANY_PROTOCOLS[:1], mask_file(), [disc_model], "name")
