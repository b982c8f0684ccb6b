"""Masks of everything against annotated objects: numbers worked out by hand, turns, killed runs, and bad input."""

import csv
import json
from collections import Counter
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mobile_sam.core.images import read_image
from mobile_sam.core.masks import encode_rle
from mobile_sam.evaluate import everything
from mobile_sam.evaluate.everything import EverythingTask
from mobile_sam.evaluate.everything_protocol import EverythingProtocol
from mobile_sam.evaluate.models import Model, ModelSpec
from mobile_sam.evaluate.protocols import AreaBin
from mobile_sam.evaluate.report.files import read_json
from mobile_sam.evaluate.run import OpenedPicture
from mobile_sam.evaluate.session import RunOptions
from mobile_sam.evaluate.stopwatch import Stopwatch
from mobile_sam.evaluate.validate import evaluate_everything
from mobile_sam.everything.config import EverythingConfig

EXACT = EverythingProtocol("exact")
FAST = EverythingProtocol("fast", config=EverythingConfig(mode="fast"))
BOXES = {
    # Objects: a1 (0, 0, 100, 10) and a2 (0, 50, 100, 150) in picture a, b1 (10, 10, 60, 60) in b, none in c.
    ("exact", "a"): [(0, 0, 100, 10), (0, 50, 82, 150)],  # IoU 1; IoU 0.82: 7 of the 10 thresholds
    ("exact", "b"): [],
    ("exact", "c"): [(200, 200, 240, 240)],
    ("fast", "a"): [(0, 0, 100, 10)],
    ("fast", "b"): [(10, 10, 60, 60)],
    ("fast", "c"): [],
}
SECONDS = {"exact": 4.0, "fast": 1.0}


@pytest.fixture(autouse=True)
def page(monkeypatch, request):
    """No page is drawn where a test does not ask for one: that takes seconds."""
    if "draws_page" not in request.fixturenames:
        monkeypatch.setattr("mobile_sam.evaluate.report.page.write_page", lambda *_: None)


@pytest.fixture
def draws_page():
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")


@pytest.fixture
def dataset(make_picture, make_instance, make_dataset, rectangle):
    objects_of = {"a": {"a1": (0, 0, 100, 10), "a2": (0, 50, 100, 150)}, "b": {"b1": (10, 10, 60, 60)}, "c": {}}
    return make_dataset(
        *(
            make_picture(picture, [make_instance(name, rectangle(*box)) for name, box in objects.items()])
            for picture, objects in objects_of.items()
        )
    )


@dataclass(eq=False)
class Scripted:
    """Gives the rectangles of a table as masks, the first with the highest scores, and moves the clock on."""

    makes: Any  # the fixture's
    config: EverythingConfig
    engine: Any
    num_points: int = 0

    def generate(self, image):
        picture = next(name for name, pixels in self.makes.pixels.items() if np.array_equal(pixels, image))
        self.makes.calls.append(f"{self.config.mode} {self.engine.name} {picture}")
        self.makes.clock += SECONDS[self.config.mode] * self.makes.slowness * (1 + (picture == "b"))
        if (self.config.mode, picture) in self.makes.errors:
            raise self.makes.errors[self.config.mode, picture]
        self.num_points = 100 if self.config.mode == "exact" else 40
        boxes = BOXES[self.config.mode, picture]
        return [
            {
                "segmentation": encode_rle(self.makes.rectangle(*box)),
                "predicted_iou": np.float32(0.9 - rank / 10),
                "stability_score": 0.5 + rank / 10,
            }
            for rank, box in enumerate(boxes)
        ]


@pytest.fixture
def makes(dataset, rectangle, monkeypatch):
    """Makes scripted generators, `makes.generator`, and tells and changes what they do."""
    pixels = {picture.id: read_image(picture.path) for picture in dataset.pictures}
    makes = SimpleNamespace(pixels=pixels, calls=[], clock=0.0, slowness=1, errors={}, rectangle=rectangle)
    makes.generator = lambda config, engine: Scripted(makes, config, engine)
    monkeypatch.setattr(everything, "time", SimpleNamespace(perf_counter=lambda: makes.clock))
    return makes


@pytest.fixture
def run(dataset, disc_model, makes):
    """Run the evaluation with scripted generators."""

    def evaluate(dataset=dataset, models=(disc_model,), protocols=(EXACT, FAST), options=None):
        return evaluate_everything(dataset, list(models), list(protocols), options, make_generator=makes.generator)

    return evaluate


