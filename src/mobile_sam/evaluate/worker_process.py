"""Processes of one model each, so that neither start-up nor memory of one has anything of another in it.

A module with a `main` that serves commands is the model's end, `WorkerProcess` the other; JSON lines go between them.
Nothing is imported on top that a program of the user would not pay for: the start of the process is measured.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

Answer = dict[str, Any]
Command = Callable[..., Answer]

RUN_WORKER = (
    "import sys; sys.path[:] = sys.argv[2:]; from importlib import import_module as load; load(sys.argv[1]).main()"
)
"""Run with our own sys.path, so that the worker imports the same package whatever lies in the current folder."""
SECONDS_TO_END = 10
NUM_LAST_LINES, NUM_LAST_BYTES = 6, 4000
"""How much of a worker's stderr an error message has at most."""


def peak() -> Answer:
    """Return the part of an answer that says how much memory this process has had at most."""
    from mobile_sam.evaluate.machine import peak_rss_mb

    return {"peak_mb": peak_rss_mb()}


@lru_cache(maxsize=1)
def read_once(picture: str) -> NDArray[np.uint8]:
    """Read a picture file, the last one from memory."""
    from mobile_sam.core.images import read_image

    return read_image(picture)


def serve_commands(commands: Mapping[str, Command], requests: TextIO, answers: TextIO) -> None:
    """Answer requests, a JSON object a line with a "command" and its arguments, until their end.

    Raises:
        SystemExit: the model cannot be made ("load"), for a reason that needs no traceback. Others: as commands raise.
    """
    for line in requests:
        request = json.loads(line)
        command = request.pop("command")
        try:
            answer = commands[command](**request)
        except (ValueError, OSError, ImportError) as error:
            if command != "load":
                raise
            raise SystemExit(f"{type(error).__name__}: {error}") from error
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def open_answers() -> TextIO:
    """Take stdout for the answers; whatever a library prints goes to stderr instead."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


class WorkerError(RuntimeError):
    """A worker ended before it answered; the message says how, with the last lines of its stderr."""


class WorkerProcess:
    """A worker as its user sees it; use as a context manager, so that the process ends whatever happens.

    Attributes:
        module: what the process runs `main` of; each subclass names its own.
        started: when, on the clock of `time.perf_counter`.
        process: its pipes carry the requests and the answers.
    """

    module: ClassVar[str]

    def __init__(self) -> None:
        from subprocess import PIPE, Popen
        from tempfile import TemporaryFile

        self._stderr = TemporaryFile()  # noqa: SIM115  # a pipe that nobody reads would fill up
        command = [sys.executable, "-c", RUN_WORKER, self.module, *map(str, sys.path)]
        self.started = time.perf_counter()
        self.process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=self._stderr, text=True, encoding="utf-8")

    def ask(self, command: str, **fields: Any) -> Answer:
        """Send one request, a command of the worker with its arguments, and wait for the answer.

        Raises:
            WorkerError: the process ended instead.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(OSError):  # the process has ended, and so has its output
            self.process.stdin.write(json.dumps({"command": command, **fields}) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line.endswith("\n"):
            raise WorkerError(f"its process ended at {command!r} {self._how_it_ended()}")
        answer: Answer = json.loads(line)
        return answer

    def seconds_since_start(self) -> float:
        """Return the seconds since the process was made."""
        return time.perf_counter() - self.started

    def close(self, kill: bool = False) -> None:
        """End the process, by the end of its input or at once, and wait until it is gone."""
        from subprocess import TimeoutExpired

        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if kill:
            self.process.kill()
        with suppress(OSError):  # what could not be sent before
            self.process.stdin.close()
        try:
            self.process.wait(SECONDS_TO_END)
        except TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self._stderr.close()

    def _how_it_ended(self) -> str:
        from signal import Signals

        code = self.process.wait()
        try:
            how = f"by signal {Signals(-code).name}" if code < 0 else f"with code {code}"
        except ValueError:  # a signal without a name
            how = f"by signal {-code}"
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - NUM_LAST_BYTES))
        lines = self._stderr.read().decode("utf-8", "replace").splitlines()
        last = [line for line in lines if line.strip()][-NUM_LAST_LINES:]
        return f"{how}: " + ("\n".join(last) or "nothing on its stderr; was there enough memory?")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(kill=error is not None)
