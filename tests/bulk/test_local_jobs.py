from mobile_sam.bulk.items import Batch, Done, Failed, Item, Place, Report
from mobile_sam.bulk.local_jobs import WORKER_DIED, Job, Jobs


def batch(number: int, *ids: int) -> Batch:
    return Batch(number, tuple(Item(i, f"{i}", f"{i}.png", Place(f"/{i}.png")) for i in ids))


def ids(job: Job) -> list[int]:
    return [item.id for item in job.batch.items]


def jobs_of(*batches: Batch, max_in_hand: int = 4) -> Jobs:
    jobs = Jobs(iter(batches), max_in_hand)
    jobs.read()
    return jobs


def take(jobs: Jobs, held: list[Job], num_idle: int = 0) -> Job:
    job = jobs.give(held, num_idle)
    assert job is not None
    held.append(job)
    return job


def test_no_more_batches_are_read_than_may_be_in_hand():
    batches = iter([batch(n, n + 1) for n in range(9)])
    jobs = Jobs(batches, 4)
    jobs.read()
    first = take(jobs, [])
    jobs.read()
    assert jobs.num_in_hand == 4
    jobs.end(first)
    jobs.read()
    assert [b.number for b in batches] == [5, 6, 7, 8]


def test_a_worker_reads_one_ahead_but_leaves_enough_for_those_that_have_nothing():
    jobs = jobs_of(batch(0, 1), batch(1, 2), batch(2, 3))
    held = [jobs.give([], num_idle=1)]
    assert jobs.give(held, num_idle=2) is None
    take(jobs, held, num_idle=1)
    assert jobs.give(held, num_idle=0) is None


def test_what_a_dead_worker_had_in_work_is_tried_item_by_item_and_what_follows_whole_but_alone():
    jobs, held = jobs_of(batch(0, 1, 2, 3), batch(1, 4, 5), batch(2, 6), batch(3, 7)), []
    take(jobs, held)
    take(jobs, held)
    held[0].note(Report(0, done=(Done(1),)))
    held[1].note(Report(1, failed=(Failed(4, "", ""),)))
    assert jobs.lose(held, "with signal 9") == []
    assert jobs.num_in_hand == 4
    for expected in ([2], [3], [5]):
        job = jobs.give([], num_idle=0)
        assert ids(job) == expected
        assert jobs.give([job], num_idle=0) is None, "it must be alone"
        jobs.end(job)
    assert ids(jobs.give([], num_idle=0)) == [6]
    assert jobs.num_in_hand == 2


def test_items_of_a_split_batch_are_never_out_at_the_same_time():
    jobs = jobs_of(batch(0, 1, 2))
    jobs.lose([jobs.give([], 0)], "")
    first = jobs.give([], 0)
    assert ids(first) == [1]
    assert jobs.give([], 0) is None
    jobs.end(first)
    assert ids(jobs.give([], 0)) == [2]


def test_an_item_that_ends_its_worker_when_alone_is_given_up_and_the_others_go_on():
    jobs = jobs_of(batch(5, 1, 2))
    jobs.lose([jobs.give([], 0)], "")
    [report] = jobs.lose([jobs.give([], 0)], "with signal 11 (SIGSEGV)")
    assert (report.batch_number, report.is_last, report.done) == (5, True, ())
    [failed] = report.failed
    assert (failed.item_id, failed.kind) == (1, WORKER_DIED)
    assert "with signal 11 (SIGSEGV)" in failed.reason
    assert ids(jobs.give([], 0)) == [2]


def test_a_worker_that_died_after_its_last_report_of_an_item_costs_nothing():
    jobs = jobs_of(batch(0, 1))
    job = jobs.give([], 0)
    job.note(Report(0, done=(Done(1),)))
    assert jobs.lose([job], "") == []
    assert jobs.num_in_hand == 0


def test_an_item_alone_that_was_told_of_before_its_worker_died_is_not_told_of_twice():
    jobs = jobs_of(batch(0, 1))
    jobs.lose([jobs.give([], 0)], "")
    job = jobs.give([], 0)
    job.note(Report(0, done=(Done(1),)))
    assert not [failed for report in jobs.lose([job], "") for failed in report.failed]
    assert jobs.num_in_hand == 0
