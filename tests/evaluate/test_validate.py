"""Whole evaluations on three pictures: means worked out by hand, denominators, killed runs, and nothing to measure."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from mobile_sam.core.masks import encode_rle, rle_area
from mobile_sam.data.mask_files import Detections, FileMask, MaskFile, PictureDetections
from mobile_sam.data.records import Dataset, Instance, Picture, Problem
from mobile_sam.evaluate import validate
from mobile_sam.evaluate.latency_results import LatencyProtocol, LatencyResult, LatencyRow, MemoryRow
from mobile_sam.evaluate.models import Model, ModelSpec
from mobile_sam.evaluate.protocols import AgreementProtocol, BoxesProtocol, PromptsProtocol
from mobile_sam.evaluate.report.files import read_json
from mobile_sam.evaluate.session import RunOptions
from mobile_sam.evaluate.validate import evaluate_agreement, evaluate_boxes, evaluate_latency, evaluate_prompts

BOX = PromptsProtocol("box")
LEFTS = {"a": (10,), "b": (20, 120), "c": (30, 130, 180)}
"""Left edges of the objects of three pictures; each object is 40 pixels wide and 50 high."""


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
    pictures = [
        make_picture(
            name,
            [make_instance(f"{name}{left}", rectangle(left, 100, left + 40, 150), category_id=1) for left in lefts],
        )
        for name, lefts in LEFTS.items()
    ]
    return make_dataset(*pictures)


@pytest.fixture
def narrow(answering, rectangle):
    """Make a model whose masks are the objects' left parts, of so many of their 40 columns."""

    def make(columns, name="narrow"):
        def answer(asked):
            x1 = int(asked.box_xyxy[0])
            return rectangle(x1, 100, x1 + columns(x1), 150)

        return answering(answer, name)

    return make


def break_picture(dataset, index):
    dataset.pictures[index].path.write_bytes(b"this was a picture")


def texts(report):
    """The cells of all tables, in which NaN equals NaN."""
    return [table.texts for table in report.tables]


def csv_rows(folder):
    with open(folder / "measurements.csv", newline="") as file:
        return list(csv.DictReader(file))


# Prompts


def test_means_and_differences_are_those_worked_out_by_hand(dataset, narrow):
    models = [narrow(lambda x1: 20 if x1 < 100 else 40, "half"), narrow(lambda x1: 30, "most")]
    report = evaluate_prompts(dataset, models, [BOX])
    half, most = report.summaries
    # IoU 0.5 for the three objects on the left, 1 for the three on the right; 0.75 for all
    assert (half.model, half.num_objects, half.num_pictures) == ("half", 6, 3)
    assert half.mean == pytest.approx((3 * 0.5 + 3 * 1) / 6)
    assert half.mean_of_pictures == pytest.approx((0.5 + 0.75 + 2.5 / 3) / 3)
    assert most.mean == pytest.approx(0.75)
    assert half.by_bin["medium"] == (6, pytest.approx(0.75))  # 2000 pixels each
    assert half.calibration == pytest.approx(0.5 - 0.75)
    [difference] = report.differences
    assert (difference.model, difference.baseline, difference.num_pairs) == ("most", "half", 6)
    assert difference.mean_difference == pytest.approx(0)
    assert (difference.share_better, difference.share_worse) == (0.5, 0.5)
    assert report.counts == {"pictures measured": 3, "pictures failed": 0, "objects measured": 6}


def test_the_report_tells_all_that_is_needed_to_run_it_again(dataset, narrow):
    problem = Problem("crowd mask", "annotation 17", "left out")
    options = RunOptions(command="mobile-sam evaluate prompts ...")
    protocols = [BOX, PromptsProtocol("clicks", num_clicks=1, seed=3)]
    report = evaluate_prompts(replace(dataset, problems=(problem,)), [narrow(lambda _: 9)], protocols, options)
    assert report.kind == "prompts"
    assert report.command == options.command
    assert list(report.protocols) == [protocol.to_json() for protocol in protocols]
    assert [model["name"] for model in report.models] == ["narrow"]
    assert set(report.models[0]) >= {"engine", "precision", "weights_sha256", "model_id"}
    assert report.dataset["sha256"] == dataset.sha256
    assert [one["where"] for one in report.problems] == ["annotation 17"]
    assert set(report.profile) >= {"encode", "decode", "masks", "compare", "statistics"}
    assert report.wall_s > 0


