"""A model to be timed, in a process of its own.

`LatencyWorker` is the model's end, `WorkerProcess` the evaluator's, see `mobile_sam.evaluate.worker_process`.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from mobile_sam.evaluate import worker_process
from mobile_sam.evaluate.worker_process import (
    Answer,
    Command,
    WorkerError,
    open_answers,
    peak,
    read_once,
    serve_commands,
)

if TYPE_CHECKING:
    from mobile_sam.evaluate.models import ModelSpec
    from mobile_sam.predictor import SamPredictor

__all__ = ["Answer", "LatencyWorker", "WorkerError", "WorkerProcess", "main", "serve"]


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


def serve(worker: LatencyWorker, requests: TextIO, answers: TextIO) -> None:
    """Answer requests until their end, see `serve_commands`."""
    commands: dict[str, Command] = {
        "load": worker.load,
        "encode": worker.encode,
        "click": worker.click,
        "prompts": worker.prompts,
        "everything": worker.everything,
        "facts": worker.facts,
    }
    serve_commands(commands, requests, answers)


def main() -> None:
    """Serve on stdin and stdout."""
    serve(LatencyWorker(), sys.stdin, open_answers())


class WorkerProcess(worker_process.WorkerProcess):
    """A process that runs a `LatencyWorker`."""

    module = __name__
