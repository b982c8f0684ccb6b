"""The training loop.

    read a batch -> forward -> backward -> step -> average the weights -> now and then: log, validate, save

One process or many (`torchrun`), one GPU, several, or the CPU. Everything random comes from the configuration's seed
and the number of the step, so that a run which was killed and goes on computes what it would have computed.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mobile_sam.build_sam import save_sam
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
from mobile_sam.distill.models import make_student, open_teacher
from mobile_sam.distill.optimizer import MovingAverage, choose_trained, lr_at, make_optimizer, set_lr
from mobile_sam.distill.processes import Processes, joined_processes, told_of_dead_readers
from mobile_sam.distill.run_data import check_embeddings, facts_of, split_data
from mobile_sam.distill.run_folder import RunFolder
from mobile_sam.distill.run_log import RunLog
from mobile_sam.distill.stopwatch import StepTimes
from mobile_sam.distill.validation import Validator

logger = logging.getLogger(__name__)

DEAD_READERS = "the same command goes on from the last checkpoint, with --set num_workers=0 without such processes"

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
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    with joined_processes(config.device) as processes:
        own = RunFolder(folder, processes)
        try:
            with (
                _stops_between_steps() as stop,
                told_of_dead_readers(DEAD_READERS),
                closing(_Run(config, own, processes, restart)) as run,
            ):
                return run.go(tell if processes.is_first and tell else lambda *_: None, stop)
        except torch.OutOfMemoryError as error:
            raise OSError(
                f"the memory of {processes.device} is full; take batches in parts, as with --set accumulate=4"
            ) from error
        finally:
            own.close()


class _Run:
    """What a run is made of, and its loop."""

    def __init__(self, config: TrainConfig, own: RunFolder, processes: Processes, restart: bool) -> None:
        self.config, self.own, self.folder, self.processes = config, own, own.path, processes
        _check_share(config, processes.count)
        device = processes.device
        teacher = open_teacher(config)
        pictures, held_out = split_data(config)
        embeddings = None if teacher is None else teacher.embeddings
        if embeddings is not None:
            check_embeddings(pictures, embeddings, config.max_skipped)
        self.facts = facts_of(config, pictures, held_out, teacher)
        for problem in (*pictures.problems, *held_out.problems, *(embeddings.problems if embeddings else ())):
            logger.warning("%s: %s: %s", problem.kind, problem.where, problem.message)
        online_side = teacher.input_side if teacher is not None and embeddings is None else None
        self.samples = Samples(pictures, config, embeddings, online_side)
        self.num_steps = config.num_steps(len(pictures))

        self.student = make_student(config).to(device)
        if config.channels_last:
            self.student = self.student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        choose_trained(self.student, config.parts)
        self.average = MovingAverage(self.student, config.ema_decay)
        self.optimizer = make_optimizer(self.student, config)
        own.claim(restart)  # not before what may be wrong was found out
        self.checkpoints = CheckpointFolder(self.folder / "checkpoints", config.keep_checkpoints)
        self.guard = LossGuard(config.diverged_factor)
        self.skipped = SkippedPictures(self.folder / f"skipped-{processes.rank}.jsonl", config.max_skipped)
        self.step, self.best, self.num_worse = 0, (-math.inf, 0), 0
        self.cpu_s_before = -time.process_time()  # of the steps before this process, less what it took until now
        self._restore()
        if teacher is not None:
            teacher = replace(teacher, sam=teacher.sam.to(device))
        self.distiller = Distiller(self.student, config, None if teacher is None else teacher.sam).train()
        self.parallel = _parallel(self.distiller, config, processes)
        self.validator = Validator(config, held_out, teacher)
        self.log = RunLog(self.folder, self.step or -1, config.tensorboard) if processes.is_first else None

    def go(self, tell: Tell, stop: threading.Event) -> TrainReport:
        """Train until the last step, or until something stops it."""
        config = self.config
        if self.step == 0:
            if self.processes.is_first:
                self.own.write_config(config, self.facts)
            if config.match_channels and config.needs_teacher and not config.start_from:
                match_channels(self.distiller, self.samples, self.processes.device)
                self.average = MovingAverage(self.student, config.ema_decay)
            self._report(self._validate(), tell)
        batches, times, num_skipped = self._batches(), StepTimes(), self.skipped.num_skipped
        while self.step < self.num_steps and not self._has_stalled:
            lr = lr_at(self.step, self.num_steps, config)
            set_lr(self.optimizer, lr)
            losses, grad_norm = self._train_step(batches, times)
            told = [losses["loss"], float(stop.is_set()), float(self.skipped.num_skipped)]
            mean_loss, wants_stop, mean_skipped = self.processes.mean(told)
            num_skipped = round(mean_skipped * self.processes.count)
            self._check(mean_loss, grad_norm, num_skipped)
            with times.part("average"):
                self.average.update(self.student, self.step)
            self.step += 1
            times.end_step()
            is_last = self.step == self.num_steps
            found: dict[str, Any] = {}
            if self.step % config.log_every == 0 or is_last:
                found |= {f"train/{name}": value for name, value in losses.items()} | {"train/loss": mean_loss}
                found |= {"train/lr": lr, "train/grad_norm": grad_norm, "train/skipped": num_skipped}
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
        return TrainReport(self.folder, self.step, self.num_steps, self.best, num_skipped, ending)

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

    def _check(self, loss: float, grad_norm: float, num_skipped: int) -> None:
        """Stop the run where it makes no sense to go on; all processes see the same numbers.

        Raises:
            TrainingStoppedError: with the last good checkpoint in the message.
        """
        try:
            self.guard.check(loss, grad_norm)
            self.skipped.check((self.step + 1) * self.config.batch_size, num_skipped)
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
        found = 0 if state is None else state["step"]
        mean, mean_square = self.processes.mean([float(found), float(found**2)])
        if mean_square != mean**2:
            raise ValueError(
                f"this process found the checkpoint of step {found} in {self.folder}, others found another; the folder "
                "must be on a disk that all machines see"
            )
        self.skipped.restore(found)
        if state is None:
            return
        check_same_run(state, self.config, self.facts, self.folder)
        self.student.load_state_dict(state["student"])
        self.average.model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.guard.restore(state["guard"])
        self.step, self.best, self.num_worse = state["step"], tuple(state["best"]), state["num_worse"]
        self.cpu_s_before += state["cpu_s"]
        restore_random_state(state["random"], self.processes.device)
        logger.info("goes on after step %d", self.step)


def _check_share(config: TrainConfig, num_processes: int) -> None:
    if config.batch_size % (num_processes * config.accumulate):
        raise ValueError(
            f"batch_size {config.batch_size} cannot be divided among {num_processes} processes with accumulate="
            f"{config.accumulate}; take a multiple of {num_processes * config.accumulate}"
        )


def _parallel(distiller: Distiller, config: TrainConfig, processes: Processes) -> Any:
    """Wrap the module for several processes; a single one has it as it is."""
    if processes.count == 1:
        return distiller
    if config.sync_batchnorm and processes.device.type == "cuda":
        distiller = nn.SyncBatchNorm.convert_sync_batchnorm(distiller)
    devices = [processes.device] if processes.device.type == "cuda" else None
    return DistributedDataParallel(distiller, device_ids=devices)


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
