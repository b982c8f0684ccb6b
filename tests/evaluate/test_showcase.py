"""Cases shown are the measurements of the table, each with its own picture's masks."""

import logging
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mobile_sam.core.images import read_image
from mobile_sam.data.embedding_store import EmbeddingStore
from mobile_sam.evaluate.agreement import AgreementTask
from mobile_sam.evaluate.measurements import MeasurementTable
from mobile_sam.evaluate.prompts import PromptsTask
from mobile_sam.evaluate.protocols import AgreementProtocol, PromptsProtocol
from mobile_sam.evaluate.showcase import make_cases
from mobile_sam.evaluate.stopwatch import Stopwatch

PROTOCOLS = (
    PromptsProtocol("random", first_prompt="random", mask_rule="best"),
    PromptsProtocol("clicks", num_clicks=2, next_click="random-error"),
)


@pytest.fixture
def pictures(make_picture, make_instance, disc):
    """Three pictures with four objects each, whose ids are the same in all of them."""
    return [
        make_picture(name, [make_instance(str(i), disc(60 + 40 * i, 90 + row, 11 + 3 * i + row)) for i in range(4)])
        for row, name in enumerate(("left", "middle", "right"))
    ]


@pytest.fixture
def measured(embeddings):
    """Measure pictures and put the results in a table."""

    def run(task, pictures):
        made = embeddings(*task.models)
        return MeasurementTable.of(
            [a.measurement for p in pictures for a in task.attempts(p, made, Stopwatch(), Counter())]
        )

    return run


def iou_in(table, case, step):
    (value,) = table.where(
        protocol=case.protocol, model=case.model, picture=case.picture, object=case.object, step=step
    ).iou
    return value


def test_cases_come_by_protocol_the_worst_first_then_the_best_after_the_last_prompt(pictures, measured, disc_model):
    task = PromptsTask(PROTOCOLS, [disc_model])
    table = measured(task, pictures)
    cases = make_cases(task, pictures, table, 3)
    assert [(case.protocol, case.title) for case in cases] == [
        (protocol, title) for protocol in ("random", "clicks") for title in ("worst", "best") for _ in range(3)
    ]
    for number, (protocol, last_step) in enumerate((("random", 1), ("clicks", 3))):
        ious = np.sort(table.where(protocol=protocol, step=last_step).iou)
        shown = [case.iou for case in cases[6 * number : 6 * number + 6]]
        assert shown == [*ious[:3], *ious[: -3 - 1 : -1]]


def test_each_case_shows_the_masks_prompts_and_pixels_that_its_iou_is_of(pictures, measured, disc_model, iou):
    task = PromptsTask(PROTOCOLS, [disc_model])
    table = measured(task, pictures)
    cases = make_cases(task, pictures, table, 6)
    assert len(cases) == 24
    for case in cases:
        picture = next(picture for picture in pictures if picture.id == case.picture)
        instance = next(instance for instance in picture.instances if instance.id == case.object)
        assert_array_equal(case.image, read_image(picture.path))
        assert_array_equal(case.truth, instance.mask)
        assert case.iou == iou(case.predicted, case.truth) == iou_in(table, case, 1 if case.protocol == "random" else 3)
        assert (case.model, case.category) == ("disc", "thing")
        assert case.predicted_iou == pytest.approx(0.8 if case.protocol == "random" else 0.5)
        if case.protocol == "random":
            ((x, y),) = case.points_xy.astype(int).tolist()
            assert case.truth[y, x]
            assert case.box_xyxy is None
        else:
            assert len(case.points_xy) == len(case.labels) == 2
            assert_array_equal(case.box_xyxy, np.float32(instance.box_xyxy))


def test_of_two_models_the_largest_differences_are_shown_in_pairs(pictures, measured, disc_model, small_disc_model):
    task = PromptsTask(PROTOCOLS[:1], [disc_model, small_disc_model])
    table = measured(task, pictures)
    cases = make_cases(task, pictures, table, 3)
    assert {case.model for case in cases if case.title in ("worst", "best")} == {"disc"}
    pairs = [case for case in cases if case.title == "largest differences"]
    assert [case.model for case in pairs] == ["small", "disc"] * 3
    shown = []
    for other, first in zip(pairs[::2], pairs[1::2], strict=True):
        assert (other.picture, other.object) == (first.picture, first.object)
        shown.append(abs(other.iou - first.iou))
    ious = {model: table.where(model=model).iou for model in ("disc", "small")}
    assert shown == sorted(np.abs(ious["disc"] - ious["small"]), reverse=True)[:3]


