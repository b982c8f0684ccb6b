import threading
import time

import pytest

from mobile_sam.serve.work_queue import Job, Promise, QueueFull, ServiceClosed, WorkQueue

PATIENCE_S = 60


class Errand(Job):
    """Waits for the test, then answers with its name, or raises what it was given."""

    def __init__(self, name="", error=None, num_bytes=0, is_held=False):
        self.promise = Promise()
        self.name, self.error, self.num_bytes = name, error, num_bytes
        self.has_begun, self.may_end = threading.Event(), threading.Event()
        if not is_held:
            self.may_end.set()

    def run(self):
        self.has_begun.set()
        assert self.may_end.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        self.promise.answer(self.name)

    def fail(self, error):
        self.promise.fail(error)

    def is_wanted(self):
        return self.promise.is_wanted

    def answer(self):
        return self.promise.future.result(PATIENCE_S)


@pytest.fixture
def make_queue():
    queues = []

    def make(**options):
        queues.append(WorkQueue("errands", **{"num_threads": 1, **options}))
        return queues[-1]

    yield make
    for queue in queues:
        queue.finish(time.monotonic() + PATIENCE_S)


@pytest.fixture
def held():
    """An errand that keeps a thread busy until the test is over, or lets it go."""
    errand = Errand("held", is_held=True)
    yield errand
    errand.may_end.set()


def keep_busy(queue, errand):
    queue.put(errand)
    assert errand.has_begun.wait(PATIENCE_S)


def test_jobs_are_done_in_the_order_in_which_they_came(make_queue, held):
    queue, done = make_queue(), []
    keep_busy(queue, held)
    errands = [Errand(str(number)) for number in range(5)]
    for errand in errands:
        errand.promise.future.add_done_callback(lambda future: done.append(future.result()))
        queue.put(errand)
    assert queue.num_waiting == 5
    held.may_end.set()
    assert [errand.answer() for errand in errands] == list("01234") == done


def test_as_many_jobs_run_at_once_as_there_are_threads(make_queue):
    queue, errands = make_queue(num_threads=3), [Errand(is_held=True) for _ in range(4)]
    for errand in errands:
        queue.put(errand)
    assert all(errand.has_begun.wait(PATIENCE_S) for errand in errands[:3])
    assert not errands[3].has_begun.is_set()
    for errand in errands:
        errand.may_end.set()


def test_one_too_many_is_turned_away_and_told_when_to_come_back(make_queue, held):
    queue = make_queue(max_waiting=2)
    keep_busy(queue, held)
    queue.put(Errand())
    queue.put(Errand())
    with pytest.raises(QueueFull, match="2 jobs wait for errands already") as raised:
        queue.put(Errand())
    assert raised.value.retry_after_s == pytest.approx(
        0.75
    )  # half of three jobs of, for all it knows, half a second each
    held.may_end.set()


def test_a_thread_that_is_free_makes_room_even_if_it_has_not_taken_the_job_yet(make_queue):
    queue, errands = make_queue(num_threads=2, max_waiting=1), [Errand(is_held=True) for _ in range(4)]
    for errand in errands[:3]:
        queue.put(errand)
    assert errands[1].has_begun.wait(PATIENCE_S)
    with pytest.raises(QueueFull):
        queue.put(errands[3])
    for errand in errands:
        errand.may_end.set()


def test_the_time_to_come_back_follows_how_long_jobs_take(make_queue, held):
    queue = make_queue(max_waiting=1)
    for _ in range(50):  # as good as no time
        errand = Errand()
        queue.put(errand)
        errand.answer()
    keep_busy(queue, held)
    queue.put(Errand())
    with pytest.raises(QueueFull) as raised:
        queue.put(Errand())
    assert raised.value.retry_after_s < 0.5
    held.may_end.set()


