"""`mobile-sam evaluate`: from files to printed numbers and files, and what a user can get wrong."""

import csv
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import mobile_sam.evaluate.models
from mobile_sam.core.masks import encode_rle
from mobile_sam.evaluate.presets import AGREEMENT_PROTOCOLS, EVERYTHING_PROTOCOLS, PROMPTS_PROTOCOLS

SIDE = 256
RUN = "from mobile_sam.cli.main import run; run()"


def disc(centre_xy, radius_px):
    """What the disc engine answers at that place, or nearly: (SIDE, SIDE) bool."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5  # the pixels' centres
    return np.hypot(x - centre_xy[0], y - centre_xy[1]) < radius_px


@pytest.fixture
def discs(tmp_path):
    """Two pictures with a disc each, the first as large as the disc engine's mask of token 0, 10 px."""
    pictures, annotations = [], []
    for number, (centre_xy, radius_px) in enumerate([((100, 120), 10), ((60, 200), 20)], 1):
        Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8)).save(tmp_path / f"{number}.png")
        pictures.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        mask = disc(centre_xy, radius_px)
        x, y = centre_xy[0] - radius_px, centre_xy[1] - radius_px
        annotations.append(
            {
                "id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "area": int(mask.sum()),
                "bbox": [x, y, 2 * radius_px, 2 * radius_px], "segmentation": encode_rle(mask),
            }
        )  # fmt: skip
    content = {"images": pictures, "annotations": annotations, "categories": [{"id": 1, "name": "disc"}]}
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def evaluate(cli, tmp_path, monkeypatch, disc_engine):
    """Run `mobile-sam evaluate ...` in an empty folder; every model is the disc engine."""
    monkeypatch.setattr(mobile_sam.evaluate.models, "make_engine", lambda *_, **__: disc_engine)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return lambda *arguments: cli("evaluate", *arguments)


def report_in(folder):
    return json.loads((folder / "report.json").read_text())


def test_prompts_prints_what_its_files_hold(evaluate, discs, tmp_path):
    ended = evaluate("prompts", discs, "--protocol", "box-single", "--out", tmp_path / "out")
    assert ended.exit_code == 0
    report = report_in(tmp_path / "out")
    (summary,) = report["summaries"]
    assert summary["num_objects"] == 2
    with (tmp_path / "out" / "measurements.csv").open() as file:
        ious = [float(row["iou"]) for row in csv.DictReader(file)]
    small, large = disc((100, 120), 10), disc((60, 200), 20)
    expected = [1.0, disc((60, 200), 10).sum() / large.sum()]  # the engine's disc has 10 px whatever the object
    assert ious == pytest.approx(expected, abs=0.05)
    assert small.sum() == pytest.approx(100 * np.pi, rel=0.05)
    assert f"{np.mean(ious):.3f}" in ended.out
    assert "2 pictures, 2 objects" in ended.err
    assert ended.out.splitlines()[-3:] == [
        str(tmp_path / "out" / name) for name in ("report.json", "measurements.csv", "report.html")
    ]


def test_a_report_says_everything_that_is_needed_to_run_it_again(evaluate, discs, tmp_path):
    evaluate("prompts", discs, "-p", "random-best", "--set", "seed=7", "--sample", "1", "--out", tmp_path / "out")
    report = report_in(tmp_path / "out")
    (protocol,), (model,) = report["protocols"], report["models"]
    assert (protocol["seed"], protocol["mask_rule"], protocol["first_prompt"]) == (7, "best", "random")
    assert protocol["name"] == "random-best seed=7"
    assert report["dataset"]["selection"] == "1 pictures chosen with seed 0"
    assert len(report["dataset"]["sha256"]) == len(model["weights_sha256"]) == 64
    assert report["package_version"] == mobile_sam.__version__
    assert report["command"].endswith("--set seed=7 --sample 1 --out " + str(tmp_path / "out"))


