"""The pipeline: every item is told of once, after it is on the disk, whatever goes wrong around it."""

import errno
import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mobile_sam import SamPredictor, read_image
from mobile_sam.bulk.embedding_sinks import describe_teacher, write_plan
from mobile_sam.bulk.embeddings import open_embeddings
from mobile_sam.bulk.items import Batch, Item, Place, RunStoppedError
from mobile_sam.bulk.pictures import LoadedPicture
from mobile_sam.bulk.read_ahead import ReadAhead
from mobile_sam.bulk.settings import BulkSettings
from mobile_sam.bulk.sinks.sa1b import Sa1bSink
from mobile_sam.bulk.spool import SpoolWriter, read_spooled
from mobile_sam.bulk.worker import Worker

BOX = json.dumps({"boxes": [[8, 8, 30, 30]], "scores": [None], "category_ids": [None]})


@pytest.fixture(autouse=True)
def no_thread_stays(wait_until):
    """Whatever a test does, no thread of the worker is left."""
    yield
    assert wait_until(lambda: not any(thread.name.startswith("bulk-") for thread in threading.enumerate()))


@pytest.fixture
def make_worker(tmp_path, disc_engine):
    """Makes a worker on the quick engine."""

    def make(task="boxes", *formats, used_engine=disc_engine, num_items=100, **more):
        settings = BulkSettings(task, str(tmp_path / "out"), formats, **more)
        write_plan(settings, describe_teacher(settings, used_engine), num_items, "fingerprint", "pictures")
        return Worker(settings, used_engine)

    return make


@pytest.fixture
def box_batches(make_pictures, make_batches):
    """Batches of pictures with a box in each."""

    def make(num_pictures, batch_size):
        batches = make_batches(make_pictures(num_pictures), batch_size)
        return [Batch(one.number, tuple(replace(item, prompts=BOX) for item in one.items)) for one in batches]

    return make


class Told:
    """Reports that came."""

    def __init__(self):
        self.reports = []

    def __call__(self, report):
        self.reports.append(report)

    @property
    def done(self):
        return [done.item_id for report in self.reports for done in report.done]

    @property
    def failed(self):
        return {failed.item_id: failed.kind for report in self.reports for failed in report.failed}

    @property
    def ended(self):
        return [report.batch_number for report in self.reports if report.is_last]


@pytest.mark.parametrize("formats", [("coco",), ("sa1b",), ("sa1b", "coco")])
@pytest.mark.parametrize("together", [1, 3])
def test_each_item_is_told_of_once_and_each_batch_ended_once(make_worker, box_batches, tmp_path, formats, together):
    told = Told()
    make_worker("boxes", *formats, encode_together=together).run(box_batches(10, 4), told)
    assert (told.done, told.failed, told.ended) == (list(range(1, 11)), {}, [0, 1, 2])
    assert sum(report.num_computed for report in told.reports) == 10
    assert {done.num_masks for report in told.reports for done in report.done} == {1}
    written = [path.name for path in sorted((tmp_path / "out").rglob("*.json"))]
    assert written == ([f"p{number:03d}.json" for number in range(10)] if "sa1b" in formats else [])


def test_what_is_spooled_is_where_the_report_says(make_worker, box_batches, tmp_path):
    told, batches = Told(), box_batches(5, 3)
    make_worker("boxes", "coco").run(batches, told)
    items = {item.id: item for batch in batches for item in batch.items}
    done = [one for report in told.reports for one in report.done]
    entries = [(items[one.item_id], one.part, one.offset, one.size_bytes) for one in done]
    masks = list(read_spooled(tmp_path / "out" / "spool", entries))
    assert [one.key for one in masks] == ["p000", "p001", "p002", "p003", "p004"]
    assert [one.size_hw for one in masks] == [(48, 64), (48, 65), (48, 66), (48, 67), (48, 68)]


def test_what_is_told_of_is_on_the_disk_by_then(make_worker, box_batches, tmp_path):
    def check(report):
        for done in report.done:
            lines = (tmp_path / "out" / "spool" / done.part).read_bytes()[done.offset :][: done.size_bytes]
            assert json.loads(lines)["item_id"] == done.item_id
            assert (tmp_path / "out" / "sa1b" / f"p{done.item_id - 1:03d}.json").is_file()

    make_worker("boxes", "sa1b", "coco").run(box_batches(6, 2), check)


def test_the_next_batch_may_wait_for_the_report_of_this_one(make_worker, box_batches):
    told, has_ended = Told(), threading.Event()

    def tell(report):
        told(report)
        if report.is_last:
            has_ended.set()

    def one_by_one():
        for batch in box_batches(3, 1):
            yield batch
            assert has_ended.wait(20)
            has_ended.clear()

    make_worker("boxes", "coco").run(one_by_one(), tell)
    assert (told.done, told.ended) == ([1, 2, 3], [0, 1, 2])


