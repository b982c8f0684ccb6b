"""The folder of results: resumed, refused, replaced and never half there."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

SLOW = """
import signal, sys, time
from pathlib import Path
import numpy as np
import mobile_sam.cli.everything, mobile_sam.core.images
from mobile_sam.core.masks import encode_rle

class Slow:
    num_pictures = 0
    def generate(self, image, progress=None):
        self.num_pictures += 1
        if self.num_pictures == 2 and stage == "segmenting":
            wait()
        return [{"segmentation": encode_rle(image[..., 0] > 0), "area": 1, "bbox": [0, 0, 1, 1], "predicted_iou": 0.9,
            "stability_score": 0.9, "point_coords": [[0, 0]], "crop_box": [0, 0, 1, 1]}] * 2

def wait():
    Path("waiting").touch()
    time.sleep(60)

def write_image(path, array):
    if slow.num_pictures == 2 and path.name == "1.png":
        wait()
    write(path, array)

slow, write = Slow(), mobile_sam.core.images.write_image
mobile_sam.core.images.write_image = write_image
mobile_sam.cli.everything._make_generator = lambda *_: slow
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored
stage = sys.argv.pop(1)
"""


def files_in(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("flags", [[], ["--convert-to-rle"]])
def test_what_was_done_before_is_skipped_without_making_a_generator(run, photos, tmp_path, made, flags):
    run(photos / "cat.png", "-o", "out", *flags)
    before = files_in(tmp_path / "work")
    ended = run(photos, "-o", "out", *flags)
    assert ended.exit_code == 0
    first, second = ended.out.splitlines()
    assert first.startswith("cat.png: done before, skipped: ")
    assert second.startswith("dog.png: 3 masks")
    assert len(made[1].pictures) == 1
    assert before.items() <= files_in(tmp_path / "work").items()
    run(photos, "-o", "out", "--overwrite", "--points-per-batch", "3", *flags)  # the same masks, sooner or later
    assert len(made) == 2


def darken(photo):
    from PIL import Image

    Image.new("RGB", (64, 48)).save(photo)


@pytest.mark.parametrize("form", [[], ["--convert-to-rle"]])
@pytest.mark.parametrize(
    ("flags", "change", "words"),
    [
        (["--points-per-side", "5"], None, "points_per_side was 32, is 5 now"),
        (["--pred-iou-thresh=-1"], None, "pred_iou_thresh was 0.88, is -1.0 now"),
        (["--max-masks", "2"], None, "max_masks was None, is 2 now"),
        (["--precision", "bf16"], None, "precision was None, is bf16 now"),
        ([], darken, "the picture has changed"),
        (["--model", "other.pt"], None, "the model has changed"),
    ],
)
def test_other_results_are_refused_and_replaced_only_if_asked(run, cat, tmp_path, made, form, flags, change, words):
    (tmp_path / "work" / "other.pt").write_text("weights")
    run(cat, "-o", "out", *form)
    before = files_in(tmp_path / "work")
    if change:
        change(cat)
    ended = run(cat, "-o", "out", *form, *flags)
    assert (ended.exit_code, ended.out, len(made)) == (2, "", 1)
    assert words in ended.err
    assert "--overwrite replaces it" in ended.err
    assert files_in(tmp_path / "work") == before
    assert run(cat, "-o", "out", *form, *flags, "--overwrite").exit_code == 0
    assert len(made) == 2
    assert run(cat, "-o", "out", *form, *flags).out.startswith("cat.png: done before, skipped")


def test_replaced_results_leave_nothing_behind(run, cat, tmp_path):
    run(cat, "-o", "out")
    run(cat, "-o", "out", "--max-masks", "1", "--write", "masks", "--overwrite")
    out = tmp_path / "work" / "out"
    assert os.listdir(out) == ["cat"]
    assert sorted(os.listdir(out / "cat")) == ["0.png", "metadata.csv", "settings.json"]


def put_amg(out):
    (out / "cat").mkdir(parents=True)
    (out / "cat" / "0.png").write_bytes(b"of another tool")


def put_empty(out):
    (out / "cat").mkdir(parents=True)


def put_notes(out):
    (out / "cat" / "notes.txt").write_text("mine")


def put_link(out):
    (out / "cat").rename(out / "elsewhere")
    (out / "cat").symlink_to(out / "elsewhere", target_is_directory=True)


@pytest.mark.parametrize(("is_run_before", "put"), [(0, put_amg), (0, put_empty), (1, put_notes), (1, put_link)])
def test_a_folder_that_is_not_only_ours_is_never_replaced(run, cat, tmp_path, made, is_run_before, put):
    out = tmp_path / "work" / "out"
    if is_run_before:
        run(cat, "-o", "out")
    put(out)
    before = files_in(out)
    ended = run(cat, "-o", "out", "--overwrite", "--max-masks", "1")
    assert ended.exit_code == 2
    assert "no mobile-sam everything wrote it" in ended.err
    assert files_in(out) == before
    assert len(made) == is_run_before


def test_a_json_that_is_not_ours_is_never_replaced(run, cat, tmp_path):
    target = tmp_path / "work" / "out" / "cat.json"
    run(cat, "-o", "out", "--convert-to-rle")
    target.write_text("[]")
    ended = run(cat, "-o", "out", "--convert-to-rle", "--overwrite", "--max-masks", "1")
    assert ended.exit_code == 2
    assert target.read_text() == "[]"


def test_among_several_a_refused_picture_is_told_and_the_rest_is_done(run, photos, tmp_path, made):
    put_amg(tmp_path / "work" / "out")
    ended = run(photos, "-o", "out")
    assert ended.exit_code == 3
    assert ended.err.splitlines()[0].startswith("cat.png failed: ")
    assert ended.out.startswith("dog.png: 3 masks")
    assert len(made[0].pictures) == 1


def test_two_pictures_of_one_stem_are_refused_by_name(run, photos, tmp_path, made):
    other = tmp_path / "cat.jpg"
    other.write_bytes((photos / "cat.png").read_bytes())
    ended = run(photos, other, "-o", "out")
    assert (ended.exit_code, made) == (2, [])
    assert f"{photos / 'cat.png'} and {other} would both be written to" in ended.err
    assert not (tmp_path / "work" / "out").exists()
    assert run(photos, other, "-o", "all.json").exit_code == 0  # no stems there


def test_a_picture_within_results_is_not_replaced_by_them(run, photos, tmp_path):
    (photos / "cat.png").rename(photos / "0.png")
    run(photos / "0.png", "-o", "out")
    mask = tmp_path / "work" / "out" / "0" / "0.png"
    before = mask.read_bytes()
    ended = run(mask, "-o", "out", "--overwrite", "--points-per-side", "3")
    assert ended.exit_code == 2
    assert "could replace the photo" in ended.err
    assert mask.read_bytes() == before


def test_a_done_folder_does_not_keep_the_other_outputs_from_being_written(run, cat, tmp_path):
    run(cat, "-o", "out")
    ended = run(cat, "-o", "out", "-o", "a.json")
    assert len(json.loads((tmp_path / "work" / "a.json").read_text())["annotations"]) == 3
    assert "done before" in ended.out
    assert ended.out.splitlines()[-1].endswith("a.json")


@pytest.fixture
def stopped(photos, tmp_path):
    """Run the command in a process of its own and send it a signal amid the second of two pictures."""

    def run_until(stage, sent, *flags):
        here = tmp_path / "work"
        code = SLOW + "from mobile_sam.cli.main import run; run()"
        command = [sys.executable, "-c", code, stage, "everything", str(photos), "-o", "out", *flags]
        process = subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not (here / "waiting").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    return run_until


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
@pytest.mark.parametrize(
    ("stage", "sent"), [("segmenting", signal.SIGINT), ("writing", signal.SIGINT), ("writing", signal.SIGTERM)]
)
def test_ctrl_c_leaves_whole_pictures_only_and_the_same_command_goes_on(run, photos, tmp_path, stopped, stage, sent):
    here = tmp_path / "work"
    exit_code, out, err = stopped(stage, sent)
    assert exit_code == 130, err
    assert "Traceback" not in err
    assert err == "stopped; the same command goes on here\n"
    assert out.startswith("cat.png: 2 masks")
    assert os.listdir(here / "out") == ["cat"]
    assert sorted(os.listdir(here / "out" / "cat")) == sorted(
        ["0.png", "1.png", "coco.json", "labels.png", "metadata.csv", "overlay.png", "settings.json"]
    )
    ended = run(photos, "-o", "out")
    assert [line.split(":")[1].split(",")[0] for line in ended.out.splitlines()] == [" done before", " 3 masks"]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break otherwise there")
def test_it_ends_when_nobody_reads_what_is_printed(photos, tmp_path):
    code = SLOW + "from mobile_sam.cli.main import run; run()"
    command = [sys.executable, "-c", code, "never", "everything", str(photos), "-o", "out"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert (process.wait(timeout=60), process.stderr.read()) == (1, "")
    assert os.listdir(tmp_path / "out") == ["cat"]


@pytest.mark.skipif(sys.platform == "win32", reason="a kill is sent otherwise there")
def test_a_kill_leaves_whole_pictures_only(run, photos, tmp_path, stopped):
    assert stopped("writing", signal.SIGKILL)[0] == -signal.SIGKILL
    assert [name for name in os.listdir(tmp_path / "work" / "out") if not name.startswith(".")] == ["cat"]
    ended = run(photos, "-o", "out")
    assert (ended.exit_code, ended.out.count("\n")) == (0, 2)


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent otherwise there")
def test_ctrl_c_while_results_are_replaced_keeps_the_old_ones(run, photos, tmp_path, stopped):
    run(photos, "-o", "out")
    before = files_in(tmp_path / "work" / "out" / "dog")
    assert stopped("writing", signal.SIGINT, "--points-per-side", "3", "--overwrite")[0] == 130
    assert sorted(os.listdir(tmp_path / "work" / "out")) == ["cat", "dog"]
    assert files_in(tmp_path / "work" / "out" / "dog") == before