def csv_rows(folder):
    with open(folder / "measurements.csv", newline="") as file:
        return list(csv.DictReader(file))


def cells(table):
    return [dict(zip(table.columns, texts, strict=True)) for texts in table.texts]


# Numbers


def test_recall_is_that_worked_out_by_hand(run):
    exact, fast = run().details["runs"]
    for name in ("AR@10", "AR@100", "AR@1000"):
        assert exact["recall"][name]["mean"] == pytest.approx((1 + 0.7 + 0) / 3)
        assert fast["recall"][name]["mean"] == pytest.approx((1 + 0 + 1) / 3)
    assert exact["best_iou"]["mean"] == pytest.approx((1 + 0.82 + 0) / 3)
    at_1000 = {name: bins["AR@1000"] for name, bins in exact["by_bin"].items()}
    assert at_1000 == {"small": (1, 1.0), "medium": (1, 0.0), "large": (1, pytest.approx(0.7))}
    assert (exact["num_objects"], exact["num_pictures"]) == (3, 3)


def test_masks_and_seconds_are_counted_in_all_pictures_also_without_objects(run):
    exact, fast = run().details["runs"]
    assert (exact["masks_mean"], exact["masks_min"], exact["masks_max"]) == (1, 0, 2)
    assert (fast["masks_mean"], fast["masks_min"], fast["masks_max"]) == (pytest.approx(2 / 3), 0, 1)
    assert (exact["median_s"], exact["total_s"]) == (4, 4 + 8 + 4)
    assert (fast["median_s"], fast["total_s"]) == (1, 1 + 2 + 1)
    assert (exact["points_mean"], fast["points_mean"]) == (100, 40)


def test_differences_are_paired_by_object_and_ratios_by_picture(run):
    report = run()
    [difference] = report.details["differences"]
    assert (difference["protocol"], difference["baseline"], difference["num_objects"]) == ("fast", "exact disc", 3)
    assert difference["recall"]["AR@1000"]["mean"] == pytest.approx((0 - 0.7 + 1) / 3)
    assert difference["best_iou"]["mean"] == pytest.approx((0 - 0.82 + 1) / 3)
    assert difference["time_ratio"] == 0.25
    interval = difference["recall"]["AR@1000"]["interval"]
    assert (interval["low"], interval["high"]) == (pytest.approx(-0.35), pytest.approx(1))  # a alone; b alone


def test_the_masks_of_the_baseline_are_looked_for_among_the_others(run):
    [difference] = run().details["differences"]
    # of a's two masks the first is there again, c's is not
    assert difference["num_baseline_masks"] == 3
    assert difference["masks_found"]["mean"] == pytest.approx(1 / 3)
    assert difference["masks_best_iou"]["mean"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("partner_iou", "share"), [(0.5, 1.0), (0.82, 1.0), (0.83, 0.5), (1.0, 0.5)])
def test_a_partner_has_at_least_the_chosen_iou(run, dataset, monkeypatch, partner_iou, share):
    monkeypatch.setitem(BOXES, ("fast", "a"), [(0, 50, 100, 150), (0, 0, 100, 10)])
    protocols = [EXACT, replace(FAST, partner_iou=partner_iou)]
    [difference] = run(replace(dataset, pictures=dataset.pictures[:1]), protocols=protocols).details["differences"]
    assert difference["masks_found"]["mean"] == share
    assert difference["masks_best_iou"]["mean"] == pytest.approx((1 + 0.82) / 2)