def test_broken_pictures_cost_only_themselves(make_worker, box_batches, make_pictures):
    batches, paths = box_batches(7, 4), make_pictures(7)
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    paths[2].write_text("no picture")
    paths[4].unlink()
    Image.new("1", (15000, 13000)).save(paths[6])
    told = Told()
    make_worker("boxes", "coco", encode_together=2).run(batches, told)
    assert told.done == [1, 4, 6]
    assert told.failed == {2: "corrupt picture", 3: "corrupt picture", 5: "missing picture", 7: "too large picture"}
    assert told.ended == [0, 1]


@pytest.mark.parametrize(("error", "kind"), [(ValueError("odd"), "ValueError"), (MemoryError(), "not enough memory")])
def test_a_picture_that_the_model_fails_on_is_the_only_one(
    make_worker, box_batches, disc_engine, monkeypatch, error, kind
):
    encode = type(disc_engine).encode_input

    def encode_some(self, model_input):
        if (abs(model_input[:, 0, 0, 0] - (20 - 123.675) / 58.395) < 1e-3).any():  # the third picture
            raise error
        return encode(self, model_input)

    monkeypatch.setattr(type(disc_engine), "encode_input", encode_some)
    disc_engine.images_at_once = 4
    told = Told()
    make_worker("boxes", "coco", encode_together=4).run(box_batches(6, 6), told)
    assert (told.done, told.failed, told.ended) == ([1, 2, 4, 5, 6], {3: kind}, [0])


def test_a_source_folder_that_is_gone_stops_the_run(make_worker, box_batches, make_pictures):
    batches, paths = box_batches(3, 3), make_pictures(3)
    worker = make_worker("boxes", "coco", roots=(str(paths[0].parent),))
    for path in paths[1:]:
        path.unlink()
    told = Told()
    worker.run(batches, told)
    assert (told.done, told.failed) == ([1], {2: "missing picture", 3: "missing picture"})
    paths[0].unlink()
    told = Told()
    with pytest.raises(RunStoppedError, match=r"the source folder .*pictures is gone or empty; bring it back"):
        worker.run(batches, told)
    assert (told.done, told.failed, told.ended) == ([], {}, [0])


@pytest.mark.parametrize(("task", "form"), [("boxes", "coco"), ("boxes", "sa1b"), ("embed", "shards")])
def test_stopped_in_a_batch_what_was_done_is_told_and_the_rest_is_not(make_worker, box_batches, task, form):
    told = Told()
    num_asked = []

    def is_stopping():
        num_asked.append(1)
        return len(num_asked) > 40

    worker = make_worker(task, form)
    prompt = worker.prompt
    worker.prompt = lambda picture, embedding: [num_asked.extend([1] * 10), prompt(picture, embedding)][1]
    worker.run(box_batches(30, 10), told, is_stopping)
    assert told.done == list(range(1, len(told.done) + 1))
    assert 2 <= len(told.done) <= 5
    assert told.ended[0] == 0
    assert len(set(told.ended)) == len(told.ended)
    assert told.failed == {}


def test_stopping_ends_a_wait_for_batches(make_worker, box_batches):
    release, told, waited = threading.Event(), Told(), []

    def waiting():
        yield from box_batches(2, 2)
        waited.append(release.wait(60))

    make_worker("boxes", "coco").run(waiting(), told, lambda: bool(told.ended))
    assert told.done == [1, 2]
    assert waited == []  # it still waits
    release.set()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("where", ["file", "spool", "flush"])
def test_a_full_disk_stops_the_run_and_costs_no_picture(make_worker, box_batches, monkeypatch, number, where):
    def fail(*_):
        raise OSError(number, "as the disk says", "/out/x")

    target = {"file": (Sa1bSink, "write"), "spool": (SpoolWriter, "add"), "flush": (SpoolWriter, "flush")}[where]
    monkeypatch.setattr(*target, fail)
    told = Told()
    with pytest.raises(RunStoppedError, match=r"results cannot be written: .*as the disk says.*run the same again"):
        make_worker("boxes", "sa1b", "coco").run(box_batches(30, 10), told)
    assert (told.done, told.failed) == ([], {})


