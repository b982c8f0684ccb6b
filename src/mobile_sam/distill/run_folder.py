"""The folder of a run: whose it is, and what in it is the run's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import IO

from mobile_sam.core.files import atomic_path, lock_file
from mobile_sam.distill.checkpoints import code_version
from mobile_sam.distill.config import TrainConfig
from mobile_sam.distill.processes import Processes

CONFIG = "config.json"
OWN = (
    "checkpoints/step-*.pt", "tensorboard/events.out.tfevents.*", "skipped-*.jsonl", "student.safetensors",
    "best.safetensors", "log.jsonl", CONFIG,
)  # fmt: skip
"""What a run writes, and what `restart` takes away."""
UNFINISHED = (".mobile-sam-*", "checkpoints/.mobile-sam-*")
"""What a process that was killed had begun to write."""


class RunFolder:
    """A folder that one run has for itself, from `claim` until it is closed or its process ends.

    Args:
        path: where it is, or shall be.
        processes: of the run; the first one holds the folder for all.

    Raises:
        NotADirectoryError: it is a file.
    """

    def __init__(self, path: Path, processes: Processes) -> None:
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(f"{path} is a file; name a folder for the student, checkpoints and logs")
        self.path, self.processes = path, processes
        self._lock: IO[bytes] | None = None

    def claim(self, restart: bool) -> None:
        """Make the folder, hold it, and take away what a killed process left unfinished.

        Args:
            restart: take away all that an earlier run wrote, too, and no more.

        Raises:
            ValueError: another process trains in it, or it holds a `config.json` that no run wrote.
            OSError: it cannot be made or written.
        """
        if self.processes.is_first:
            self.path.mkdir(parents=True, exist_ok=True)
            _check_own(self.path)
            self._lock = open(self.path / ".lock", "a+b")  # noqa: SIM115  # held until `close`
            try:
                lock_file(self._lock)
            except OSError as error:
                raise ValueError(
                    f"another process trains in {self.path}; wait for it, or name another folder"
                ) from error
            _remove(self.path, (*OWN, *UNFINISHED) if restart else UNFINISHED)
        self.processes.wait()

    def write_config(self, config: TrainConfig, facts: dict[str, str]) -> None:
        """Write what is run, and by which code."""
        text = json.dumps({**config.to_json(), "code": code_version(), "facts": facts}, indent=2)
        with atomic_path(self.path / CONFIG) as partial:
            partial.write_text(text + "\n", encoding="utf-8")

    def close(self) -> None:
        """Let others have the folder."""
        if self._lock is not None:
            self._lock.close()


def _check_own(folder: Path) -> None:
    path = folder / CONFIG
    if not path.exists():
        return
    try:
        is_own = "facts" in json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError):
        is_own = False
    if not is_own:
        raise ValueError(f"{path} is not of a training run, and would be written over; name another folder")


def _remove(folder: Path, patterns: tuple[str, ...]) -> None:
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
