"""A run that was killed and goes on ends with the same bits as one that was not."""

import math
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from mobile_sam.distill.run_log import read_log
from mobile_sam.distill.train import train

TIMEOUT_S = 120
OBJECTIVES = {
    "decoupled": {},
    "semi-coupled": {"objective": "semi-coupled"},
    "coupled": {"objective": "coupled"},
    "prompted": {"objective": "prompted"},
    "decoder alone": {"objective": "coupled", "trains": "decoder"},
}


class Crash(Exception):
    """Stands for whatever ends a run without a word."""


def crash_after(step):
    """Make a `tell` that ends the run after a step."""

    def tell(done, num_steps, found):
        if done == step:
            raise Crash

    return tell


def numbers_of(folder):
    """The log, but for what the clock says."""
    return [
        {name: value for name, value in line.items() if not name.startswith("time/") and name != "pictures_per_s"}
        for line in read_log(folder / "log.jsonl")
    ]


def assert_same_run(folder, expected):
    assert numbers_of(folder) == numbers_of(expected)
    for name in ("student.safetensors", "best.safetensors"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
    latest = [sorted((one / "checkpoints").glob("step-*.pt"))[-1] for one in (folder, expected)]
    assert latest[0].name == latest[1].name
    mine, theirs = (torch.load(path, weights_only=True) for path in latest)
    for part in ("student", "average"):
        assert all(torch.equal(mine[part][name], theirs[part][name]) for name in theirs[part])
    for number, moments in theirs["optimizer"]["state"].items():
        assert all(torch.equal(mine["optimizer"]["state"][number][name], moments[name]) for name in moments)
    assert torch.equal(mine["random"]["cpu"], theirs["random"]["cpu"])


@pytest.mark.parametrize("changes", OBJECTIVES.values(), ids=OBJECTIVES)
def test_every_objective_goes_on_as_if_nothing_had_happened(tiny, tmp_path, changes):
    config = tiny(max_steps=6, checkpoint_every=2, drop_path_rate=0.3, **changes)
    train(config, tmp_path / "whole")
    again = config.with_values({"num_workers": 2})  # who reads the pictures makes no difference
    with pytest.raises(Crash):
        train(again, tmp_path / "crashed", tell=crash_after(3))  # step 3 is done once more
    assert train(again, tmp_path / "crashed").ending == "finished"
    assert_same_run(tmp_path / "crashed", tmp_path / "whole")
    assert len({line["train/loss"] for line in numbers_of(tmp_path / "whole") if "train/loss" in line}) == 6


def test_annotations_accumulation_and_validation_go_on_too(tiny, tmp_path, coco_file):
    config = tiny(
        objective="prompted", mask_targets="annotations", data=(str(coco_file),), embeddings="", drop_path_rate=0.3,
        batch_size=4, accumulate=2, max_steps=6, checkpoint_every=3, validate_every=2,
    )  # fmt: skip
    train(config, tmp_path / "whole")
    with pytest.raises(Crash):
        train(config.with_values({"num_workers": 2}), tmp_path / "crashed", tell=crash_after(5))
    train(config, tmp_path / "crashed")
    assert_same_run(tmp_path / "crashed", tmp_path / "whole")


def test_a_teacher_in_the_loop_goes_on_too(tiny, tmp_path, teacher_file):
    config = tiny(teacher=str(teacher_file), embeddings="", max_steps=4, checkpoint_every=2, drop_path_rate=0.3)
    train(config, tmp_path / "whole")
    with pytest.raises(Crash):
        train(config, tmp_path / "crashed", tell=crash_after(3))
    train(config, tmp_path / "crashed")
    assert_same_run(tmp_path / "crashed", tmp_path / "whole")


def test_drop_path_is_drawn_at_all(tiny, tmp_path):
    losses = []
    for rate in (0.0, 0.3):
        train(tiny(max_steps=2, drop_path_rate=rate), tmp_path / str(rate))
        losses.append(numbers_of(tmp_path / str(rate))[1]["train/loss"])
    assert losses[0] != losses[1]


def test_a_run_that_crashed_before_its_first_checkpoint_begins_anew(tiny, tmp_path):
    config = tiny(max_steps=4)
    train(config, tmp_path / "whole")
    with pytest.raises(Crash):
        train(config, tmp_path / "crashed", tell=crash_after(2))
    train(config, tmp_path / "crashed")
    assert_same_run(tmp_path / "crashed", tmp_path / "whole")


def test_a_damaged_checkpoint_costs_some_steps_and_nothing_else(tiny, tmp_path):
    config = tiny(max_steps=6, checkpoint_every=2, drop_path_rate=0.3)
    train(config, tmp_path / "whole")
    with pytest.raises(Crash):
        train(config, tmp_path / "crashed", tell=crash_after(5))
    latest = tmp_path / "crashed" / "checkpoints" / "step-00000004.pt"
    latest.write_bytes(latest.read_bytes()[:-1000])
    train(config, tmp_path / "crashed")
    assert_same_run(tmp_path / "crashed", tmp_path / "whole")


def test_a_finished_run_is_finished(tiny, tmp_path):
    config = tiny(max_steps=2)
    train(config, tmp_path)
    before = (tmp_path / "student.safetensors").read_bytes(), numbers_of(tmp_path)
    report = train(config, tmp_path)
    assert (report.num_steps, report.ending) == (2, "finished")
    assert ((tmp_path / "student.safetensors").read_bytes(), numbers_of(tmp_path)) == before


def test_what_a_killed_process_left_half_written_goes(tiny, tmp_path):
    leftovers = [tmp_path / "run" / ".mobile-sam-0123.safetensors", tmp_path / "run/checkpoints/.mobile-sam-0123.pt"]
    for path in leftovers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    train(tiny(max_steps=1), tmp_path / "run")
    assert not any(path.exists() for path in leftovers)


def test_restart_begins_anew(tiny, tmp_path):
    config = tiny(max_steps=2)
    train(tiny(max_steps=3, seed=1), tmp_path / "run")
    train(config, tmp_path / "run", restart=True)
    train(config, tmp_path / "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert not (tmp_path / "run/checkpoints/step-00000003.pt").exists()


def test_a_restart_that_cannot_begin_takes_nothing_away(tiny, tmp_path):
    train(tiny(max_steps=1), tmp_path)
    kept = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="student must be one of"):
        train(tiny(student="vit_x"), tmp_path, restart=True)
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": 0.5}, "lr: 0.001 here, 0.5 there"),
        ({"max_steps": 9, "seed": 1}, "max_steps: 1 here, 9 there; seed: 0 here, 1 there"),
    ],
)
def test_a_changed_configuration_is_refused(tiny, tmp_path, changes, words):
    train(tiny(max_steps=1), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match=words):
        train(tiny(**{"max_steps": 1, **changes}), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_changed_data_is_refused(tiny, tmp_path, pictures, write_embeddings):
    copies = tmp_path / "copies"
    copies.mkdir()
    for picture in pictures.glob("*.png"):
        (copies / picture.name).write_bytes(picture.read_bytes())
    config = tiny(max_steps=1, data=(str(copies),))
    train(config, tmp_path / "run")
    (copies / "3.png").unlink()
    with pytest.raises(ValueError, match=r"holds a run of 1 steps .*data: '\w{64}' here, '\w{64}' there"):
        train(config, tmp_path / "run")


def test_embeddings_of_another_teacher_are_refused(tiny, tmp_path, pictures, write_embeddings):
    folder = write_embeddings(tmp_path / "embeddings", pictures, "vit_h")
    config = tiny(max_steps=1, embeddings=str(folder))
    train(config, tmp_path / "run")
    for path in folder.iterdir():
        path.unlink()
    write_embeddings(folder, pictures, "vit_l")
    with pytest.raises(ValueError, match="teacher: 'made up vit_h fp32' here, 'made up vit_l fp32' there"):
        train(config, tmp_path / "run")


def start(recipe, out, max_file_bytes=resource.RLIM_INFINITY):
    """`mobile-sam distill train` in a process of its own, with Ctrl-C as a terminal's."""
    command = [sys.executable, "-c", "from mobile_sam.cli.main import run; run()"]

    def prepare():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, resource.RLIM_INFINITY))

    return subprocess.Popen(
        [*command, "distill", "train", str(recipe), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=prepare,
    )


def wait_until(is_time, process):
    deadline = time.monotonic() + TIMEOUT_S
    while not is_time():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the run did not come that far"
        time.sleep(0.001)


def has_line(out, step):
    """Whether a step is in the log."""
    path = out / "log.jsonl"
    return path.exists() and f'{{"step": {step},' in path.read_text()


def test_a_run_that_is_killed_again_and_again_is_bit_identical(tiny, tmp_path, write_recipe):
    config = tiny(max_steps=20, checkpoint_every=4, validate_every=10, drop_path_rate=0.3, num_workers=1)
    train(config, tmp_path / "whole")
    recipe, out = write_recipe(config), tmp_path / "killed"
    moments = {
        "before the first checkpoint": lambda: has_line(out, 2),
        "while a checkpoint is written": lambda: any((out / "checkpoints").glob(".mobile-sam-*.pt")),
        "in a later step": lambda: has_line(out, 14),
    }
    for moment, is_time in moments.items():
        process = start(recipe, out)
        wait_until(is_time, process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, moment
    assert not (out / "student.safetensors").exists()
    process = start(recipe, out)
    printed, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, printed
    assert_same_run(out, tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_with_a_checkpoint(tiny, tmp_path, write_recipe, number):
    config = tiny(max_steps=400, checkpoint_every=1000, num_workers=1)
    recipe, out = write_recipe(config), tmp_path / "run"
    process = start(recipe, out)
    wait_until(lambda: has_line(out, 3), process)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, printed
    assert "the same command goes on there" in printed
    assert "Traceback" not in printed
    (checkpoint,) = (out / "checkpoints").glob("step-*.pt")
    done = int(checkpoint.stem.partition("-")[2])
    assert numbers_of(out)[-1]["step"] == done < 400
    assert (out / "student.safetensors").exists()


def test_a_disk_that_takes_no_more_ends_in_one_line_and_keeps_the_checkpoint(tiny, tmp_path, write_recipe):
    config, out = tiny(max_steps=4, checkpoint_every=2), tmp_path / "run"
    with pytest.raises(Crash):
        train(config, out, tell=crash_after(3))
    (checkpoint,) = (out / "checkpoints").iterdir()
    content = checkpoint.read_bytes()
    # no disk fills up at a test's wish; a limit on a file's size fails torch's writer in the same way, half way through
    process = start(write_recipe(config), out, max_file_bytes=len(content) // 2)
    printed, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2, printed
    (line,) = [line for line in printed.splitlines() if "error" in line]
    assert line.startswith(f"mobile-sam: error: cannot write {out}/checkpoints/step-00000004.pt: ")
    assert line.endswith("is the disk full?")
    assert "Traceback" not in printed
    assert list((out / "checkpoints").iterdir()) == [checkpoint]
    assert checkpoint.read_bytes() == content


def test_an_interrupted_run_goes_on(tiny, tmp_path):
    config = tiny(max_steps=6, checkpoint_every=100, drop_path_rate=0.3)
    train(config, tmp_path / "whole")

    def interrupt(step, num_steps, found):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    report = train(config, tmp_path / "stopped", tell=interrupt)
    assert (report.ending, report.num_steps, report.num_steps_planned) == ("interrupted", 4, 6)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert train(config, tmp_path / "stopped").ending == "finished"
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_the_loss_of_a_run_is_made_of_its_seed(tiny, tmp_path):
    losses = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tiny(max_steps=2, seed=seed), tmp_path / name)
        losses.append([line["train/loss"] for line in numbers_of(tmp_path / name)[1:]])
    assert_array_equal(losses[0], losses[1])
    assert not np.array_equal(losses[0], losses[2])
    assert all(math.isfinite(loss) for loss in losses[0])
