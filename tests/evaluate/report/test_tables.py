"""The tables: right numbers from hand-made measurements, in every form, at every width."""

import io
import math
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from mobile_sam.evaluate.report.content import NamedTable, Report
from mobile_sam.evaluate.report.tables import (
    difference_tables,
    markdown,
    omission_tables,
    result_tables,
    setup_tables,
    shown_steps,
    terminal,
)
from mobile_sam.evaluate.statistics import Interval


def column(table, heading):
    return [row[table.columns.index(heading)] for row in table.texts]


def printed(report, width=80, encoding="utf-8", **options):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=stream, width=width).print(terminal(report, **options))
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


def test_results_are_those_of_hand_made_measurements(report):
    (table,) = result_tables(report)  # IoUs .2 .4 .6 .8 and .3 .4 .5 1.0, the first two small, the last in picture q
    assert column(table, "Model") == ["exact", "fast"]
    assert column(table, "mIoU") == ["0.500", "0.550"]
    assert column(table, "small (n=2)") == ["0.300", "0.350"]
    assert column(table, "large (n=2)") == ["0.700", "0.750"]
    assert column(table, "median") == ["0.500", "0.450"]
    assert column(table, ">= 0.5") == ["50.0%", "50.0%"]
    assert column(table, "by picture") == ["0.600", "0.700"]
    assert "4 objects in 2 pictures" in table.note


def test_the_interval_is_written_as_its_bounds(report):
    summaries = [replace(summary, interval=Interval(0.12345, 0.6)) for summary in report.summaries]
    (table,) = result_tables(replace(report, summaries=summaries))
    assert column(table, "95% interval") == ["[0.123, 0.600]"] * 2
    unknown = [replace(summary, interval=Interval(math.nan, math.nan)) for summary in report.summaries]
    (table,) = result_tables(replace(report, summaries=unknown))
    assert column(table, "95% interval") == ["[-, -]"] * 2


def test_agreement_shows_the_worst_masks_and_a_digit_more(report):
    (table,) = result_tables(replace(report, kind="agreement"))
    assert column(table, "minimum") == ["0.2000", "0.3000"]
    assert column(table, "lowest 1%") == ["0.2060", "0.3030"]  # a hundredth of the way through three gaps
    assert ">= 0.5" not in table.columns


def test_rows_that_rest_on_different_objects_say_so(report):
    (first, second) = report.summaries
    fewer = replace(second, num_objects=3, num_pictures=1, by_bin={"large": second.by_bin["large"]})
    (table,) = result_tables(replace(report, summaries=[first, fewer]))
    assert column(table, "objects") == ["4", "3"]
    assert column(table, "pictures") == ["2", "1"]
    assert column(table, "small (n)") == ["0.300 (2)", "- (0)"]
    assert column(table, "large (n=2)") == ["0.700", "0.750"]
    assert "Each row" not in table.note


def test_differences_are_those_of_hand_made_measurements(report):
    (table,) = difference_tables(report)  # +.1, 0, -.1, +.2
    assert table.title == "Differences to exact"
    assert table.texts[0][:3] == ("box", "fast", "+0.0500")
    assert column(table, "better") == ["50.0%"]
    assert column(table, "equal") == ["25.0%"]
    assert column(table, "worse") == ["25.0%"]
    assert "4 pairs, 0 unpaired" in table.note


def test_differences_of_unequal_numbers_of_pairs_say_so(report):
    (entry,) = report.differences
    other = replace(entry, model="third", num_pairs=3, num_unpaired=1)
    (table,) = difference_tables(replace(report, differences=[entry, other]))
    assert column(table, "pairs") == ["4", "3"]
    assert column(table, "unpaired") == ["0", "1"]


@pytest.mark.parametrize(
    ("mean", "low", "high", "texts"),
    [
        (0.01234, -0.001, 0.02, ("+0.0123", "[-0.0010, +0.0200]")),
        (-2.1e-6, -4e-6, 1.25e-7, ("-2.1e-06", "[-4.0e-06, +1.2e-07]")),
        (0.0, 0.0, 0.0, ("+0.0000", "[+0.0000, +0.0000]")),
        (math.nan, math.nan, math.nan, ("-", "[-, -]")),
        (0.2, math.nan, math.nan, ("+0.2000", "[-, -]")),
    ],
)
def test_differences_have_signs_and_tiny_ones_digits(report, mean, low, high, texts):
    (entry,) = report.differences
    changed = replace(entry, mean_difference=mean, interval=Interval(low, high))
    (table,) = difference_tables(replace(report, differences=[changed]))
    assert (column(table, "mean")[0], column(table, "95% interval")[0]) == texts


