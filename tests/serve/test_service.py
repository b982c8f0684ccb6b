import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest

from mobile_sam.automatic_mask_generator import SamAutomaticMaskGenerator
from mobile_sam.core.errors import ImageReadError
from mobile_sam.core.images import read_image
from mobile_sam.core.prompts import Prompt
from mobile_sam.everything.config import EverythingConfig
from mobile_sam.predictor import SamPredictor
from mobile_sam.serve import service as service_module
from mobile_sam.serve.service import QueueFull, SegmentService, ServiceClosed, UnknownEmbedding, engine_threads
from mobile_sam.serve.settings import MIN_CACHE_BYTES, ServeSettings

PATIENCE_S = 60
CLICK = Prompt.of([[30, 20]])


@pytest.fixture
def start(disc_engine):
    """Start services on the engine whose masks are discs; at the test's end all are closed."""
    services = []

    def start_service(engine=disc_engine, **settings):
        services.append(SegmentService(engine, ServeSettings(**settings)))
        return services[-1]

    yield start_service
    for service in services:
        service.close(0)


def send(service, body):
    return service.submit_picture(body).result(PATIENCE_S)


def counted(service, line):
    return f"mobile_sam_{line}" in service.metrics.render().decode().splitlines()


# Pictures


def test_a_picture_that_comes_again_is_not_encoded_again(start, disc_engine, gate, png):
    service, encodes = start(), gate(disc_engine, "encode_input")
    encodes.let(10)
    first, again, other = (send(service, png(shade)) for shade in (1, 1, 2))
    assert (first.was_cached, again.was_cached, other.was_cached) == (False, True, False)
    assert first.id == again.id != other.id
    assert first.embedding is again.embedding is service.find(first.id)
    assert len(encodes.calls) == 2


def test_a_picture_that_many_send_at_once_is_encoded_once(start, disc_engine, gate, png):
    service, encodes = start(workers=2), gate(disc_engine, "encode_input")
    with ThreadPoolExecutor(8) as callers:
        futures = list(callers.map(service.submit_picture, [png(7)] * 16))
    encodes.let()
    assert len({future.result(PATIENCE_S).embedding for future in futures}) == 1
    assert len(encodes.calls) == 1


def test_a_broken_picture_fails_and_can_be_sent_again(start):
    service = start()
    for _ in range(2):
        with pytest.raises(ImageReadError, match="are no JPEG, PNG"):
            send(service, b"no picture")
    assert counted(service, 'errors_total{kind="picture"} 2.0')


def test_one_turned_away_can_come_back_later(start, disc_engine, gate, png):
    service, encodes = start(max_waiting=1), gate(disc_engine, "encode_input")
    futures = [service.submit_picture(png(0))]
    encodes.wait_for_call()
    futures.append(service.submit_picture(png(1)))
    with pytest.raises(QueueFull) as raised:
        service.submit_picture(png(2))
    assert raised.value.retry_after_s > 0
    assert counted(service, 'errors_total{kind="queue_full"} 1.0')
    assert counted(service, 'queue_depth{queue="encode"} 1.0')
    futures.append(service.submit_picture(png(1)))  # the same as one that waits takes no room
    encodes.let(3)
    assert all(future.result(PATIENCE_S) for future in futures)
    assert send(service, png(2)).was_cached is False


def test_what_was_forgotten_is_unknown(start, png):
    service = start()
    embedded = send(service, png())
    assert service.forget(embedded.id)
    assert not service.forget(embedded.id)
    with pytest.raises(UnknownEmbedding):
        service.find(embedded.id)


def test_embeddings_give_way_to_newer_ones(start, png):
    service = start(cache_bytes=MIN_CACHE_BYTES)  # room for three
    ids = [send(service, png(shade)).id for shade in range(4)]
    with pytest.raises(UnknownEmbedding):
        service.find(ids[0])
    assert service.find(ids[3])
    assert counted(service, "embedding_cache_evictions_total 1.0")


def test_services_of_one_process_share_nothing(start, png):
    one, other = start(), start()
    embedded = send(one, png())
    with pytest.raises(UnknownEmbedding):
        other.find(embedded.id)
    assert counted(one, "embedding_cache_misses_total 1.0")
    assert counted(other, "embedding_cache_misses_total 1.0")
    assert counted(other, "embedding_cache_bytes 0.0")
    assert send(other, png()).id == embedded.id


# Prompts


