"""`mobile-sam distill train`: from the recipe and the options to the run, and how it ends."""

import pytest

import mobile_sam.distill.train as loop
from mobile_sam.build_sam import build_sam_vit_t_1m, save_sam
from mobile_sam.distill.config import TrainConfig
from mobile_sam.distill.guard import TrainingStoppedError
from mobile_sam.distill.train import TrainReport


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the loop was asked for, instead of training; `ending` and `error` may be set."""
    found = {"ending": "finished", "error": None}

    def train(config, folder, *, restart, tell):
        found.update(config=config, folder=folder, restart=restart)
        tell(0, 10, {"val/miou": 0.25})
        tell(1, 10, {})
        tell(5, 10, {"train/loss": 0.5, "train/lr": 1e-3, "pictures_per_s": 12.0, "val/miou": 0.75})
        if found["error"]:
            raise found["error"]
        return TrainReport(folder, 5, 10, (0.75, 5), 3, found["ending"])

    monkeypatch.setattr(loop, "train", train)
    return found


def test_options_stand_before_the_recipe(cli, recipe, asked, tmp_path):
    path = recipe("RECIPE = TrainConfig(data=('a',), lr=0.5, seed=3, batch_size=4)")
    ended = cli(
        "distill", "train", path, "--out", tmp_path / "run", "--data", "b.tar", "--data", "c.tar", "--embeddings", "e",
        "--teacher", "t.pt", "--objective", "coupled", "--fraction", "0.25", "--set", "lr=1e-3", "--set", "epochs=2",
    )  # fmt: skip
    assert ended.exit_code == 0, ended.err
    assert asked["config"] == TrainConfig(
        data=("b.tar", "c.tar"), embeddings="e", teacher="t.pt", objective="coupled", fraction=0.25, lr=1e-3, epochs=2,
        seed=3, batch_size=4,
    )  # fmt: skip
    assert (asked["folder"], asked["restart"]) == (tmp_path / "run", False)


def test_the_recipe_is_enough(cli, recipe, asked, tmp_path):
    path = recipe("RECIPES = {'a': TrainConfig(seed=1), 'b': TrainConfig(seed=2)}")
    cli("distill", "train", path, "-o", tmp_path / "run", "--variant", "b", "--restart")
    assert (asked["config"], asked["restart"]) == (TrainConfig(seed=2), True)


def test_a_run_tells_how_it_goes_and_ends(cli, recipe, asked, tmp_path):
    out = tmp_path / "run"
    ended = cli("distill", "train", recipe("RECIPE = TrainConfig()"), "-o", out)
    assert ended.exit_code == 0
    reports = ended.err.splitlines()
    assert reports[0].startswith("step 0/10  mIoU 0.25")
    assert reports[1].startswith("step 5/10  loss 0.5  lr 0.001  pictures/s 12  mIoU 0.75")
    assert "left 0:00:0" in reports[1]
    assert len(reports) == 2
    assert ended.out.splitlines() == [
        "finished after 5 steps; best mIoU 0.7500 after step 5",
        f"3 pictures could not be used; see {out}/skipped-*.jsonl",
        *(str(out / name) for name in ("student.safetensors", "best.safetensors", "log.jsonl")),
    ]


def test_only_the_first_of_several_processes_tells_the_end(cli, recipe, asked, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    ended = cli("distill", "train", recipe("RECIPE = TrainConfig()"), "-o", tmp_path / "run")
    assert (ended.exit_code, ended.out) == (0, "")


def test_an_interrupted_run_says_so_and_ends_with_130(cli, recipe, asked, tmp_path):
    asked["ending"] = "interrupted"
    ended = cli("distill", "train", recipe("RECIPE = TrainConfig()"), "-o", tmp_path / "run")
    assert (ended.exit_code, ended.out) == (130, "")
    assert "stopped after step 5; the same command goes on there" in ended.err


@pytest.mark.parametrize(
    "error",
    [
        TrainingStoppedError("stopped after 5 steps: the loss is nan"),
        OSError(28, "No space left on device", "run/checkpoints/step-00000004.pt"),
        ValueError("run holds a run of 5 steps with other settings"),
    ],
    ids=["nan", "full disk", "other run"],
)
def test_a_run_that_fails_ends_in_one_line_and_2(cli, recipe, asked, tmp_path, error):
    asked["error"] = error
    ended = cli("distill", "train", recipe("RECIPE = TrainConfig()"), "-o", tmp_path / "run")
    assert (ended.exit_code, ended.out) == (2, "")
    assert ended.err.splitlines()[-1] == f"mobile-sam: error: {error}"
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("RECIPE = TrainConfig(bach_size=8)", (), "no setting 'bach_size'; did you mean 'batch_size'?"),
        ("RECIPE = TrainConfig(", (), "is no Python, line 2"),
        ("RECIPE = TrainConfig()", ("--set", "lrr=1"), "no setting 'lrr'; did you mean 'lr'?"),
        ("RECIPE = TrainConfig()", ("--set", "lr"), "--set 'lr' has no '='"),
        ("RECIPE = TrainConfig()", ("--set", "lr=-1"), "lr must be a number above 0, got -1.0"),
        ("RECIPE = TrainConfig()", ("--objective", "decuopled"), "objective must be one of 'decoupled'"),
        ("RECIPE = TrainConfig()", ("--fraction", "2"), "fraction must be"),
        ("RECIPE = TrainConfig()", ("--variant", "a"), "has no variants"),
        ("RECIPE = TrainConfig()", ("--teacher", "none.pt"), "there is no checkpoint"),
        ("RECIPE = TrainConfig()", ("--embeddings", "none"), "no folder of embeddings at none"),
        ("RECIPE = TrainConfig()", (), "objective 'decoupled' needs a teacher"),
        ("RECIPE = TrainConfig(teacher='mobile_sam')", (), "data names no pictures"),
        ("RECIPE = TrainConfig(teacher='mobile_sam')", ("--data", "none.tar"), "none.tar"),
    ],
)
def test_what_a_user_gets_wrong_is_said_in_one_line(cli, recipe, tmp_path, text, options, words):
    ended = cli("distill", "train", recipe(text), "--out", tmp_path / "run", *options)
    assert ended.exit_code == 2
    (line,) = ended.err.splitlines()
    assert line.startswith("mobile-sam: error: ")
    assert words in line
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_is_not_there_is_named(cli, tmp_path):
    ended = cli("distill", "train", tmp_path / "none.py", "--out", tmp_path / "run")
    assert ended.exit_code == 2
    assert "there is no recipe" in ended.err


def test_a_file_cannot_be_the_folder(cli, recipe, tmp_path):
    (tmp_path / "run").touch()
    ended = cli("distill", "train", recipe("RECIPE = TrainConfig()"), "--out", tmp_path / "run")
    assert ended.exit_code == 2
    assert (
        ended.err.strip()
        == f"mobile-sam: error: {tmp_path / 'run'} is a file; name a folder for the student, checkpoints and logs"
    )


def test_another_configuration_is_refused_and_the_difference_named(cli, recipe, tmp_path, examples):
    teacher = tmp_path / "teacher.safetensors"
    save_sam(build_sam_vit_t_1m(input_side=64), teacher, name="vit_t_1m")
    settings = (
        "num_held_out=1, num_workers=0, student='vit_t_1m', input_side=64, batch_size=1, max_steps=1, "
        "tensorboard=False, device='cpu'"
    )
    path = recipe(f"RECIPE = TrainConfig(teacher={str(teacher)!r}, decoder_from={str(teacher)!r}, {settings})")
    command = ("distill", "train", path, "--out", tmp_path / "run", "--data", examples / "coffee.png")
    command += ("--data", examples / "rocket.jpg")
    trained = cli(*command)
    assert trained.exit_code == 0, trained.err
    assert trained.out.startswith("finished after 1 steps; best mIoU ")
    refused = cli(*command, "--set", "lr=0.5", "--set", "log_every=7")
    assert refused.exit_code == 2
    (line,) = refused.err.splitlines()[-1:]
    assert "other settings than asked for now (lr: 0.001 here, 0.5 there); give the same ones" in line
