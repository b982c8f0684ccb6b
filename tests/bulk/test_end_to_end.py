"""`mobile-sam bulk` as its users run it: processes, signals, kills, folders in every state."""

import csv
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mobile_sam import SamAutomaticMaskGenerator, SamPredictor
from mobile_sam.bulk.embeddings import open_embeddings

NUM_PICTURES = 12
ONE_THREAD = ("--engine", "onnxruntime", "--threads", "1")
EVERYTHING = ("--task", "everything", "--points-per-side", "2", "--pred-iou-thresh", "0.5", *ONE_THREAD)


def command(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).with_name("mobile-sam")), *map(str, arguments)]


def start(*arguments: object) -> subprocess.Popen[str]:
    def begin() -> None:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(*arguments), preexec_fn=begin, **pipes)


def bulk(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    run = subprocess.run(command("bulk", *arguments), capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == code, f"{run.returncode}\n{run.stdout}\n{run.stderr}"
    assert "Traceback" not in run.stderr
    return run


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sa1b_annotations(folder: Path) -> dict[str, dict]:
    return {name: json.loads(content) for name, content in files_below(folder).items()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, examples) -> Path:
    """Parts of photographs, in two folders, of several sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    sources = [Image.open(examples / name).convert("RGB") for name in ("astronaut.png", "coffee.png", "rocket.jpg")]
    for number in range(NUM_PICTURES):
        below = folder / ("day1" if number % 2 else "day2")
        below.mkdir(exist_ok=True)
        left = 16 * number
        sources[number % 3].crop((left, 0, left + 160 + number, 200)).save(below / f"{number:03d}.jpg", quality=90)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, pictures) -> Path:
    """The results of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    bulk(pictures, *EVERYTHING, "-o", out, "--format", "coco", "--format", "sa1b", "--workers", 2)
    return out


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_files(tmp_path, pictures, undisturbed):
    chance, out = random.Random(0), tmp_path / "out"
    options = ("--format", "coco", "--format", "sa1b", "--workers", 2, "--batch-size", 3, "-o", out)
    for num_before in (0, 1, 3, 6):
        process = start("bulk", pictures, *EVERYTHING, *options)
        wait_for(lambda: len(list((out / "sa1b").rglob("*.json"))) > num_before, process)  # noqa: B023
        time.sleep(chance.uniform(0, 0.3))
        assert process.poll() is None, "it ended before it was killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (out / "coco.json").exists()
    bulk(pictures, *EVERYTHING, *options)
    found, expected = (json.loads((out / "coco.json").read_text()) for out in (out, undisturbed))
    assert {k: found[k] for k in ("images", "annotations")} == {k: expected[k] for k in ("images", "annotations")}
    assert len(found["images"]) == NUM_PICTURES
    assert files_below(tmp_path / "out" / "sa1b") == files_below(undisturbed / "sa1b")


def test_masks_are_those_of_the_generator(undisturbed, pictures):
    records = json.loads((undisturbed / "sa1b" / "day1" / "003.json").read_text())["annotations"]
    generator = SamAutomaticMaskGenerator(points_per_side=2, pred_iou_thresh=0.5, engine="onnxruntime", num_threads=1)
    expected = generator.generate(pictures / "day1" / "003.jpg")
    assert len(records) == len(expected) > 0
    for record, one in zip(records, expected, strict=True):
        mask = coco_mask.decode(record["segmentation"]).astype(bool)
        assert (mask & one["segmentation"]).sum() / (mask | one["segmentation"]).sum() > 0.99


def test_the_same_command_on_a_finished_run_does_nothing(undisturbed, pictures):
    before = files_below(undisturbed)
    run = bulk(pictures, *EVERYTHING, "-o", undisturbed, "--format", "coco", "--format", "sa1b", "--workers", 1)
    assert "(0 now)" in run.stdout
    after = files_below(undisturbed)
    assert {name: after[name] for name in after if ".sqlite" not in name} == {
        name: before[name] for name in before if ".sqlite" not in name
    }


def test_changed_settings_are_refused_and_named(undisturbed, pictures):
    run = bulk(pictures, *EVERYTHING, "-o", undisturbed, "--format", "coco", "--stability-score-thresh", 0.5, code=2)
    assert "stability_score_thresh" in run.stderr
    assert "formats" in run.stderr
    assert "points_per_side" not in run.stderr


def test_a_folder_with_other_things_is_refused_and_left_as_it_is(tmp_path, pictures):
    (tmp_path / "thesis.tex").write_text("all my work")
    run = bulk(pictures, "--task", "embed", "-o", tmp_path, code=2)
    assert "thesis.tex" in run.stderr
    assert files_below(tmp_path) == {"thesis.tex": b"all my work"}


def test_a_folder_among_the_sources_is_refused(pictures):
    run = bulk(pictures, "--task", "embed", "-o", pictures / "day1" / "out", code=2)
    assert "lies in the source" in run.stderr
    assert not (pictures / "day1" / "out").exists()


def test_pictures_named_one_by_one_may_lie_beside_the_folder(tmp_path, pictures):
    picture = tmp_path / "a.jpg"
    picture.write_bytes((pictures / "day1" / "001.jpg").read_bytes())
    bulk(picture, tmp_path / "*.jpg", "--task", "embed", *ONE_THREAD, "-o", tmp_path / "out")
    assert set(open_embeddings(tmp_path / "out" / "embeddings")) == {"a"}


def test_a_cluster_gives_the_same_files_and_goes_on_with_a_run_begun_without(tmp_path, pictures, undisturbed):
    options = (*EVERYTHING, "--format", "coco", "--format", "sa1b", "-o", tmp_path / "out")
    process = start("bulk", pictures, *options, "--workers", 1)
    wait_for(lambda: len(list((tmp_path / "out" / "sa1b").rglob("*.json"))) >= 2, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    run = bulk(pictures, *options, "--cluster", "ray", "--actors", 2)
    assert f"{NUM_PICTURES} of {NUM_PICTURES} pictures done" in run.stdout
    assert f"({NUM_PICTURES} now" not in run.stdout
    found, expected = (json.loads((out / "coco.json").read_text()) for out in (tmp_path / "out", undisturbed))
    assert {k: found[k] for k in ("images", "annotations")} == {k: expected[k] for k in ("images", "annotations")}
    assert files_below(tmp_path / "out" / "sa1b") == files_below(undisturbed / "sa1b")


def test_nothing_found_leaves_nothing_behind(tmp_path):
    (tmp_path / "empty").mkdir()
    run = bulk(tmp_path / "empty", "--task", "embed", "-o", tmp_path / "out", code=2)
    assert "no pictures found" in run.stderr
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_not_there_is_named(tmp_path):
    run = bulk(tmp_path / "nowhere", "--task", "embed", "-o", tmp_path / "out", code=2)
    assert str(tmp_path / "nowhere") in run.stderr
    assert not (tmp_path / "out").exists()


def test_ctrl_c_finishes_what_is_in_flight_and_the_run_goes_on(tmp_path, pictures, undisturbed):
    options = (*EVERYTHING, "--format", "coco", "--format", "sa1b", "--workers", 1, "-o", tmp_path / "out")
    process = start("bulk", pictures, *options)
    wait_for(lambda: len(list((tmp_path / "out").rglob("sa1b/**/*.json"))) >= 2, process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "stopping" in errors
    num_done = len(list((tmp_path / "out" / "sa1b").rglob("*.json")))
    assert f"{num_done} of {NUM_PICTURES} pictures done" in output
    assert num_done < NUM_PICTURES
    run = bulk(pictures, *options)
    assert f"({NUM_PICTURES - num_done} now" in run.stdout
    assert files_below(tmp_path / "out" / "sa1b") == files_below(undisturbed / "sa1b")


def test_a_second_ctrl_c_stops_at_once_and_leaves_no_process(tmp_path, pictures):
    slow = ("--task", "everything", "--points-per-side", 64, *ONE_THREAD)
    process = start("bulk", pictures, *slow, "--workers", 2, "-o", tmp_path / "out")
    wait_for(lambda: (tmp_path / "out" / "bulk.sqlite").exists(), process)
    time.sleep(4)  # the workers are at work
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    wait_for(lambda: not is_group_alive(process.pid))


def test_a_second_run_in_the_folder_is_refused(tmp_path, pictures):
    slow = ("--task", "everything", "--points-per-side", 64, *ONE_THREAD, "--workers", 1, "-o", tmp_path / "out")
    first = start("bulk", pictures, *slow)
    try:
        wait_for(lambda: (tmp_path / "out" / "bulk.sqlite").exists(), first)
        run = bulk(pictures, *slow, code=2)
        assert str(first.pid) in run.stderr
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()


def test_a_broken_picture_costs_itself_and_can_be_tried_again(tmp_path, examples):
    source = tmp_path / "pictures"
    source.mkdir()
    whole = (examples / "rocket.jpg").read_bytes()
    (source / "broken.jpg").write_bytes(whole[:3000])
    (source / "empty.jpg").write_bytes(b"")
    (source / "text.png").write_text("no picture")
    (source / "whole.jpg").write_bytes(whole)
    options = (source, "--task", "embed", "--workers", 1, *ONE_THREAD, "-o", tmp_path / "out")
    run = bulk(*options, code=3)
    assert "3 pictures failed" in run.stderr
    with open(tmp_path / "out" / "failures.csv", encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    assert sorted(row["key"] for row in listed) == ["broken", "empty", "text"]
    assert all(row["reason"] and str(source) in row["place"] for row in listed)
    assert set(open_embeddings(tmp_path / "out" / "embeddings")) == {"whole"}

    assert "(0 now)" in bulk(*options, code=3).stdout  # as before, without being asked to try again
    (source / "broken.jpg").write_bytes(whole)
    bulk(*options, "--retry-failed", code=3)
    assert set(open_embeddings(tmp_path / "out" / "embeddings")) == {"broken", "whole"}
    assert (
        bulk(*options, "--max-failures", 1, "--retry-failed", code=3).stderr.count("more than 1 pictures failed") == 1
    )


def test_a_disk_that_takes_no_more_ends_the_run_which_goes_on_when_it_does(tmp_path, pictures):
    """As far as a limit on the size of files is like a full disk: writing fails in the middle of a file."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, 5 << 20))  # two embeddings and a half

    out = tmp_path / "out"
    options = (pictures, "--task", "embed", "--workers", 1, *ONE_THREAD, "-o", out)
    words = command("bulk", *options)
    run = subprocess.run(words, capture_output=True, text=True, preexec_fn=limit, timeout=120, check=False)
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    assert "run the same again" in run.stderr
    assert not list(out.rglob("*.tar"))
    assert not (out / "summary.json").exists()
    assert f"{NUM_PICTURES} of {NUM_PICTURES} pictures done" in bulk(*options).stdout
    assert len(open_embeddings(out / "embeddings")) == NUM_PICTURES
    assert not list(out.rglob(".mobile-sam-*"))


def test_new_pictures_join_a_finished_run_when_asked(tmp_path, pictures, examples):
    source = tmp_path / "pictures"
    source.mkdir()
    (source / "a.jpg").write_bytes((pictures / "day1" / "001.jpg").read_bytes())
    options = (source, *EVERYTHING, "--workers", 1, "-o", tmp_path / "out")
    bulk(*options)
    (source / "b.jpg").write_bytes((pictures / "day1" / "003.jpg").read_bytes())
    assert "1 of 1" in bulk(*options).stdout
    run = bulk(*options, "--rescan")
    assert "2 of 2 pictures done (1 now" in run.stdout
    images = json.loads((tmp_path / "out" / "coco.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["a.jpg", "b.jpg"]


def test_parts_of_a_scheduler_make_up_the_whole(tmp_path, pictures, undisturbed):
    for number in (1, 2, 3):
        options = ("--shard", f"{number}/3", "--workers", 1, "-o", tmp_path / "out")
        bulk(pictures, *EVERYTHING, "--format", "coco", "--format", "sa1b", *options)
    found, expected = (sa1b_annotations(out / "sa1b") for out in (tmp_path / "out", undisturbed))
    assert {name: content["annotations"] for name, content in found.items()} == {
        name: content["annotations"] for name, content in expected.items()
    }
    image_ids = [content["image"]["image_id"] for content in found.values()]
    assert len(set(image_ids)) == NUM_PICTURES  # also among the parts
    names = [
        image["file_name"]
        for number in (1, 2, 3)
        for image in json.loads((tmp_path / "out" / f"coco-{number}-of-3.json").read_text())["images"]
    ]
    expected = [image["file_name"] for image in json.loads((undisturbed / "coco.json").read_text())["images"]]
    assert sorted(names) == sorted(expected)


def test_embeddings_answer_prompts_as_the_picture_does(tmp_path, examples):
    bulk(examples, "--task", "embed", "--workers", 1, *ONE_THREAD, "--format", "safetensors", "-o", tmp_path / "out")
    predictor = SamPredictor(engine="onnxruntime")
    predictor.set_image(examples / "astronaut.png")
    expected, _, _ = predictor.predict(box=[20, 10, 365, 511], multimask_output=False)
    predictor.set_embedding(open_embeddings(tmp_path / "out" / "embeddings")["astronaut"])
    found, _, _ = predictor.predict(box=[20, 10, 365, 511], multimask_output=False)
    assert (found & expected).sum() / (found | expected).sum() > 0.99


def test_boxes_of_a_detector_become_masks_with_its_categories(tmp_path, examples):
    boxes = {
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "rocket"}],
        "images": [{"id": 1, "file_name": "chelsea.png"}, {"id": 2, "file_name": "rocket.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [50, 20, 350, 279]},
            {"id": 2, "image_id": 2, "category_id": 9, "bbox": [280, 50, 80, 330]},
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    options = ("--task", "boxes", "--boxes", tmp_path / "boxes.json", "--workers", 1, *ONE_THREAD)
    bulk(examples / "*.*g", *options, "-o", tmp_path / "out", "--format", "coco", "--format", "yolo")
    coco = COCO(tmp_path / "out" / "coco.json")
    assert len(coco.imgs) == 4
    found = {coco.imgs[one["image_id"]]["file_name"]: one for one in coco.anns.values()}
    assert {name: coco.cats[one["category_id"]]["name"] for name, one in found.items()} == {
        "chelsea.png": "cat",
        "rocket.jpg": "rocket",
    }
    predictor = SamPredictor(engine="onnxruntime")
    predictor.set_image(examples / "chelsea.png")
    expected, _, _ = predictor.predict(box=[50, 20, 400, 299], multimask_output=False)
    mask = coco.annToMask(found["chelsea.png"]).astype(bool)
    assert (mask & expected[0]).sum() / (mask | expected[0]).sum() > 0.99
    assert (tmp_path / "out" / "yolo" / "labels" / "rocket.txt").read_text().startswith("1 ")


def test_boxes_for_other_pictures_are_refused(tmp_path, examples):
    (tmp_path / "boxes.json").write_text(json.dumps([{"image_id": "zebra.jpg", "bbox": [1, 1, 5, 5]}]))
    options = ("--task", "boxes", "--boxes", tmp_path / "boxes.json", "-o", tmp_path / "out")
    run = bulk(examples, *options, code=2)
    assert "zebra.jpg" in run.stderr
    assert not (tmp_path / "out").exists()


def test_points_of_a_file_become_masks(tmp_path, examples):
    objects = [{"points": [[200, 150]]}, {"points": [[200, 150], [10, 10]], "labels": [1, 0]}]
    (tmp_path / "points.json").write_text(json.dumps({"chelsea.png": objects}))
    options = ("--task", "points", "--points", tmp_path / "points.json", "--workers", 1, *ONE_THREAD)
    bulk(examples, *options, "--format", "png", "-o", tmp_path / "out")
    predictor = SamPredictor(engine="onnxruntime")
    predictor.set_image(examples / "chelsea.png")
    masks, scores, _ = predictor.predict([[200, 150]], [1])
    single, _, _ = predictor.predict([[200, 150], [10, 10]], [1, 0], multimask_output=False)
    folders = [path.parent for path in (tmp_path / "out" / "masks").rglob("0.png") if "chelsea" in str(path)]
    for number, expected in enumerate((masks[scores.argmax()], single[0])):
        found = np.array(Image.open(folders[0] / f"{number}.png")) > 0
        assert (found & expected).sum() / (found | expected).sum() > 0.99


def wait_for(is_so, process: subprocess.Popen[str] | None = None, timeout_s: float = 300) -> None:
    ends_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < ends_s, "waited in vain"
        if process is not None:
            assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def is_group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
