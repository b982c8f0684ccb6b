"""One model in a process of its own, so that neither its start-up nor its memory has anything of another in it.

`LatencyWorker` is the model's end, `WorkerProcess` the evaluator's; JSON lines go between them. Nothing is imported on
top that a program of the user would not pay for: the start of the process is measured.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from mobile_sam.evaluate.models import ModelSpec
    from mobile_sam.predictor import SamPredictor

Answer = dict[str, Any]

RUN_WORKER = "import sys; sys.path[:] = sys.argv[1:]; from mobile_sam.evaluate.latency_worker import main; main()"
"""Run with our own sys.path, so that the worker imports the same package whatever lies in the current folder."""
SECONDS_TO_END = 10
NUM_LAST_LINES, NUM_LAST_BYTES = 6, 4000
"""How much of a worker's stderr an error message has at most."""


class LatencyWorker:
    """The model under test and the requests that can be made of it.

    Answers with times, in seconds, also have `peak_mb`, see `peak_rss_mb`.
    """

    def __init__(self) -> None:
        self._spec: ModelSpec | None = None
        self._predictor: SamPredictor | None = None

    @property
    def predictor(self) -> SamPredictor:
        """The model, which `load` made."""
        assert self._predictor is not None
        return self._predictor

    def load(self, model: dict[str, Any], num_threads: int) -> Answer:
        """Import the package, then make the engine, which imports its own libraries.

        Args:
            model: as `ModelSpec.to_json` gives it.
            num_threads: see `make_engine`; torch is held to it as well.
        """
        start = time.perf_counter()
        from mobile_sam.evaluate.models import ModelSpec
        from mobile_sam.predictor import SamPredictor

        imported = time.perf_counter()
        self._spec = ModelSpec.from_json(model)
        self._predictor = SamPredictor(engine=self._spec.make(num_threads))
        if num_threads and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(num_threads)
        return {"import_s": imported - start, "make_engine_s": time.perf_counter() - imported, **peak()}

    def encode(self, picture: str) -> Answer:
        """Encode a picture file, whose reading is not timed, and set it."""
        image = read_once(picture)
        start = time.perf_counter()
        (embedding,) = self.predictor.engine.encode([image])
        seconds = time.perf_counter() - start
        self.predictor.set_embedding(embedding)
        return {"seconds": seconds, **peak()}

    def click(self, points_xy: list[list[float]], multimask: bool) -> Answer:
        """Predict the masks of one point of the object, in the picture's size."""
        start = time.perf_counter()
        self.predictor.predict(points_xy, [1], multimask_output=multimask)
        return {"seconds": time.perf_counter() - start, **peak()}

    def prompts(self, points_xy: list[list[float]], multimask: bool) -> Answer:
        """Predict the masks of P points (P, 2) at once, each an object of its own, in the picture's size."""
        from mobile_sam.core.prompts import Prompt

        start = time.perf_counter()
        self.predictor.predict_batch([Prompt.of([point_xy], [1]) for point_xy in points_xy], multimask)
        return {"seconds": time.perf_counter() - start, **peak()}

    def everything(self, picture: str, mode: str) -> Answer:
        """Segment everything in a picture file, whose reading is not timed; `num_masks` tells how many there are."""
        from mobile_sam.automatic_mask_generator import SamAutomaticMaskGenerator
        from mobile_sam.everything.config import EverythingConfig

        image = read_once(picture)
        generator = SamAutomaticMaskGenerator.from_config(EverythingConfig(mode=mode), engine=self.predictor.engine)
        start = time.perf_counter()
        records = generator.generate(image)
        return {"seconds": time.perf_counter() - start, "num_masks": len(records), **peak()}

    def facts(self) -> Answer:
        """Say which model it is, see `Model.facts`; ask last, since it takes time and memory of its own."""
        from mobile_sam.evaluate.models import Model

        assert self._spec is not None
        return Model(self._spec, self.predictor.engine, is_of_spec=True).facts()


def peak() -> Answer:
    """Return the part of an answer that says how much memory this process has had at most."""
    from mobile_sam.evaluate.machine import peak_rss_mb

    return {"peak_mb": peak_rss_mb()}


@lru_cache(maxsize=1)
def read_once(picture: str) -> NDArray[np.uint8]:
    """Read a picture file, the last one from memory."""
    from mobile_sam.core.images import read_image

    return read_image(picture)


def serve(worker: LatencyWorker, requests: TextIO, answers: TextIO) -> None:
    """Answer requests until their end.

    Raises:
        SystemExit: the model cannot be made, for a reason that needs no traceback. Others: as the model raises them.
    """
    commands: dict[str, Callable[..., Answer]] = {
        "load": worker.load,
        "encode": worker.encode,
        "click": worker.click,
        "prompts": worker.prompts,
        "everything": worker.everything,
        "facts": worker.facts,
    }
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


def main() -> None:
    """Serve on stdin and stdout; whatever a library prints goes to stderr instead."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(LatencyWorker(), sys.stdin, answers)


class WorkerError(RuntimeError):
    """A worker ended before it answered; the message says how, with the last lines of its stderr."""


class WorkerProcess:
    """A worker as the evaluator sees it; use as a context manager, so that the process ends whatever happens.

    Attributes:
        started: when, on the clock of `time.perf_counter`.
        process: its pipes carry the requests and the answers.
    """

    def __init__(self) -> None:
        from subprocess import PIPE, Popen
        from tempfile import TemporaryFile

        self._stderr = TemporaryFile()  # noqa: SIM115  # a pipe that nobody reads would fill up
        command = [sys.executable, "-c", RUN_WORKER, *map(str, sys.path)]
        self.started = time.perf_counter()
        self.process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=self._stderr, text=True, encoding="utf-8")

    def ask(self, command: str, **fields: Any) -> Answer:
        """Send one request, a method of `LatencyWorker` with its arguments, and wait for the answer.

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

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(kill=error is not None)
