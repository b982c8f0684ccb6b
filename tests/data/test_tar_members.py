"""Walking through tars: what cannot be trusted in them."""

import io
import tarfile

import pytest

from mobile_sam.data.tar_members import ForwardReader, TarDamageError, split_member_name, tar_members


class Stream:
    """Gives a few bytes at a time, as a socket does, and keeps count of the most that it was asked for."""

    def __init__(self, content):
        self.file = io.BytesIO(content)
        self.most = 0

    def read(self, size_bytes):
        self.most = max(self.most, size_bytes)
        return self.file.read(min(size_bytes, 100))


def tar_of(*members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("sizes", [(0, 1, 512, 513), (5000, 0, 0), ()])
def test_a_stream_gives_what_a_file_gives_read_or_not(sizes):
    members = [(f"{number}", bytes([number]) * size) for number, size in enumerate(sizes)]
    content = tar_of(*members)
    file = ForwardReader(Stream(content))
    assert [(member.name, file.read(member.size)) for member in tar_members(file)] == members
    assert [member.name for member in tar_members(ForwardReader(Stream(content)))] == [name for name, _ in members]
    assert [member.name for member in tar_members(io.BytesIO(content))] == [name for name, _ in members]


def test_a_header_that_tells_a_wrong_size_takes_no_memory():
    info = tarfile.TarInfo("a.jpg")
    info.size = 8_000_000_000
    stream = Stream(info.tobuf() + b"x" * 2000)
    file = ForwardReader(stream)
    assert [len(file.read(member.size)) for member in [next(tar_members(file))]] == [2000]
    assert stream.most < 20_000_000
    with pytest.raises(TarDamageError, match=r"ends within a\.jpg") as caught:
        list(tar_members(io.BytesIO(info.tobuf() + b"x" * 2000), size_bytes=2512))
    assert (caught.value.kind, caught.value.member) == ("truncated tar", "a.jpg")


def test_folders_and_links_are_no_files():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind in (("folder", tarfile.DIRTYPE), ("link.jpg", tarfile.SYMTYPE), ("a.jpg", tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
    assert [member.name for member in tar_members(io.BytesIO(buffer.getvalue()))] == ["a.jpg"]


@pytest.mark.parametrize("name", ["", "a", "a.", ".jpg", "x/.jpg", "__meta__.json", "x.y/a"])
def test_what_is_no_part_of_a_sample_has_no_key(name):
    assert split_member_name(name) == (None, None)
