import asyncio

import pytest

from mobile_sam.serve.limits import BODIES_AT_ONCE, BodyLimits, Deadline
from mobile_sam.serve.problems import ProblemError
from mobile_sam.serve.settings import ServeSettings


def read_all(limits, *pieces, headers=(), wait=None):
    """Have the app behind the limits read a body that comes in pieces, each with more to come; return what was read."""
    read = []
    arriving = iter(pieces)

    async def receive():
        piece = next(arriving, None)
        if piece is None:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": piece, "more_body": piece != b""}

    async def app(scope, receive, send):
        while piece := (await receive())["body"]:
            read.append(len(piece))
        if wait is not None:
            await wait()

    limits._app = app
    asyncio.run(limits({"type": "http", "headers": list(headers)}, receive, None))
    return read


def limits_of(**settings):
    return BodyLimits(None, ServeSettings(**settings))


def test_a_body_as_large_as_allowed_is_read():
    assert read_all(limits_of(max_body_bytes=10), b"12345", b"67890", b"") == [5, 5]


def test_a_body_that_grows_too_large_is_not_read_to_its_end():
    with pytest.raises(ProblemError) as caught:
        read_all(limits_of(max_body_bytes=10), b"12345", b"678901", b"never read")
    assert caught.value.status_code == 413


@pytest.mark.parametrize("length", [b"11", b"9" * 30, b"9" * 5000])
def test_a_body_that_says_it_is_too_large_is_not_read_at_all(length):
    with pytest.raises(ProblemError) as caught:
        read_all(limits_of(max_body_bytes=10), headers=[(b"content-length", length)])
    assert caught.value.status_code == 413


def test_a_body_that_trickles_is_given_up():
    with pytest.raises(ProblemError) as caught:
        read_all(limits_of(timeout_s=0.05), b"a", b"b")
    assert caught.value.status_code == 408


def test_all_bodies_together_are_bounded_and_counted_until_their_requests_end():
    limits = limits_of(max_body_bytes=10)

    async def others():
        limits._held_bytes = BODIES_AT_ONCE * 10 - 9  # of requests that go on meanwhile

    read_all(limits, b"1234567890", b"", wait=others)
    assert limits._held_bytes == BODIES_AT_ONCE * 10 - 19  # those of this request were given back
    limits._held_bytes = BODIES_AT_ONCE * 10 - 9
    with pytest.raises(ProblemError) as caught:
        read_all(limits, b"1234567890", b"")
    assert (caught.value.status_code, caught.value.headers["Retry-After"]) == (429, "1")
    assert limits._held_bytes == BODIES_AT_ONCE * 10 - 9


def test_a_deadline_cancels_what_it_gives_up():
    from concurrent.futures import Future

    pending: Future[int] = Future()
    with pytest.raises(ProblemError) as caught:
        asyncio.run(Deadline(0.01).result_of(pending))
    assert caught.value.status_code == 504
    assert pending.cancelled()