def test_several_models_are_compared_with_the_first(evaluate, discs, tmp_path):
    ended = evaluate("prompts", discs, "-p", "box-single", "-m", "onnxruntime", "-m", "torch", "-o", tmp_path / "out")
    (difference,) = report_in(tmp_path / "out")["differences"]
    assert (difference["model"], difference["baseline"], difference["num_pairs"]) == ("torch", "onnxruntime", 2)
    assert difference["mean_difference"] == 0
    assert "Differences to onnxruntime" in ended.out


def test_agreement_needs_pictures_only(evaluate, discs, tmp_path):
    ended = evaluate("agreement", discs.parent / "1.png", "-m", "onnxruntime", "-m", "torch", "-p", "grid")
    assert ended.exit_code == 0
    (summary,) = report_in(tmp_path / "work" / "evaluation-agreement")["summaries"]
    assert (summary["num_objects"], summary["mean"]) == (25, 1.0)


def test_prompts_go_to_another_tool_and_its_masks_come_back(evaluate, discs, tmp_path):
    prompts, masks = tmp_path / "prompts.json", tmp_path / "masks.json"
    ended = evaluate("agreement", discs, "--protocol", "centre", "--write-prompts", prompts)
    assert ended.out == f"2 prompts: {prompts}\n"
    answers = [
        {
            "image_id": prompt["image_id"],
            "prompt_id": prompt["prompt_id"],
            "segmentation": encode_rle(disc(prompt["point_coords"][0], 40)),
        }
        for prompt in json.loads(prompts.read_text())
    ]
    masks.write_text(json.dumps(answers))
    ended = evaluate("agreement", discs, "-p", "centre", "--reference-masks", masks, "-o", tmp_path / "out")
    assert ended.exit_code == 0
    (summary,) = report_in(tmp_path / "out")["summaries"]
    assert summary["num_objects"] == 2
    assert summary["mean"] > 0.95  # the engine's best mask, token 3, has 40 px as well


def test_boxes_gives_coco_ap(evaluate, discs, tmp_path):
    detections = tmp_path / "detections.json"
    boxes = [entry["bbox"] for entry in json.loads(discs.read_text())["annotations"]]
    found = [{"image_id": i, "category_id": 1, "bbox": box, "score": 0.9} for i, box in enumerate(boxes, 1)]
    detections.write_text(json.dumps([*found, {"image_id": 77, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 1}]))
    ended = evaluate("boxes", discs, "--detections", detections, "-o", tmp_path / "out")
    assert ended.exit_code == 0
    report = report_in(tmp_path / "out")
    (table,) = report["tables"]
    of_masks, of_boxes = table["rows"]
    ap50 = table["columns"].index("AP50")
    assert of_masks[ap50] == pytest.approx(51 / 101)  # one of two objects: recall 0, .01, ... .50 at precision 1
    assert of_boxes[ap50] == pytest.approx(1)
    assert [problem["kind"] for problem in report["problems"]] == ["detections of an unknown picture"]


