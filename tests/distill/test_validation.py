"""How good a student is: what validation asks and what it counts."""

import dataclasses
import logging

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from mobile_sam.build_sam import sam_from_checkpoint
from mobile_sam.data.picture_set import SampleError, open_picture_set
from mobile_sam.distill import validation
from mobile_sam.distill.models import make_student, open_teacher
from mobile_sam.distill.validation import Validator


@pytest.fixture
def validator_of(tiny, pictures, coco_file):
    """Make a validator of two pictures."""

    def make(**changes):
        config = tiny(**changes)
        held_out = open_picture_set(coco_file if config.mask_targets == "annotations" else pictures).subset([2, 5])
        return Validator(config, held_out, open_teacher(config))

    return make


def test_the_teacher_agrees_with_itself(validator_of, teacher_file):
    validator = validator_of(teacher=str(teacher_file), embeddings="", input_side=128)
    found = validator.measure(sam_from_checkpoint(teacher_file))
    assert_allclose(found["val/miou"], 1.0, atol=0.01)  # its features are kept in half precision
    assert found["val/mse"] < 1e-5


def test_a_fresh_student_does_not(validator_of, tiny, teacher_file):
    validator = validator_of(teacher=str(teacher_file), embeddings="")
    found = validator.measure(make_student(tiny()))
    assert set(found) == {"val/miou", "val/iou_error", "val/mse"}
    assert 0 <= found["val/miou"] < 0.9
    assert 0 <= found["val/iou_error"] <= 1.5
    assert found["val/mse"] > 0.01


def test_questions_are_the_same_each_time(validator_of, tiny):
    student = make_student(tiny())
    first = validator_of()
    assert first.measure(student) == first.measure(student) == validator_of().measure(student)


def test_embeddings_on_the_disk_are_not_kept_in_memory(validator_of, tiny):
    validator = validator_of()
    validator.measure(make_student(tiny()))
    questions = validator._questions
    assert [question.features is None for question in questions] == [True, True]
    assert all(len(question.prompts) == 16 for question in questions)
    assert all(question.tokens.min() >= 1 for question in questions)  # one of the masks for an ambiguous click


def test_annotations_are_asked_by_click_and_by_box(validator_of, tiny):
    validator = validator_of(objective="prompted", mask_targets="annotations", embeddings="")
    found = validator.measure(make_student(tiny()))
    assert set(found) == {"val/miou", "val/iou_error"}
    for question in validator._questions:
        assert question.tokens is None
        assert len(question.prompts) == 2  # one object
        is_box = (question.prompts.labels == 3).any(axis=1)
        assert is_box.tolist() == [False, True]


def iou_by_hand(logits, target):
    masks = logits > 0
    return (masks & target).sum() / max((masks | target).sum(), 1)


def test_iou_leaves_out_the_padding():
    rng = np.random.default_rng(0)
    targets, logits = rng.random((3, 10, 16)) > 0.5, rng.normal(size=(3, 16, 16)).astype(np.float32)
    packed = np.packbits(targets.reshape(3, -1), axis=1)
    question = validation.Question(0, None, packed, 16, (10, 16), None)
    found = validation._iou_with_targets(torch.from_numpy(logits), question)
    assert_allclose(found, [iou_by_hand(row[:10], target) for row, target in zip(logits, targets, strict=True)])
    nothing = dataclasses.replace(question, targets=np.zeros_like(packed))
    assert validation._iou_with_targets(torch.full((3, 16, 16), -1.0), nothing).tolist() == [1, 1, 1]


def unreadable(validator, monkeypatch, indices):
    plain_read = validator.pictures.read

    def read(index, with_instances=False):
        if index in indices:
            raise SampleError(f"picture {index}", "corrupt picture", "cut off")
        return plain_read(index, with_instances)

    monkeypatch.setattr(validator.pictures, "read", read)


def test_a_picture_that_cannot_be_used_is_left_out_with_a_warning(validator_of, tiny, monkeypatch, caplog):
    validator = validator_of()
    unreadable(validator, monkeypatch, {0})
    with caplog.at_level(logging.WARNING):
        validator.measure(make_student(tiny()))
    assert "a held-out picture is left out: picture 0: cut off" in caplog.text
    assert len(validator._questions) == 1


def test_no_picture_that_can_be_used_is_an_error(validator_of, tiny, monkeypatch):
    validator = validator_of()
    unreadable(validator, monkeypatch, {0, 1})
    with pytest.raises(ValueError, match="none of the 2 held-out pictures can be used"):
        validator.measure(make_student(tiny()))
