import threading
import time

import numpy as np
import pytest

from mobile_sam.core.errors import ImageReadError
from mobile_sam.serve import encoder_queue
from mobile_sam.serve.embedding_store import EmbeddingStore, UnknownEmbedding
from mobile_sam.serve.encoder_queue import EncoderQueue
from mobile_sam.serve.metrics import ServeMetrics
from mobile_sam.serve.settings import MIB, ServeSettings
from mobile_sam.serve.work_queue import QueueFull

PATIENCE_S = 60


class Encoding:
    """A queue, its store and its metrics."""

    def __init__(self, engine, **settings):
        self.metrics = ServeMetrics()
        self.store = EmbeddingStore(64 * MIB, self.metrics)
        self.encoder = EncoderQueue(engine, self.store, ServeSettings(**settings), self.metrics)

    def ask(self, name, body):
        future, flight = self.store.join(name)
        if flight is not None:
            self.encoder.put(flight, body)
        return future

    def errors(self, kind):
        return self.metrics.errors.labels(kind=kind)._value.get()


@pytest.fixture
def start(disc_engine):
    made = []

    def start_encoding(**settings):
        made.append(Encoding(disc_engine, **settings))
        return made[-1]

    yield start_encoding
    for encoding in made:
        encoding.encoder.queue.finish(time.monotonic())


def test_a_picture_becomes_the_engines_embedding(start, disc_engine, png):
    answer = start().ask("grey", png(100)).result(PATIENCE_S)
    (expected,) = disc_engine.encode([np.full((48, 64, 3), 100, np.uint8)])
    assert np.array_equal(answer.embedding.features, expected.features)
    assert (answer.id, answer.embedding.image_hw, answer.was_cached) == ("grey", (48, 64), False)


def test_each_stage_is_timed_and_told(start, png):
    encoding = start()
    answer = encoding.ask("grey", png()).result(PATIENCE_S)
    assert set(answer.seconds) == {"wait_encode", "read", "encode"}
    assert all(0 <= duration_s < PATIENCE_S for duration_s in answer.seconds.values())
    rendered = encoding.metrics.render().decode()
    for stage in answer.seconds:
        assert f'mobile_sam_stage_seconds_count{{stage="{stage}"}} 1.0' in rendered


@pytest.mark.parametrize("body", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_what_is_no_picture_fails_its_own_request(start, png, body):
    encoding = start()
    broken, sound = encoding.ask("broken", body), encoding.ask("sound", png())
    with pytest.raises(ImageReadError):
        broken.result(PATIENCE_S)
    assert sound.result(PATIENCE_S).id == "sound"
    assert (encoding.errors("picture"), encoding.errors("encode")) == (1, 0)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(start, png):
    future = start(max_pixels=64 * 48 - 1).ask("large", png())
    with pytest.raises(ImageReadError, match="64 x 48 pixels, more than the 3071 allowed"):
        future.result(PATIENCE_S)


@pytest.mark.parametrize("error", [RuntimeError("crashed"), MemoryError()])
def test_a_crashed_encode_fails_only_its_request(start, disc_engine, png, monkeypatch, error):
    encoding = start()

    def crash(images):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(disc_engine, "encode", crash)
        with pytest.raises(type(error)):
            encoding.ask("grey", png()).result(PATIENCE_S)
    assert encoding.errors("encode") == 1
    with pytest.raises(UnknownEmbedding):
        encoding.store.find("grey")
    assert encoding.ask("grey", png()).result(PATIENCE_S).id == "grey"


def test_what_all_callers_have_left_is_not_encoded(start, disc_engine, gate, png):
    encoding, encodes = start(), gate(disc_engine, "encode_input")
    first = encoding.ask("first", png(1))
    encodes.wait_for_call()
    left, stayed = encoding.ask("left", png(2)), encoding.ask("stayed", png(3))
    assert left.cancel()
    encodes.let(3)
    assert [first.result(PATIENCE_S).id, stayed.result(PATIENCE_S).id] == ["first", "stayed"]
    assert len(encodes.calls) == 2


def test_one_who_is_left_during_reading_is_not_encoded(start, disc_engine, gate, png):
    reads = gate(encoder_queue, "read_image")
    encoding, encodes = start(), gate(disc_engine, "encode_input")
    left = encoding.ask("left", png(1))
    reads.wait_for_call()
    left.cancel()
    reads.let(2)
    encodes.let()
    assert encoding.ask("next", png(2)).result(PATIENCE_S).id == "next"
    assert len(encodes.calls) == 1


def test_more_than_may_wait_are_turned_away(start, disc_engine, gate, png):
    encoding, encodes = start(max_waiting=2), gate(disc_engine, "encode_input")
    futures = [encoding.ask("0", png(0))]
    encodes.wait_for_call()
    futures += [encoding.ask(str(shade), png(shade)) for shade in (1, 2)]
    with pytest.raises(QueueFull):
        encoding.ask("3", png(3))
    assert encoding.encoder.queue.num_waiting == 2
    encodes.let(3)
    assert [future.result(PATIENCE_S).id for future in futures] == ["0", "1", "2"]


def test_no_more_pictures_are_read_than_there_are_workers(start, disc_engine, gate, png, monkeypatch):
    """Each is a hundred megabytes once it is read, and a few while it waits."""
    encoding, encodes, num_read = start(workers=2, max_waiting=20), gate(disc_engine, "encode_input"), []
    read = encoder_queue.read_image

    def counted(body, **options):
        num_read.append(1)
        return read(body, **options)

    monkeypatch.setattr(encoder_queue, "read_image", counted)
    futures = [encoding.ask(str(shade), png(shade)) for shade in range(10)]
    for num_expected in range(2, 10):
        encodes.wait_for_call()
        if num_expected == 2:
            encodes.wait_for_call()
        assert len(num_read) <= num_expected
        encodes.let()
    encodes.let(10)
    assert len({future.result(PATIENCE_S).id for future in futures}) == 10


def test_as_many_are_encoded_at_once_as_there_are_workers(start, disc_engine, gate, png):
    encoding, encodes = start(workers=3), gate(disc_engine, "encode_input")
    futures = [encoding.ask(str(shade), png(shade)) for shade in range(3)]
    for _ in futures:
        encodes.wait_for_call()  # three are in the engine, none was let through
    names = {thread.name for thread in threading.enumerate()}
    assert {"encoder-0", "encoder-1", "encoder-2"} <= names
    encodes.let(3)
    assert [future.result(PATIENCE_S).id for future in futures] == ["0", "1", "2"]
