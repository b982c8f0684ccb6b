"""The log of a run: one line for each report, also after kills and restarts."""

import builtins
import json
import logging

import pytest

from mobile_sam.core.errors import MissingDependencyError
from mobile_sam.distill.run_log import RunLog, read_log


def write_lines(folder, steps, first=0):
    log = RunLog(folder, first, has_tensorboard=False)
    for step in steps:
        log.write(step, {"train/loss": step / 10})
    log.close()


def test_lines_are_there_as_soon_as_they_are_written(tmp_path):
    log = RunLog(tmp_path, 0, has_tensorboard=False)
    log.write(3, {"train/loss": 0.5, "note": "a"})
    assert read_log(tmp_path / "log.jsonl") == [{"step": 3, "train/loss": 0.5, "note": "a"}]
    log.close()


def test_lines_of_steps_that_are_done_again_go(tmp_path):
    write_lines(tmp_path, [1, 2, 3, 4])
    write_lines(tmp_path, [3], first=2)
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [1, 2, 3]
    write_lines(tmp_path, [1])
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [1]


def test_a_line_that_a_kill_cut_off_goes(tmp_path, caplog):
    write_lines(tmp_path, [1, 2])
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 3, "train/lo')
    with caplog.at_level(logging.WARNING):
        write_lines(tmp_path, [3], first=2)
    assert "log.jsonl is unfinished" in caplog.text
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2, 3]


def test_no_log_is_an_empty_one(tmp_path):
    assert read_log(tmp_path / "none.jsonl") == []


def test_numbers_go_to_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = RunLog(tmp_path, 0, has_tensorboard=True)
    log.write(1, {"train/loss": 0.5, "note": "not a number"})
    log.write(2, {"train/loss": 0.25})
    log.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 0.5), (2, 0.25)]


def test_without_tensorboard_the_extra_and_the_setting_are_named(tmp_path, monkeypatch):
    plain_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("torch.utils.tensorboard"):
            raise ModuleNotFoundError(name)
        return plain_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match=r"mobile-sam\[train\].*--set tensorboard=false"):
        RunLog(tmp_path, 0, has_tensorboard=True)