def test_prompts_that_are_called_the_same_in_all_pictures_are_told_apart(
    pictures, measured, disc_model, small_disc_model, iou
):
    task = AgreementTask([AgreementProtocol("random", prompts="random", num_prompts=6)], disc_model, [small_disc_model])
    table = measured(task, pictures)
    cases = make_cases(task, pictures, table, 9)
    assert len(cases) == 18
    assert len({(case.picture, case.object) for case in cases}) == 18
    assert [case.iou for case in cases[:9]] == sorted(table.iou)[:9]
    for case in cases:
        assert case.model == "small"
        assert case.iou == iou(case.predicted, case.truth) == iou_in(table, case, 1)


def test_a_picture_that_disappeared_is_left_out_with_a_warning(pictures, measured, disc_model, caplog):
    task = PromptsTask(PROTOCOLS[:1], [disc_model])
    table = measured(task, pictures)
    with_all = make_cases(task, pictures, table, 6)
    pictures[1].path.unlink()
    pictures[2].path.write_bytes(b"no longer a picture")
    with caplog.at_level(logging.WARNING):
        cases = make_cases(task, pictures, table, 6)
    kept = [(case.title, case.object, case.iou) for case in with_all if case.picture == "left"]
    assert [(case.title, case.object, case.iou) for case in cases] == kept
    assert len(kept) == 4
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "cannot show picture middle", "cannot show picture right"
    ]  # fmt: skip


def test_no_cases_wanted_means_that_no_picture_is_read(pictures, measured, disc_model, caplog):
    task = PromptsTask(PROTOCOLS, [disc_model])
    table = measured(task, pictures)
    for picture in pictures:
        picture.path.unlink()
    assert make_cases(task, pictures, table, 0) == []
    assert not caplog.records


def test_only_pictures_with_a_case_are_encoded_and_stored_embeddings_are_used(
    pictures, measured, answering, disc, tmp_path
):
    model = answering(lambda asked: disc(60, 90, 9))
    encoded = []
    encode = model.engine.encode
    model.engine.encode = lambda images: encoded.append(len(images)) or encode(images)
    task, store = PromptsTask([PromptsProtocol("box")], [model]), EmbeddingStore(tmp_path / "store")
    table = measured(task, pictures)
    assert len(make_cases(task, pictures, table[:4], 1, store)) == 2  # rows of the first picture alone
    assert encoded == [1]
    assert len(make_cases(task, pictures, table[:4], 1, store)) == 2
    assert encoded == [1]


def test_a_protocol_that_measured_nothing_has_no_cases(pictures, measured, disc_model):
    task = PromptsTask([*PROTOCOLS[:1], PromptsProtocol("annotated", first_prompt="annotated")], [disc_model])
    cases = make_cases(task, pictures, measured(task, pictures), 2)
    assert {case.protocol for case in cases} == {"random"}


def test_an_object_that_is_no_longer_annotated_is_not_shown(pictures, measured, disc_model):
    task = PromptsTask(PROTOCOLS[:1], [disc_model])
    table = measured(task, pictures)
    cut = [replace(picture, instances=picture.instances[:2]) for picture in pictures]
    cases = make_cases(task, cut, table, 6)
    assert {case.object for case in cases} == {"0", "1"}
    assert len(cases) == 6


def test_an_engine_that_fails_now_costs_its_cases_and_nothing_else(pictures, measured, disc_model, caplog, monkeypatch):
    task = PromptsTask(PROTOCOLS[:1], [disc_model])
    table, encode, calls = measured(task, pictures), disc_model.engine.encode, []

    def failing(images):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return encode(images)

    monkeypatch.setattr(disc_model.engine, "encode", failing)
    told = []
    cases = make_cases(task, pictures, table, 6, progress=lambda *numbers: told.append(numbers))
    assert {case.picture for case in cases} == {"left", "right"}
    assert "cannot show picture middle: out of memory" in caplog.text
    assert told == [(0, 0, 3), (1, 0, 3), (2, 0, 3), (3, 0, 3)]
