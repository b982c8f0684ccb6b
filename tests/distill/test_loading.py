"""From the n-th sample of a run to a batch: which pictures, what of them, and what takes the place of bad ones."""

import os
import pickle
import signal

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from mobile_sam.core.geometry import LongSideResize
from mobile_sam.data.embedding_shards import EmbeddingShards
from mobile_sam.data.order import EpochOrder
from mobile_sam.data.picture_set import PictureSet, SampleError, open_picture_set
from mobile_sam.distill import loading
from mobile_sam.distill.loading import NoPictureError, Samples, StepSampler, collate, load_batches, padded_square
from mobile_sam.distill.processes import told_of_dead_readers
from mobile_sam.distill.prompt_targets import make_prompt_targets
from mobile_sam.distill.train import DEAD_READERS

CPU = torch.device("cpu")


class SomeBad(PictureSet):
    """A set of which some pictures cannot be read."""

    def __init__(self, inner, bad):
        self.inner, self.bad = inner, bad
        self.name, self.keys, self.problems = inner.name, inner.keys, inner.problems

    @property
    def fingerprint(self):
        return self.inner.fingerprint

    def subset(self, indices):
        raise NotImplementedError

    def read(self, index, with_instances=False):
        if index in self.bad:
            raise SampleError(self.keys[index], "corrupt picture", "cut off")
        return self.inner.read(index, with_instances)


@pytest.fixture
def opened(pictures):
    return open_picture_set(pictures)


def test_a_picture_is_resized_and_padded_below_and_to_the_right(opened):
    sample = opened.read(0)
    square, (height, width) = padded_square(sample, 128)
    resize = LongSideResize(sample.image.shape[:2], 128)
    assert (square.shape, square.dtype, (height, width)) == ((3, 128, 128), np.uint8, resize.input_hw)
    assert_array_equal(square[:, :height, :width].transpose(1, 2, 0), resize.resize_image(sample.image))
    assert not square[:, height:].any()
    assert not square[:, :, width:].any()


def test_an_epoch_has_each_picture_once_and_its_embedding(tiny, opened, embeddings):
    shards = EmbeddingShards(embeddings)
    samples = Samples(opened, tiny(), shards)
    for epoch in (0, 1):
        items = [samples[number] for number in range(10 * epoch, 10 * (epoch + 1))]
        assert sorted(item.key for item in items) == sorted(opened.keys)
    for item in items:
        assert_array_equal(item.features, shards.read(item.key).features)
        assert item.skipped == ()
    assert [samples[number].key for number in range(10)] != [item.key for item in items]


def test_a_teacher_in_the_loop_gets_pictures_of_its_own_size(tiny, opened):
    item = Samples(opened, tiny(), teacher_side=128)[0]
    image, input_hw = item.teacher_image
    assert (image.shape, max(input_hw)) == ((3, 128, 128), 128)
    assert max(item.input_hw) == 64
    assert Samples(opened, tiny(), teacher_side=64)[0].teacher_image is None  # it takes what the student takes


def test_prompts_are_those_of_picture_and_epoch(tiny, opened):
    config = tiny(objective="coupled")
    samples = Samples(opened, config)
    for number in (3, 13):
        item = samples[number]
        sample = opened.read(list(opened.keys).index(item.key))
        expected = make_prompt_targets(config, sample, epoch=number // 10)
        assert_array_equal(item.prompts.points_xy, expected.points_xy)
        assert item.prompts.seed == expected.seed


def test_annotations_are_read_where_they_are_the_target(tiny, coco_file):
    config = tiny(objective="prompted", mask_targets="annotations")
    item = Samples(open_picture_set(coco_file), config)[0]
    assert item.prompts.masks.shape == (4, 16, 16)
    assert item.prompts.is_present.tolist() == [True, False, False, False]


def test_the_next_picture_stands_in_for_one_that_cannot_be_used(tiny, opened):
    order = EpochOrder(10, seed=0)
    bad = {order.index(4), order.index(5)}
    samples = Samples(SomeBad(opened, bad), tiny())
    item = samples[4]
    assert item.key == opened.keys[order.index(6)]
    assert [error.key for error in item.skipped] == [opened.keys[order.index(number)] for number in (4, 5)]
    assert samples[3].skipped == ()


def test_an_embedding_of_another_picture_is_not_used(tiny, opened, embeddings, monkeypatch):
    order = EpochOrder(10, seed=0)
    shards = EmbeddingShards(embeddings)
    turned = opened.keys[order.index(0)]
    plain_read = opened.read

    def read(index, with_instances=False):
        sample = plain_read(index)
        if sample.key == turned:
            return type(sample)(sample.key, sample.image.transpose(1, 0, 2))
        return sample

    monkeypatch.setattr(opened, "read", read)
    item = Samples(opened, tiny(), shards)[0]
    (error,) = item.skipped
    assert (error.key, error.kind) == (turned, "embedding of another picture")
    assert "embed these pictures again" in error.message


def test_missing_embeddings_are_skipped_with_their_key(tiny, opened, embeddings):
    class Fewer:
        teacher = EmbeddingShards(embeddings).teacher

        def read(self, key):
            raise SampleError(key, "missing embedding", "it is in no shard")

    error = Samples(opened, tiny(), Fewer())[0]
    assert isinstance(error, NoPictureError)
    assert "17 pictures in a row cannot be used" in str(error)
    assert "it is in no shard" in str(error)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_pictures_that_all_fail_end_the_loading_in_one_line(tiny, opened, num_workers):
    samples = Samples(SomeBad(opened, set(range(10))), tiny(num_workers=num_workers))
    sampler = StepSampler(samples.order, (0, 3), 2, 1, 0, 1)
    with pytest.raises(NoPictureError, match="17 pictures in a row") as raised:
        list(load_batches(samples, sampler, CPU))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("num_processes", "parts"), [(1, 1), (1, 4), (2, 2), (4, 1)])
