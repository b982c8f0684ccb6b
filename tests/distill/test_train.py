"""The loop: that it learns, what it writes, and when it stops."""

import errno
import json
import logging
import math
import shutil

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image

from mobile_sam import SamPredictor
from mobile_sam.build_sam import sam_from_checkpoint, save_sam
from mobile_sam.core.weights import read_metadata
from mobile_sam.data.picture_set import open_picture_set
from mobile_sam.distill import checkpoints
from mobile_sam.distill import train as loop
from mobile_sam.distill.checkpoints import CheckpointFolder
from mobile_sam.distill.config import TrainConfig
from mobile_sam.distill.distiller import Distiller
from mobile_sam.distill.guard import TrainingStoppedError
from mobile_sam.distill.processes import Processes
from mobile_sam.distill.run_data import split_data
from mobile_sam.distill.run_log import read_log
from mobile_sam.distill.train import train
from mobile_sam.distill.validation import Validator

ANSWERS = ("val/miou", "val/iou_error")


@pytest.fixture
def train_until(tiny, tmp_path):
    """Train with some settings changed: (report, log)."""

    def run(tell=None, **changes):
        report = train(tiny(**changes), tmp_path / "run", tell=tell)
        return report, read_log(tmp_path / "run" / "log.jsonl")

    return run


def latest_state(folder):
    (*_, latest) = sorted((folder / "checkpoints").glob("step-*.pt"))
    return torch.load(latest, weights_only=True)


def test_the_loss_falls_and_so_does_the_error_on_pictures_it_was_trained_on(train_until, pictures):
    _, log = train_until(
        max_steps=60, lr=4e-3, batch_size=5, held_out=(str(pictures),), num_held_out=2, ema_decay=0.8,
        checkpoint_every=100,
    )  # fmt: skip
    losses = [line["train/loss"] for line in log if "train/loss" in line]
    assert len(losses) == 60
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    first, last = (line for line in log if "val/mse" in line)
    assert (first["step"], last["step"]) == (0, 60)
    assert last["val/mse"] < 0.7 * first["val/mse"]


def test_one_step_is_adamw_on_the_mean_of_the_batch(tiny, tmp_path, run_in):
    config = tiny(
        max_steps=1, batch_size=4, clip_norm=0.0, min_lr_factor=1.0, ema_decay=0.0, weight_decay=0.1,
        match_channels=False,
    )  # fmt: skip
    run = run_in(config, tmp_path)
    before = {name: value.clone() for name, value in run.student.named_parameters()}
    batch, _ = next(run._batches())
    run.distiller(batch)["loss"].backward()
    gradients = {name: p.grad.clone() for name, p in run.student.named_parameters() if p.grad is not None}
    run.close()
    train(config, tmp_path / "run")
    after = latest_state(tmp_path / "run")["student"]
    for name, gradient in gradients.items():
        is_decayed = before[name].ndim >= 2 and not name.endswith("attention_biases")
        kept = before[name] * (1 - 1e-3 * 0.1 * is_decayed)
        # the first step of Adam is lr * g / (|g| + eps)
        expected = kept - 1e-3 * gradient / (gradient.abs() + 1e-8)
        assert_allclose(after[name], expected.detach(), atol=2e-6, err_msg=name)


def test_the_log_says_what_a_run_needs_to_be_judged(train_until):
    _, log = train_until(max_steps=4, log_every=2, validate_every=3, objective="coupled")
    assert [line["step"] for line in log] == [0, 2, 3, 4]
    assert set(ANSWERS) <= set(log[0]) & set(log[2]) & set(log[3])
    assert "val/miou" not in log[1]
    trained = {"loss", "focal", "dice", "iou_head", "lr", "grad_norm", "skipped"}
    spent = {"data", "forward", "backward", "update", "average", "own", "step"}
    for line in (log[1], log[3]):
        assert {f"train/{name}" for name in trained} <= set(line)
        assert {f"time/{name}_ms" for name in spent} <= set(line)
        assert line["pictures_per_s"] > 0
        parts_ms = sum(line[f"time/{name}_ms"] for name in spent - {"step"})
        assert_allclose(parts_ms, line["time/step_ms"])
    assert_allclose(log[1]["train/lr"], 1e-3 * (0.01 + 0.99 * (1 + math.cos(math.pi / 3)) / 2))
    assert_allclose(log[3]["train/lr"], 1e-5)