def test_masks_too_large_to_be_held_at_once_are_refused_but_can_be_answered_one_by_one(start, png, monkeypatch):
    monkeypatch.setattr(service_module, "MAX_MASK_BYTES", 48 * 64)
    service = start()
    embedding = send(service, png()).embedding
    assert len(service.submit_prompts(embedding, [CLICK]).result(PATIENCE_S)) == 1
    with pytest.raises(ValueError, match="ask for fewer objects or candidates"):
        service.submit_prompts(embedding, [CLICK, CLICK])
    areas = service.submit_answers(embedding, [CLICK, CLICK], "auto", lambda row, found: int(found.masks.sum()))
    assert areas.result(PATIENCE_S)[0] > 100


def test_clicks_are_answered_while_everything_mode_runs_and_pictures_are_encoded(start, disc_engine, png, monkeypatch):
    service, may_go_on, is_running = start(), threading.Event(), threading.Event()
    embedding = send(service, png()).embedding

    def hold_up(num_done, num_all):
        is_running.set()
        assert may_go_on.wait(PATIENCE_S)

    config = EverythingConfig(points_per_side=4, pred_iou_thresh=0.0)
    everything = service.submit_everything(embedding, config, hold_up, lambda: False)
    assert is_running.wait(PATIENCE_S)
    assert service.submit_prompts(embedding, [CLICK]).result(PATIENCE_S)
    assert send(service, png(3)).id
    assert not everything.done()
    may_go_on.set()
    assert everything.result(PATIENCE_S)


# Closing


def test_closing_finishes_what_was_taken_and_refuses_what_comes(start, disc_engine, gate, png):
    service = start()
    embedding = send(service, png()).embedding
    encodes = gate(disc_engine, "encode_input")
    pictures = [service.submit_picture(png(shade)) for shade in (1, 2)]
    encodes.wait_for_call()
    clicks = [service.submit_prompts(embedding, [CLICK] * 9) for _ in range(3)]
    everything = service.submit_everything(
        embedding, EverythingConfig(points_per_side=2), lambda done, of: None, lambda: False
    )
    closing = threading.Thread(target=service.close, args=(PATIENCE_S,))
    closing.start()
    while service.is_ready():
        time.sleep(0.001)
    for refused in (
        lambda: service.submit_picture(png(9)),
        lambda: service.submit_prompts(embedding, [CLICK]),
        lambda: service.submit_everything(embedding, EverythingConfig(), lambda done, of: None, lambda: False),
    ):
        with pytest.raises(ServiceClosed):
            refused()
    encodes.let(2)
    closing.join(PATIENCE_S)
    assert all(future.exception(0) is None for future in (*pictures, *clicks, everything))


def test_what_is_left_when_the_grace_is_over_fails_and_no_thread_stays(start, disc_engine, gate, png):
    before = set(threading.enumerate())
    service, encodes = start(), gate(disc_engine, "encode_input")
    assert len(set(threading.enumerate()) - before) > 3
    running, waiting = service.submit_picture(png(1)), service.submit_picture(png(2))
    encodes.wait_for_call()
    waiting.add_done_callback(lambda _: encodes.let(5))
    service.close(0.01)
    assert [type(future.exception(0)) for future in (running, waiting)] == [ServiceClosed, ServiceClosed]
    assert set(threading.enumerate()) == before
    service.close(1)


def test_a_service_that_was_just_started_and_closed_leaves_no_thread(start):
    before = set(threading.enumerate())
    service = start(workers=3)
    assert service.is_ready()
    service.close(PATIENCE_S)
    assert not service.is_ready()
    assert set(threading.enumerate()) == before


# Many at once


def test_many_callers_get_the_same_answers_as_one_alone(start, disc_engine, png):
    service, predictor = start(workers=2, max_waiting=100), SamPredictor(engine=disc_engine)
    expected = {}
    for shade in range(6):
        predictor.set_image(read_image(png(shade)))
        for x in range(5, 50, 15):
            (prediction,) = predictor.predict_batch([Prompt.of([[x, 20]])])
            expected[shade, x] = prediction.masks[prediction.best]

    def call(seed):
        random = np.random.default_rng(seed)
        for _ in range(12):
            shade, x = int(random.integers(6)), int(random.choice(range(5, 50, 15)))
            embedding = send(service, png(shade)).embedding
            if random.random() < 0.2:
                service.submit_prompts(embedding, [Prompt.of([[x, 20]])] * 5).cancel()
            (found,) = service.submit_prompts(embedding, [Prompt.of([[x, 20]])]).result(PATIENCE_S)
            assert np.array_equal(found.masks[0], expected[shade, x])

    with ThreadPoolExecutor(8) as callers:
        done = [callers.submit(call, seed) for seed in range(8)]
        wait(done)
    for future in done:
        future.result()
    assert counted(service, 'queue_depth{queue="decode"} 0.0')


