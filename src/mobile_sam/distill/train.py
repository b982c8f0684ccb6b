"""The training loop.

    read a batch -> forward -> backward -> step -> average the weights -> now and then: log, validate, save

One process or many (`torchrun`), one GPU, several, or the CPU. Everything random comes from the configuration's seed
and the number of the step, so that a run which was killed and goes on computes what it would have computed.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mobile_sam.build_sam import save_sam
from mobile_sam.core.files import atomic_path
from mobile_sam.data.picture_set import PictureSet, hold_out, open_picture_set
from mobile_sam.distill.batches import Batch
from mobile_sam.distill.checkpoints import (
    CheckpointFolder,
    check_same_run,
    code_version,
    random_state,
    restore_random_state,
)
from mobile_sam.distill.config import TrainConfig
from mobile_sam.distill.distiller import Distiller
from mobile_sam.distill.guard import LossGuard, SkippedPictures, TrainingStoppedError
from mobile_sam.distill.initialise import match_channels
from mobile_sam.distill.loading import Samples, StepSampler, load_batches
from mobile_sam.distill.models import TeacherParts, make_student, open_teacher
from mobile_sam.distill.optimizer import MovingAverage, choose_trained, lr_at, make_optimizer, set_lr
from mobile_sam.distill.processes import Processes, joined_processes
from mobile_sam.distill.run_log import RunLog
from mobile_sam.distill.stopwatch import StepTimes
from mobile_sam.distill.validation import Validator

logger = logging.getLogger(__name__)

WRITTEN = ("checkpoints", "tensorboard", "skipped-*.jsonl", "*.safetensors", "log.jsonl", "config.json")
"""What a run writes to its folder."""
UNFINISHED = (".mobile-sam-*", "checkpoints/.mobile-sam-*")
"""What a process that was killed had begun to write."""

Tell = Callable[[int, int, dict[str, Any]], None]
"""Called after each step with steps done, steps in all, and what was measured, if anything was."""


@dataclass(frozen=True)
class TrainReport:
    """How a run ended.

    Attributes:
        folder: with `student.safetensors` (the last weights), `best.safetensors`, `log.jsonl` and the checkpoints.
        num_steps: that were done, of `num_steps_planned`.
        best: mIoU on the held-out pictures, and the step after which it was reached.
        num_skipped: pictures that could not be used.
        ending: "finished", "stopped early" or "interrupted".
    """

    folder: Path
    num_steps: int
    num_steps_planned: int
    best: tuple[float, int]
    num_skipped: int
    ending: str


def train(config: TrainConfig, folder: Path, *, restart: bool = False, tell: Tell | None = None) -> TrainReport:
    """Train a student, or go on where an earlier call with this folder stopped.

    Args:
        config: of the run.
        folder: where everything is written; made if it does not exist.
        restart: begin anew, whatever is there.
        tell: see `Tell`; called in the first process only.

    Raises:
        TrainingStoppedError: the loss is not finite or diverges, or too many pictures cannot be used; the checkpoints
            are kept.
        ValueError: settings, data, teacher and folder that do not fit together.
        FileNotFoundError: something named is not there.
        OSError: the folder cannot be written; the last checkpoint is kept.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; name a folder for the student, checkpoints and logs")
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    with joined_processes(config.device) as processes:
        run = _Run(config, folder, processes, restart)
        with _stops_between_steps() as stop:
            try:
                return run.go(tell if processes.is_first and tell else lambda *_: None, stop)
            finally:
                run.close()


def split_data(config: TrainConfig) -> tuple[PictureSet, PictureSet]:
    """Open the pictures to train on, and those held out for validation.

    Raises:
        ValueError: no data, or not more pictures than are held out. FileNotFoundError: something is not there.
    """
    if not config.data:
        raise ValueError("data names no pictures; set it in the recipe, or use --data")
    pictures = open_picture_set(config.data, fraction=config.fraction, seed=config.seed)
    if config.held_out:
        held_out = open_picture_set(config.held_out)
        return pictures, held_out.subset(range(min(config.num_held_out, len(held_out))))
    if len(pictures) <= config.num_held_out:
        raise ValueError(
            f"{pictures.name} holds {len(pictures)} pictures, of which num_held_out={config.num_held_out} would be "
            "held out; take more pictures, or lower num_held_out"
        )
    return hold_out(pictures, config.num_held_out, config.seed)


