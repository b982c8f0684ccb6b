"""When a run stops by itself: numbers that are none, a loss that grows, pictures that cannot be used."""

import json
import logging
import math

import pytest

from mobile_sam.data.picture_set import SampleError
from mobile_sam.distill.guard import LossGuard, SkippedPictures, TrainingStoppedError


@pytest.mark.parametrize(("loss", "grad_norm"), [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (1.0, -math.inf)])
def test_a_loss_or_gradient_that_is_no_number_stops(loss, grad_norm):
    guard = LossGuard(10)
    guard.check(1.0, 1.0)
    with pytest.raises(
        TrainingStoppedError, match=rf"the loss is {loss} and the gradient's norm {grad_norm}; lower lr"
    ):
        guard.check(loss, grad_norm)


def steps_until_stopped(guard, losses):
    """How many losses are taken in."""
    for step, loss in enumerate(losses):
        try:
            guard.check(loss, 1.0)
        except TrainingStoppedError:
            return step
    return None


def test_a_loss_that_grows_beyond_the_factor_stops():
    assert steps_until_stopped(LossGuard(10), [1.0] * 150 + [9.0] * 1000) is None
    stopped = steps_until_stopped(LossGuard(10), [1.0] * 150 + [20.0] * 1000)
    smoothed, expected = 1.0, 150
    while smoothed <= 10.0:  # the moving average written out
        smoothed = 0.98 * smoothed + 0.02 * 20.0
        expected += 1
    assert stopped == expected - 1


def test_divergence_says_how_far_and_what_to_do():
    guard = LossGuard(10)
    steps_until_stopped(guard, [1.0] * 150)
    with pytest.raises(TrainingStoppedError, match=r"the loss diverges: 20\.98 on average of late, 1 at best; lower"):
        guard.check(1000.0, 1.0)


def test_a_single_outlier_does_not_stop():
    assert steps_until_stopped(LossGuard(10), [1.0] * 150 + [400.0] + [1.0] * 300) is None


def test_the_first_steps_may_be_wild():
    assert steps_until_stopped(LossGuard(2), [1.0] * 10 + [50.0] * 90) is None
    assert steps_until_stopped(LossGuard(2), [1.0] * 10 + [50.0] * 91) == 100


def test_a_guard_goes_on_where_it_was():
    losses = [1.0] * 90 + [30.0] * 60
    whole, first, second = LossGuard(5), LossGuard(5), LossGuard(5)
    expected = steps_until_stopped(whole, losses)
    assert steps_until_stopped(first, losses[:80]) is None
    second.restore(json.loads(json.dumps(first.state())))
    assert steps_until_stopped(second, losses[80:]) == expected - 80


def errors(num, kind="corrupt picture"):
    return [SampleError(f"sa_{number}", kind, "cut off") for number in range(num)]


def test_skipped_pictures_are_written_with_their_reason(tmp_path):
    skipped = SkippedPictures(tmp_path / "skipped.jsonl", 0.5)
    skipped.add(errors(2), step=3)
    skipped.add(errors(1, "missing embedding"), step=5)
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert lines[1] == {"step": 3, "key": "sa_1", "kind": "corrupt picture", "message": "cut off"}
    assert [line["kind"] for line in lines] == ["corrupt picture"] * 2 + ["missing embedding"]
    assert skipped.num_skipped == 3


def test_each_kind_is_warned_of_once(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        SkippedPictures(tmp_path / "skipped.jsonl", 0.5).add([*errors(5), *errors(3, "missing embedding")], 1)
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "a picture is skipped: sa_0: cut off"
    ] * 2


def test_too_large_a_share_stops_and_says_of_what(tmp_path):
    skipped = SkippedPictures(tmp_path / "skipped.jsonl", 0.1)
    skipped.add([*errors(8), *errors(2, "missing embedding")], 1)
    skipped.check(num_used=90)  # a tenth, not more
    with pytest.raises(TrainingStoppedError, match="10 pictures cannot be used") as raised:
        skipped.check(num_used=89)
    assert "8 x corrupt picture, 2 x missing embedding" in str(raised.value)
    assert "max_skipped=0.1" in str(raised.value)
    assert "skipped-*.jsonl" in str(raised.value)


def test_a_process_without_skipped_pictures_stops_with_the_others(tmp_path):
    skipped = SkippedPictures(tmp_path / "skipped.jsonl", 0.1)
    skipped.check(num_used=90, num_skipped=10)
    with pytest.raises(TrainingStoppedError, match=r"11 pictures cannot be used \(in other processes\)"):
        skipped.check(num_used=90, num_skipped=11)


def test_a_few_at_the_beginning_do_not_stop(tmp_path):
    skipped = SkippedPictures(tmp_path / "skipped.jsonl", 0.0)
    skipped.add(errors(8), 1)
    skipped.check(num_used=0)
    skipped.add(errors(1), 2)
    with pytest.raises(TrainingStoppedError):
        skipped.check(num_used=10**6)


def test_what_will_be_skipped_again_is_not_counted_twice(tmp_path):
    path = tmp_path / "skipped.jsonl"
    for step in (3, 5, 6):
        SkippedPictures(path, 0.1).add(errors(step), step)
    again = SkippedPictures(path, 0.1)
    again.restore(step=5)
    assert again.by_kind == {"corrupt picture": 8}
    assert len(path.read_text().splitlines()) == 8
    untouched = SkippedPictures(tmp_path / "none.jsonl", 0.1)
    untouched.restore(step=5)
    assert untouched.num_skipped == 0
    assert not (tmp_path / "none.jsonl").exists()