def test_a_broken_picture_is_out_of_the_mean_and_counted_with_its_objects(dataset, narrow):
    crowd = replace(dataset.pictures[0].instances[0], id="crowd", is_crowd=True)
    first = replace(dataset.pictures[0], instances=(*dataset.pictures[0].instances, crowd))
    dataset = replace(dataset, pictures=(first, *dataset.pictures[1:]))
    break_picture(dataset, 2)
    report = evaluate_prompts(dataset, [narrow(lambda x1: 40 if x1 == 10 else 10)], [BOX, replace(BOX, name="again")])
    assert report.counts == {
        "pictures measured": 2,
        "pictures failed": 1,
        "objects measured": 3,
        "left out: crowd mask": 1,
        "objects of failed pictures": 3,
    }
    [failure] = report.failures
    assert failure["picture"] == "c"
    assert "c.png" in failure["reason"]
    for summary in report.summaries:
        assert (summary.num_objects, summary.num_pictures) == (3, 2)
        assert summary.mean == pytest.approx((1 + 0.25 + 0.25) / 3)


def test_what_was_left_out_of_a_picture_that_failed_later_is_not_counted_twice(dataset, answering, rectangle):
    crowd = replace(dataset.pictures[2].instances[0], id="crowd", is_crowd=True)
    last = replace(dataset.pictures[2], instances=(crowd, *dataset.pictures[2].instances))

    def answer(asked):
        if asked.box_xyxy[0] == 180:
            raise MemoryError("too large")
        return rectangle(0, 0, 9, 9)

    report = evaluate_prompts(replace(dataset, pictures=(*dataset.pictures[:2], last)), [answering(answer)], [BOX])
    assert report.counts == {
        "pictures measured": 2,
        "pictures failed": 1,
        "objects measured": 3,
        "objects of failed pictures": 4,
    }
    assert report.failures[0]["reason"] == "MemoryError: too large"


def test_a_picture_of_another_size_than_annotated_fails_and_the_others_go_on(dataset, narrow):
    wrong = replace(dataset.pictures[1], size_hw=(256, 300))
    report = evaluate_prompts(
        replace(dataset, pictures=(dataset.pictures[0], wrong, dataset.pictures[2])), [narrow(lambda _: 40)], [BOX]
    )
    assert [failure["picture"] for failure in report.failures] == ["b"]
    assert "annotated are 300 x 256" in report.failures[0]["reason"]
    assert report.counts["objects measured"] == 4


def test_the_folder_holds_the_report_and_a_row_for_each_mask(dataset, narrow, tmp_path):
    models = [narrow(lambda _: 20, "half"), narrow(lambda _: 40, "whole")]
    folder = tmp_path / "run"
    report = evaluate_prompts(dataset, models, [BOX], RunOptions(folder))
    assert read_json(folder / "report.json").to_json() == json.loads(json.dumps(report.to_json()))
    rows = csv_rows(folder)
    assert len(rows) == 2 * 6
    assert {(row["model"], float(row["iou"])) for row in rows} == {("half", 0.5), ("whole", 1.0)}
    assert {row["object"] for row in rows if row["picture"] == "c"} == {"c30", "c130", "c180"}


