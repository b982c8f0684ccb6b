"""Where a step's time goes, with a clock that the test turns."""

import pytest
from numpy.testing import assert_allclose

from mobile_sam.distill import stopwatch
from mobile_sam.distill.stopwatch import StepTimes


@pytest.fixture
def clock(monkeypatch):
    """Turn the clock on by so many seconds."""
    now_s = [100.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now_s[0])

    def turn_on(seconds: float) -> None:
        now_s[0] += seconds

    return turn_on


def run_steps(times, clock, num_steps):
    for _ in range(num_steps):
        with times.part("forward"):
            clock(0.2)
        clock(0.05)
        with times.part("backward"):
            clock(0.5)
        times.end_step()


def test_parts_and_the_rest_add_up_to_the_step(clock):
    times = StepTimes()
    run_steps(times, clock, 4)
    found = times.summary(batch_size=3)
    expected = {"forward": 200, "backward": 500, "own": 50, "step": 750}
    assert {name for name in found if name.startswith("time/")} == {f"time/{name}_ms" for name in expected}
    for name, step_ms in expected.items():
        assert_allclose(found[f"time/{name}_ms"], step_ms)
    assert_allclose(found["pictures_per_s"], 3 / 0.75)


def test_validating_and_saving_are_no_part_of_a_step(clock):
    times = StepTimes()
    run_steps(times, clock, 2)
    for name in ("validate", "save"):
        with times.part(name):
            clock(60)
    assert_allclose(times.summary(batch_size=3)["time/step_ms"], 750)


def test_a_summary_begins_anew(clock):
    times = StepTimes()
    with times.part("data"):
        clock(9)
    times.end_step()
    times.summary(1)
    run_steps(times, clock, 1)
    found = times.summary(1)
    assert "time/data_ms" not in found
    assert_allclose(found["time/step_ms"], 750)
