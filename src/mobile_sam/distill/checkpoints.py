"""Checkpoints of a run: whole, written beside and renamed, and refused where they belong to another run."""

from __future__ import annotations

import functools
import logging
import os
import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import torch

from mobile_sam._version import __version__
from mobile_sam.core.files import atomic_path
from mobile_sam.distill.config import TrainConfig

logger = logging.getLogger(__name__)

FORMAT = 1

MAY_CHANGE = (
    "num_workers", "num_threads", "device", "log_every", "checkpoint_every", "keep_checkpoints", "tensorboard",
    "max_skipped", "diverged_factor", "embedding_cache_gb", "data", "held_out", "embeddings", "teacher", "start_from",
    "decoder_from",
)  # fmt: skip
"""Settings that a run may go on with another value of: they change nothing of what is computed, or name files and
folders whose contents are compared instead."""


class CheckpointFolder:
    """The checkpoints of one run, `step-00001200.pt` and so on.

    Args:
        folder: is made if it does not exist.
        num_kept: how many of the latest stay.
    """

    def __init__(self, folder: Path, num_kept: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.num_kept = num_kept

    def paths(self) -> list[Path]:
        """List the checkpoints, the latest first."""
        found = [path for path in self.folder.glob("step-*.pt") if re.fullmatch(r"step-\d+", path.stem)]
        return sorted(found, key=lambda path: int(path.stem.partition("-")[2]), reverse=True)

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write what a run needs to go on after `step` steps; older checkpoints go when it is on the disk.

        Those of later steps go, too: a run that goes on before one of them could not read it.

        Raises:
            OSError: it cannot be written; the older ones are untouched.
        """
        path = self.folder / f"step-{step:08d}.pt"
        try:
            with atomic_path(path) as partial:
                torch.save({"format": FORMAT, "step": step, **state}, partial)
                _bring_to_disk(partial)
        except RuntimeError as error:  # torch's own writer hides what the system said, such as a full disk
            raise OSError(f"cannot write {path}: {str(error).partition(chr(10))[0]}; is the disk full?") from error
        paths = self.paths()
        for other in {*paths} - {*paths[paths.index(path) :][: self.num_kept]}:
            other.unlink(missing_ok=True)
        return path

    def load_latest(self) -> dict[str, Any] | None:
        """Read the latest checkpoint that is whole; None where there is none.

        Raises:
            ValueError: there are some, and none can be read.
        """
        paths = self.paths()
        for path in paths:
            try:
                _check_sums(path)
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
                if state["format"] != FORMAT:
                    raise ValueError(f"it has format {state['format']}, expected {FORMAT}")
                return state
            except Exception as error:  # noqa: BLE001  # torch raises errors of many kinds for a damaged file
                logger.warning("%s cannot be read (%s); an earlier one is tried", path, str(error).partition("\n")[0])
        if paths:
            raise ValueError(f"none of the {len(paths)} checkpoints in {self.folder} can be read; begin with --restart")
        return None


def _bring_to_disk(path: Path) -> None:
    """Wait until a file is on the disk, so that not even a crash of the machine leaves an empty one of its name."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _check_sums(path: Path) -> None:
    """Compare the file with the checksums in it, which torch writes and does not look at."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of {damaged} in it is wrong")


def check_same_run(state: dict[str, Any], config: TrainConfig, facts: dict[str, Any], folder: Path) -> None:
    """Check that a checkpoint belongs to the run that is to go on.

    Args:
        state: as `CheckpointFolder.load_latest` returned it.
        config: of the run that starts.
        facts: what the numbers depend on beside the configuration, such as fingerprints of the data.
        folder: of the run, for the message.

    Raises:
        ValueError: something differs; the message says what.
    """
    saved = TrainConfig.from_mapping(state["config"])
    kept = saved.with_values({name: getattr(config, name) for name in MAY_CHANGE})
    differences = kept.differences(config)
    differences += [
        f"{name}: {state['facts'].get(name)!r} here, {value!r} there"
        for name, value in facts.items()
        if state["facts"].get(name) != value
    ]
    if differences:
        raise ValueError(
            f"{folder} holds a run of {state['step']} steps with other settings than asked for now "
            f"({'; '.join(differences)}); give the same ones, name another folder, or begin anew with --restart"
        )


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of torch's generators; nothing else is drawn from while a run goes on."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Undo what was drawn since `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@functools.cache
def code_version() -> dict[str, str]:
    """Name the code that runs: the package's version, torch's, and the git commit where it runs from a clone.

    The commit is that of the first call: what is committed later is not what runs.
    """
    version = {"mobile_sam": __version__, "torch": str(torch.__version__)}
    here = Path(__file__).resolve().parent
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
        in_clone = subprocess.run(
            ["git", "ls-files", "--error-unmatch", __file__], cwd=here, capture_output=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return version
    if asked.returncode == 0 and in_clone.returncode == 0:  # else it is the repository of someone's environment
        version["commit"] = asked.stdout.strip()
    return version
