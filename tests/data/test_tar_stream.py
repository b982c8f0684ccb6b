"""Tars read once through, from files and programs; what is wrong is told, and costs only itself."""

import functools
import http.server
import shlex
import shutil
import sys
import tarfile
import threading

import pytest

from mobile_sam.core.errors import MissingDependencyError
from mobile_sam.data.tar_stream import stream_samples


@pytest.fixture
def stream():
    """Keys of the samples that come, and kind and place of the problems."""

    def run(urls, **options):
        problems = []
        keys = [sample.key for sample in stream_samples(urls, problems.append, **options)]
        return keys, [(problem.kind, problem.where) for problem in problems]

    return run


def test_samples_are_those_of_random_access(put_tar):
    problems = []
    path = put_tar("sa.tar", 1, 2)
    first, second = stream_samples(path, problems.append, with_instances=True)
    assert (first.key, second.key, problems) == ("sa_1", "sa_2", [])
    assert (second.image == 2).all()
    assert [instance.id for instance in second.instances] == ["102"]


@pytest.mark.parametrize("program", ["cat {}", "gzip -c {} | gzip -dc"])
def test_what_a_program_writes_is_read(put_tar, stream, program):
    path = put_tar("sa.tar", 1, 2)
    assert stream(f"pipe:{program.format(shlex.quote(str(path)))}") == (["sa_1", "sa_2"], [])


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads URLs with curl")
def test_what_a_server_sends_is_read_and_what_it_lacks_is_told(put_tar, stream):
    folder = put_tar("sa.tar", 1, 2).parent

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        keys, problems = stream([f"{address}/gone.tar", f"{address}/sa.tar"])
        server.shutdown()
    assert keys == ["sa_1", "sa_2"]
    assert problems == [("unreadable tar", f"{address}/gone.tar")]


@pytest.mark.parametrize(
    ("cut_in", "at", "keys"),
    [
        ("./sa_3.jpg", 600, ["sa_1", "sa_2"]),
        ("./sa_3.jpg", 100, ["sa_1", "sa_2"]),
        ("./sa_3.jpg", 0, ["sa_1", "sa_2"]),
        ("./sa_2.json", 600, ["sa_1"]),
    ],
)
def test_a_stream_that_ends_too_early_gives_its_whole_samples_and_the_next_shard_goes_on(
    put_tar, stream, cut_in, at, keys
):
    path, following = put_tar("sa.tar", 1, 2, 3), put_tar("next.tar", 4)
    with tarfile.open(path) as tar:
        offset = tar.getmember(cut_in).offset
    path.write_bytes(path.read_bytes()[: offset + at])
    for url in (str(path), f"pipe:cat {shlex.quote(str(path))}"):
        assert stream([url, following]) == ([*keys, "sa_4"], [("truncated tar", url)])


def test_the_last_key_is_told_with_the_shard(put_tar):
    path, problems = put_tar("sa.tar", 1, 2), []
    path.write_bytes(path.read_bytes()[:3200])
    assert [sample.key for sample in stream_samples(path, problems.append)] == ["sa_1"]
    assert "it ends within ./sa_2.jpg; this was after sa_1; what follows is lost" in problems[0].message


@pytest.mark.parametrize(
    ("url", "kind"),
    [("pipe:exit 3", "unreadable tar"), ("/nowhere/sa.tar", "unreachable tar"), ("what://x/a.tar", "unreachable tar")],
)
def test_a_shard_that_cannot_be_reached_is_told(put_tar, stream, url, kind):
    assert stream([url, put_tar("sa.tar", 1)]) == (["sa_1"], [(kind, url)])


def test_broken_samples_and_repeated_keys_are_told_and_passed_over(put_tar, stream, make_jpeg):
    first = put_tar("a.tar", 1, ("sa_2.jpg", b"broken"), ("sa_3.jpg", make_jpeg(3)), ("sa_3.jpg", make_jpeg(9)))
    second = put_tar("b.tar", 1, ("notes.txt", b"x"), ("sa_4.json", b"{}"), 5)
    keys, problems = stream([first, second])
    assert keys == ["sa_1", "sa_3", "sa_5"]
    assert problems == [
        ("corrupt picture", "sa_2"),
        ("repeated key", "sa_3"),
        ("repeated key", "sa_1"),
        ("sample without picture", "sa_4"),
    ]


def test_each_worker_of_each_process_has_shards_of_its_own(put_tar, stream):
    for number in range(10):
        path = put_tar(f"sa_{number:03}.tar", number)
    shares = [
        stream(str(path.parent / "sa_{000..009}.tar"), rank=rank, world_size=2, worker=worker, num_workers=2)[0]
        for rank in range(2)
        for worker in range(2)
    ]
    assert [len(share) for share in shares] == [3, 3, 2, 2]
    assert sorted(key for share in shares for key in share) == [f"sa_{number}" for number in range(10)]


def test_what_cannot_be_done_is_said_at_once(put_tar, monkeypatch):
    with pytest.raises(ValueError, match="pipe:aws s3 cp"):
        stream_samples("s3://bucket/a.tar", print)
    with pytest.raises(ValueError, match="rank must be below"):
        stream_samples("a.tar", print, rank=2, world_size=2)
    monkeypatch.setitem(sys.modules, "webdataset.gopen", None)
    with pytest.raises(MissingDependencyError, match=r"mobile-sam\[train\]"):
        next(stream_samples(put_tar("sa.tar", 1), print))
