"""Checkpoints: whole or not there, the latest that can be read, and none of another run."""

import errno
import logging

import pytest
import torch

from mobile_sam.distill import checkpoints
from mobile_sam.distill.checkpoints import (
    MAY_CHANGE,
    CheckpointFolder,
    check_same_run,
    code_version,
    random_state,
    restore_random_state,
)
from mobile_sam.distill.config import TrainConfig


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(tmp_path / "checkpoints", num_kept=2)


def state_of(step):
    return {"student": {"w": torch.full((1000,), float(step))}, "best": (0.5, step)}


def names(folder):
    return sorted(path.name for path in folder.folder.iterdir())


def test_what_was_saved_is_loaded(folder):
    assert folder.load_latest() is None
    folder.save(7, {"best": (0.5, 3), "student": {"w": torch.arange(3.0)}})
    state = folder.load_latest()
    assert (state["step"], tuple(state["best"])) == (7, (0.5, 3))
    assert torch.equal(state["student"]["w"], torch.arange(3.0))


def test_the_latest_few_are_kept(folder):
    for step in (9, 10, 100, 1000):
        folder.save(step, state_of(step))
    assert names(folder) == ["step-00000100.pt", "step-00001000.pt"]
    assert folder.load_latest()["step"] == 1000


def test_the_best_and_other_files_stay(folder):
    (folder.folder / "step-notes.pt").touch()
    for step in (1, 2, 3):
        folder.save(step, state_of(step))
    assert "step-notes.pt" in names(folder)


def fail_with(error):
    def save(state, path):
        path.write_bytes(b"half of it")
        raise error

    return save


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), r"No space left on device: .*step-00000002\.pt"),
        (RuntimeError("[enforce fail at inline_container.cc] . file write failed\nframe #0"), "is the disk full"),
    ],
)
def test_a_full_disk_leaves_the_earlier_checkpoint(folder, monkeypatch, error, words):
    folder.save(1, state_of(1))
    monkeypatch.setattr(checkpoints.torch, "save", fail_with(error))
    with pytest.raises(OSError, match=words) as raised:
        folder.save(2, state_of(2))
    assert "\n" not in str(raised.value)
    assert names(folder) == ["step-00000001.pt"]
    assert folder.load_latest()["student"]["w"][0] == 1