def test_processes_and_parts_share_each_step_and_nothing_is_lost(num_processes, parts):
    order = EpochOrder(10, seed=0)
    shares = [list(StepSampler(order, (3, 6), 8, parts, rank, num_processes)) for rank in range(num_processes)]
    for place, step in enumerate(range(3, 6)):
        taken = [number for share in shares for part in share[place * parts : (place + 1) * parts] for number in part]
        assert sorted(taken) == list(range(8 * step, 8 * (step + 1)))
    assert all(len(share) == 3 * parts for share in shares)
    assert {len(part) for share in shares for part in share} == {8 // num_processes // parts}
    assert len(StepSampler(order, (3, 6), 8, parts, 0, num_processes)) == 3 * parts


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_those_of_the_samples(tiny, opened, embeddings, num_workers):
    config = tiny(objective="coupled", num_workers=num_workers)
    samples = Samples(opened, config, EmbeddingShards(embeddings), 128)
    state = torch.get_rng_state()
    batches = list(load_batches(samples, StepSampler(samples.order, (1, 4), 2, 1, 0, 1), CPU))
    assert torch.equal(torch.get_rng_state(), state)  # what a checkpoint keeps is not drawn from
    assert len(batches) == 3
    batch, errors = batches[0]
    items = [samples[2], samples[3]]
    assert errors == []
    assert batch.keys == tuple(item.key for item in items)
    assert_array_equal(batch.images, np.stack([item.image for item in items]))
    assert_array_equal(batch.teacher_features, np.stack([item.features for item in items]))
    assert_array_equal(batch.teacher_images, np.stack([item.teacher_image[0] for item in items]))
    assert batch.teacher_input_hw.tolist() == [list(item.teacher_image[1]) for item in items]
    assert batch.input_hw.tolist() == [list(item.input_hw) for item in items]
    assert_array_equal(batch.prompts.points_xy, np.stack([item.prompts.points_xy for item in items]))


def test_a_batch_lists_what_was_passed_over_for_it(tiny, opened):
    order = EpochOrder(10, seed=0)
    samples = Samples(SomeBad(opened, {order.index(1)}), tiny())
    batch, errors = collate([samples[0], samples[1]])
    assert len(batch.keys) == 2
    assert [error.key for error in errors] == [opened.keys[order.index(1)]]
    assert batch.teacher_features is None
    assert batch.prompts is None


class Deadly(Samples):
    """Its second picture ends the process that reads it."""

    def __getitem__(self, number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(number)


def test_a_reader_that_is_killed_is_told_and_what_to_do(tiny, opened):
    samples = Deadly(opened, tiny(num_workers=1))
    words = r"a process that reads pictures has died .*num_workers=0"
    with pytest.raises(OSError, match=words), told_of_dead_readers(DEAD_READERS):
        list(load_batches(samples, StepSampler(samples.order, (0, 3), 2, 1, 0, 1), CPU))


def test_samples_are_cheap_to_send_to_a_process(tiny, opened, embeddings):
    samples = Samples(opened, tiny(), EmbeddingShards(embeddings))
    samples[0]
    sent = pickle.dumps(samples)
    assert len(sent) < 20_000
    assert pickle.loads(sent)[5].key == samples[5].key


def test_a_bug_in_the_loading_is_not_taken_for_a_dead_process(tiny, opened, monkeypatch):
    def fail(*args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(loading, "padded_square", fail)
    samples = Samples(opened, tiny())
    with pytest.raises(RuntimeError, match="a bug"):
        list(load_batches(samples, StepSampler(samples.order, (0, 1), 2, 1, 0, 1), CPU))