# The bundled weights


@pytest.fixture(scope="module")
def cat_service(onnx_predictor):
    service = SegmentService(onnx_predictor.engine, ServeSettings())
    yield service
    service.close(PATIENCE_S)


@pytest.fixture(scope="module")
def cat(cat_service, examples):
    return cat_service.submit_picture((examples / "chelsea.png").read_bytes()).result(PATIENCE_S)


def test_an_embedding_is_the_predictors(cat, cat_embedding):
    assert np.array_equal(cat.embedding.features, cat_embedding.features)
    assert cat.embedding.image_hw == (300, 451)


@pytest.mark.parametrize("candidates", ["auto", "single", "three"])
@pytest.mark.parametrize(
    "prompt",
    [
        {"point_coords": [[230, 120]], "point_labels": [1]},
        {"point_coords": [[230, 120], [20, 20]], "point_labels": [1, 0]},
        {"box": [120, 20, 400, 290]},
    ],
    ids=["click", "two points", "box"],
)
def test_a_lone_call_gets_exactly_the_predictors_masks(cat_service, cat, cat_predictor, prompt, candidates):
    asked = Prompt.of(prompt.get("point_coords"), prompt.get("point_labels"), prompt.get("box"))
    (found,) = cat_service.submit_prompts(cat.embedding, [asked], candidates).result(PATIENCE_S)
    is_click = len(asked.labels) == 1
    wants_three = candidates == "three" or (candidates == "auto" and is_click)
    masks, iou, logits = cat_predictor.predict(**prompt, multimask_output=wants_three)
    if candidates == "auto":
        best = [int(iou.argmax())]
        masks, iou, logits = masks[best], iou[best], logits[best]
    assert np.array_equal(found.masks, masks)
    assert np.array_equal(found.iou_predictions, iou)
    assert np.array_equal(found.low_res_logits, logits)


def test_calls_that_are_decoded_together_get_the_predictors_masks(cat_service, cat, cat_predictor):
    prompts = [Prompt.of([[x, y]]) for x in range(40, 440, 80) for y in (60, 150, 240)]
    futures = [cat_service.submit_prompts(cat.embedding, [prompt]) for prompt in prompts]
    for prompt, future in zip(prompts, futures, strict=True):
        masks, iou, _ = cat_predictor.predict(prompt.points_xy, prompt.labels)
        (found,) = future.result(PATIENCE_S)
        assert np.count_nonzero(found.masks[0] != masks[iou.argmax()]) <= 2  # pixels; sums are rounded in another order


def test_everything_of_an_embedding_is_the_generators(cat_service, cat, onnx_predictor, examples):
    config = EverythingConfig(points_per_side=4, output_mode="coco_rle")
    future = cat_service.submit_everything(cat.embedding, config, lambda done, of: None, lambda: False)
    generator = SamAutomaticMaskGenerator.from_config(config, onnx_predictor.engine)
    assert future.result(PATIENCE_S) == generator.generate(examples / "chelsea.png")


# Opening


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"engine": "onnxruntime"}, 0),
        ({"engine": "onnxruntime", "num_threads": 3}, 3),
        ({"engine": "onnxruntime", "workers": 2}, 4),
        ({"engine": "onnxruntime", "workers": 16}, 1),
        ({"engine": "onnxruntime", "workers": 2, "num_threads": 3}, 3),
        ({"engine": "openvino", "workers": 2}, 0),
        ({"engine": "openvino", "workers": 2, "num_threads": 3}, 6),
    ],
)
def test_each_worker_has_its_share_of_the_cores(monkeypatch, settings, expected):
    monkeypatch.setattr(service_module, "num_cores", lambda: 8)
    assert engine_threads(ServeSettings(**settings)) == expected


def test_opening_makes_the_engine_that_the_settings_name():
    service = SegmentService.open(ServeSettings(engine="onnxruntime", workers=2))
    try:
        assert (service.engine.name, service.is_ready()) == ("onnxruntime", True)
    finally:
        service.close(PATIENCE_S)
    with pytest.raises(ValueError, match="unknown engine 'abacus'"):
        SegmentService.open(ServeSettings(engine="abacus"))