def test_a_name_that_is_too_long_costs_only_its_picture(make_worker, box_batches):
    (batch,) = box_batches(3, 3)
    first, second, third = batch.items
    told = Told()
    long = replace(second, key="x" * 300)
    make_worker("boxes", "sa1b", "coco").run([replace(batch, items=(first, long, third))], told)
    assert (told.done, told.failed) == ([1, 3], {2: "unwritable name"})


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BrokenPipeError("the parent is gone")])
def test_an_error_of_whoever_is_told_ends_all_threads(make_worker, box_batches, error):
    def tell(report):
        raise error

    with pytest.raises(type(error)):
        make_worker("boxes", "coco").run(box_batches(40, 2), tell)


def test_an_error_of_the_batches_comes_out_and_what_was_done_before_is_told(make_worker, box_batches):
    def broken():
        yield from box_batches(2, 2)
        raise sqlite_error

    sqlite_error = RuntimeError("the manifest is locked")
    with pytest.raises(RuntimeError, match="the manifest is locked"):
        make_worker("boxes", "coco").run(broken(), Told())


def test_as_much_is_read_ahead_as_is_allowed(make_pictures, make_batches, wait_until):
    release, begun = threading.Event(), []

    def load(item):
        begun.append(item.id)
        return LoadedPicture(item, np.zeros((10, 10, 3), np.uint8), (10, 10))

    batches = make_batches(make_pictures(12), 3)
    with ReadAhead(batches, load, num_readers=1, num_ahead=5) as by_count:
        assert wait_until(lambda: len(begun) >= 5)
        time.sleep(0.3)  # in which no more may be
        assert begun == [1, 2, 3, 4, 5]
        entries = by_count.entries(release.is_set)
        assert next(entries).item.id == 1
    begun.clear()
    with ReadAhead(batches, load, num_readers=1, num_ahead=5, max_bytes=600) as by_bytes:
        assert wait_until(lambda: len(begun) >= 2)
        time.sleep(0.3)
        assert 2 <= len(begun) <= 5  # those begun before the first had a size are let go on
        taken = [entry.item.id for entry in by_bytes.entries(release.is_set) if entry.item]
        assert taken == list(range(1, 13))


def test_a_worker_gives_the_same_embeddings_however_many_it_encodes_together(make_worker, box_batches, tmp_path):
    for together in (1, 3):
        make_worker("embed", "shards", encode_together=together).run(box_batches(5, 5), Told())
        (tmp_path / "out" / "embeddings").rename(tmp_path / f"together{together}")
    one, three = (open_embeddings(tmp_path / f"together{together}") for together in (1, 3))
    assert sorted(one) == sorted(three) == [f"p{number:03d}" for number in range(5)]
    for key in one:
        np.testing.assert_array_equal(one[key].features, three[key].features)


@pytest.mark.parametrize("form", ["shards", "safetensors"])
def test_embeddings_of_a_run_can_be_prompted_like_the_picture(make_worker, engine, examples, tmp_path, form):
    item = Item(1, "cats/chelsea", "cats/chelsea.png", Place(str(examples / "chelsea.png")))
    told = Told()
    make_worker("embed", form, used_engine=engine).run([Batch(0, (item,))], told)
    assert (told.done, told.ended) == ([1], [0])
    predictor = SamPredictor(engine=engine)
    predictor.set_embedding(open_embeddings(tmp_path / "out" / "embeddings")["cats/chelsea"])
    (mask,), _, _ = predictor.predict(box=[100, 40, 200, 150], multimask_output=False)
    predictor.set_image(read_image(examples / "chelsea.png"))
    (expected,), _, _ = predictor.predict(box=[100, 40, 200, 150], multimask_output=False)
    assert np.count_nonzero(mask & expected) / np.count_nonzero(mask | expected) > 0.99


def test_an_engine_of_another_model_writes_no_shards(tmp_path, engine, disc_engine):
    settings = BulkSettings("embed", str(tmp_path / "out"))
    write_plan(settings, describe_teacher(settings, engine), 3, "fingerprint", "pictures")
    with pytest.raises(RunStoppedError, match="the engine runs disc; is the model the same on all machines"):
        Worker(settings, disc_engine)


def test_a_large_picture_is_kept_no_larger_than_the_model_sees_it(make_worker, make_item, tmp_path, monkeypatch):
    Image.new("RGB", (3000, 2000)).save(tmp_path / "large.jpg")
    seen = []
    worker = make_worker("boxes", "coco")
    compute = worker.compute
    monkeypatch.setattr(worker, "compute", lambda pictures: [seen.extend(pictures), compute(pictures)][1])
    worker.run([Batch(0, (make_item(1, tmp_path / "large.jpg", prompts=BOX),))], Told())
    assert [(picture.pixels.shape, picture.image_hw) for picture in seen] == [((683, 1024, 3), (2000, 3000))]