def test_the_page_shows_the_worst_and_the_best_masks(dataset, narrow, tmp_path, draws_page):
    models = [narrow(lambda x1: x1 // 10, "ours")]
    evaluate_prompts(dataset, models, [BOX], RunOptions(tmp_path / "run", num_cases=1))
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "ours: IoU 0.025" in page  # one column of forty of the object at 10
    assert "object a10 (thing) of picture a" in page
    assert "ours: IoU 0.450" in page  # eighteen of forty of the one at 180
    assert "object b20" not in page


@pytest.mark.parametrize("num_done", [1, 2])
@pytest.mark.parametrize("cut_bytes", [0, 20])
def test_a_killed_run_that_goes_on_ends_with_the_table_of_one_that_was_not(
    dataset, disc_model, small_disc_model, tmp_path, num_done, cut_bytes
):
    protocols = [
        PromptsProtocol("random", first_prompt="random", mask_rule="best"),
        PromptsProtocol("clicks", num_clicks=2, next_click="random-error"),
    ]
    models = [disc_model, small_disc_model]

    def kill(done, failed, total):
        if done == num_done:
            raise KeyboardInterrupt

    whole = evaluate_prompts(dataset, models, protocols, RunOptions(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        evaluate_prompts(dataset, models, protocols, RunOptions(tmp_path / "killed", progress=kill))
    assert not (tmp_path / "killed" / "report.json").exists()
    journal = tmp_path / "killed" / "measurements.jsonl"
    journal.write_bytes(journal.read_bytes()[: -cut_bytes or None])  # what a kill amid a line leaves
    told = []
    again = evaluate_prompts(
        dataset, models, protocols, RunOptions(tmp_path / "killed", progress=lambda *numbers: told.append(numbers))
    )
    num_kept = num_done - (cut_bytes > 0)
    assert told[0] == (num_kept, 0, 3)
    assert told[-1] == (3, 0, 3)
    csv_bytes = [(tmp_path / name / "measurements.csv").read_bytes() for name in ("whole", "killed")]
    assert csv_bytes[0] == csv_bytes[1]
    assert len(csv_bytes[0].splitlines()) == 1 + 6 * 2 * (1 + 3)
    assert again.summaries == whole.summaries
    assert again.differences == whole.differences
    assert again.counts == whole.counts
    assert any("earlier run" in note for note in again.notes) == (num_kept > 0)


def test_a_picture_that_was_broken_is_tried_again_when_the_run_goes_on(dataset, disc_model, tmp_path):
    content = dataset.pictures[1].path.read_bytes()
    options = RunOptions(tmp_path / "run")
    break_picture(dataset, 1)
    assert evaluate_prompts(dataset, [disc_model], [BOX], options).counts["pictures failed"] == 1
    dataset.pictures[1].path.write_bytes(content)
    mended = evaluate_prompts(dataset, [disc_model], [BOX], options)
    assert mended.counts == {"pictures measured": 3, "pictures failed": 0, "objects measured": 6}
    assert mended.summaries == evaluate_prompts(dataset, [disc_model], [BOX]).summaries


def test_another_run_in_the_folder_is_refused_unless_it_is_to_begin_anew(dataset, disc_model, tmp_path):
    evaluate_prompts(dataset, [disc_model], [BOX], RunOptions(tmp_path / "run"))
    other = [replace(BOX, mask_rule="best")]
    with pytest.raises(ValueError, match=r"holds another run: .*mask_rule was single, is best"):
        evaluate_prompts(dataset, [disc_model], other, RunOptions(tmp_path / "run"))
    report = evaluate_prompts(dataset, [disc_model], other, RunOptions(tmp_path / "run", restarts=True))
    assert report.protocols[0]["mask_rule"] == "best"


def test_embeddings_kept_on_disk_spare_another_run_the_encoder(dataset, narrow, tmp_path):
    model, encoded = narrow(lambda _: 20), []
    encode = model.engine.encode
    model.engine.encode = lambda images: encoded.append(len(images)) or encode(images)
    options = RunOptions(embeddings=tmp_path / "embeddings")
    first = evaluate_prompts(dataset, [model], [BOX], options)
    assert encoded == [1, 1, 1]
    assert evaluate_prompts(dataset, [model], [BOX], options).summaries == first.summaries
    assert encoded == [1, 1, 1]


def test_there_must_be_objects_of_the_kind_that_protocols_need(dataset, make_picture, make_dataset, disc_model):
    problem = Problem("empty mask", "annotation 1", "left out")
    with pytest.raises(ValueError, match=r"handmade has no object to measure; left out: \{'empty mask': 1\}"):
        evaluate_prompts(make_dataset(make_picture("p"), problems=(problem,)), [disc_model], [BOX])
    with pytest.raises(ValueError, match="'slimsam' needs the click that made each mask"):
        evaluate_prompts(dataset, [disc_model], [BOX, PromptsProtocol("slimsam", first_prompt="annotated")])
    crowds = tuple(
        replace(p, instances=tuple(replace(i, is_crowd=True) for i in p.instances)) for p in dataset.pictures
    )
    with pytest.raises(ValueError, match=r"not one of the objects could be measured; left out: \{'crowd mask': 6\}"):
        evaluate_prompts(replace(dataset, pictures=crowds), [disc_model], [BOX])
    for index in range(3):
        break_picture(dataset, index)
    with pytest.raises(ValueError, match="none of the 3 pictures could be measured"):
        evaluate_prompts(dataset, [disc_model], [BOX])


def test_pictures_are_encoded_once_for_all_protocols_and_again_only_to_be_shown(dataset, narrow, tmp_path):
    model, encoded = narrow(lambda x1: x1 // 10), []
    encode = model.engine.encode
    model.engine.encode = lambda images: encoded.append(len(images)) or encode(images)
    protocols = [BOX, replace(BOX, name="clicks", num_clicks=1), replace(BOX, name="best", mask_rule="best")]
    evaluate_prompts(dataset, [model], protocols)
    assert len(encoded) == 3
    evaluate_prompts(dataset, [model], protocols, RunOptions(tmp_path / "plain", num_cases=0))
    assert len(encoded) == 3 + 3
    evaluate_prompts(dataset, [model], protocols[:1], RunOptions(tmp_path / "shown", num_cases=1))
    assert len(encoded) == 3 + 3 + 3 + 2  # the worst is in the first picture, the best in the last


@pytest.mark.parametrize(
    ("num_models", "protocols", "message"),
    [(2, [BOX], "models must have unique names, got 'disc'"), (1, [BOX, BOX], "protocols must have unique names")],
)
def test_names_must_be_unique(dataset, disc_model, num_models, protocols, message):
    with pytest.raises(ValueError, match=message):
        evaluate_prompts(dataset, [disc_model] * num_models, protocols)


# Agreement


def test_agreement_means_are_those_worked_out_by_hand(dataset, narrow, tmp_path):
    reference, others = (
        narrow(lambda _: 40, "ref"),
        [narrow(lambda _: 10, "ten"), narrow(lambda x1: x1 // 10, "rising")],
    )
    protocol = AgreementProtocol("box", prompts="box", mask_rule="single")
    report = evaluate_agreement(dataset, reference, others, [protocol], RunOptions(tmp_path / "run"))
    assert [(s.model, s.num_objects, s.mean) for s in report.summaries] == [
        ("ten", 6, pytest.approx(0.25)),
        ("rising", 6, pytest.approx((1 + 2 + 12 + 3 + 13 + 18) / 6 / 40)),
    ]
    assert [(d.model, d.baseline) for d in report.differences] == [("rising", "ten")]
    assert [model["name"] for model in report.models] == ["ref", "ten", "rising"]
    assert report.dataset["reference"] == {"name": "ref"}
    assert report.counts == {"pictures measured": 3, "pictures failed": 0, "prompts measured": 6}
    assert len(csv_rows(tmp_path / "run")) == 2 * 6


def test_masks_of_a_file_are_a_reference_whose_gaps_and_problems_are_in_the_report(dataset, narrow, rectangle):
    masks = {
        name: tuple(
            FileMask(f"box/{name}{left}", encode_rle(rectangle(left, 100, left + 20, 150))) for left in lefts[:2]
        )
        for name, lefts in LEFTS.items()
    }
    problem = Problem("empty mask", "entry 9", "no pixel", False)
    masks["elsewhere"] = masks[next(iter(LEFTS))]
    reference = MaskFile("vit_h.json", "1" * 64, masks, (problem,))
    protocol = AgreementProtocol("box", prompts="box", mask_rule="single")
    report = evaluate_agreement(dataset, reference, [narrow(lambda _: 40)], [protocol])
    [summary] = report.summaries
    assert (summary.num_objects, summary.mean) == (5, pytest.approx(0.5))
    assert report.counts["left out: prompt without a mask in the file"] == 1
    assert report.dataset["reference"] == {"name": "vit_h.json", "sha256": "1" * 64, "pairing": "id"}
    assert [one["where"] for one in report.problems] == ["entry 9", "picture elsewhere"]


def test_masks_of_a_file_may_be_found_by_overlap(dataset, narrow, rectangle):
    masks = {
        name: tuple(FileMask("", encode_rle(rectangle(left, 100, left + 20, 150))) for left in lefts)
        for name, lefts in LEFTS.items()
    }
    reference, protocol = MaskFile("fast.json", "1" * 64, masks), AgreementProtocol("box", prompts="box")
    report = evaluate_agreement(dataset, reference, [narrow(lambda _: 40)], [protocol], pairing="overlap")
    assert (report.summaries[0].num_objects, report.summaries[0].mean) == (6, pytest.approx(0.5))
    assert report.dataset["reference"]["pairing"] == "overlap"


def test_the_same_prompts_are_measured_when_an_agreement_run_goes_on(dataset, disc_model, small_disc_model, tmp_path):
    protocols = [
        AgreementProtocol("random", prompts="random", num_prompts=5),
        AgreementProtocol("pair", prompts="pair", num_prompts=2, distance_px=50, mask_rule="single"),
    ]

    def kill(done, failed, total):
        if done == 2:
            raise KeyboardInterrupt

    def run(folder, progress=None):
        options = RunOptions(tmp_path / folder, progress=progress)
        return evaluate_agreement(dataset, disc_model, [small_disc_model], protocols, options)

    run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("killed", kill)
    run("killed")
    csv_bytes = [(tmp_path / name / "measurements.csv").read_bytes() for name in ("whole", "killed")]
    assert csv_bytes[0] == csv_bytes[1]
    assert len(csv_bytes[0].splitlines()) == 1 + 3 * 7


def test_agreement_needs_something_to_compare_and_something_to_ask(
    dataset, make_dataset, make_picture, disc_model, narrow
):
    grid, box = AgreementProtocol("grid"), AgreementProtocol("box", prompts="box")
    bare = make_dataset(make_picture("p"))
    with pytest.raises(ValueError, match="agreement needs two models"):
        evaluate_agreement(dataset, disc_model, [], [grid])
    with pytest.raises(ValueError, match="'box' makes prompts from objects; handmade has none"):
        evaluate_agreement(bare, disc_model, [narrow(lambda _: 9)], [grid, box])
    mask = FileMask("grid-2/0", encode_rle(np.ones((9, 9), bool)))
    elsewhere = MaskFile("masks.json", "", {"q": (mask,)})
    with pytest.raises(
        ValueError, match=r"no mask in masks\.json is of a picture in handmade: ids are like 'q' and 'p'"
    ):
        evaluate_agreement(bare, elsewhere, [disc_model], [grid])
    for names, told in ((("", ""), "missing"), (("grid-2/0", "9"), "'9', 'grid-2/0'")):
        others = MaskFile("masks.json", "", {"p": tuple(replace(mask, id=name) for name in names)})
        with pytest.raises(
            ValueError, match=rf"prompt ids in masks\.json are {told}, those of this run begin with grid-5: copy"
        ):
            evaluate_agreement(bare, others, [disc_model], [grid])
    with pytest.raises(ValueError, match="models must have unique names, got 'disc'"):
        evaluate_agreement(bare, disc_model, [disc_model], [grid])


def test_a_file_s_own_clicks_need_no_annotated_objects(make_dataset, make_picture, disc_model, disc):
    masks = {"p": (FileMask("7", encode_rle(disc(100, 100, 40)), point_xy=(100.0, 100.0)),)}
    protocol = AgreementProtocol("given", prompts="given")
    report = evaluate_agreement(make_dataset(make_picture("p")), MaskFile("m", "", masks), [disc_model], [protocol])
    assert report.summaries[0].mean == pytest.approx(1, abs=0.01)


# Boxes


def detections(score=0.9, **boxes_of_pictures):
    pictures = {
        name: PictureDetections(np.array(found, float), np.full(len(found), score), np.ones(len(found), np.int64))
        for name, found in boxes_of_pictures.items()
    }
    return Detections("boxes.json", "2" * 64, pictures, (Problem("box without area", "entry 3", "..."),))


def all_boxes():
    return {name: [(left, 100, left + 40, 150) for left in lefts] for name, lefts in LEFTS.items()}


def test_boxes_with_true_masks_have_an_ap_of_1_and_the_report_counts_them(dataset, narrow, tmp_path):
    models = [narrow(lambda _: 40, "whole"), narrow(lambda _: 28, "part")]
    found = detections(**all_boxes(), elsewhere=[(0, 0, 9, 9)])
    report = evaluate_boxes(dataset, found, models, options=RunOptions(tmp_path / "run"))
    metrics, differences = report.tables
    assert [row[:2] for row in metrics.rows] == [
        ("boxes whole", pytest.approx(1)),
        ("boxes part", pytest.approx(0.5)),  # IoU 0.7: right at five of the ten thresholds
        ("(the boxes themselves)", pytest.approx(1)),
    ]
    assert differences.rows[0][1] == pytest.approx(-0.5)
    assert report.counts == {"pictures measured": 3, "pictures failed": 0, "boxes measured": 6}
    assert [(one["kind"], one["where"]) for one in report.problems] == [
        ("box without area", "entry 3"), ("detections of an unknown picture", "picture elsewhere")
    ]  # fmt: skip
    assert report.dataset["detections"] == {"name": "boxes.json", "sha256": "2" * 64}
    assert texts(read_json(tmp_path / "run" / "report.json")) == texts(report)
    rows = csv_rows(tmp_path / "run")
    assert [row["model"] for row in rows] == ["whole"] * 6 + ["part"] * 6
    for name, width in (("whole", 40), ("part", 28)):
        masks = json.loads((tmp_path / "run" / f"masks_boxes_{name}.json").read_text())
        assert {(one["category_id"], one["score"]) for one in masks} == {(1, 0.9)}
        assert [rle_area(one["segmentation"]) for one in masks] == [width * 50] * 6
        assert [int(row["mask_px"]) for row in rows if row["model"] == name] == [width * 50] * 6


def test_a_broken_picture_costs_no_ap_and_boxes_outside_are_not_among_the_measured(dataset, narrow):
    boxes = all_boxes()
    boxes["b"] += [(300, 300, 340, 350)]
    break_picture(dataset, 2)
    protocols = [BoxesProtocol("all"), BoxesProtocol("one", max_detections=1)]
    report = evaluate_boxes(dataset, detections(**boxes), [narrow(lambda _: 40)], protocols)
    assert report.counts == {
        "pictures measured": 2,
        "pictures failed": 1,
        "boxes measured": 3,
        "left out: box outside the picture": 1,
        "left out: box beyond max_detections": 2,
        "objects of failed pictures": 3,
    }
    assert report.tables[0].rows[0][:2] == ("all narrow", pytest.approx(1))


def test_a_killed_run_over_boxes_ends_with_the_tables_of_one_that_was_not(dataset, narrow, tmp_path):
    def kill(done, failed, total):
        if done == 1:
            raise KeyboardInterrupt

    found, models = detections(**all_boxes()), [narrow(lambda x1: 40 - x1 // 10)]
    whole = evaluate_boxes(dataset, found, models)
    with pytest.raises(KeyboardInterrupt):
        evaluate_boxes(dataset, found, models, options=RunOptions(tmp_path, progress=kill))
    again = evaluate_boxes(dataset, found, models, options=RunOptions(tmp_path))
    assert texts(again) == texts(whole)
    assert again.counts == whole.counts
    assert 0 < again.tables[0].rows[0][1] < 1


def test_detections_of_pictures_that_were_not_chosen_are_no_problem(dataset, narrow):
    found = detections(**all_boxes(), elsewhere=[(0, 0, 9, 9)])
    report = evaluate_boxes(dataset.some(1), found, [narrow(lambda _: 40)])
    assert [one["where"] for one in report.problems] == ["entry 3", "picture elsewhere"]
    assert report.counts == {"pictures measured": 1, "pictures failed": 0, "boxes measured": 1}
    assert report.tables[0].rows[0][1] == pytest.approx(1)


def test_boxes_need_objects_and_detections_of_the_pictures(dataset, make_dataset, make_picture, disc_model):
    with pytest.raises(ValueError, match=r"no detection in boxes.json is of a picture in handmade"):
        evaluate_boxes(dataset, detections(elsewhere=[(0, 0, 9, 9)]), [disc_model])
    with pytest.raises(ValueError, match="handmade has no object to measure"):
        evaluate_boxes(make_dataset(make_picture("a")), detections(**all_boxes()), [disc_model])


# Latency


def latency_result(models=("fast", "slow")):
    rows = [LatencyRow(name, "encode", "p.png", 0.25 * (n + 1), 0.01, 0.2, 9) for n, name in enumerate(models)]
    problem = Problem("model that gave out", "model broken", "no such file")
    facts = tuple({"name": name} for name in models)
    memory = tuple(MemoryRow(name, 100.0) for name in models)
    return LatencyResult(LatencyProtocol(), facts, 1, tuple(rows), (), memory, (problem,), {"wall": "3 s"})


def test_latency_puts_what_was_timed_and_what_gave_out_into_a_report(dataset, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(validate, "measure_latency", lambda *args: asked.append(args) or latency_result())
    specs, protocol = [ModelSpec("fast"), ModelSpec("slow"), ModelSpec("broken")], LatencyProtocol(num_rounds=2)
    report = evaluate_latency(dataset, specs, protocol, RunOptions(tmp_path / "run", command="time"))
    assert asked == [(protocol, specs, [picture.path for picture in dataset.pictures], None)]
    assert report.counts == {"pictures timed": 1, "models timed": 2}
    assert report.failures == ({"picture": "model broken", "reason": "no such file"},)
    assert report.protocols[0]["num_rounds"] == 2
    assert [table.title for table in report.tables] == ["Latency in ms (1 picture)", "Peak memory in MB"]
    assert [table.num_text_columns for table in report.tables] == [2, 1]
    assert [row[:3] for row in report.tables[0].rows] == [("encode", "fast", 250.0), ("encode", "slow", 500.0)]
    assert report.machine["wall"] == "3 s"
    assert texts(read_json(tmp_path / "run" / "report.json")) == texts(report)


def test_latency_without_a_model_that_runs_says_why(dataset, monkeypatch):
    monkeypatch.setattr(validate, "measure_latency", lambda *_: latency_result(()))
    with pytest.raises(ValueError, match="not one model could be timed: no such file"):
        evaluate_latency(dataset, [ModelSpec("broken")], LatencyProtocol())


# The bundled weights


def test_a_mask_that_the_predictor_gave_for_a_box_has_an_iou_of_1_for_that_box(cat_predictor, examples):
    boxes_xyxy = [(80.0, 40.0, 330.0, 290.0), (200.5, 90.25, 330.0, 260.0)]
    truths, predicted_ious = [], []
    for box_xyxy in boxes_xyxy:
        masks, ious, _ = cat_predictor.predict(box=np.array(box_xyxy), multimask_output=False)
        truths.append(masks[0])
        predicted_ious.append(float(ious[0]))
    pictures = tuple(  # one object each, so that it is decoded alone, as the predictor did
        Picture(
            f"cat {i}",
            examples / "chelsea.png",
            (Instance("1", encode_rle(truth), box_xyxy, float(truth.sum())),),
            (300, 451),
        )
        for i, (truth, box_xyxy) in enumerate(zip(truths, boxes_xyxy, strict=True))
    )
    model = Model(ModelSpec("bundled", engine="onnxruntime"), cat_predictor.engine)
    protocols = [BOX, PromptsProtocol("box-oracle", mask_rule="oracle")]
    report = evaluate_prompts(Dataset("cat", "coco", "", pictures), [model], protocols)
    single, oracle = report.summaries
    assert (single.mean, single.minimum, single.num_objects) == (1.0, 1.0, 2)
    assert single.calibration == pytest.approx(np.mean(predicted_ious) - 1, abs=1e-6)
    assert 0.5 < oracle.mean < 1