@pytest.mark.parametrize(("rank_by", "recall_at_10"), [("predicted_iou", 1), ("stability_score", 0.7), ("product", 0)])
def test_the_ranking_decides_which_masks_are_the_first_ten(dataset, disc_model, rectangle, rank_by, recall_at_10):
    masks = [
        ((0, 50, 100, 150), 0.95, 0.4),  # the whole object: predicted to be best, least stable, product 0.38
        ((0, 50, 82, 150), 0.3, 0.95),  # IoU 0.82: predicted to be worst, most stable, product 0.285
        *[((0, 200, 9 + index, 209), 0.9, 0.5) for index in range(10)],  # elsewhere, product 0.45
    ]
    records = [
        {"segmentation": encode_rle(rectangle(*box)), "predicted_iou": predicted, "stability_score": stability}
        for box, predicted, stability in masks
    ]
    picture = replace(dataset.pictures[0], instances=dataset.pictures[0].instances[1:])
    report = evaluate_everything(
        replace(dataset, pictures=(picture,)),
        [disc_model],
        [replace(EXACT, rank_by=rank_by)],
        make_generator=lambda config, engine: SimpleNamespace(generate=lambda image: records),
    )
    [summary] = report.details["runs"]
    assert summary["recall"]["AR@10"]["mean"] == pytest.approx(recall_at_10)
    assert summary["recall"]["AR@100"]["mean"] == 1
    assert np.isnan(summary["points_mean"])  # the generator does not tell
    assert [row["points"] for row in cells(report.tables[1])] == ["-"]


def test_a_single_run_has_no_differences_and_other_bins_are_taken(run):
    protocol = replace(EXACT, area_bins=(AreaBin("tiny", 2000), AreaBin("rest")))
    report = run(protocols=[protocol])
    assert [table.title for table in report.tables] == ["Average recall of annotated objects", "Masks and seconds"]
    assert {name: bins["AR@10"][0] for name, bins in report.details["runs"][0]["by_bin"].items()} == {
        "tiny": 1, "rest": 2,
    }  # fmt: skip


# The report


def test_the_tables_say_what_was_found(run):
    recall, cost, differences, partners = run().tables
    exact, fast = cells(recall)
    assert (exact["Mode"], exact["Model"], exact["AR@1000"], exact["best IoU"]) == ("exact", "disc", "0.567", "0.607")
    assert (exact["small (n=1)"], exact["medium (n=1)"], exact["large (n=1)"]) == ("1.000", "0.000", "0.700")
    assert (exact["masks"], exact["s/picture"], fast["s/picture"]) == ("1.0", "4", "1")
    assert "3 objects in 3 pictures" in recall.note
    assert cells(cost)[0]["points"] == "100"
    assert differences.title == "Differences to exact disc"
    [row] = cells(differences)
    assert (row["Mode"], row["AR@10"], row["95% interval of AR@10"]) == ("fast", "+0.1000", "[-0.3500, +1.0000]")
    assert partners.title == "The masks of exact disc"
    [row] = cells(partners)
    assert (row["found again"], row["best IoU"], row["time ratio"]) == ("0.333", "0.333", "0.25")


def test_the_report_tells_how_to_run_it_again_and_what_was_left_out(run, dataset):
    first = dataset.pictures[0]
    crowd = replace(first.instances[0], id="crowd", is_crowd=True)
    foreign = replace(first.instances[0], id="foreign", rle=encode_rle(np.ones((9, 9), bool)))
    first = replace(first, instances=(*first.instances, crowd, foreign), size_hw=None)
    report = run(replace(dataset, pictures=(first, *dataset.pictures[1:]), kind="lvis"))
    assert report.kind == "everything"
    assert report.counts == {
        "pictures measured": 3,
        "pictures failed": 0,
        "objects measured": 3,
        "left out: crowd mask": 1,
        "left out: mask of another size": 1,
    }
    assert [protocol["mode"] for protocol in report.protocols] == ["exact", "fast"]
    assert report.protocols[0]["points_per_side"] == 32
    notes = " ".join(report.notes)
    for words in (
        "exact: exact, 32 x 32 points",
        "LVIS: of each picture only some",
        "small below 1024 px",
        "2000 resam",
    ):
        assert words in notes
    assert "sittings" not in notes
    assert set(report.profile) >= {"exact disc", "fast disc", "compare", "statistics"}


def test_the_folder_holds_the_report_and_a_row_for_each_object_mode_and_model(run, tmp_path):
    report = run(options=RunOptions(tmp_path / "run"))
    assert read_json(tmp_path / "run" / "report.json").to_json() == json.loads(json.dumps(report.to_json()))
    rows = csv_rows(tmp_path / "run")
    assert [(row["protocol"], row["object"]) for row in rows] == [
        (mode, name) for mode in ("exact", "fast") for name in ("a1", "a2", "b1")
    ]
    a2 = rows[1]
    assert (a2["picture"], a2["model"], a2["area_bin"], a2["area_px"]) == ("a", "disc", "large", "10000")
    assert (a2["recall_10"], a2["recall_1000"], a2["recall_in_bin_100"], a2["best_iou"]) == (
        "0.7",
        "0.7",
        "0.7",
        "0.82",
    )
    stored = json.loads((tmp_path / "run" / "report.json").read_text())["details"]["pictures"]["fast disc"]
    assert stored[2] == {"picture": "c", "num_masks": 0, "num_points": 40, "seconds": 1}


