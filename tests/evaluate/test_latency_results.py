import json

import numpy as np
import pytest

from mobile_sam.data.records import Problem
from mobile_sam.evaluate.latency_results import (
    ALL_PICTURES,
    LatencyProtocol,
    LatencyResult,
    LatencyRow,
    MemoryRow,
    SpeedRatio,
    add_means,
    summarise,
    tabulate,
)

PROTOCOL = LatencyProtocol(prompt_counts=(1, 4))


@pytest.mark.parametrize(
    ("seconds", "median", "iqr", "least"),
    [
        ([2.0], 2.0, 0.0, 2.0),
        ([3.0, 1.0], 2.0, 1.0, 1.0),  # quartiles 1.5 and 2.5
        ([1.0, 2.0, 3.0, 4.0], 2.5, 1.5, 1.0),  # quartiles 1.75 and 3.25
        ([5.0, 4.0, 3.0, 2.0, 1.0], 3.0, 2.0, 1.0),
        ([1.0, 1.0, 1.0, 1.0, 100.0], 1.0, 0.0, 1.0),  # one slow round moves nothing
    ],
)
def test_middle_spread_and_least_of_known_rounds(seconds, median, iqr, least):
    assert summarise(seconds) == pytest.approx((median, iqr, least))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_rounds": 0}, "num_rounds must be a whole number from 1, got 0"),
        ({"num_rounds": 2.5}, "num_rounds must be a whole number from 1, got 2.5"),
        ({"num_starts": -1}, "num_starts must be a whole number from 0, got -1"),
        ({"warmup_rounds": -1}, "warmup_rounds"),
        ({"num_threads": -2}, "num_threads"),
        ({"seed": -1}, "seed"),
        ({"prompt_counts": (1, 0)}, "prompt_counts must differ and be at least 1"),
        ({"prompt_counts": (4, 4)}, "prompt_counts must differ"),
        ({"num_masks": 2}, "num_masks must be 3 or 1, got 2"),
        ({"everything": ("quick",)}, r"everything must be modes of exact, fast, each once, got \('quick',\)"),
        ({"everything": ("fast", "fast")}, "everything must be modes"),
        ({"everything_rounds": 0}, "everything_rounds must be a whole number from 1, got 0"),
        ({"pause_s": -0.1}, "pause_s must be 0 to 60 seconds"),
    ],
)
def test_a_protocol_out_of_range_is_refused(fields, message):
    with pytest.raises(ValueError, match=f"protocol 'latency': {message}"):
        LatencyProtocol(**fields)


def test_a_protocol_says_all_its_choices_in_json():
    assert json.loads(json.dumps(LatencyProtocol().to_json())) == {
        "name": "latency",
        "num_starts": 3,
        "num_rounds": 9,
        "prompt_counts": [1, 16, 64],
        "num_threads": 0,
        "warmup_rounds": 1,
        "seed": 0,
        "num_masks": 3,
        "pause_s": 0.1,
        "everything": [],
        "everything_rounds": 3,
    }


def test_stages_come_in_the_order_of_a_users_session():
    stages = ("start", "import", "make engine", "encode", "one click", "4 prompts")
    assert PROTOCOL.stages == stages


def test_a_rows_time_for_each_prompt_is_its_share():
    assert LatencyRow("a", "4 prompts", "x.png", 0.2, 0, 0.2, 3, num_prompts=4).per_prompt_ms == pytest.approx(50)
    assert LatencyRow("a", "encode", "x.png", 0.2, 0, 0.2, 3).per_prompt_ms is None


def test_rows_go_by_stage_then_picture_then_model():
    seconds = {
        ("b", "encode", "y.png"): [1.0],
        ("b", "start", ""): [1.0],
        ("a", "4 prompts", "x.png"): [1.0],
        ("a", "encode", "x.png"): [1.0],
        ("a", "encode", "y.png"): [1.0],
        ("a", "start", ""): [1.0],
        ("b", "encode", "x.png"): [1.0],
    }
    rows, _ = tabulate(PROTOCOL, ["a", "b"], seconds)
    assert [(row.stage, row.picture, row.model) for row in rows] == [
        ("start", "", "a"),
        ("start", "", "b"),
        ("encode", "y.png", "a"),
        ("encode", "y.png", "b"),
        ("encode", "x.png", "a"),
        ("encode", "x.png", "b"),
        ("4 prompts", "x.png", "a"),
    ]
    assert [row.num_prompts for row in rows] == [0, 0, 0, 0, 0, 0, 4]


def test_ratios_are_paired_by_round_so_a_drifting_machine_does_not_show():
    drift = np.array([1.0, 2.0, 7.0])  # the machine becomes seven times as slow
    seconds = {("a", "encode", "x"): (0.4 * drift).tolist(), ("b", "encode", "x"): (0.1 * drift).tolist()}
    _, ratios = tabulate(PROTOCOL, ["a", "b"], seconds)
    (ratio,) = ratios
    assert (ratio.model, ratio.baseline, ratio.stage, ratio.picture) == ("b", "a", "encode", "x")
    assert (ratio.median, ratio.iqr, ratio.num) == (pytest.approx(4.0), pytest.approx(0.0), 3)


