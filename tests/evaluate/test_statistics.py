"""Means, bins, paired differences and intervals of tables made by hand."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mobile_sam.evaluate import statistics
from mobile_sam.evaluate.measurements import Measurement, MeasurementTable
from mobile_sam.evaluate.statistics import (
    Interval,
    cluster_bootstrap_mean,
    compare,
    percentile_interval,
    summarise,
)


def row(
    picture, object_id, iou, *, protocol="box", model="tiny", step=1, predicted_iou=math.nan, area_px=50.0, bin_="s"
):
    return Measurement(picture, object_id, protocol, model, step, iou, predicted_iou, 0, area_px, bin_)


def table(*rows):
    return MeasurementTable.of(rows)


HAND_MADE = table(
    row("p1", "1", 0.9, predicted_iou=0.8, area_px=2000, bin_="medium"),
    row("p1", "2", 0.5, predicted_iou=0.9, area_px=10, bin_="small"),
    row("p1", "3", 0.1, area_px=900, bin_="small"),
    row("p2", "1", 0.7, predicted_iou=1.0, area_px=90000, bin_="large"),
)


def test_a_summary_of_four_objects_worked_out_by_hand():
    [summary] = summarise(HAND_MADE)
    assert (summary.protocol, summary.model, summary.step) == ("box", "tiny", 1)
    assert (summary.num_objects, summary.num_pictures) == (4, 2)
    assert summary.mean == pytest.approx(2.2 / 4)
    assert summary.mean_of_pictures == pytest.approx((0.5 + 0.7) / 2)
    assert summary.median == pytest.approx(0.6)
    assert summary.share_above_half == 3 / 4
    assert summary.minimum == 0.1
    assert summary.percentile_1 == pytest.approx(0.1 + 0.03 * 0.4)  # 1 % of the way over three gaps
    assert summary.calibration == pytest.approx((-0.1 + 0.4 + 0.3) / 3)
    assert summary.interval.low == pytest.approx(0.5)  # p1 twice
    assert summary.interval.high == pytest.approx(0.7)  # p2 twice


def test_bins_go_from_small_to_large_whatever_the_order_of_the_rows():
    [summary] = summarise(HAND_MADE)
    assert list(summary.by_bin) == ["small", "medium", "large"]
    assert summary.by_bin["small"] == pytest.approx((2, 0.3))
    assert summary.by_bin["large"] == (1, 0.7)
    assert sum(members.num_objects for members in summary.by_bin.values()) == summary.num_objects


def test_there_is_one_summary_for_each_protocol_model_and_step_in_order_of_appearance():
    summaries = summarise(
        table(
            row("p", "1", 0.2, protocol="points", step=2),
            row("p", "1", 0.3, protocol="points", step=1),
            row("p", "1", 0.4, protocol="box", model="huge"),
            row("p", "1", 0.5, protocol="points", step=1, model="huge"),
            row("q", "1", 0.6, protocol="points", step=2),
        )
    )
    assert [(s.protocol, s.model, s.step, round(s.mean, 9)) for s in summaries] == [
        ("points", "tiny", 2, 0.4),
        ("points", "tiny", 1, 0.3),
        ("box", "huge", 1, 0.4),
        ("points", "huge", 1, 0.5),
    ]


def test_without_predictions_there_is_no_calibration_and_without_rows_no_summary(recwarn):
    [summary] = summarise(table(row("p", "1", 0.5)))
    assert math.isnan(summary.calibration)
    assert math.isnan(summary.interval.low)
    assert math.isnan(summary.interval.high)
    assert summarise(table()) == []
    assert not recwarn.list


def test_a_difference_pairs_objects_by_picture_and_id_and_counts_the_rest():
    ours = [row("p1", "1", 0.8), row("p1", "2", 0.5), row("p2", "1", 0.6), row("p2", "9", 0.0), row("p3", "1", 0.4)]
    theirs = [
        row("p3", "1", 0.4 + 1e-15, model="huge"),  # equal but for rounding
        row("p2", "1", 0.9, model="huge"),
        row("p1", "2", 0.4, model="huge"),
        row("p1", "1", 1.0, model="huge"),
        row("p4", "1", 1.0, model="huge"),
        row("p1", "9", 1.0, model="huge"),
    ]
    [difference] = compare(table(*ours, *theirs), baseline="tiny")
    assert (difference.model, difference.baseline) == ("huge", "tiny")
    assert (difference.num_pairs, difference.num_unpaired) == (4, 3)
    assert difference.mean_difference == pytest.approx((0.2 - 0.1 + 0.3) / 4)
    assert (difference.share_better, difference.share_worse, difference.share_equal) == (2 / 4, 1 / 4, 1 / 4)
    assert difference.interval.low < difference.mean_difference < difference.interval.high
    [mirrored] = compare(table(*ours, *theirs), baseline="huge")
    assert mirrored.mean_difference == pytest.approx(-difference.mean_difference)
    assert (mirrored.share_better, mirrored.share_worse) == (1 / 4, 2 / 4)
    assert_allclose(
        [mirrored.interval.low, mirrored.interval.high], [-difference.interval.high, -difference.interval.low]
    )


def test_protocols_and_steps_are_compared_apart_and_a_step_without_baseline_has_no_pairs(recwarn):
    differences = compare(
        table(
            *(row(p, "1", 0.5, protocol=kind) for kind in ("box", "points") for p in "pq"),
            *(row(p, "1", 0.6, protocol="box", model="huge") for p in "pq"),
            *(row(p, "1", 0.8, protocol="points", model="huge") for p in "pq"),
            *(row(p, "1", 0.9, protocol="points", step=2, model="huge") for p in "pq"),
        ),
        baseline="tiny",
    )
    assert [(d.protocol, d.step, d.num_pairs, d.num_unpaired) for d in differences] == [
        ("box", 1, 2, 0),
        ("points", 1, 2, 0),
        ("points", 2, 0, 2),
    ]
    assert differences[0].mean_difference == pytest.approx(0.1)
    assert differences[1].mean_difference == pytest.approx(0.3)
    assert_allclose([differences[1].interval.low, differences[1].interval.high], 0.3)
    alone = differences[2]
    for number in (alone.mean_difference, alone.interval.low, alone.share_better, alone.share_worse, alone.share_equal):
        assert math.isnan(number)
    assert not recwarn.list


def test_a_paired_interval_is_narrower_than_the_spread_of_the_objects():
    rng = np.random.default_rng(0)
    ious = rng.uniform(0, 0.9, 300)
    rows = [row(f"p{i // 3}", str(i), iou) for i, iou in enumerate(ious)]
    rows += [row(f"p{i // 3}", str(i), iou + 0.05, model="huge") for i, iou in enumerate(ious)]
    [difference] = compare(table(*rows), baseline="tiny")
    assert_allclose([difference.interval.low, difference.interval.high], 0.05)
    assert difference.share_better == 1
    assert all(s.interval.high - s.interval.low > 0.03 for s in summarise(table(*rows)))


def test_a_missing_baseline_and_an_object_measured_twice_are_refused():
    with pytest.raises(ValueError, match="one of the models tiny, got 'huge'"):
        compare(HAND_MADE, baseline="huge")
    twice = table(row("p", "1", 0.5), row("p", "1", 0.6), row("p", "1", 0.6, model="huge"))
    with pytest.raises(ValueError, match="object 1 of picture p is measured twice by tiny in step 1 of box"):
        compare(twice, baseline="tiny")


def test_an_interval_covers_two_standard_errors_where_clusters_are_single_values():
    values = np.random.default_rng(3).normal(0.7, 0.2, 2000)
    interval = cluster_bootstrap_mean(values, np.arange(2000), num_resamples=4000)
    standard_error = values.std() / math.sqrt(2000)
    assert_allclose(
        [interval.low, interval.high],
        values.mean() + 1.96 * standard_error * np.array([-1, 1]),
        atol=0.1 * standard_error,
    )


def test_pictures_are_resampled_not_objects():
    """Ten copies of each value in one picture tell no more than one copy; taken for independent, they would seem to."""
    values = np.random.default_rng(4).normal(0.7, 0.2, 100)
    once = cluster_bootstrap_mean(values, np.arange(100))
    copied = cluster_bootstrap_mean(np.repeat(values, 10), np.repeat(np.arange(100), 10))
    independent = cluster_bootstrap_mean(np.repeat(values, 10), np.arange(1000))
    assert_allclose([copied.low, copied.high], [once.low, once.high])
    assert independent.high - independent.low < 0.4 * (once.high - once.low)


def test_a_resampled_mean_is_over_objects_so_that_large_pictures_weigh_more():
    """Of pictures with 1 and 3 objects the four resamples have means 0, 3 / 4 (twice) and 1."""
    values, pictures = [0.0, 1.0, 1.0, 1.0], ["a", "b", "b", "b"]
    assert cluster_bootstrap_mean(values, pictures) == Interval(0.0, 1.0)
    inner = cluster_bootstrap_mean(values, pictures, level=0.4)  # the middle half is all 3 / 4
    assert (inner.low, inner.high) == (0.75, 0.75)


def test_an_interval_depends_neither_on_the_order_of_the_rows_nor_on_the_size_of_the_chunks(monkeypatch):
    rng = np.random.default_rng(5)
    values, pictures = rng.random(400), rng.integers(60, size=400).astype(str)
    expected = cluster_bootstrap_mean(values, pictures, num_resamples=250)
    order = rng.permutation(400)
    shuffled = cluster_bootstrap_mean(values[order], pictures[order], num_resamples=250)
    assert_allclose([shuffled.low, shuffled.high], [expected.low, expected.high])
    monkeypatch.setattr(statistics, "CHUNK_ELEMENTS", 700)
    assert cluster_bootstrap_mean(values, pictures, num_resamples=250) == expected


def test_another_seed_gives_another_interval_and_the_same_seed_the_same():
    values, pictures = np.random.default_rng(6).random(50), np.arange(50)
    first = cluster_bootstrap_mean(values, pictures, num_resamples=100, seed=1)
    assert cluster_bootstrap_mean(values, pictures, num_resamples=100, seed=1) == first
    assert cluster_bootstrap_mean(values, pictures, num_resamples=100, seed=2) != first


@pytest.mark.parametrize(("values", "clusters"), [([], []), ([0.5], ["a"]), ([0.1, 0.9], ["a", "a"])])
def test_fewer_than_two_pictures_tell_nothing_of_the_spread(values, clusters):
    interval = cluster_bootstrap_mean(values, clusters)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_a_percentile_interval_leaves_out_equal_shares_and_what_is_unknown(level):
    samples = np.append(np.arange(1001.0), [np.nan] * 7)
    interval = percentile_interval(samples, level)
    assert (interval.low, interval.high) == pytest.approx((500 - 500 * level, 500 + 500 * level))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5, 0.6], ["a"]), "values and clusters"),
        (([[0.5]], [["a"]]), "values and clusters"),
        (([0.5, math.nan], ["a", "b"]), "finite, got 1"),
        (([0.5, 0.6], ["a", "b"], 0), "num_resamples"),
        (([0.5, 0.6], ["a", "b"], 10, 0, 95), "level"),
        (([0.5, 0.6], ["a", "b"], 10, 0, 0.0), "level"),
    ],
)
def test_input_that_makes_no_interval_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        cluster_bootstrap_mean(*arguments)