def test_the_journal_holds_numbers_and_no_masks(run, tmp_path):
    run(options=RunOptions(tmp_path / "run"))
    lines = (tmp_path / "run" / "measurements.jsonl").read_text().splitlines()
    assert all("counts" not in line for line in lines[1:])
    assert json.loads(lines[1])["runs"]["fast"]["disc"]["partners"] == [2, 1, 1.0]
    assert json.loads(lines[3])["runs"]["exact"]["disc"] == {
        "found": [], "num_masks": 1, "num_points": 100, "seconds": 4,
    }  # fmt: skip


def test_the_page_has_the_tables_and_recall_against_seconds(run, tmp_path, draws_page):
    run(options=RunOptions(tmp_path / "run"))
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "AR@1000 against seconds for a picture: exact disc 0.567 in 4 s, fast disc 0.667 in 1 s." in text
    assert "<h3>Protocol" not in text
    assert "Differences to exact disc" in text
    assert "+0.1000" in text


# Turns


def test_all_take_turns_on_each_picture_and_their_order_rotates(run, makes, disc_model, small_disc_model):
    report = run(models=[disc_model, small_disc_model])
    runs = ["exact disc", "exact small disc", "fast disc", "fast small disc"]
    assert makes.calls == [
        f"{runs[(first + turn) % 4]} {picture}" for first, picture in enumerate("abc") for turn in range(4)
    ]
    assert [(one["protocol"], one["model"]) for one in report.details["runs"]] == [
        ("exact", "disc"), ("exact", "small"), ("fast", "disc"), ("fast", "small"),
    ]  # fmt: skip
    assert [one["baseline"] for one in report.details["differences"]] == ["exact disc"] * 3
    assert report.details["differences"][0]["recall"]["AR@10"]["mean"] == 0  # the same masks


def test_the_order_does_not_depend_on_which_pictures_are_left(dataset, disc_model, makes):
    task = EverythingTask([EXACT, FAST], [disc_model], dataset.pictures, makes.generator)
    opened = OpenedPicture(dataset.pictures[1], makes.pixels["b"], b"")
    entry = task.entry_of_pixels(opened, Stopwatch(), Counter())
    assert makes.calls == ["fast disc b", "exact disc b"]
    assert list(entry["runs"]) == ["exact", "fast"]


# Failures, and runs that go on


def test_a_picture_that_one_mode_cannot_do_is_out_for_all_and_counted(run, makes, tmp_path):
    makes.errors["fast", "a"] = RuntimeError("out of memory")
    report = run(options=RunOptions(tmp_path / "run"))
    assert report.failures == ({"picture": "a", "reason": "RuntimeError: out of memory"},)
    assert report.counts["objects of failed pictures"] == 2
    exact, fast = report.details["runs"]
    assert (exact["num_objects"], exact["num_pictures"], exact["recall"]["AR@10"]["mean"]) == (1, 2, 0)
    assert fast["recall"]["AR@10"]["mean"] == 1
    makes.errors.clear()
    mended = run(options=RunOptions(tmp_path / "run"))
    assert mended.details["runs"][0]["num_pictures"] == 3
    assert not mended.failures


def test_recall_is_missing_where_all_objects_are_in_pictures_that_failed(run, dataset):
    for picture in dataset.pictures[:2]:
        picture.path.write_bytes(b"this was a picture")
    report = run()
    assert report.counts["objects measured"] == 0
    assert [row["AR@10"] for row in cells(report.tables[0])] == ["-", "-"]
    assert [row["masks"] for row in cells(report.tables[1])] == ["1.0", "0.0"]
    assert report.to_json()["details"]["runs"][0]["recall"]["AR@10"]["mean"] is None