def test_each_step_is_told(train_until):
    told = []
    train_until(tell=lambda *report: told.append(report), max_steps=3, log_every=3)
    assert [(step, num_steps, bool(found)) for step, num_steps, found in told] == [
        (0, 3, True), (1, 3, False), (2, 3, False), (3, 3, True),
    ]  # fmt: skip


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_the_student_is_the_averaged_weights_and_loads_as_a_model(train_until, ema_decay):
    report, _ = train_until(max_steps=3, ema_decay=ema_decay)
    path = report.folder / "student.safetensors"
    state = latest_state(report.folder)
    sam = sam_from_checkpoint(path)
    assert sam.image_encoder.img_size == 64
    for name, value in sam.state_dict().items():
        assert torch.equal(value, state["average"][name]), name
    moved = "image_encoder.neck.0.weight"
    assert torch.equal(state["average"][moved], state["student"][moved]) == (ema_decay == 0.0)
    metadata = read_metadata(path)
    assert (metadata["objective"], metadata["step"]) == ("decoupled", "3")


def test_a_student_segments_in_the_predictor(train_until, pictures):
    report, _ = train_until(max_steps=1)
    predictor = SamPredictor(sam_from_checkpoint(report.folder / "student.safetensors"))
    (image,) = [open_picture_set(pictures).read(0).image]
    predictor.set_image(image)
    masks, scores, _ = predictor.predict(point_coords=np.array([[10, 10]]), point_labels=np.array([1]))
    assert masks.shape == (3, *image.shape[:2])
    assert np.isfinite(scores).all()


@pytest.mark.parametrize(
    ("changes", "moving"),
    [
        ({}, {"image_encoder"}),
        ({"objective": "semi-coupled"}, {"image_encoder"}),
        ({"objective": "coupled"}, {"image_encoder", "mask_decoder"}),
        ({"objective": "coupled", "trains": "decoder"}, {"mask_decoder"}),
    ],
)
def test_only_what_is_trained_moves(train_until, teacher_file, changes, moving):
    start_from = str(teacher_file)
    report, _ = train_until(max_steps=2, input_side=128, start_from=start_from, ema_decay=0.0, **changes)
    before = sam_from_checkpoint(teacher_file).state_dict()
    after = latest_state(report.folder)["student"]
    assert {name.partition(".")[0] for name in after if not torch.equal(after[name], before[name])} == moving


def test_frozen_batchnorm_keeps_its_statistics(train_until):
    report, _ = train_until(max_steps=2, freeze_batchnorm=True)
    after = latest_state(report.folder)["student"]
    means = [value for name, value in after.items() if name.endswith("running_mean")]
    assert means
    assert not any(value.any() for value in means)


