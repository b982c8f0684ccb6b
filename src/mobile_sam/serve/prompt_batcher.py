"""Prompts of one picture that arrive while the decoder is busy are decoded together; a lone one waits for nothing.

A thread decodes in rounds. Each round belongs to one picture, pictures taking turns, and takes a few prompts of each
call about it, so that a call of one prompt does not wait for all of a call of hundreds.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.prompts import Prompt, PromptBatch
from mobile_sam.engines import Engine
from mobile_sam.predictor import SamPredictor
from mobile_sam.serve.metrics import ServeMetrics
from mobile_sam.serve.prompt_call import Candidates, PromptCall, TokenPrediction
from mobile_sam.serve.work_queue import NEWEST_SHARE, Job, QueueFull, ServiceClosed, WorkQueue, end_threads

MAX_PENDING_PROMPTS = 1024  # taken and not answered; some ten seconds of work on two cores
PARTS_A_ROUND = 4  # parts of `Engine.prompts_at_once` that one picture gets before it is another's turn
NUM_DRAWING = 2  # threads that bring masks to the picture's size
FIRST_GUESS_S = 0.02  # of how long a prompt takes

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Row:
    """One prompt of a call."""

    call: PromptCall
    row: int

    @property
    def prompt(self) -> Prompt:
        return self.call.prompts[self.row]

    @property
    def kind(self) -> tuple[tuple[int, ...], bool]:
        """What prompts must share to be decoded together: the masks asked for, and whether there is a mask prompt."""
        return self.call.tokens[self.row], self.prompt.mask is not None


class PromptBatcher:
    """A thread that decodes prompts, and a few that draw the masks.

    Args:
        engine: decodes.
        metrics: told of stages, batches and errors.
        max_wait_s: for how long a call may have to wait, going by how long prompts took lately.
    """

    def __init__(self, engine: Engine, metrics: ServeMetrics, max_wait_s: float = math.inf) -> None:
        self._engine, self._metrics, self._max_wait_s = engine, metrics, max_wait_s
        self._mask_threshold = SamPredictor(engine=engine).mask_threshold
        self._waiting: OrderedDict[int, deque[PromptCall]] = OrderedDict()  # by the embedding; the first is next
        self._decoding: set[PromptCall] = set()
        self._num_pending = 0
        self._recent_s = FIRST_GUESS_S
        self._is_closed = False
        self._changed = threading.Condition(threading.Lock())
        self._drawing = WorkQueue("drawing", NUM_DRAWING)
        self._thread = threading.Thread(target=self._work, name="decoder", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Prompts that wait to be decoded."""
        with self._changed:
            return sum(len(call.prompts) - call.next_row for calls in self._waiting.values() for call in calls)

    def submit(
        self,
        embedding: Embedding,
        prompts: Sequence[Prompt],
        candidates: Candidates,
        answer: Callable[[int, TokenPrediction], Answer],
        max_mask_bytes: int | None = None,
    ) -> Future[list[Answer]]:
        """Have prompts decoded and drawn.

        Args:
            embedding: of the picture.
            prompts: P of them.
            candidates: see `Candidates`.
            answer: makes of a prompt's row and its masks what is wanted of them. It is called by several threads.
            max_mask_bytes: that all masks together may take.

        Returns:
            A future of the P answers in the order of the prompts.

        Raises:
            ValueError: a prompt outside the picture, an embedding of another encoder, masks of too many bytes.
            QueueFull: too many wait. ServiceClosed: no more are taken.
        """
        self._engine.check_made_here(embedding)
        call = PromptCall(embedding, prompts, candidates, answer)
        num_bytes = call.num_masks * embedding.image_hw[0] * embedding.image_hw[1]
        if max_mask_bytes is not None and num_bytes > max_mask_bytes:
            raise ValueError(
                f"{call.num_masks} masks of the picture's size take {num_bytes} bytes, more than {max_mask_bytes}; "
                "ask for fewer objects or candidates at once"
            )
        if prompts:
            self._put(call)
        else:
            call.promise.answer([])
        return call.promise.future

    def stop(self) -> None:
        """Take no more calls; those that were taken will be answered."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def finish(self, deadline: float) -> None:
        """Stop, wait for the calls that were taken, fail those left at the deadline, and end the threads.

        Args:
            deadline: as `time.monotonic` tells time, in seconds.
        """
        self.stop()
        end_threads([self._thread], deadline, self._give_up)
        self._drawing.finish(deadline)

    def _give_up(self, error: ServiceClosed) -> None:
        """Fail the calls that are left."""
        with self._changed:
            left = {call for calls in self._waiting.values() for call in calls} | self._decoding
            self._waiting.clear()
            self._changed.notify_all()
        for call in left:
            call.promise.fail(error)

    def _put(self, call: PromptCall) -> None:
        num_prompts = len(call.prompts)
        with self._changed:
            if self._is_closed:
                raise ServiceClosed("the service is shutting down and takes no more work")
            wait_s = self._recent_s * self._num_pending
            is_full = self._num_pending + num_prompts > MAX_PENDING_PROMPTS or wait_s > self._max_wait_s
            if self._num_pending and is_full:
                raise QueueFull(f"{self._num_pending} prompts wait to be answered already", wait_s / 2)
            self._num_pending += num_prompts
            self._waiting.setdefault(id(call.embedding), deque()).append(call)
            self._changed.notify()
        call.promise.future.add_done_callback(lambda _: self._release(num_prompts))

    def _release(self, num_prompts: int) -> None:
        with self._changed:
            self._num_pending -= num_prompts

    def _work(self) -> None:
        while rows := self._next_round():
            self._decode_round(rows)
            del rows  # nothing is kept while the thread waits

    def _decode_round(self, rows: Sequence[_Row]) -> None:
        started = time.perf_counter()
        self._metrics.decode_batch_size.observe(len(rows))
        by_kind: dict[tuple[tuple[int, ...], bool], list[_Row]] = defaultdict(list)
        for row in rows:
            by_kind[row.kind].append(row)
            if row.row == 0:
                self._metrics.observe("wait_decode", started - row.call.asked_at)
        for alike in by_kind.values():
            self._decode(alike)
        seconds = time.perf_counter() - started
        self._metrics.observe("decode", seconds)
        self._recent_s += NEWEST_SHARE * (seconds / len(rows) - self._recent_s)

    def _next_round(self) -> list[_Row]:
        """Wait for prompts; none when none will come."""
        with self._changed:
            self._decoding.clear()
            while True:
                while not self._waiting:
                    if self._is_closed:
                        return []
                    self._changed.wait()
                key, calls = self._waiting.popitem(last=False)
                rows = self._take_rows(calls)
                if calls:
                    self._waiting[key] = calls  # behind those of other pictures
                if rows:
                    self._decoding.update(row.call for row in rows)
                    return rows

    def _take_rows(self, calls: deque[PromptCall]) -> list[_Row]:
        """Take a part of each call about one picture; calls that have more go to the end."""
        at_once = self._engine.prompts_at_once
        rows: list[_Row] = []
        for _ in range(len(calls)):
            num_free = PARTS_A_ROUND * at_once - len(rows)
            if not num_free:
                break
            call = calls.popleft()
            if not call.promise.is_wanted:
                continue
            rows += [_Row(call, row) for row in call.take_rows(min(num_free, at_once))]
            if call.next_row < len(call.prompts):
                calls.append(call)
        return rows

    def _decode(self, rows: Sequence[_Row]) -> None:
        """Decode prompts of one picture and of one kind; where that fails, each call's alone."""
        embedding, (tokens, _) = rows[0].call.embedding, rows[0].kind
        num_done = 0
        try:
            batch = PromptBatch.from_prompts([row.prompt for row in rows], embedding.resize)
            for part in self._engine.decode_by_parts(embedding, batch, tokens):
                for logits, iou in zip(part.low_res_logits, part.iou_predictions, strict=True):
                    self._drawing.put(_DrawJob(rows[num_done], logits, iou, self._mask_threshold, self._metrics))
                    num_done += 1
        except Exception as error:  # one call of many: the thread lives on
            by_call: dict[PromptCall, list[_Row]] = defaultdict(list)
            for row in rows[num_done:]:
                by_call[row.call].append(row)
            if len(by_call) > 1:
                for alone in by_call.values():
                    self._decode(alone)
                return
            logger.exception("prompts could not be decoded")
            self._metrics.errors.labels(kind="decode").inc()
            for call in by_call:
                call.promise.fail(error)


class _DrawJob(Job):
    """The masks of one prompt, to be brought to the picture's size."""

    def __init__(
        self,
        row: _Row,
        logits: NDArray[np.float32],
        iou: NDArray[np.float32],
        mask_threshold: float,
        metrics: ServeMetrics,
    ) -> None:
        self._row, self._logits, self._iou = row, logits, iou
        self._mask_threshold, self._metrics = mask_threshold, metrics

    def run(self) -> None:
        try:
            with self._metrics.timed("draw"):
                self._row.call.draw(self._row.row, self._logits, self._iou, self._mask_threshold)
        except Exception:
            self._metrics.errors.labels(kind="draw").inc()
            raise

    def fail(self, error: Exception) -> None:
        self._row.call.promise.fail(error)

    def is_wanted(self) -> bool:
        return self._row.call.promise.is_wanted