@pytest.mark.parametrize("num_done", [1, 2])
@pytest.mark.parametrize("cut_bytes", [0, 20])
def test_a_killed_run_that_goes_on_ends_with_the_numbers_of_one_that_was_not(run, makes, tmp_path, num_done, cut_bytes):
    def kill(done, failed, total):
        if done == num_done:
            raise KeyboardInterrupt

    whole = run(options=RunOptions(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        run(options=RunOptions(tmp_path / "killed", progress=kill))
    journal = tmp_path / "killed" / "measurements.jsonl"
    journal.write_bytes(journal.read_bytes()[: -cut_bytes or None])  # what a kill amid a line leaves
    makes.calls.clear()
    again = run(options=RunOptions(tmp_path / "killed"))
    num_kept = num_done - (cut_bytes > 0)
    assert len(makes.calls) == 2 * (3 - num_kept)
    csv_bytes = [(tmp_path / name / "measurements.csv").read_bytes() for name in ("whole", "killed")]
    assert csv_bytes[0] == csv_bytes[1]
    assert again.details == whole.details
    assert [table.texts for table in again.tables] == [table.texts for table in whole.tables]
    told = [note for note in again.notes if "sittings" in note]
    if num_kept:
        assert told[0].startswith("The seconds come from 2 sittings: pictures measured ")
        assert f"{num_kept} from 20" in told[0]
    else:
        assert told == []


def test_seconds_of_an_earlier_sitting_are_kept(run, makes, tmp_path):
    def kill(done, failed, total):
        if done == 1:
            raise KeyboardInterrupt

    makes.slowness = 10
    with pytest.raises(KeyboardInterrupt):
        run(options=RunOptions(tmp_path / "run", progress=kill))
    makes.slowness = 1
    assert run(options=RunOptions(tmp_path / "run")).details["runs"][0]["total_s"] == 40 + 8 + 4


def test_another_run_in_the_folder_is_refused_unless_it_is_to_begin_anew(run, makes, tmp_path):
    run(options=RunOptions(tmp_path / "run"))
    makes.calls.clear()
    other = [replace(EXACT, config=EverythingConfig(points_per_side=16)), FAST]
    with pytest.raises(ValueError, match=r"holds another run: .*points_per_side was 32, is 16"):
        run(protocols=other, options=RunOptions(tmp_path / "run"))
    assert makes.calls == []
    assert (
        run(protocols=other, options=RunOptions(tmp_path / "run", restarts=True)).protocols[0]["points_per_side"] == 16
    )
    assert len(makes.calls) == 6


# Bad input


def test_there_must_be_single_objects_to_be_found(run, makes, dataset, make_dataset, make_picture):
    with pytest.raises(ValueError, match="handmade has no object to measure"):
        run(make_dataset(make_picture("a")))
    crowds = tuple(
        replace(p, instances=tuple(replace(i, is_crowd=True) for i in p.instances)) for p in dataset.pictures
    )
    with pytest.raises(ValueError, match="handmade has only crowds, 3 of them; recall needs single objects"):
        run(replace(dataset, pictures=crowds))
    assert makes.calls == []


def test_not_one_picture_that_can_be_measured_is_an_error(run, dataset):
    for picture in dataset.pictures:
        picture.path.write_bytes(b"this was a picture")
    with pytest.raises(ValueError, match="none of the 3 pictures could be measured"):
        run()


def test_names_must_be_unique(run, disc_model):
    with pytest.raises(ValueError, match="protocols must have unique names, got 'exact'"):
        run(protocols=[EXACT, EXACT])
    with pytest.raises(ValueError, match="models must have unique names, got 'disc'"):
        run(models=[disc_model, disc_model])
    with pytest.raises(ValueError, match="protocols must have unique names, got none"):
        run(protocols=[])


# This package's generator


def test_the_disc_at_a_point_of_the_grid_is_found(make_picture, make_instance, make_dataset, disc, disc_engine):
    dataset = make_dataset(make_picture("p", [make_instance("1", disc(64, 64, 40))]), make_picture("none"))
    config = EverythingConfig(points_per_side=2, pred_iou_thresh=0.1, stability_score_thresh=0.1)
    model = Model(ModelSpec("disc"), disc_engine)
    report = evaluate_everything(dataset, [model], [EverythingProtocol("exact", config=config)])
    [summary] = report.details["runs"]
    assert summary["recall"]["AR@10"]["mean"] == 1
    assert summary["best_iou"]["mean"] > 0.95
    assert summary["masks_min"] >= 4
    assert summary["points_mean"] == 4
    assert summary["median_s"] > 0
