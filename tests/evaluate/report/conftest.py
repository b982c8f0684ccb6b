"""A small evaluation with known answers, and a larger one made by chance, as reports are made from."""

import numpy as np
import pytest

from mobile_sam.evaluate.measurements import Measurement, MeasurementTable
from mobile_sam.evaluate.report.content import Report
from mobile_sam.evaluate.statistics import compare, summarise

HAND_MADE = {  # model -> IoU of objects 1 (small), 2 (small) and 3 (large) of picture p, and 4 (large) of picture q
    "exact": (0.2, 0.4, 0.6, 0.8),
    "fast": (0.3, 0.4, 0.5, 1.0),
}


def hand_made_table(ious=HAND_MADE, protocol="box"):
    rows = []
    for model, values in ious.items():
        for index, iou in enumerate(values):
            area_px, area_bin = (500.0, "small") if index < 2 else (20_000.0, "large")
            picture = "p" if index < 3 else "q"
            rows.append(
                Measurement(picture, str(index + 1), protocol, model, 1, iou, 0.75, 0, area_px, area_bin, "cat")
            )
    return MeasurementTable.of(rows)


def random_table(num_pictures=30, num_objects=7, models=("onnxruntime", "torch"), steps=(1, 2, 3), seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for picture in range(num_pictures):
        for number in range(num_objects):
            ease = rng.beta(4, 1.5)
            area_px = float(np.exp(rng.uniform(4, 11)))
            area_bin = "small" if area_px < 1024 else "medium" if area_px < 9216 else "large"
            for protocol in ("box", "clicks"):
                for model in models:
                    for step in steps if protocol == "clicks" else (1,):
                        quality = 0.25 if protocol == "clicks" else 0.1
                        iou = float(np.clip(1 - (1 - ease) * quality * 4 / step + rng.normal(0, 0.03), 0, 1))
                        said = float(np.clip(iou + rng.normal(0.05, 0.08), 0, 1.02))
                        rows.append(
                            Measurement(
                                f"{picture:06d}",
                                str(number),
                                protocol,
                                model,
                                step,
                                iou,
                                said,
                                0,
                                area_px,
                                area_bin,
                                "cat",
                            )
                        )
    return MeasurementTable.of(rows)


def make_report(table, **fields):
    models = dict.fromkeys(table.model.tolist())
    baseline = next(iter(models))
    known = {
        "kind": "prompts",
        "title": "a test",
        "created": "2026-11-20T08:00:00+00:00",
        "models": [{"name": name, "engine": "onnxruntime", "weights_sha256": "6dbb90523a35330f"} for name in models],
        "protocols": [
            {"name": name, "first_prompt": "box", "mask_rule": "single"}
            for name in dict.fromkeys(table.protocol.tolist())
        ],
        "dataset": {"name": "tiny.json", "kind": "coco", "selection": "all pictures"},
        "summaries": summarise(table),
        "differences": compare(table, baseline),
    }
    return Report(**{**known, **fields})


@pytest.fixture
def table():
    return hand_made_table()


@pytest.fixture
def report(table):
    return make_report(table)


@pytest.fixture
def report_of():
    """Makes the report of a table: `report_of(table, kind="agreement")`."""
    return make_report


@pytest.fixture
def hand_made():
    """Makes a table of chosen IoUs: `hand_made({"model": (0.2, 0.4, 0.6, 0.8)}, protocol="box")`."""
    return hand_made_table


@pytest.fixture(scope="session")
def large_table():
    """Two protocols, "box" of one step and "clicks" of three, two models, 210 objects in 30 pictures."""
    return random_table()
