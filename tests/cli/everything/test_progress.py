"""The bar of `mobile-sam everything`."""

import sys
from contextlib import contextmanager

import pytest

import mobile_sam.cli.everything_run
from mobile_sam.cli.progress import progress_bar


@pytest.fixture
def bars(monkeypatch):
    """What bars were of, and what they were told."""
    told = []

    @contextmanager
    def bar(what):
        told.append((what, calls := []))
        yield lambda *numbers: calls.append(numbers)

    monkeypatch.setattr(mobile_sam.cli.everything_run, "progress_bar", bar)
    return told


def test_for_one_picture_it_counts_points(run, cat, bars):
    run(cat)
    ((what, calls),) = bars
    assert what == "points"
    assert calls[-1] == (2, 0, 2)


def test_for_several_it_counts_pictures_and_points_as_parts_of_them(run, photos, bars):
    (photos / "broken.png").write_bytes(b"")
    run(photos, "-o", "out")
    ((what, calls),) = bars
    assert what == "pictures"
    assert (1.0, 1, 3) in calls  # the broken one, which comes first
    assert calls[-1] == (3.0, 1, 3)


def test_what_is_printed_goes_to_stdout_although_the_bar_is_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal
    with progress_bar("pictures") as tell:
        tell(0, 0, 2)
        sys.stdout.write("cat.png: 3 masks\n")
    captured = capsys.readouterr()
    assert captured.out == "cat.png: 3 masks\n"
    assert "pictures" in captured.err