def test_bytes_that_wait_are_bounded_but_one_job_always_fits(make_queue, held):
    queue = make_queue(max_waiting_bytes=100)
    keep_busy(queue, held)
    queue.put(Errand(num_bytes=500))
    with pytest.raises(QueueFull):
        queue.put(Errand(num_bytes=1))
    held.may_end.set()


def test_a_job_that_would_wait_too_long_is_turned_away_but_one_always_may(make_queue, held):
    queue = make_queue(max_wait_s=0.9)  # the first guess is half a second for each job
    keep_busy(queue, held)
    queue.put(Errand())
    with pytest.raises(QueueFull):
        queue.put(Errand())
    held.may_end.set()


def test_a_job_that_has_waited_too_long_is_given_up_and_the_next_is_done(make_queue, held):
    queue, late, in_time = make_queue(max_wait_s=60), Errand("late"), Errand("in time")
    keep_busy(queue, held)
    queue.put(late)
    queue.put(in_time)
    late.put_at -= 61
    held.may_end.set()
    with pytest.raises(QueueFull, match="errands is too busy: this waited for 60 s") as raised:
        late.answer()
    assert raised.value.retry_after_s > 0
    assert in_time.answer() == "in time"
    assert not late.has_begun.is_set()


def test_a_job_that_nobody_waits_for_is_not_done(make_queue, held):
    queue, left, last = make_queue(), Errand("left"), Errand("last")
    keep_busy(queue, held)
    queue.put(left)
    queue.put(last)
    assert left.promise.future.cancel()
    held.may_end.set()
    assert last.answer() == "last"
    assert not left.has_begun.is_set()


def test_jobs_that_nobody_waits_for_make_room(make_queue, held):
    queue, left, last = make_queue(max_waiting=1), Errand("left"), Errand("last")
    keep_busy(queue, held)
    queue.put(left)
    left.promise.future.cancel()
    queue.put(last)
    held.may_end.set()
    assert last.answer() == "last"


@pytest.mark.parametrize("error", [ValueError("crashed"), MemoryError("crashed")])
def test_a_crash_fails_its_own_job_and_the_thread_lives_on(make_queue, error):
    queue, crashing, next_one = make_queue(), Errand(error=error), Errand("next")
    queue.put(crashing)
    queue.put(next_one)
    with pytest.raises(type(error), match="crashed"):
        crashing.answer()
    assert next_one.answer() == "next"


def test_finishing_does_what_was_taken_and_takes_no_more(make_queue, held):
    queue, waiting = make_queue(), Errand("waiting")
    keep_busy(queue, held)
    queue.put(waiting)
    queue.stop()
    with pytest.raises(ServiceClosed, match="takes no more work"):
        queue.put(Errand())
    held.may_end.set()
    queue.finish(time.monotonic() + PATIENCE_S)
    assert (held.answer(), waiting.answer()) == ("held", "waiting")
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("errands")] == []


def test_what_is_not_done_by_the_deadline_fails_at_once(make_queue, held):
    queue, waiting = make_queue(), Errand("waiting")
    keep_busy(queue, held)
    queue.put(waiting)
    held.promise.future.add_done_callback(lambda _: held.may_end.set())  # else finishing would wait for it
    queue.finish(time.monotonic())
    for errand in (held, waiting):
        with pytest.raises(ServiceClosed, match="shut down before this was done"):
            errand.answer()
    assert not waiting.has_begun.is_set()


def test_finishing_twice_does_nothing_more(make_queue):
    queue = make_queue()
    queue.finish(time.monotonic() + PATIENCE_S)
    queue.finish(time.monotonic() + PATIENCE_S)


def test_only_the_first_answer_counts():
    promise = Promise()
    promise.answer(1)
    promise.answer(2)
    promise.fail(ValueError("late"))
    assert promise.future.result(0) == 1


def test_a_promise_can_be_taken_back_until_it_is_answered():
    promise = Promise()
    assert promise.is_wanted
    assert promise.future.cancel()
    promise.answer(1)
    assert promise.future.cancelled()
    assert not promise.is_wanted
