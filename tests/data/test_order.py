"""The order of pictures: made of the seed alone, whoever asks and wherever a run begins."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobile_sam.data.order import EpochOrder


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(0, 9))
def test_each_picture_comes_once_in_each_epoch(num_pictures, seed):
    order = EpochOrder(num_pictures, seed)
    for epoch in range(3):
        numbers = range(epoch * num_pictures, (epoch + 1) * num_pictures)
        assert sorted(map(order.index, numbers)) == list(range(num_pictures))


def test_epochs_and_seeds_differ():
    def epoch(seed, number):
        return tuple(EpochOrder(100, seed).index(n) for n in range(100 * number, 100 * number + 100))

    assert len({epoch(seed, number) for seed in range(3) for number in range(3)}) == 9


def test_a_run_may_begin_anywhere_and_ask_in_any_order():
    whole = [EpochOrder(7, 3).index(number) for number in range(70)]
    order = EpochOrder(7, 3)
    for number in np.random.default_rng(0).permutation(70):
        assert order.index(int(number)) == whole[number]
        assert pickle.loads(pickle.dumps(order)).index(int(number)) == whole[number]


@settings(deadline=None)
@given(st.integers(0, 20), st.sampled_from([1, 2, 3, 4, 6]))
def test_processes_share_a_batch_without_overlap(step, world_size):
    shares = [EpochOrder(5, 0).batch(step, 12, rank, world_size) for rank in range(world_size)]
    assert [number for share in shares for number in share] == list(range(12 * step, 12 * step + 12))
    assert {len(share) for share in shares} == {12 // world_size}


def test_what_is_kept_does_not_grow_and_is_not_sent_along():
    order = EpochOrder(10_000, 0)
    fresh = len(pickle.dumps(order))
    for epoch in range(5):
        order.index(10_000 * epoch)
    assert len(order._epochs) == 2
    assert len(pickle.dumps(order)) == fresh


def test_what_cannot_be_ordered_or_shared_is_refused():
    with pytest.raises(ValueError, match="num_pictures must be at least 1"):
        EpochOrder(0, 1)
    with pytest.raises(ValueError, match="multiple of the number of processes, 3"):
        EpochOrder(5, 1).batch(0, 8, 0, 3)
