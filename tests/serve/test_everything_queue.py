import threading
import time

import numpy as np
import pytest

from mobile_sam.automatic_mask_generator import SamAutomaticMaskGenerator
from mobile_sam.everything.config import EverythingConfig
from mobile_sam.serve import everything_queue
from mobile_sam.serve.everything_queue import EverythingQueue
from mobile_sam.serve.metrics import ServeMetrics
from mobile_sam.serve.work_queue import QueueFull, ServiceClosed

PATIENCE_S = 60
CONFIG = EverythingConfig(points_per_side=4, pred_iou_thresh=0.0, stability_score_thresh=0.0)


@pytest.fixture
def metrics():
    return ServeMetrics()


@pytest.fixture
def queue(disc_engine, metrics):
    made = EverythingQueue(disc_engine, metrics)
    yield made
    made.queue.finish(time.monotonic())


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.fixture
def embedding(disc_engine, picture):
    return disc_engine.encode([picture])[0]


def ask(queue, embedding, config=CONFIG, tell=lambda done, of: None, is_cancelled=lambda: False):
    return queue.submit(embedding, config, tell, is_cancelled)


def test_the_records_are_those_of_the_generator(queue, disc_engine, embedding, picture):
    records = ask(queue, embedding).result(PATIENCE_S)
    generator = SamAutomaticMaskGenerator(
        engine=disc_engine, points_per_side=4, pred_iou_thresh=0.0, stability_score_thresh=0.0, output_mode="coco_rle"
    )
    assert records == generator.generate(picture)
    assert len(records) > 2
    assert isinstance(records[0]["segmentation"]["counts"], str)


def test_progress_is_told_to_its_end(queue, embedding):
    told = []
    ask(queue, embedding, tell=lambda done, of: told.append((done, of))).result(PATIENCE_S)
    assert told == [(4, 16), (8, 16), (12, 16), (16, 16)]


def test_one_runs_at_a_time_in_the_order_in_which_they_came(queue, disc_engine, embedding, gate):
    decodes, done = gate(disc_engine, "_decode_some"), []
    futures = [ask(queue, embedding) for _ in range(3)]
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: done.append(number))
    decodes.wait_for_call()
    assert queue.queue.num_waiting == 2
    decodes.let(100)
    assert len({len(future.result(PATIENCE_S)) for future in futures}) == 1
    assert done == [0, 1, 2]


def test_one_too_many_is_turned_away(queue, disc_engine, embedding, gate, monkeypatch):
    decodes = gate(disc_engine, "_decode_some")
    futures = [ask(queue, embedding) for _ in range(1 + everything_queue.MAX_WAITING)]
    with pytest.raises(QueueFull):
        ask(queue, embedding)
    decodes.let(1000)
    assert all(future.result(PATIENCE_S) for future in futures)


@pytest.mark.parametrize("leave", ["is_cancelled", "cancel"])
def test_a_caller_that_leaves_stops_it_between_two_batches(queue, disc_engine, embedding, gate, leave):
    decodes, has_left = gate(disc_engine, "_decode_some"), threading.Event()
    future = ask(queue, embedding, is_cancelled=has_left.is_set)
    decodes.wait_for_call()
    if leave == "cancel":
        future.cancel()
    else:
        has_left.set()
    decodes.let(5)
    after = ask(queue, embedding)
    for _ in range(4):
        decodes.wait_for_call()
    assert after.result(PATIENCE_S)
    assert future.cancelled()
    assert len(decodes.calls) == 1 + 4


def test_one_that_was_left_while_it_waited_is_not_begun(queue, disc_engine, embedding, gate):
    decodes, has_left = gate(disc_engine, "_decode_some"), threading.Event()
    first = ask(queue, embedding)
    decodes.wait_for_call()
    left, last = ask(queue, embedding, is_cancelled=has_left.is_set), ask(queue, embedding)
    has_left.set()
    decodes.let(8)
    assert first.result(PATIENCE_S) == last.result(PATIENCE_S)
    assert left.cancelled()
    assert len(decodes.calls) == 8


def test_a_crash_fails_its_own_request(queue, metrics, embedding):
    def crash(num_done, num_all):
        raise RuntimeError("crashed")

    with pytest.raises(RuntimeError, match="crashed"):
        ask(queue, embedding, tell=crash).result(PATIENCE_S)
    assert 'mobile_sam_errors_total{kind="everything"} 1.0' in metrics.render().decode()
    assert ask(queue, embedding).result(PATIENCE_S)


def test_crops_and_foreign_embeddings_are_refused_at_once(queue, embedding, cat_embedding):
    with pytest.raises(ValueError, match="crop_n_layers must be 0, got 1"):
        ask(queue, embedding, EverythingConfig(crop_n_layers=1))
    with pytest.raises(ValueError, match="made by encoder"):
        ask(queue, cat_embedding)


def test_what_is_not_done_by_the_deadline_fails_and_stops(queue, disc_engine, embedding, gate):
    decodes = gate(disc_engine, "_decode_some")
    running, waiting = ask(queue, embedding), ask(queue, embedding)
    decodes.wait_for_call()
    waiting.add_done_callback(lambda _: decodes.let(100))
    queue.queue.finish(time.monotonic())
    for future in (running, waiting):
        with pytest.raises(ServiceClosed, match="shut down before this was done"):
            future.result(0)
    assert len(decodes.calls) == 1
