"""Workers in processes: nothing lost, nothing twice, nothing left behind."""

import logging
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest

from mobile_sam.bulk.items import Batch, Report, RunStoppedError
from mobile_sam.bulk.local import LocalExecutor
from mobile_sam.bulk.settings import BulkSettings
from mobile_sam.bulk.stopping import Stop
from mobile_sam.core.errors import MissingDependencyError

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="the fake workers die by signals"),
    pytest.mark.usefixtures("fakes"),
]


@pytest.fixture
def settings(tmp_path):
    return BulkSettings("embed", str(tmp_path))


def test_each_item_is_told_of_once_by_workers_that_work_at_the_same_time(fakes, settings, tmp_path):
    reports = fakes.do(
        LocalExecutor(settings, 3, fakes.make_steady), fakes.batches_of(fakes.keys(40, item8="broken"), 2)
    )
    done, failed = fakes.outcome(reports)
    assert done == [i for i in range(1, 41) if i != 8]
    assert failed == {8: "unreadable picture: it is broken"}
    spans = {}
    for time_s, _, what, number in [words for words in fakes.diary(tmp_path) if len(words) == 4]:
        spans.setdefault(number, {})[what] = float(time_s)
    most = max(
        sum(other["begin"] <= span["begin"] < other["end"] for other in spans.values() if "end" in other)
        for number, span in spans.items()
        if "begin" in span and "end" in span
    )
    assert most == 3
    assert not any(map(fakes.is_running, fakes.pids(tmp_path)))


def test_no_more_workers_are_started_than_there_are_batches(fakes, settings, tmp_path):
    assert fakes.outcome(fakes.do(LocalExecutor(settings, 8, fakes.make_fake), fakes.batches_of(fakes.keys(2), 2))) == (
        [1, 2],
        {},
    )
    assert len(fakes.pids(tmp_path)) == 1


def test_without_batches_nothing_is_started(fakes, settings, tmp_path):
    assert fakes.do(LocalExecutor(settings, 2, fakes.make_and_die), iter(())) == []


@pytest.mark.parametrize(
    ("word", "how"), [("kill", "signal 9 (SIGKILL, as when memory runs out)"), ("abort", "SIGABRT"), ("exit", "code 7")]
)
def test_an_item_that_ends_its_worker_fails_and_no_other_does(fakes, settings, tmp_path, caplog, word, how):
    executor = LocalExecutor(settings, 2, fakes.make_fake)
    with caplog.at_level(logging.WARNING, "mobile_sam"):
        done, failed = fakes.outcome(fakes.do(executor, fakes.batches_of(fakes.keys(30, item14=word), 5)))
    assert done == [i for i in range(1, 31) if i != 14]
    assert list(failed) == [14]
    assert failed[14].startswith("worker died: its worker process ended with ")
    assert how in failed[14]
    assert sum("ended with" in record.getMessage() for record in caplog.records) == 2
    assert Counter(words[3] for words in fakes.diary(tmp_path) if words[2] == "item")["14"] == 2


def test_an_item_that_ends_its_worker_only_once_is_done_in_the_end(fakes, settings):
    assert fakes.outcome(
        fakes.do(LocalExecutor(settings, 2, fakes.make_fake), fakes.batches_of(fakes.keys(12, item3="once"), 4))
    ) == (
        list(range(1, 13)),
        {},
    )


def test_an_item_that_kills_while_it_is_read_ahead_fails_alone(fakes, settings):
    executor = LocalExecutor(settings, 2, fakes.make_read_ahead)
    done, failed = fakes.outcome(fakes.do(executor, fakes.batches_of(fakes.keys(24, item10="kill"), 3)))
    assert done == [i for i in range(1, 25) if i != 10]
    assert list(failed) == [10]


def test_a_batch_of_one_number_is_never_in_two_workers_at_once(fakes, settings, tmp_path):
    executor = LocalExecutor(settings, 3, fakes.make_brisk)
    done, failed = fakes.outcome(
        fakes.do(executor, fakes.batches_of(fakes.keys(30, item2="kill", item13="kill", item14="kill"), 6))
    )
    assert sorted(failed) == [2, 13, 14]
    assert len(done) == 27
    lines = fakes.diary(tmp_path)
    last_sign_of_life = {words[1]: float(words[0]) for words in lines}
    holders: dict[str, str] = {}
    for time_s, pid, what, number in [words for words in lines if len(words) == 4]:
        if what == "begin":
            assert number not in holders or last_sign_of_life[holders[number]] <= float(time_s)
            holders[number] = pid
        elif what == "end":
            del holders[number]
    assert len(holders) == 0


