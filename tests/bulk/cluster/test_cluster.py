import errno
import os
import signal
from pathlib import Path

import pytest

from mobile_sam.bulk import cluster as cluster_module
from mobile_sam.bulk.items import RunStoppedError
from mobile_sam.core.errors import MissingDependencyError


def done_ids(reports):
    return sorted(done.item_id for report in reports for done in report.done)


def processes(settings):
    """Processes that did something, in the order in which they first did."""
    files = sorted(Path(settings.out).glob("*.done"), key=lambda path: int(path.name.split(".")[2]))
    return list(dict.fromkeys(int(path.name.split(".")[1]) for path in files))


def left_over(settings):
    return [path.name for path in Path(settings.out).iterdir() if path.suffix != ".done"]


def test_each_item_is_done_once_on_both_nodes(executor, batches, stop, settings):
    handler, reports = signal.getsignal(signal.SIGTERM), []
    for report in executor().run(batches(["slow"] * 60), stop):
        assert signal.getsignal(signal.SIGTERM) == handler  # Ray sets its own, which would end a run at once
        reports.append(report)
    assert done_ids(reports) == list(range(1, 61))
    assert all(done.num_masks == done.item_id % 7 for report in reports for done in report.done)
    assert sorted(report.batch_number for report in reports if report.is_last) == list(range(12))
    assert len(processes(settings)) == 2
    assert left_over(settings) == []


def test_more_batches_than_a_window_are_read_as_they_are_needed(executor, batches, stop, monkeypatch):
    monkeypatch.setattr(cluster_module, "MIN_WINDOW_BATCHES", 4)
    monkeypatch.setattr(cluster_module, "ACTOR_WINDOW_BATCHES", 1)
    num_read = []

    def counted():
        for batch in batches(["quick"] * 50):
            num_read.append(batch.number)
            yield batch

    reports = []
    for report in executor().run(counted(), stop):
        reports.append(report)
        num_ended = sum(each.is_last for each in reports)
        assert len(num_read) <= 4 * ((num_ended - 1) // 4 + 1)
    assert done_ids(reports) == list(range(1, 51))


def test_a_killed_worker_costs_nothing(executor, batches, stop, settings):
    reports = []
    for report in executor().run(batches(["slow"] * 60), stop):
        if len(reports) == 3:
            os.kill(processes(settings)[0], signal.SIGKILL)
        reports.append(report)
    assert done_ids(reports) == list(range(1, 61))
    assert len(processes(settings)) == 3


def test_a_killed_node_costs_nothing(ray_cluster, executor, batches, stop, settings):
    node = ray_cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    ray_cluster.wait_for_nodes()
    reports = []
    for report in executor().run(batches(["slow"] * 120), stop):
        if len(reports) == 8:
            assert len(processes(settings)) == 3
            ray_cluster.remove_node(node, allow_graceful=False)
        reports.append(report)
    assert done_ids(reports) == list(range(1, 121))


def test_a_picture_that_kills_its_worker_fails_alone(executor, batches, stop):
    names = ["quick"] * 8 + ["deadly"] + ["quick"] * 6
    reports = list(executor(min_actors=1, max_actors=1).run(batches(names), stop))
    (failed,) = [failed for report in reports for failed in report.failed]
    assert (failed.item_id, failed.kind) == (9, "worker died")
    assert done_ids(reports) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15]


def test_a_broken_picture_is_reported(executor, batches, stop):
    reports = list(executor().run(batches(["quick", "broken", "quick"]), stop))
    assert done_ids(reports) == [1, 3]
    assert [failed.item_id for report in reports for failed in report.failed] == [2]


@pytest.mark.parametrize(
    ("name", "error", "says"), [("gone", RunStoppedError, "the source is gone"), ("full", OSError, "No space left")]
)
def test_an_error_of_the_run_ends_it_after_what_is_done(executor, batches, stop, settings, name, error, says):
    reports = []
    with pytest.raises(error, match=says) as raised:
        reports.extend(executor().run(batches(["quick", "quick", name, *["slow"] * 600]), stop))
    assert name != "full" or raised.value.errno == errno.ENOSPC
    assert {1, 2} <= set(done_ids(reports))
    assert len(done_ids(reports)) < 200
    written = {int(path.name.split(".")[0]) for path in Path(settings.out).glob("*.done")}
    assert set(done_ids(reports)) == written  # what was in flight was finished and reported
    assert left_over(settings) == []


@pytest.mark.parametrize(
    ("make_worker", "error", "says"),
    [
        ("lacks_a_package", MissingDependencyError, "pip install nothing"),
        ("has_a_strange_error", RunStoppedError, "TwoArgumentsError: 17: of "),
    ],
)
def test_an_error_at_the_making_of_a_worker_reaches_the_caller(
    executor, batches, stop, workers, make_worker, error, says
):
    with pytest.raises(error, match=says):
        list(executor(getattr(workers, make_worker)).run(batches(["quick"] * 20), stop))


def test_asked_to_stop_it_reports_what_was_done_and_ends(executor, batches, stop, settings):
    reports = []
    for report in executor().run(batches(["slow"] * 600), stop):
        reports.append(report)
        stop.is_asked = len(reports) >= 4
    assert 20 <= len(done_ids(reports)) < 200
    written = {int(path.name.split(".")[0]) for path in Path(settings.out).glob("*.done")}
    assert set(done_ids(reports)) == written
    assert left_over(settings) == []


def test_asked_to_stop_beforehand_it_does_nothing(executor, batches, stop, settings):
    stop.is_asked = True
    reports = list(executor().run(batches(["slow"] * 600), stop))
    assert len(done_ids(reports)) <= 10


def test_given_up_by_its_caller_it_leaves_the_cluster(executor, batches, stop, settings):
    import ray

    running = executor().run(batches(["slow"] * 600), stop)
    next(running)
    running.close()
    assert not ray.is_initialized()
    assert left_over(settings) == []


def test_more_than_the_nodes_have_is_refused(executor, batches, stop):
    with pytest.raises(ValueError, match=r"no node of the Ray cluster has 64 CPUs and 0 GPUs .* 1 CPUs"):
        list(executor(num_cpus=64).run(batches(["quick"]), stop))
