import threading
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mobile_sam.core.embedding import Embedding
from mobile_sam.serve.embedding_store import EmbeddingStore, UnknownEmbedding, embedding_id_of, num_bytes_of
from mobile_sam.serve.metrics import ServeMetrics


def embedding_of(side_cells=2, value=0.0):
    features = np.full((1, 256, side_cells, side_cells), value, np.float32)
    return Embedding(features, (10, 10), (16, 16), "made up")


NUM_BYTES = num_bytes_of(embedding_of())


@pytest.fixture
def store():
    return EmbeddingStore(3 * NUM_BYTES, ServeMetrics())


def keep(store, embedding_id, embedding=None):
    _, flight = store.join(embedding_id)
    assert flight is not None
    store.land(flight, embedding or embedding_of(), {"encode": 0.1})


def test_the_id_depends_on_the_content_and_on_the_model():
    ids = {embedding_id_of(model, content) for model in ("a", "b") for content in (b"x", b"y")}
    assert len(ids) == 4
    assert all(len(one) == 36 and one.startswith("emb_") and int(one[4:], 16) >= 0 for one in ids)
    assert embedding_id_of("a", b"x") in ids


def test_an_embedding_counts_at_least_the_memory_of_its_features():
    assert num_bytes_of(embedding_of(64)) >= 4 * 256 * 64 * 64


def test_what_landed_is_found_by_its_id(store):
    embedding = embedding_of()
    keep(store, "cat", embedding)
    assert store.find("cat") is embedding
    future, flight = store.join("cat")
    answer = future.result(0)
    assert (flight, answer.embedding, answer.was_cached, answer.seconds) == (None, embedding, True, {})


def test_what_was_never_there_is_told_apart(store):
    with pytest.raises(UnknownEmbedding, match="no embedding 'dog' here, or no more; send the picture again"):
        store.find("dog")
    with pytest.raises(KeyError):
        store.find("dog")


def test_all_who_ask_while_it_is_encoded_share_one_flight(store):
    first, flight = store.join("cat")
    second, other_flight = store.join("cat")
    assert other_flight is None
    assert not first.done()
    embedding = embedding_of()
    store.land(flight, embedding, {"encode": 0.5})
    assert first.result(0).embedding is second.result(0).embedding is embedding
    assert (first.result(0).was_cached, first.result(0).seconds) == (False, {"encode": 0.5})


def test_a_crash_fails_all_who_wait_and_leaves_nothing(store):
    first, flight = store.join("cat")
    second, _ = store.join("cat")
    store.crash(flight, ValueError("broken"))
    for future in (first, second):
        with pytest.raises(ValueError, match="broken"):
            future.result(0)
    assert store.num_bytes == 0
    with pytest.raises(UnknownEmbedding):
        store.find("cat")
    assert store.join("cat")[1] is not None, "who asks again begins anew"


def test_an_error_holds_no_frames_in_memory(store):
    future, flight = store.join("cat")
    try:
        raise ValueError("broken") from KeyError("cause")
    except ValueError as error:
        store.crash(flight, error)
    error = future.exception(0)
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


def test_one_who_leaves_takes_nothing_from_the_others(store):
    first, flight = store.join("cat")
    second, _ = store.join("cat")
    assert first.cancel()
    assert store.is_wanted(flight)
    store.land(flight, embedding_of(), {})
    assert first.cancelled()
    assert second.result(0).id == "cat"


def test_a_flight_that_all_have_left_is_off_and_nobody_can_join_it(store):
    future, flight = store.join("cat")
    future.cancel()
    assert not store.is_wanted(flight)
    later, new_flight = store.join("cat")
    assert new_flight is not None
    assert not store.is_wanted(flight)
    assert store.is_wanted(new_flight)
    store.land(new_flight, embedding_of(), {})
    assert later.result(0).id == "cat"


def test_forgetting_says_whether_there_was_something(store):
    keep(store, "cat")
    assert store.forget("cat")
    assert not store.forget("cat")
    assert store.num_bytes == 0
    with pytest.raises(UnknownEmbedding):
        store.find("cat")


def test_forgetting_while_it_is_encoded_serves_who_waits_and_keeps_nothing(store):
    before, flight = store.join("cat")
    assert store.forget("cat")
    after, new_flight = store.join("cat")
    assert new_flight is not None, "who comes after has it encoded anew"
    store.land(flight, embedding_of(), {})
    assert before.result(0).id == "cat"
    assert not after.done()
    assert store.num_bytes == 0
    store.land(new_flight, embedding_of(), {})
    assert after.result(0).id == "cat"
    assert store.num_bytes == NUM_BYTES