def test_an_interrupt_while_writing_leaves_the_earlier_checkpoint(folder, monkeypatch):
    folder.save(1, state_of(1))
    monkeypatch.setattr(checkpoints.torch, "save", fail_with(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        folder.save(2, state_of(2))
    assert names(folder) == ["step-00000001.pt"]


def cut_off(content):
    return content[: len(content) // 2]


def with_a_flipped_bit(content):
    place = content.index(torch.full((100,), 2.0).numpy().tobytes()) + 50
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [cut_off, with_a_flipped_bit, lambda content: b""], ids=["cut", "bit", "empty"])
def test_the_earlier_one_is_taken_where_the_latest_is_damaged(folder, caplog, damage):
    folder.save(1, state_of(1))
    latest = folder.save(2, state_of(2))
    latest.write_bytes(damage(latest.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert folder.load_latest()["step"] == 1
    assert "step-00000002.pt cannot be read" in caplog.text
    folder.folder.joinpath("step-00000001.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 2 checkpoints in .* can be read; begin with --restart"):
        folder.load_latest()


@pytest.mark.parametrize("num_kept", [1, 2])
def test_a_damaged_checkpoint_does_not_take_the_place_of_a_later_one(tmp_path, num_kept):
    folder = CheckpointFolder(tmp_path, num_kept)
    for step in (10, 20, 30):
        folder.folder.joinpath(f"step-{step:08}.pt").write_bytes(b"damaged")
    folder.save(5, state_of(5))  # of the run that goes on before them
    assert names(folder) == ["step-00000005.pt"]
    assert folder.load_latest()["step"] == 5


def test_the_commit_is_that_of_the_code_that_was_started(monkeypatch):
    before = code_version()
    monkeypatch.setattr(checkpoints.subprocess, "run", lambda *_, **__: pytest.fail("asked git again"))
    assert code_version() == before


def test_a_checkpoint_of_another_format_is_not_taken(folder, monkeypatch, caplog):
    folder.save(1, state_of(1))
    monkeypatch.setattr(checkpoints, "FORMAT", 99)
    with pytest.raises(ValueError, match="none of the 1 checkpoints"), caplog.at_level(logging.WARNING):
        folder.load_latest()
    assert "it has format 1, expected 99" in caplog.text


def test_a_checkpoint_with_code_in_it_is_not_run(folder, tmp_path):
    class Code:
        def __reduce__(self):
            return (open, (str(tmp_path / "it_ran"), "w"))

    torch.save({"format": 1, "step": 1, "code": Code()}, folder.folder / "step-00000001.pt")
    with pytest.raises(ValueError, match="none of the 1 checkpoints"):
        folder.load_latest()
    assert not (tmp_path / "it_ran").exists()


def saved_run(config, **facts):
    return {"config": config.to_json(), "facts": facts, "step": 12}


def test_the_same_run_may_go_on(tmp_path):
    config = TrainConfig(data=("a", "b"), betas=(0.8, 0.9))
    check_same_run(saved_run(config, data="d1", teacher="t1"), config, {"data": "d1", "teacher": "t1"}, tmp_path)


@pytest.mark.parametrize(
    ("changes", "facts", "words"),
    [
        ({"lr": 0.25}, {"data": "d1"}, "lr: 0.001 here, 0.25 there"),
        (
            {"student": "vit_t_1m", "seed": 4},
            {"data": "d1"},
            "student: 'vit_t' here, 'vit_t_1m' there; seed: 0 here, 4",
        ),
        ({}, {"data": "d2"}, "data: 'd1' here, 'd2' there"),
        ({}, {"data": "d1", "teacher": "t2"}, "teacher: None here, 't2' there"),
    ],
)
def test_another_run_is_refused_and_what_differs_is_said(tmp_path, changes, facts, words):
    config = TrainConfig(data=("a",))
    with pytest.raises(ValueError, match=words) as raised:
        check_same_run(saved_run(config, data="d1"), config.with_values(changes), facts, tmp_path)
    assert f"{tmp_path} holds a run of 12 steps" in str(raised.value)
    assert "--restart" in str(raised.value)


OTHER_VALUES = {
    "num_workers": 5, "num_threads": 3, "device": "cpu", "log_every": 7, "checkpoint_every": 9, "keep_checkpoints": 4,
    "tensorboard": False, "max_skipped": 0.5, "diverged_factor": 3.0, "embedding_cache_gb": 0.5,
    "data": ("moved.tar",), "held_out": ("moved.json",), "embeddings": "moved", "teacher": "moved.pt",
    "start_from": "moved.safetensors", "decoder_from": "moved.pt",
}  # fmt: skip


@pytest.mark.parametrize("name", MAY_CHANGE)
def test_what_changes_nothing_of_the_result_may_change(tmp_path, name):
    config = TrainConfig()
    changed = config.with_values({name: OTHER_VALUES[name]})
    assert changed != config
    check_same_run(saved_run(config), changed, {}, tmp_path)


def test_draws_repeat_after_the_state_is_put_back():
    state = random_state(torch.device("cpu"))
    first = torch.rand(5)
    torch.rand(3)
    restore_random_state(state, torch.device("cpu"))
    assert torch.equal(torch.rand(5), first)


def test_the_code_names_its_versions(monkeypatch):
    assert code_version()["torch"] == torch.__version__

    def no_git(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(checkpoints.subprocess, "run", no_git)
    assert set(code_version.__wrapped__()) == {"mobile_sam", "torch"}


def test_all_that_a_run_keeps_can_be_read_without_running_code(folder):
    folder.save(1, {"code": code_version(), "random": random_state(torch.device("cpu"))})
    assert folder.load_latest()["code"] == code_version()
