"""What a run tells while it goes on: one JSON line for each report, and TensorBoard's event files."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from mobile_sam.core.errors import MissingDependencyError
from mobile_sam.core.files import atomic_path

logger = logging.getLogger(__name__)


class RunLog:
    """`log.jsonl` and `tensorboard/` in the folder of a run.

    Args:
        folder: of the run.
        step: steps that are done; lines of an earlier process about later steps are taken out, since those steps are
            done again; -1 where even the report before the first step is written again.
        has_tensorboard: whether to write TensorBoard's files.

    Raises:
        MissingDependencyError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, step: int, has_tensorboard: bool) -> None:
        self.path = folder / "log.jsonl"
        self._writer = _tensorboard(folder / "tensorboard", step) if has_tensorboard else None
        take_back(self.path, step)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  # closed by `close`

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Write a line; numbers go to TensorBoard, too."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a log; one that a kill left unfinished is left out, and a file that is not there is empty."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            logger.warning("a line of %s is unfinished and left out", path)
    return lines


def take_back(path: Path, step: int) -> list[dict[str, Any]]:
    """Take the lines of later steps out of a log, since those steps are done again; return those that stay."""
    kept = [line for line in read_log(path) if line["step"] <= step]
    with atomic_path(path) as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    return kept


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError(
            "TensorBoard's files need tensorboard; run: pip install 'mobile-sam[train]', or use "
            "--set tensorboard=false",
            name="tensorboard",
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1)
