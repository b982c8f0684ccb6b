"""Reports and measurements on disk."""

import csv
import json
import math
from dataclasses import replace

import pytest

from mobile_sam.evaluate.measurements import COLUMNS, Measurement, MeasurementTable
from mobile_sam.evaluate.report.content import Report
from mobile_sam.evaluate.report.files import read_json, write_csv, write_json
from mobile_sam.evaluate.report.page import write_page
from mobile_sam.evaluate.statistics import summarise


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_csv_has_a_row_for_each_measurement(table, tmp_path):
    write_csv(table, tmp_path / "rows.csv")
    rows = read_csv(tmp_path / "rows.csv")
    assert len(rows) == 8
    assert list(rows[0]) == list(COLUMNS)
    assert rows[0] == {
        "picture": "p",
        "object": "1",
        "protocol": "box",
        "model": "exact",
        "step": "1",
        "iou": "0.2",
        "predicted_iou": "0.75",
        "mask_token": "0",
        "area_px": "500",
        "area_bin": "small",
        "category": "cat",
    }
    assert [row["iou"] for row in rows[4:]] == ["0.3", "0.4", "0.5", "1"]


@pytest.mark.parametrize(
    ("number", "text"),
    [(1 / 3, "0.333333"), (0.99999949, "0.999999"), (1.0, "1"), (0.0, "0"), (2e-7, "2e-07"), (math.nan, "")],
)
def test_csv_numbers_have_six_significant_digits_and_nan_is_empty(tmp_path, number, text):
    row = Measurement("p", "1", "box", "m", 1, 0.5, number, -1, 100.0, "small")
    write_csv(MeasurementTable.of([row]), tmp_path / "rows.csv")
    assert read_csv(tmp_path / "rows.csv")[0]["predicted_iou"] == text


@pytest.mark.parametrize("name", ['a,b "c"', "two\nlines", "pingüino 企鹅", " spaces "])
def test_csv_names_of_any_characters_come_back(tmp_path, name):
    row = Measurement(name, "1", "box", "m", 1, 0.5, 0.5, 0, 100.0, "small", name)
    write_csv(MeasurementTable.of([row]), tmp_path / "rows.csv")
    (read,) = read_csv(tmp_path / "rows.csv")
    assert (read["picture"], read["category"]) == (name, name)


def test_csv_without_measurements_has_its_headings(tmp_path):
    write_csv(MeasurementTable.of([]), tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_text(encoding="utf-8").strip() == ",".join(COLUMNS)


def test_a_report_is_read_back_as_it_was(report, tmp_path):
    known = replace(report, wall_s=3.5, title="Pinguine 企鹅")
    write_json(known, tmp_path / "report.json")
    assert read_json(tmp_path / "report.json") == known
    assert "企鹅" in (tmp_path / "report.json").read_text(encoding="utf-8")


def test_json_holds_to_the_standard_where_numbers_are_missing(report, tmp_path):
    write_json(report, tmp_path / "report.json")  # its wall_s is NaN

    def refuse(constant):
        raise AssertionError(constant)

    stored = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert stored["wall_s"] is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": "mobile-sam evaluation 1"}', "\x00"])
def test_what_is_no_report_is_refused_by_name(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"other\.json is not a report"):
        read_json(path)


def test_a_summary_that_lacks_a_number_is_refused_by_name(report, tmp_path):
    stored = report.to_json()
    del stored["summaries"][0]["mean"]
    (tmp_path / "cut.json").write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(ValueError, match=r"cut\.json is not a report"):
        read_json(tmp_path / "cut.json")


def test_a_missing_report_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        read_json(tmp_path / "none.json")


def test_a_failed_write_leaves_the_old_file(report, table, tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(TypeError):
        write_json(replace(report, dataset={"thing": object()}), path)
    assert path.read_text(encoding="utf-8") == "old"
    with pytest.raises(FileNotFoundError, match="create it first"):
        write_csv(table, tmp_path / "none" / "rows.csv")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_names_that_are_not_utf8_are_written_in_every_file(tmp_path):
    name = b"\xff.png".decode("utf-8", "surrogateescape")  # as Python names such a file
    table = MeasurementTable.of([Measurement(name, "1", "box", "m", 1, 0.5, 0.6, 0, 10.0, "small")])
    report = Report("prompts", "t", failures=[{"picture": name, "reason": "broken"}], summaries=summarise(table))
    write_csv(table, tmp_path / "t.csv")
    write_json(report, tmp_path / "t.json")
    write_page(tmp_path / "t.html", report, table)
    assert "\\udcff.png" in (tmp_path / "t.csv").read_text(encoding="utf-8")
    assert read_json(tmp_path / "t.json").failures[0]["picture"] == name
    assert "\\udcff.png" in (tmp_path / "t.html").read_text(encoding="utf-8")