class _Run:
    """What a run is made of, and its loop."""

    def __init__(self, config: TrainConfig, folder: Path, processes: Processes, restart: bool) -> None:
        self.config, self.folder, self.processes = config, folder, processes
        self.share = _share_of_batch(config, processes.count)
        teacher = open_teacher(config)
        pictures, held_out = split_data(config)
        embeddings = None if teacher is None else teacher.embeddings
        samples = Samples(pictures, config, embeddings, _online_side(teacher))
        self.samples = samples
        self.num_steps = config.max_steps or max(1, round(config.epochs * len(pictures) / config.batch_size))
        self.facts = {
            "data": pictures.fingerprint,
            "held out": held_out.fingerprint,
            "teacher": embeddings.teacher.model_id if embeddings else _sha256(config.teacher),
        }
        for problem in (*pictures.problems, *held_out.problems, *(embeddings.problems if embeddings else ())):
            logger.warning("%s: %s: %s", problem.kind, problem.where, problem.message)

        device = processes.device
        student = make_student(config).to(device)
        if config.channels_last:
            student = student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        choose_trained(student, config.parts)
        self.student = student
        self.average = MovingAverage(student, config.ema_decay)
        self.optimizer = make_optimizer(student, config)
        if processes.is_first:
            _clear(folder, WRITTEN if restart else UNFINISHED)
        processes.wait()
        self.checkpoints = CheckpointFolder(folder / "checkpoints", config.keep_checkpoints)
        self.guard = LossGuard(config.diverged_factor)
        self.skipped = SkippedPictures(folder / f"skipped-{processes.rank}.jsonl", config.max_skipped)
        self.step, self.best, self.num_worse = 0, (-math.inf, 0), 0
        self.cpu_s_before = -time.process_time()  # of the steps before this process, less what it took until now
        self._restore()
        if teacher is not None:
            teacher = replace(teacher, sam=teacher.sam.to(device))
        self.distiller = Distiller(student, config, None if teacher is None else teacher.sam).train()
        self.parallel = _parallel(self.distiller, config, processes)
        self.validator = Validator(config, held_out, teacher)
        self.log = RunLog(folder, self.step or -1, config.tensorboard) if processes.is_first else None

    def go(self, tell: Tell, stop: threading.Event) -> TrainReport:
        """Train until the last step, or until something stops it."""
        config = self.config
        if self.step == 0:
            self._write_config()
            if config.match_channels and config.needs_teacher and not config.start_from:
                match_channels(self.distiller, self.samples, self.processes.device)
                self.average = MovingAverage(self.student, config.ema_decay)
            self._report(self._validate(), tell)
        batches, times = self._batches(), StepTimes()
        while self.step < self.num_steps and not self._has_stalled:
            lr = lr_at(self.step, self.num_steps, config)
            set_lr(self.optimizer, lr)
            losses, grad_norm = self._train_step(batches, times)
            mean_loss, wants_stop = self.processes.mean([losses["loss"], float(stop.is_set())])
            self._check(mean_loss, grad_norm)
            with times.part("average"):
                self.average.update(self.student, self.step)
            self.step += 1
            times.end_step()
            is_last = self.step == self.num_steps
            found: dict[str, Any] = {}
            if self.step % config.log_every == 0 or is_last:
                found |= {f"train/{name}": value for name, value in losses.items()} | {"train/loss": mean_loss}
                found |= {"train/lr": lr, "train/grad_norm": grad_norm, "train/skipped": self.skipped.num_skipped}
                found |= times.summary(config.batch_size)
            if self.step % config.validate_every == 0 or is_last:
                with times.part("validate"):
                    found |= self._validate()
            self._report(found, tell)
            if self.step % config.checkpoint_every == 0 or is_last or wants_stop or self._has_stalled:
                with times.part("save"):
                    self._save()
            if wants_stop:
                break
        if self.processes.is_first:
            self._save_student(self.folder / "student.safetensors", {"step": str(self.step)})
        ending = "finished" if self.step == self.num_steps else "stopped early" if self._has_stalled else "interrupted"
        return TrainReport(self.folder, self.step, self.num_steps, self.best, self.skipped.num_skipped, ending)

    @property
    def _has_stalled(self) -> bool:
        """Whether the last validations, as many as the user waits for, were no better than the best."""
        return 0 < self.config.patience <= self.num_worse

    def close(self) -> None:
        """Close the log."""
        if self.log:
            self.log.close()

    def _train_step(
        self, batches: Iterator[tuple[Batch, list[Any]]], times: StepTimes
    ) -> tuple[dict[str, float], float]:
        """Do one optimizer step, in parts where gradients are accumulated; the step's losses and gradient norm."""
        config = self.config
        sums: dict[str, Tensor] = {}
        for part in range(config.accumulate):
            with times.part("data"):
                batch, errors = next(batches)
                self.skipped.add(errors, self.step + 1)
                batch = batch.to(self.processes.device)
            is_last = part == config.accumulate - 1
            with nullcontext() if is_last or self.processes.count == 1 else self.parallel.no_sync():
                with times.part("forward"):
                    losses = self.parallel(batch)
                with times.part("backward"):
                    (losses["loss"] / config.accumulate).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / config.accumulate
        with times.part("update"):
            trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            norm = nn.utils.clip_grad_norm_(trained, config.clip_norm or math.inf)
            grad_norm = float(norm)
            if math.isfinite(grad_norm):  # else the weights would be lost, and with them what there is to look into
                self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            return {name: float(value) for name, value in sums.items()}, grad_norm

    def _check(self, loss: float, grad_norm: float) -> None:
        """Stop the run where it makes no sense to go on.

        Raises:
            TrainingStoppedError: with the last good checkpoint in the message.
        """
        try:
            self.guard.check(loss, grad_norm)
            self.skipped.check((self.step + 1) * self.share)
        except TrainingStoppedError as error:
            kept = self.checkpoints.paths()
            left = f"the last good checkpoint is {kept[0]}" if kept else "there is no checkpoint yet"
            raise TrainingStoppedError(f"stopped after {self.step} steps: {error}; {left}") from error

    def _batches(self) -> Iterator[tuple[Batch, list[Any]]]:
        config, processes = self.config, self.processes
        steps = (self.step, self.num_steps)
        sampler = StepSampler(
            self.samples.order, steps, config.batch_size, config.accumulate, processes.rank, processes.count
        )
        return load_batches(self.samples, sampler, processes.device)

    def _validate(self) -> dict[str, float]:
        """Measure the averaged weights; all processes learn the result, and the first keeps the best weights."""
        found = self.validator.measure(self.average.model) if self.processes.is_first else {"val/miou": 0.0}
        (miou,) = self.processes.mean([found["val/miou"] * self.processes.count])
        if miou > self.best[0]:
            self.best, self.num_worse = (miou, self.step), 0
            if self.processes.is_first:
                self._save_student(self.folder / "best.safetensors", {"step": str(self.step), "miou": f"{miou:.4f}"})
        else:
            self.num_worse += 1
        return found

    def _report(self, found: dict[str, Any], tell: Tell) -> None:
        """Log what was measured, if anything, and tell the caller."""
        if found and self.log:
            self.log.write(self.step, {**found, "time/cpu_s": self.cpu_s_before + time.process_time()})
        tell(self.step, self.num_steps, found)

    def _save_student(self, path: Path, metadata: dict[str, str]) -> None:
        name = self.config.student
        save_sam(self.average.model, path, name=name, metadata={"objective": self.config.objective, **metadata})

    def _write_config(self) -> None:
        if self.processes.is_first:
            with atomic_path(self.folder / "config.json") as partial:
                text = json.dumps({**self.config.to_json(), "code": code_version(), "facts": self.facts}, indent=2)
                partial.write_text(text + "\n", encoding="utf-8")

    def _save(self) -> None:
        if self.processes.is_first:
            self.checkpoints.save(
                self.step,
                {
                    "student": self.student.state_dict(),
                    "average": self.average.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "random": random_state(self.processes.device),
                    "guard": self.guard.state(),
                    "best": self.best,
                    "num_worse": self.num_worse,
                    "cpu_s": self.cpu_s_before + time.process_time(),
                    "config": self.config.to_json(),
                    "facts": self.facts,
                    "code": code_version(),
                },
            )
        self.processes.wait()

    def _restore(self) -> None:
        """Go on from the latest checkpoint, if there is one."""
        state = self.checkpoints.load_latest()
        if state is None:
            self.skipped.restore(0)
            return
        check_same_run(state, self.config, self.facts, self.folder)
        self.skipped.restore(state["step"])
        self.student.load_state_dict(state["student"])
        self.average.model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.guard.restore(state["guard"])
        self.step, self.best, self.num_worse = state["step"], tuple(state["best"]), state["num_worse"]
        self.cpu_s_before += state["cpu_s"]
        restore_random_state(state["random"], self.processes.device)
        logger.info("goes on after step %d", self.step)


