"""The report as a value and as JSON."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

import mobile_sam
from mobile_sam.evaluate.report.content import NamedTable, Report, cell_text, headline, setting_text
from mobile_sam.evaluate.statistics import Interval


def through_json(report):
    return Report.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False)))


def test_a_report_survives_json(report):
    table = NamedTable("times", ("stage", "ms"), (("encode", 12.5), ("decode", 3)), note="a note")
    full = replace(
        report,
        tables=[table],
        wall_s=12.5,
        profile={"encode": 10.0},
        failures=[{"picture": "7", "reason": "broken"}],
        problems=[{"kind": "crowd", "where": "annotation 3", "message": "left", "is_left_out": True}],
        notes=["one"],
        counts={"pictures": 2},
        machine={"cpu": "a"},
        command="mobile-sam evaluate",
    )
    assert through_json(full) == full


def test_json_has_every_field_under_its_own_name(report):
    assert set(report.to_json()) == {"format", *(known.name for known in fields(Report))}


def test_json_names_the_number_of_objects_of_each_bin(report):
    (first, _) = report.to_json()["summaries"]
    assert first["by_bin"]["small"]["num_objects"] == 2
    assert first["by_bin"]["small"]["mean"] == pytest.approx(0.3)


def test_what_is_not_a_number_is_null_in_json_and_nan_again_after(report):
    nowhere = Interval(math.nan, math.inf)
    first, second = report.summaries
    broken = replace(
        report, summaries=[replace(first, calibration=math.nan, interval=nowhere), second], wall_s=math.nan
    )
    stored = json.loads(json.dumps(broken.to_json(), allow_nan=False))
    assert stored["summaries"][0]["calibration"] is None
    assert stored["summaries"][0]["interval"] == {"low": None, "high": None}
    back = Report.from_json(stored)
    assert math.isnan(back.summaries[0].calibration)
    assert math.isnan(back.summaries[0].interval.high)
    assert math.isnan(back.wall_s)
    assert back.summaries[1] == second


def test_json_takes_what_numpy_and_pathlib_make(report):
    odd = replace(
        report,
        dataset={"path": Path("pictures"), "num_pictures": np.int64(3), "sizes": np.array([1.0, np.nan]), 7: (1, 2)},
    )
    stored = json.loads(json.dumps(odd.to_json(), allow_nan=False))["dataset"]
    assert stored == {"path": "pictures", "num_pictures": 3, "sizes": [1.0, None], "7": [1, 2]}


def test_a_report_says_when_and_with_what_it_was_made():
    report = Report("prompts", "title")
    assert report.package_version == mobile_sam.__version__
    assert report.created.endswith("+00:00")


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"prompts, agreement, boxes, everything, latency, got 'speed'"):
        Report("speed", "title")


@pytest.mark.parametrize("stored", [{}, {"format": "mobile-sam evaluation 0"}, [], "text", None])
def test_what_is_no_report_of_this_version_is_refused(stored):
    with pytest.raises(ValueError, match="expected a report with format 'mobile-sam evaluation 1'"):
        Report.from_json(stored)


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"'times' has 2 columns, got a row of 3"):
        NamedTable("times", ("a", "b"), ((1, 2), (1, 2, 3)))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("words", "words"),
        (3, "3"),
        (123456, "123456"),
        (0.123456, "0.1235"),
        (12.0, "12"),
        (1234.56, "1235"),
        (98765.4, "98765"),
        (-2500.2, "-2500"),
        (0.0, "0"),
        (1.5e-7, "1.5e-07"),
        (math.nan, "-"),
        (None, "-"),
        (math.inf, "inf"),
    ],
)
def test_cells_are_written_short_and_without_false_digits(value, text):
    assert cell_text(value) == text
    assert NamedTable("t", ("a",), ((value,),)).texts == ((text,),)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "yes"),
        (False, "no"),
        (None, "none"),
        ("", "none"),
        ((), "none"),
        (0, "0"),
        ((1, 2, 3), "1, 2, 3"),
        ({"name": "small", "below_px": 1024}, "small below 1024 px"),
        ({"name": "large", "below_px": None}, "large"),
        ({"mask_rule": "single", "seed": 0}, "mask rule: single; seed: 0"),
    ],
)
def test_settings_are_written_in_words(value, text):
    assert setting_text(value) == text


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("prompts", "IoU with the annotated masks"),
        ("agreement", "IoU with the reference's masks"),
        ("boxes", "COCO AP"),
        ("everything", "recall of annotated objects"),
        ("latency", "latency"),
    ],
)
def test_the_headline_names_models_measure_numbers_and_dataset(report, kind, words):
    sentence = headline(replace(report, kind=kind))
    assert sentence.startswith("exact, fast: ")
    assert words in sentence
    things = "prompts" if kind == "agreement" else "objects"
    assert sentence.endswith(f"on 4 {things} in 2 pictures of coco tiny.json (all pictures).")


def test_the_headline_counts_what_was_evaluated_and_not_what_the_dataset_has(report):
    sized = replace(report, dataset={"name": "tiny.json", "num_pictures": 500, "num_objects": 900})
    assert "4 objects in 2 pictures of tiny.json." in headline(sized)
    assert "900 objects in 500 pictures" in headline(replace(sized, summaries=[]))


def test_the_headline_of_an_empty_report_is_a_sentence():
    assert headline(Report("latency", "t")) == "no model: latency and memory, on no dataset."