@pytest.mark.parametrize(
    ("asked", "named", "shown"),
    [
        (None, None, [1, 2, 3]),
        (None, (1, 3, 5), [1, 3]),
        ((2, 3), (1, 3, 5), [2, 3]),
        ((5,), None, [3]),  # none of those: the last, so that no protocol goes missing
    ],
)
def test_steps_are_those_asked_for_or_named_by_the_protocol(large_table, report_of, asked, named, shown):
    config = {"name": "clicks"} if named is None else {"name": "clicks", "report_steps": named}
    report = report_of(large_table, protocols=[config])
    assert shown_steps(report, "clicks", asked) == shown
    (results,), (differences,) = result_tables(report, asked), difference_tables(report, asked)
    for table, num_models in ((results, 2), (differences, 1)):
        of_clicks = [row for row in table.texts if row[0] == "clicks"]
        assert [row[2] for row in of_clicks] == [str(step) for step in shown] * num_models
        assert [row[2] for row in table.texts if row[0] == "box"] == ["1"] * num_models  # its only step


def test_tables_of_other_protocols_are_shown_as_they_are():
    times = NamedTable("times", ("stage", "ms"), (("encode", 12.5),))
    report = Report("latency", "speed", tables=[times])
    assert result_tables(report) == [times]
    assert "12.5" in printed(report)
    assert "| encode | 12.5 |" in markdown(report)


def test_problems_are_counted_by_kind_with_their_first_case(report):
    problems = [
        {"kind": kind, "where": f"annotation {number}", "message": "why", "is_left_out": is_left_out}
        for number, (kind, is_left_out) in enumerate(
            [("empty mask", True), ("crowd mask", True), ("crowd mask", True), ("crowd mask", False)]
        )
    ]
    (table,) = omission_tables(replace(report, problems=problems))
    assert table.texts == (
        ("crowd mask", "left out", "annotation 1: why", "2"),
        ("empty mask", "left out", "annotation 0: why", "1"),
        ("crowd mask", "kept", "annotation 3: why", "1"),
    )


def test_counts_are_shown_in_their_order(report):
    (table,) = omission_tables(replace(report, counts={"pictures evaluated": 9, "pictures failed": 0}))
    assert table.texts == (("pictures evaluated", "9"), ("pictures failed", "0"))


@pytest.mark.parametrize(("num_failures", "num_rows", "note"), [(1, 1, ""), (10, 10, ""), (13, 10, "... and 3 more")])
def test_failed_pictures_are_named_and_all_counted(report, num_failures, num_rows, note):
    failures = [{"picture": str(number), "reason": "cut short"} for number in range(num_failures)]
    (table,) = omission_tables(replace(report, failures=failures))
    assert table.title == f"What failed: {num_failures}"
    assert len(table.rows) == num_rows
    assert table.note.startswith(note)
    assert bool(table.note) == bool(note)


def test_nothing_left_out_needs_no_table(report):
    assert omission_tables(report) == []


def test_the_setup_names_models_dataset_and_shares_of_time(report):
    made = replace(report, profile={"read": 1.0, "encode": 3.0}, wall_s=4.25, command="mobile-sam evaluate")
    what, time = setup_tables(made)
    facts = dict(what.texts)
    assert facts["model exact"] == "engine: onnxruntime; weights sha256: 6dbb90523a35330f"
    assert facts["dataset"] == "name: tiny.json; kind: coco; selection: all pictures"
    assert facts["command"] == "mobile-sam evaluate"
    assert "machine" not in facts  # nothing is known of it
    assert time.texts == (("read", "1.0", "25%"), ("encode", "3.0", "75%"))
    assert time.note == "4.2 s from start to end."


def test_every_choice_of_every_protocol_stands_in_the_setup(report):
    configs = [
        {"name": "boxes", "source": "", "mask_rule": "single", "max_detections": 100},
        {"name": "clicks", "report_steps": (1, 2), "num_clicks": 0},
    ]
    (what,) = setup_tables(replace(report, protocols=configs))
    facts = dict(what.texts)
    assert facts["protocol boxes"] == "mask rule: single; max detections: 100"
    assert facts["protocol clicks"] == "report steps: 1, 2; num clicks: 0"