def _share_of_batch(config: TrainConfig, num_processes: int) -> int:
    """Pictures of a batch that one process takes."""
    if config.batch_size % (num_processes * config.accumulate):
        raise ValueError(
            f"batch_size {config.batch_size} cannot be divided among {num_processes} processes with accumulate="
            f"{config.accumulate}; take a multiple of {num_processes * config.accumulate}"
        )
    return config.batch_size // num_processes


def _online_side(teacher: TeacherParts | None) -> int | None:
    return teacher.input_side if teacher is not None and teacher.embeddings is None else None


def _sha256(checkpoint: str) -> str:
    from mobile_sam.core.weights import BUNDLED, is_bundled_name, sha256_of_file, weights_file

    if not checkpoint:
        return ""
    return BUNDLED.file_sha256 if is_bundled_name(checkpoint) else sha256_of_file(weights_file(checkpoint))


def _clear(folder: Path, patterns: tuple[str, ...]) -> None:
    """Take away what an earlier run wrote."""
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _parallel(distiller: Distiller, config: TrainConfig, processes: Processes) -> Any:
    """Wrap the module for several processes; a single one has it as it is."""
    if processes.count == 1:
        return distiller
    if config.sync_batchnorm and processes.device.type == "cuda":
        distiller = nn.SyncBatchNorm.convert_sync_batchnorm(distiller)
    devices = [processes.device] if processes.device.type == "cuda" else None
    has_unused = (
        config.draws_prompts and config.parts != "encoder"
    )  # not each of the decoder's tokens answers each batch
    return DistributedDataParallel(distiller, device_ids=devices, find_unused_parameters=has_unused)


@contextmanager
def _stops_between_steps() -> Iterator[threading.Event]:
    """Let Ctrl-C and SIGTERM end the run after the step that goes on; a second one ends it at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: object) -> None:
        logger.warning("stopping after this step, with a checkpoint; once more to stop at once")
        stop.set()
        signal.signal(number, signal.default_int_handler)

    for number in earlier:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
