import pickle
from functools import partial

import pytest

from mobile_sam.bulk import cluster_actor
from mobile_sam.bulk.cluster_actor import BatchActor, Order
from mobile_sam.bulk.cluster_folder import ClusterFolder
from mobile_sam.bulk.items import RunStoppedError


@pytest.fixture
def folder(tmp_path):
    return ClusterFolder.make(tmp_path / "cluster")


@pytest.fixture
def actor(folder, settings, workers):
    return BatchActor(folder, pickle.dumps(Order(settings, workers.FakeWorker)), name="a")


@pytest.fixture
def batch(batches):
    (batch,) = batches(["quick"] * 5)
    return batch


def die(folder, name, times):
    """Leave what workers leave that are killed while they work on something."""
    for number in range(times):
        (folder.path / f"begun-{name}-{number}").touch()


def test_a_batch_that_killed_one_worker_is_tried_whole(actor, folder, batch):
    die(folder, "batch-0", 1)
    assert [len(report.done) for report in actor.answer(batch).reports] == [1, 1, 1, 1, 1, 0]
    assert folder.count_deaths("batch-0") == 0  # what ends well is forgotten


def test_of_a_batch_that_killed_two_the_picture_at_fault_is_left_out(actor, folder, batch):
    die(folder, "batch-0", 2)
    die(folder, "item-4", 2)
    die(folder, "item-5", 1)
    reports = actor.answer(batch).reports
    assert [done.item_id for report in reports for done in report.done] == [1, 2, 3, 5]
    (failed,) = [failed for report in reports for failed in report.failed]
    assert (failed.item_id, failed.kind) == (4, "worker died")
    assert reports[-1].is_last


def test_deaths_at_other_batches_do_not_count(actor, folder, batch):
    die(folder, "batch-01", 2)
    die(folder, "batch-10", 2)
    die(folder, "item-0", 9)
    assert folder.count_deaths("batch-0") == 0
    assert not [failed for report in actor.answer(batch).reports for failed in report.failed]


def test_a_machine_that_does_not_see_the_folder_says_so(folder, settings, workers, batch, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_actor, "SEEN_WITHIN_S", 0.0)
    for other in (ClusterFolder(tmp_path / "elsewhere" / "cluster", folder.token), ClusterFolder(folder.path, "other")):
        actor = BatchActor(other, pickle.dumps(Order(settings, workers.FakeWorker)), name="a")
        error = actor.answer(batch).error
        assert isinstance(error, RunStoppedError)
        assert f"does not see the folder of the run, {other.path.parent}" in str(error)


def test_another_version_of_the_package_is_refused(folder, settings, workers, batch):
    actor = BatchActor(folder, pickle.dumps(Order(settings, workers.FakeWorker, "0.0.1")), name="a")
    error = actor.answer(batch).error
    assert isinstance(error, RunStoppedError)
    assert "the one that started the run 0.0.1" in str(error)


def test_an_order_that_cannot_be_read_is_an_error_of_the_run(folder, batch):
    error = BatchActor(folder, b"cno_such_module\nThing\n.", name="a").answer(batch).error
    assert isinstance(error, ModuleNotFoundError)


def test_asked_to_stop_nothing_is_begun(actor, folder, batch):
    folder.ask_to_stop()
    answer = actor.answer(batch)
    assert (answer.was_begun, answer.reports, answer.error) == (False, (), None)


def test_an_error_leaves_no_trace_of_a_death(folder, settings, workers, batch):
    actor = BatchActor(folder, pickle.dumps(Order(settings, partial(workers.FakeWorker))), name="a")
    (full,) = [batch.__class__(0, (batch.items[0].__class__(1, "k", "full-1.png", batch.items[0].place),))]
    assert isinstance(actor.answer(full).error, OSError)
    assert folder.count_deaths("batch-0") == 0


def test_a_folder_begins_empty_and_is_removed(tmp_path):
    first = ClusterFolder.make(tmp_path / "cluster")
    die(first, "batch-0", 2)
    first.ask_to_stop()
    second = ClusterFolder.make(tmp_path / "cluster")
    assert (second.count_deaths("batch-0"), second.is_asked_to_stop) == (0, False)
    assert not first.is_seen(within_s=0)
    assert second.is_seen(within_s=0)
    second.remove()
    assert not (tmp_path / "cluster").exists()