def test_the_ratio_is_the_median_of_ratios_not_the_ratio_of_medians():
    # by round 1/2, 4/1, 3/4: the median is 0.75; the medians 3 and 2 would give 1.5
    seconds = {("a", "encode", "x"): [1.0, 4.0, 3.0], ("b", "encode", "x"): [2.0, 1.0, 4.0]}
    _, (ratio,) = tabulate(PROTOCOL, ["a", "b"], seconds)
    assert ratio.median == pytest.approx(0.75)
    assert ratio.iqr == pytest.approx((4 + 0.75) / 2 - (0.75 + 0.5) / 2)


def test_several_pictures_are_averaged_within_each_round():
    seconds = {
        ("a", "start", ""): [9.0],
        ("a", "encode", "x"): [1.0, 2.0, 3.0],
        ("a", "encode", "y"): [3.0, 6.0, 5.0],
        ("b", "encode", "x"): [0.0, 0.0, 1.0],
        ("b", "encode", "y"): [1.0, 1.0, 1.0],
    }
    means = add_means(seconds, 2)
    assert means["a", "encode", ALL_PICTURES] == [2.0, 4.0, 4.0]
    assert means["b", "encode", ALL_PICTURES] == [0.5, 0.5, 1.0]
    assert {key: values for key, values in means.items() if key[2] != ALL_PICTURES} == seconds
    assert ("a", "start", ALL_PICTURES) not in means
    assert list(add_means(seconds, 1)) == list(seconds)


def result(num_pictures=1, rows=(), ratios=(), failures=()):
    memory = (MemoryRow("a", 100.0, 200.0, None),)
    return LatencyResult(PROTOCOL, ({"name": "a"},), num_pictures, rows, ratios, memory, failures, {"wall": "1 s"})


def test_tables_give_starts_in_seconds_and_answers_in_milliseconds():
    rows = (
        LatencyRow("a", "start", "", 0.5, 0.25, 0.375, 3),
        LatencyRow("a", "encode", "x.png", 0.25, 0.125, 0.125, 9),
        LatencyRow("a", "4 prompts", "x.png", 0.5, 0.0, 0.5, 9, 4),
    )
    tables = result(rows=rows, failures=(Problem("failed model", "model b", "why"),)).tables()
    assert tables == [
        ("Start-up in s", ["stage", "model", "median", "IQR", "min", "n"], [["start", "a", 0.5, 0.25, 0.375, 3]]),
        (
            "Latency in ms (1 picture)",
            ["stage", "model", "median", "IQR", "min", "per prompt", "n"],
            [["encode", "a", 250, 125, 125, None, 9], ["4 prompts", "a", 500, 0, 500, 125, 9]],
        ),
        ("Peak memory in MB", ["model", "after start", "after encode", "after prompts"], [["a", 100, 200, None]]),
    ]


def test_everything_has_a_table_in_seconds_and_a_column_of_memory_where_it_is_wanted():
    protocol = LatencyProtocol(prompt_counts=(), everything=("exact", "fast"))
    assert protocol.stages[-2:] == protocol.everything_stages == ("everything exact", "everything fast")
    rows = (
        LatencyRow("a", "encode", "x", 0.25, 0, 0.25, 1),
        LatencyRow("a", "everything exact", "x", 9.5, 1.5, 8.0, 3),
        LatencyRow("a", "everything fast", "x", 2.5, 0.5, 2.0, 1),
    )
    memory = (MemoryRow("a", 100.0, 200.0, 300.0, 400.0),)
    found = LatencyResult(protocol, ({"name": "a"},), 1, rows, (), memory, (), {})
    of_answers, of_everything, of_memory = found.tables()
    assert [row[0] for row in of_answers[2]] == ["encode"]
    assert of_everything == (
        "Everything in s (1 picture)",
        ["stage", "model", "median", "IQR", "min", "n"],
        [["everything exact", "a", 9.5, 1.5, 8.0, 3], ["everything fast", "a", 2.5, None, 2.0, 1]],
    )
    assert of_memory[1:] == (
        ["model", "after start", "after encode", "after prompts", "after everything"], [["a", 100, 200, 300, 400]]
    )  # fmt: skip


def test_tables_of_several_models_have_a_column_of_ratios_that_names_the_first():
    rows = tuple(LatencyRow(model, "encode", "x", 1, 0, 1, 1) for model in ("a", "b"))
    (_, columns, cells), *_ = result(rows=rows, ratios=(SpeedRatio("b", "a", "encode", "x", 2.5, 0, 1),)).tables()
    assert columns[-1] == "times as fast as a, median of rounds"
    assert [row[-1] for row in cells] == [None, 2.5]
    assert {len(row) for row in cells} == {len(columns)}


def test_tables_of_several_pictures_show_only_their_mean():
    rows = tuple(LatencyRow("a", "encode", picture, 1, 0, 1, 1) for picture in (ALL_PICTURES, "x", "y"))
    (title, _, cells), *_ = result(num_pictures=2, rows=rows).tables()
    assert title == "Latency in ms (2 pictures)"
    assert len(cells) == 1


def test_a_result_is_plain_json():
    stored = json.loads(json.dumps(result(rows=(LatencyRow("a", "encode", "x", 1.5, 0, 1, 1),)).to_json()))
    assert stored["rows"][0]["median_s"] == 1.5
    assert stored["protocol"]["prompt_counts"] == [1, 4]
    assert stored["models"] == [{"name": "a"}]