def test_the_terminal_shows_seconds_by_stage(report):
    text = printed(replace(report, profile={"encode": 3.0, "statistics": 0.01}, wall_s=4.25), 200)
    assert "4.2 s (encode 3.0)" in text


@pytest.mark.parametrize("width", [30, 60, 80, 100, 200])
def test_every_number_is_whole_at_any_width(large_table, report_of, width):
    report = report_of(large_table, counts={"objects": 210}, notes=["a note of several words, longer than thirty"])
    text = printed(report, width)
    assert max(map(len, text.splitlines())) <= width
    for table in result_tables(report) + difference_tables(report):
        for row in table.texts:
            for number in row[table.num_text_columns :]:
                assert number in text, (number, width)


@pytest.mark.parametrize("width", [60, 80])
def test_parts_of_a_table_repeat_the_names_of_the_rows(large_table, report_of, width):
    results, _, differences = printed(report_of(large_table), width).partition("Differences to")
    assert results.count("Prompts") >= 2
    assert results.count("clicks") >= 2 * 6  # three steps of two models in at least two parts
    assert differences.count("clicks") >= 3


def test_what_is_no_terminal_gets_no_codes_and_ascii_suffices(report):
    text = printed(report, encoding="ascii")
    assert "\x1b" not in text
    assert "0.550" in text


def test_names_are_no_markup_for_the_terminal(hand_made, report_of):
    name = "[red]a[/red] [link"
    assert name in printed(report_of(hand_made({name: (0.1, 0.2, 0.3, 0.4)})), 200)


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_tables_have_all_cells_in_all_rows(large_table, report_of):
    text = markdown(report_of(large_table, counts={"objects": 210}))
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 4  # results, differences, counts, setup
    for block in blocks:
        assert len({len(cells(line)) for line in block}) == 1
        assert all(re.fullmatch(r"---:?", mark) for mark in cells(block[1]))
    assert "| clicks | onnxruntime | 2 |" in text


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("a|b", r"a\|b"),
        ("<b>x", r"\<b>x"),
        ("a`b*c", r"a\`b\*c"),
        ("back\\slash", r"back\\slash"),
        ("two\nlines", "two lines"),
        ("_x_ coco_dev", r"\_x\_ coco_dev"),
        ("[a](http://b)", r"[a\](http://b)"),
        ("[0.1, 0.2]", "[0.1, 0.2]"),
        ("a & b", r"a \& b"),
    ],
)
def test_markdown_marks_in_names_are_escaped(hand_made, report_of, name, escaped):
    text = markdown(report_of(hand_made({name: (0.1, 0.2, 0.3, 0.4)})))
    assert f"| box | {escaped} | 0.250 |" in text


def test_markdown_has_title_sentence_and_notes(report):
    lines = markdown(replace(report, notes=["first", "second"])).splitlines()
    assert lines[0] == "## a test"
    assert lines[2].startswith("exact, fast: IoU with the annotated masks, on 4 objects in 2 pictures")
    assert "- first" in lines
    assert "- second" in lines


def test_tables_need_neither_matplotlib_nor_jinja2(report, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert "0.550" in printed(report)
    assert "0.550" in markdown(report)


def test_rows_come_by_protocol_then_model_then_prompts(large_table, report_of):
    shuffled = large_table[np.random.default_rng(0).permutation(len(large_table))]
    protocols = [{"name": "clicks"}, {"name": "box"}]
    models = [{"name": "torch"}, {"name": "onnxruntime"}]
    (table,) = result_tables(report_of(shuffled, protocols=protocols, models=models))
    expected = [("clicks", model, str(step)) for model in ("torch", "onnxruntime") for step in (1, 2, 3)]
    expected += [("box", model, "1") for model in ("torch", "onnxruntime")]
    assert [row[:3] for row in table.texts] == expected


def test_area_bins_come_in_the_protocols_order_and_almost_1_is_not_1(report):
    bins = [{"name": name, "below_px": None} for name in ("large", "small")]
    (table,) = result_tables(replace(report, protocols=[{"name": "box", "area_bins": bins}], kind="agreement"))
    assert [name for name in table.columns if "(n=" in name] == ["large (n=2)", "small (n=2)"]
    almost = [replace(summary, mean=0.99999, minimum=1.0) for summary in report.summaries]
    (table,) = result_tables(replace(report, summaries=almost, kind="agreement"))
    assert column(table, "mIoU") == ["0.9999+"] * 2
    assert column(table, "minimum") == ["1.0000"] * 2