def gradients_of(run, num_parts):
    """Gradients of the first step, of the batch in so many parts."""
    batches = run._batches()
    for _ in range(num_parts):
        batch, _ = next(batches)
        (run.distiller(batch)["loss"] / num_parts).backward()
    run.close()
    return {name: p.grad for name, p in run.student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("objective", ["decoupled", "coupled", "prompted"])
def test_accumulated_gradients_are_those_of_the_undivided_batch(tiny, tmp_path, run_in, objective):
    settings = {"max_steps": 1, "batch_size": 4, "freeze_batchnorm": True, "objective": objective, "box_rate": 0.0}
    whole = gradients_of(run_in(tiny(**settings), tmp_path / "whole"), 1)
    parts = gradients_of(run_in(tiny(accumulate=2, **settings), tmp_path / "parts"), 2)
    assert whole.keys() == parts.keys()
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    for name, gradient in whole.items():
        assert_allclose(parts[name], gradient, rtol=1e-4, atol=1e-6 * largest, err_msg=name)


def test_accumulated_training_is_that_of_the_undivided_batch(tiny, tmp_path):
    settings = {"max_steps": 3, "batch_size": 4, "freeze_batchnorm": True}
    for name, accumulate in (("whole", 1), ("parts", 2)):
        train(tiny(accumulate=accumulate, **settings), tmp_path / name)
    whole, parts = (read_log(tmp_path / name / "log.jsonl")[1:] for name in ("whole", "parts"))
    for key in ("train/loss", "train/grad_norm"):
        assert_allclose([line[key] for line in parts], [line[key] for line in whole], rtol=1e-5)


def test_the_gradient_is_clipped(tiny, tmp_path, monkeypatch):
    seen = []
    plain_step = torch.optim.AdamW.step

    def step(optimizer):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        seen.append(float(torch.sqrt(sum(gradient.square().sum() for gradient in gradients))))
        return plain_step(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    train(tiny(max_steps=2, clip_norm=0.125), tmp_path)
    assert_allclose(seen, 0.125, rtol=1e-4)
    log = read_log(tmp_path / "log.jsonl")
    assert all(line["train/grad_norm"] > 0.2 for line in log[1:])  # as it was before


def scripted(monkeypatch, mious):
    """Let validation answer these, one after the other."""
    answers = iter(mious)
    monkeypatch.setattr(Validator, "measure", lambda self, student: {"val/miou": next(answers)})


def test_a_run_stops_when_validation_gets_no_better(tiny, tmp_path, monkeypatch):
    scripted(monkeypatch, [0.1, 0.3, 0.5, 0.5, 0.4, 0.9])
    config = tiny(max_steps=20, validate_every=2, patience=2, checkpoint_every=100)
    report = train(config, tmp_path)
    assert (report.ending, report.num_steps, report.best) == ("stopped early", 8, (0.5, 4))
    assert read_metadata(tmp_path / "best.safetensors")["step"] == "4"
    assert latest_state(tmp_path)["step"] == 8
    assert train(config, tmp_path) == report  # the same command does nothing more


def test_without_patience_a_run_goes_on(tiny, tmp_path, monkeypatch):
    scripted(monkeypatch, [0.9] + [0.1] * 8)
    report = train(tiny(max_steps=8, validate_every=1), tmp_path)
    assert (report.ending, report.num_steps, report.best) == ("finished", 8, (0.9, 0))


def poisoned(monkeypatch, first_step, factor):
    """Multiply the loss from a step on, counted from 1."""
    plain_forward, calls = Distiller.forward, []

    def forward(self, batch):
        calls.append(1)
        return {
            name: value * (factor if len(calls) >= first_step else 1)
            for name, value in plain_forward(self, batch).items()
        }

    monkeypatch.setattr(Distiller, "forward", forward)


def test_a_loss_that_is_no_number_stops_and_names_the_checkpoint_before(tiny, tmp_path, monkeypatch):
    poisoned(monkeypatch, 6, math.nan)
    with pytest.raises(TrainingStoppedError) as raised:
        train(tiny(max_steps=8, checkpoint_every=2), tmp_path)
    message = str(raised.value)
    assert message.startswith("stopped after 5 steps: the loss is nan")
    assert "lower lr" in message
    assert message.endswith(f"the last good checkpoint is {tmp_path / 'checkpoints' / 'step-00000004.pt'}")
    state = latest_state(tmp_path)
    assert all(value.isfinite().all() for value in state["student"].values())
    assert read_log(tmp_path / "log.jsonl")[-1]["step"] == 5


def test_a_loss_that_is_no_number_at_once_says_that_there_is_no_checkpoint(tiny, tmp_path, monkeypatch):
    poisoned(monkeypatch, 1, math.inf)
    with pytest.raises(TrainingStoppedError, match=r"stopped after 0 steps: .*there is no checkpoint yet"):
        train(tiny(), tmp_path)


def test_a_poisoned_learning_rate_stops(tiny, tmp_path):
    with pytest.raises(TrainingStoppedError, match=r"the loss is (nan|inf)|the gradient's norm (nan|inf)"):
        train(tiny(max_steps=8, lr=1e30, clip_norm=0.0), tmp_path)


def test_a_loss_that_diverges_stops(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("mobile_sam.distill.guard.MIN_STEPS", 2)
    poisoned(monkeypatch, 4, 1e4)
    with pytest.raises(TrainingStoppedError, match=r"stopped after 3 steps: the loss diverges: .*step-00000002\.pt"):
        train(tiny(max_steps=8, checkpoint_every=2), tmp_path)


def test_a_full_disk_is_said_once_and_the_earlier_checkpoint_stays(tiny, tmp_path, monkeypatch):
    plain_save = checkpoints.torch.save

    def save(state, path):
        if state["step"] == 4:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        plain_save(state, path)

    monkeypatch.setattr(checkpoints.torch, "save", save)
    with pytest.raises(OSError, match=r"No space left on device: '.*step-00000004\.pt'"):
        train(tiny(max_steps=6, checkpoint_every=2), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002.pt"]


def test_the_folder_holds_the_whole_story(train_until):
    report, _ = train_until(max_steps=2)
    told = json.loads((report.folder / "config.json").read_text())
    code, facts = told.pop("code"), told.pop("facts")
    assert TrainConfig.from_mapping(told).max_steps == 2
    assert code["torch"] == torch.__version__
    assert set(facts) >= {"data", "held out", "teacher"}
    assert {path.name for path in report.folder.iterdir()} == {
        "best.safetensors", "student.safetensors", "log.jsonl", "config.json", "checkpoints", ".lock",
    }  # fmt: skip


def test_epochs_are_counted_in_pictures_that_are_trained_on(train_until):
    report, _ = train_until(max_steps=0, epochs=1.5, num_held_out=2, batch_size=4)
    assert report.num_steps == 3  # 1.5 * (10 - 2) / 4


def test_held_out_pictures_are_not_trained_on(tiny, pictures):
    training, held_out = split_data(tiny(num_held_out=3))
    assert (len(training), len(held_out)) == (7, 3)
    assert not set(training.keys) & set(held_out.keys)


def test_pictures_named_for_validation_are_drawn_from_and_told_of_if_trained_on(tiny, tmp_path, pictures, caplog):
    for number in range(6):
        Image.new("RGB", (8 + number, 8)).save(tmp_path / f"other{number}.png")
    training, held_out = split_data(tiny(num_held_out=3, held_out=(str(tmp_path),)))
    assert (len(training), len(held_out)) == (10, 3)
    _, others = split_data(tiny(num_held_out=3, held_out=(str(tmp_path),), seed=1))
    assert set(others.keys) != set(held_out.keys)
    (tmp_path / "0.png").write_bytes((pictures / "0.png").read_bytes())
    split_data(tiny(held_out=(str(tmp_path),)))
    assert "1 of the 7 pictures to validate on are also trained on, such as 0" in caplog.text


def test_another_process_may_not_train_in_the_same_folder(tiny, tmp_path, run_in):
    run_in(tiny(), tmp_path)
    with pytest.raises(ValueError, match=r"another process trains in .*; wait for it, or name another folder"):
        train(tiny(), tmp_path)


def test_restart_takes_away_what_a_run_wrote_and_nothing_else(tiny, tmp_path):
    train(tiny(), tmp_path)
    own = {"mine.safetensors": tmp_path, "sam_vit_h_4b8939.pth": tmp_path / "checkpoints"}
    for name, folder in own.items():
        (folder / name).write_text("mine")
    seen = []
    train(tiny(), tmp_path, restart=True, tell=lambda step, *_: seen.append(step))
    assert seen[0] == 0
    assert all((folder / name).read_text() == "mine" for name, folder in own.items())


def test_a_configuration_of_something_else_is_not_written_over(tiny, tmp_path):
    (tmp_path / "config.json").write_text('{"model": "llama"}')
    with pytest.raises(ValueError, match=r"config.json is not of a training run, and would be written over"):
        train(tiny(), tmp_path, restart=True)
    assert (tmp_path / "config.json").read_text() == '{"model": "llama"}'


def test_embeddings_of_other_pictures_are_told_at_the_start(tiny, tmp_path):
    for number in range(4):
        Image.new("RGB", (8, 8 + number)).save(tmp_path / f"other{number}.png")
    words = "3 of 3 pictures that were looked up have no embedding, such as other.; embed the same sources"
    with pytest.raises(ValueError, match=words):
        train(tiny(data=(str(tmp_path),)), tmp_path / "run")


def test_a_run_goes_on_where_its_pictures_have_moved(tiny, tmp_path, pictures, embeddings):
    train(tiny(max_steps=4), tmp_path / "run")
    shutil.copytree(pictures, tmp_path / "moved")
    shutil.copytree(embeddings, tmp_path / "moved embeddings")
    changes = {"data": (str(tmp_path / "moved"),), "embeddings": str(tmp_path / "moved embeddings")}
    assert train(tiny(max_steps=4, **changes), tmp_path / "run").num_steps == 4


@pytest.mark.parametrize("name", ["start_from", "decoder_from"])
def test_a_run_does_not_go_on_from_another_checkpoint_of_the_same_name(tiny, tmp_path, teacher_file, name):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(teacher_file.read_bytes())
    changes = {name: str(path), "input_side": 128}
    train(tiny(**changes), tmp_path / "run")
    sam = sam_from_checkpoint(path)
    sam.mask_decoder.iou_token.weight.data += 1
    save_sam(sam, path, name="vit_t_1m")
    with pytest.raises(ValueError, match=f"other settings than asked for now.*{name}: "):
        train(tiny(**changes), tmp_path / "run")


def test_processes_that_found_different_checkpoints_say_so(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(Processes, "mean", lambda self, values: [value / 2 for value in values])  # one of two has none
    run = loop._Run.__new__(loop._Run)
    run.processes, run.folder = Processes(0, 2, torch.device("cpu")), tmp_path
    run.checkpoints = CheckpointFolder(tmp_path, 1)
    run.checkpoints.save(4, {})
    with pytest.raises(ValueError, match="must be on a disk that all machines see"):
        run._restore()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"data": ()}, ValueError, "data names no pictures; set it in the recipe, or use --data"),
        ({"num_held_out": 10}, ValueError, "holds 10 pictures, of which num_held_out=10 would be held out"),
        ({"data": ("not/there",)}, FileNotFoundError, "not/there"),
        ({"embeddings": ""}, ValueError, "objective 'decoupled' needs a teacher"),
        ({"embeddings": "not/there"}, FileNotFoundError, "not/there"),
        ({"decoder_from": "not/there.pt"}, FileNotFoundError, "there is no checkpoint"),
        ({"teacher": "mobile_sam"}, ValueError, "are of another teacher"),
        ({"decoder_from": "mobile_sam"}, ValueError, "were made at 128 px, the decoder of mobile_sam takes 1024 px"),
        ({"device": "cuda:99"}, ValueError, "torch has no device 'cuda:99' here"),
        ({"device": "gpu"}, ValueError, "torch has no device 'gpu' here"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tiny, tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        train(tiny(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_file_is_no_folder(tiny, tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(NotADirectoryError, match="run is a file; name a folder"):
        train(tiny(), tmp_path / "run")


def test_bf16_and_the_plain_memory_layout_train_the_same_within_rounding(tiny, tmp_path):
    losses = {}
    for name, changes in (
        ("fp32", {}), ("bf16", {"precision": "bf16"}), ("nchw", {"channels_last": False}),
    ):  # fmt: skip
        train(tiny(max_steps=2, **changes), tmp_path / name)
        losses[name] = [line["train/loss"] for line in read_log(tmp_path / name / "log.jsonl")[1:]]
    assert losses["bf16"] != losses["fp32"]
    assert_allclose(losses["bf16"], losses["fp32"], rtol=0.02)
    assert_allclose(losses["nchw"], losses["fp32"], rtol=1e-4)


def test_problems_of_the_data_are_told(tiny, tmp_path, pictures, embeddings, caplog):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for picture in pictures.glob("*.png"):
        (folder / picture.name).write_bytes(picture.read_bytes())
    (folder / "0.jpg").write_bytes((folder / "0.png").read_bytes())  # a key that comes twice
    with caplog.at_level(logging.WARNING):
        train(tiny(max_steps=1, data=(str(folder),)), tmp_path / "run")
    assert "0.png" in caplog.text or "0.jpg" in caplog.text