def test_the_one_unused_for_longest_gives_way(store):
    for name in ("cat", "dog", "owl"):
        keep(store, name)
    store.find("cat")
    store.join("dog")
    keep(store, "fox")
    with pytest.raises(UnknownEmbedding):
        store.find("owl")
    assert [store.find(name).model_id for name in ("cat", "dog", "fox")] == ["made up"] * 3


def test_one_larger_than_the_store_is_handed_over_and_not_kept(store):
    keep(store, "cat")
    future, flight = store.join("whale")
    store.land(flight, embedding_of(8), {})
    assert future.result(0).embedding.features.shape == (1, 256, 8, 8)
    with pytest.raises(UnknownEmbedding):
        store.find("whale")
    assert store.find("cat")


def test_hits_misses_and_evictions_are_counted():
    metrics = ServeMetrics()
    store = EmbeddingStore(NUM_BYTES, metrics)
    keep(store, "cat")  # a miss
    keep(store, "dog")  # a miss, and an eviction
    store.find("dog")
    store.join("dog")
    with pytest.raises(UnknownEmbedding):
        store.find("cat")
    counters = (metrics.cache_hits, metrics.cache_misses, metrics.cache_evictions)
    assert [next(iter(counter.collect())).samples[0].value for counter in counters] == [2, 3, 1]


def test_threads_at_once_neither_lose_bytes_nor_break_the_bound(store):
    names = [f"picture {index}" for index in range(8)]

    def use(seed):
        random = np.random.default_rng(seed)
        for _ in range(300):
            name = names[random.integers(len(names))]
            if random.random() < 0.2:
                store.forget(name)
                continue
            future, flight = store.join(name)
            if flight is not None:
                store.land(flight, embedding_of(), {})
            assert future.result(10).id == name
            assert store.num_bytes <= 3 * NUM_BYTES

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for name in names:
        store.forget(name)
    assert store.num_bytes == 0


NAMES = st.sampled_from("abcdef")


class StoreMachine(RuleBasedStateMachine):
    """The store beside a list that is kept in order by hand."""

    MAX_BYTES = 3 * NUM_BYTES + 100

    def __init__(self):
        super().__init__()
        self.store = EmbeddingStore(self.MAX_BYTES, ServeMetrics())
        self.expected = OrderedDict()  # id -> bytes; the first gives way first
        self.flights = []  # (flight, future, whether it will be kept)

    def touch(self, name):
        self.expected.move_to_end(name)

    @rule(name=NAMES)
    def join(self, name):
        future, flight = self.store.join(name)
        if name in self.expected:
            self.touch(name)
            assert flight is None
            assert future.result(0).was_cached
        elif flight is None:
            assert any(known.embedding_id == name and is_kept for known, _, is_kept in self.flights)
        else:
            self.flights.append((flight, future, True))

    @rule(name=NAMES)
    def find(self, name):
        if name in self.expected:
            self.touch(name)
            assert self.store.find(name)
        else:
            with pytest.raises(UnknownEmbedding):
                self.store.find(name)

    @precondition(lambda self: self.flights)
    @rule(data=st.data(), side_cells=st.sampled_from([1, 2, 3, 4]))
    def land(self, data, side_cells):
        flight, future, is_kept = self.flights.pop(data.draw(st.integers(0, len(self.flights) - 1)))
        embedding = embedding_of(side_cells)
        self.store.land(flight, embedding, {})
        assert future.result(0).embedding is embedding
        num_bytes = num_bytes_of(embedding)
        if not is_kept or num_bytes > self.MAX_BYTES:
            return
        while sum(self.expected.values()) + num_bytes > self.MAX_BYTES:
            self.expected.popitem(last=False)
        self.expected[flight.embedding_id] = num_bytes

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def crash(self, data):
        flight, future, _ = self.flights.pop(data.draw(st.integers(0, len(self.flights) - 1)))
        self.store.crash(flight, RuntimeError("crashed"))
        assert isinstance(future.exception(0), RuntimeError)

    @rule(name=NAMES)
    def forget(self, name):
        was_flying = any(flight.embedding_id == name and is_kept for flight, _, is_kept in self.flights)
        assert self.store.forget(name) == (name in self.expected or was_flying)
        self.expected.pop(name, None)
        self.flights = [
            (flight, future, is_kept and flight.embedding_id != name) for flight, future, is_kept in self.flights
        ]

    @invariant()
    def bytes_are_within_the_bound_and_as_expected(self):
        assert self.store.num_bytes == sum(self.expected.values()) <= self.MAX_BYTES


StoreMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStoreMachine = StoreMachine.TestCase