def test_batches_are_read_two_for_each_worker_ahead_at_most(fakes, settings):
    num_read = num_ended = 0

    def counted() -> Iterator[Batch]:
        nonlocal num_read
        for batch in fakes.batches_of(fakes.keys(60, item7="kill", item31="kill"), 1):
            num_read += 1
            assert num_read - num_ended <= 2 * 2
            yield batch

    with closing(LocalExecutor(settings, 2, fakes.make_fake).run(counted(), Stop())) as reports:
        for report in reports:
            num_ended += report.is_last
    assert num_read == num_ended == 60


def test_workers_that_die_at_their_start_end_the_run(fakes, settings):
    with pytest.raises(RunStoppedError, match=r"3 workers in a row ended with code 9 before .* enough memory"):
        fakes.do(LocalExecutor(settings, 1, fakes.make_and_die), fakes.batches_of(fakes.keys(4), 2))


def test_workers_that_all_die_end_the_run_and_what_failed_is_told(fakes, settings, monkeypatch):
    monkeypatch.setattr("mobile_sam.bulk.local.MAX_LOST_WORKERS", 4)
    deadly = {f"item{i}": "exit" for i in range(1, 9)}
    reports: list[Report] = []
    executor = LocalExecutor(settings, 1, fakes.make_fake)
    with pytest.raises(RunStoppedError, match="4 workers in a row ended with code 7 with no picture done"):
        reports.extend(executor.run(fakes.batches_of(fakes.keys(8, **deadly), 8), Stop()))
    assert [one.item_id for report in reports for one in report.failed] == [1, 2, 3]


def test_where_no_more_workers_can_be_started_those_that_are_there_do_it_all(fakes, settings, caplog):
    with caplog.at_level(logging.WARNING, "mobile_sam"):
        done, _ = fakes.outcome(
            fakes.do(LocalExecutor(settings, 2, fakes.make_only_one), fakes.batches_of(fakes.keys(60), 2))
        )
    assert done == list(range(1, 61))
    told = [record.getMessage() for record in caplog.records]
    assert sum("ended with code 9" in message for message in told) == 3
    assert told[-1] == "no more workers can be started; going on with 1"


def test_signals_cannot_end_a_worker_while_its_process_starts(fakes, settings, monkeypatch, caplog):
    monkeypatch.setenv("FAKE_WORKERS_SIGTERM", "1")  # to itself, when the module is imported there
    done, _ = fakes.outcome(fakes.do(LocalExecutor(settings, 1, fakes.make_fake), fakes.batches_of(fakes.keys(2), 2)))
    assert done == [1, 2]
    assert not caplog.records, "the first process was to live"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []).isdisjoint({signal.SIGINT, signal.SIGTERM})


def test_an_error_at_making_a_worker_is_raised_as_it_is(fakes, settings):
    with pytest.raises(MissingDependencyError, match="pip install it") as caught:
        fakes.do(LocalExecutor(settings, 2, fakes.make_without_engine), fakes.batches_of(fakes.keys(4), 2))
    assert caught.value.name == "a_package"
    assert "make_without_engine" in str(caught.value.__cause__)


def test_an_error_that_cannot_be_sent_arrives_as_what_it_says(fakes, settings):
    with pytest.raises(RunStoppedError, match="OddError: this and that"):
        fakes.do(LocalExecutor(settings, 1, fakes.make_fake), fakes.batches_of(fakes.keys(2, item2="odd"), 2))


def test_a_run_that_must_end_tells_first_what_others_had_in_flight(fakes, settings, tmp_path):
    reports: list[Report] = []
    batches = fakes.batches_of(fakes.keys(40, item1="slow", item6="full"), 2)
    with pytest.raises(RunStoppedError, match="the disk is full"):
        reports.extend(LocalExecutor(settings, 2, fakes.make_steady).run(batches, Stop()))
    told, _ = fakes.outcome(reports)
    computed = sorted(int(words[3]) for words in fakes.diary(tmp_path) if words[2] == "item")
    assert 1 in told, "the slow one was in flight when the other worker raised"
    assert sorted([*told, 6]) == computed
    assert len(told) < 30


@pytest.mark.parametrize("num_workers", [0, -1])
def test_less_than_one_worker_is_refused(settings, num_workers):
    with pytest.raises(ValueError, match=f"num_workers must be at least 1, got {num_workers}"):
        LocalExecutor(settings, num_workers)