def test_everything_prints_recall_and_what_fast_is_beside_exact(evaluate, discs, tmp_path):
    settings = [f"--set={word}" for word in ("points_per_side=16", "pred_iou_thresh=0.5", "stability_score_thresh=0")]
    ended = evaluate("everything", discs, "--mode", "exact", "-p", "fast", *settings, "-o", tmp_path / "out")
    assert ended.exit_code == 0
    report = report_in(tmp_path / "out")
    exact, fast = report["details"]["runs"]
    assert (exact["num_objects"], exact["num_pictures"], exact["points_mean"]) == (2, 2, 256)
    assert fast["protocol"].startswith("fast points_per_side=16 ")
    assert report["details"]["differences"][0]["num_baseline_masks"] == 2 * exact["masks_mean"]
    assert 0 < exact["recall"]["AR@1000"]["mean"] <= 1
    assert f"{exact['recall']['AR@1000']['mean']:.3f}" in ended.out
    with (tmp_path / "out" / "measurements.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * 2
    assert "Average recall of annotated objects" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_latency_prints_every_stage(cli, examples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = cli("evaluate", "latency", examples / "chelsea.png", "--rounds", 1, "--starts", 1, "--prompts", 2)
    assert ended.exit_code == 0
    for stage in ("start", "encode", "2 prompts"):
        assert stage in ended.out
    assert (tmp_path / "evaluation-latency" / "report.html").is_file()


def test_protocols_lists_them_all_with_their_sources(evaluate):
    ended = evaluate("protocols")
    assert ended.exit_code == 0
    for protocol in [
        *PROMPTS_PROTOCOLS.values(), *AGREEMENT_PROTOCOLS.values(), *EVERYTHING_PROTOCOLS.values(),
    ]:  # fmt: skip
        assert f"  {protocol.name} " in ended.out
        assert protocol.source in ended.out


def test_a_broken_picture_is_counted_and_ends_in_a_code_of_its_own(evaluate, discs, tmp_path):
    (discs.parent / "1.png").write_bytes((discs.parent / "1.png").read_bytes()[:60])
    ended = evaluate("prompts", discs, "-p", "box-single", "-o", tmp_path / "out")
    assert ended.exit_code == 3
    report = report_in(tmp_path / "out")
    assert [failure["picture"] for failure in report["failures"]] == ["1"]
    assert report["counts"]["pictures failed"] == report["counts"]["objects of failed pictures"] == 1
    assert report["summaries"][0]["num_objects"] == 1
    assert "1.png" in ended.out


def test_a_finished_run_is_not_measured_again(evaluate, discs, tmp_path, disc_engine, monkeypatch):
    arguments = ("prompts", discs, "-p", "clicks", "-o", tmp_path / "out", "--cases", 0)
    evaluate(*arguments)
    first = (tmp_path / "out" / "measurements.csv").read_bytes()
    monkeypatch.setattr(disc_engine, "encode", lambda images: pytest.fail("encoded again"))
    assert evaluate(*arguments).exit_code == 0
    assert (tmp_path / "out" / "measurements.csv").read_bytes() == first
    assert "2 pictures were measured by an earlier run" in report_in(tmp_path / "out")["notes"][-1]


def test_another_run_in_the_same_folder_is_refused_and_restart_allows_it(evaluate, discs, tmp_path):
    arguments = ("prompts", discs, "-p", "box-single", "-o", tmp_path / "out")
    evaluate(*arguments)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    ended = evaluate(*arguments, "--set", "box_from=mask")
    assert ended.exit_code == 2
    assert "holds another run" in ended.err
    assert "box_from was annotation, is mask" in ended.err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert evaluate(*arguments, "--set", "box_from=mask", "--restart").exit_code == 0


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(examples, tmp_path):
    command = [
        sys.executable, "-c", RUN, "evaluate", "prompts", str(examples / "instances.json"), "--cases", "0",
        "--protocol", "random-best", "--protocol", "box-single", "--out",
    ]  # fmt: skip
    journal = tmp_path / "killed" / "measurements.jsonl"
    process = subprocess.Popen([*command, str(journal.parent)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 2) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    assert process.wait() != 0, "it ended before it could be killed"
    assert not (tmp_path / "killed" / "report.json").exists()
    subprocess.run([*command, str(journal.parent)], check=True, capture_output=True)
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    killed, whole = (tmp_path / name / "measurements.csv" for name in ("killed", "whole"))
    assert killed.read_bytes() == whole.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent otherwise there")
@pytest.mark.parametrize(
    ("more", "told"), [([], "the same command goes on"), (["--restart"], "without --restart goes")]
)
def test_ctrl_c_says_that_nothing_is_lost(examples, tmp_path, more, told):
    source = str(examples / "instances.json")
    command = [sys.executable, "-c", RUN, "evaluate", "prompts", source, "--out", "out", *more]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests that run in the background ignore it
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "out").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prompts", "nowhere.json"], "nowhere.json"),
        (["prompts", "text.json"], "is not JSON"),
        (["prompts", "list.json"], "images"),
        (["prompts", "empty_folder"], "folder"),
        (["prompts", "DISCS", "-p", "boxes"], "unknown protocol 'boxes'; expected one of default"),
        (["prompts", "DISCS", "-p", "slimsam"], "SA-1B"),
        (["prompts", "DISCS", "--set", "sead=1"], "expected NAME=VALUE"),
        (["prompts", "DISCS", "--set", "mask_rule=worst"], "mask_rule must be one of"),
        (["prompts", "DISCS", "--first", "1", "--sample", "1"], "--first and --sample"),
        (["prompts", "DISCS", "--model", "tensorrt"], "no checkpoint tensorrt"),
        (["prompts", "DISCS", "--model", "engine=onnxruntime,size=3"], "'size' is unknown"),
        (["prompts", "DISCS", "--pictures", "nowhere"], "nowhere"),
        (["prompts", "DISCS", "--out", "text.json"], "text.json"),
        (["agreement", "DISCS", "-p", "grid"], "name two models"),
        (["agreement", "DISCS", "-m", "torch", "--reference-masks", "text.json"], "is not JSON"),
        (["agreement", "empty_folder", "-m", "torch", "-m", "onnxruntime"], "holds no picture"),
        (
            ["agreement", "empty_folder", "--pictures", "elsewhere"],
            "--pictures elsewhere belongs to an annotation file",
        ),
        (["agreement", "DISCS", "-m", "torch", "-m", "onnxruntime", "--pairing", "overlap"], "--reference-masks"),
        (["prompts", "DISCS", "--embeddings", "text.json"], "text.json is a file; name a folder"),
        (["boxes", "LVIS", "--detections", "lvis_boxes.json"], "COCO AP would count what is right but not annotated"),
        (["boxes", "DISCS", "--detections", "none.json"], "none.json"),
        (["boxes", "DISCS", "--detections", "other.json"], "do the image ids belong together"),
        (["everything", "DISCS", "--mode", "quick"], "unknown protocol 'quick'; expected one of default, exact, fast"),
        (
            ["everything", "DISCS", "--set", "points=1"],
            "expected NAME=VALUE with one of the names mode, points_per_side",
        ),
        (["everything", "DISCS", "--set", "points_per_side=0"], "points_per_side must be a whole number, 1 to 1024"),
        (["everything", "BARE"], "bare.json has no object to measure"),
        (["latency", "text.json"], "text.json"),
        (["latency", "text.json", "--everything", "quick"], "everything must be modes of exact, fast"),
    ],
)
def test_a_mistake_ends_in_one_clear_line(evaluate, discs, tmp_path, arguments, words):
    work = tmp_path / "work"
    (work / "text.json").write_text("no JSON")
    (work / "list.json").write_text("[]")
    (work / "empty_folder").mkdir()
    content = json.loads(discs.read_text())
    content["images"] = [{**image, "neg_category_ids": []} for image in content["images"]]
    (discs.parent / "lvis.json").write_text(json.dumps(content))
    (discs.parent / "bare.json").write_text(json.dumps({**content, "annotations": []}))
    (work / "lvis_boxes.json").write_text('[{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 1}]')
    (work / "other.json").write_text('[{"image_id": 9, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 1}]')
    before = {path: path.is_file() and path.read_bytes() for path in work.rglob("*")}
    places = {"DISCS": str(discs), "LVIS": str(discs.parent / "lvis.json"), "BARE": str(discs.parent / "bare.json")}
    ended = evaluate(*(places.get(argument, argument) for argument in arguments))
    assert ended.exit_code == 2
    assert ended.out == ""
    last = ended.err.splitlines()[-1]
    assert last.startswith("mobile-sam: error: ")
    assert words in last
    assert "Traceback" not in ended.err
    assert {path: path.is_file() and path.read_bytes() for path in work.rglob("*")} == before
