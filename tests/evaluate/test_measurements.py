"""Measurements as rows for a journal and as columns of a table."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from mobile_sam.evaluate.measurements import COLUMNS, Measurement, MeasurementTable

BOX = Measurement("139", "17", "box", "tiny", 1, 0.75, 0.9, 0, 1200.0, "medium", "cat")
OF_FILE = Measurement("139", "18", "box", "vit", 2, 0.1 + 0.2, math.nan, -1, 3.0, "small")

measurements = st.builds(
    Measurement,
    **dict.fromkeys(("picture", "object", "protocol", "model", "area_bin", "category"), st.text()),
    **dict.fromkeys(("iou", "predicted_iou", "area_px"), st.floats(allow_infinity=False)),
    step=st.integers(1, 99),
    mask_token=st.integers(-1, 3),
)


def test_a_row_leaves_out_the_picture_and_writes_none_for_nan():
    assert BOX.to_row() == ["17", "box", "tiny", 1, 0.75, 0.9, 0, 1200.0, "medium", "cat"]
    assert OF_FILE.to_row() == ["18", "box", "vit", 2, 0.1 + 0.2, None, -1, 3.0, "small", ""]


@given(measurements)
def test_a_row_comes_back_from_json_to_the_last_bit(measurement):
    line = json.dumps(measurement.to_row(), allow_nan=False)
    again = Measurement.from_row(measurement.picture, json.loads(line))
    for name in COLUMNS:
        value, value_again = getattr(measurement, name), getattr(again, name)
        assert value == value_again or (value != value and value_again != value_again), name


def test_the_columns_of_a_table_are_those_of_a_measurement_with_types_that_fit():
    table = MeasurementTable.of([BOX, OF_FILE])
    assert len(table) == 2
    for name in COLUMNS:
        assert getattr(table, name).tolist()[0] == getattr(BOX, name)
    assert {name for name in COLUMNS if getattr(table, name).dtype.kind == "U"} == {
        "picture", "object", "protocol", "model", "area_bin", "category"
    }  # fmt: skip
    assert {name for name in COLUMNS if getattr(table, name).dtype == np.int64} == {"step", "mask_token"}
    assert {name for name in COLUMNS if getattr(table, name).dtype == np.float64} == {"iou", "predicted_iou", "area_px"}
    assert math.isnan(table.predicted_iou[1])


def test_a_table_of_nothing_has_empty_columns_of_the_same_types():
    table, full = MeasurementTable.of([]), MeasurementTable.of([BOX])
    assert len(table) == 0
    assert [getattr(table, name).dtype.kind for name in COLUMNS] == [getattr(full, name).dtype.kind for name in COLUMNS]
    assert len(table.where(protocol="box")) == 0


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (slice(1, None), [1, 2, 3]),
        (np.array([3, 0]), [3, 0]),
        (np.array([True, False, False, True]), [0, 3]),
        (slice(0, 0), []),
    ],
)
def test_rows_are_chosen_by_a_slice_indices_or_claims(rows, expected):
    table = MeasurementTable.of([replace(BOX, step=step, iou=step / 10) for step in range(4)])
    assert_array_equal(table[rows].step, expected)
    assert_array_equal(table[rows].iou, np.array(expected) / 10)
    assert len(table[rows]) == len(expected)


def test_where_keeps_the_rows_that_have_all_the_values():
    rows = [replace(BOX, model=model, step=step) for model in ("a", "b") for step in (1, 2, 3)]
    table = MeasurementTable.of(rows)
    assert_array_equal(table.where(model="b", step=2).model, ["b"])
    assert_array_equal(table.where(step=2).model, ["a", "b"])
    assert len(table.where(model="c")) == 0
    assert len(table.where()) == 6
