"""Walking through a tar, file or stream, so that one which is cut short or damaged is told from one that has ended."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from typing_extensions import Self

COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of compressed files, and by what."""
_PART_BYTES = 1 << 24  # read at once, so that a header that tells a wrong size takes no memory for it


class TarDamageError(ValueError):
    """A tar cannot be read on from some place; what came before is sound.

    Args:
        kind: "truncated tar", "damaged tar" or "unreadable tar".
        message: what was found.
        member: name of the file that is not whole, if it was reached.
    """

    def __init__(self, kind: str, message: str, member: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.member = member


class _Header(tarfile.TarInfo):
    """Notes why there was no further header, which `TarFile.next` keeps to itself."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            tar.why_ended = error  # type: ignore[attr-defined]
            raise


class ForwardReader:
    """Reads a stream that cannot go back as a file, seeking forward by reading.

    Args:
        stream: with a method `read`.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._place = 0

    def read(self, size_bytes: int) -> bytes:
        """Read so many bytes, fewer only at the end."""
        parts: list[bytes] = []
        left = size_bytes
        while left and (part := self._stream.read(min(left, _PART_BYTES))):
            parts.append(part)
            left -= len(part)
        self._place += size_bytes - left
        return b"".join(parts)

    def tell(self) -> int:
        """Tell how many bytes were read."""
        return self._place

    def seek(self, place: int) -> int:
        """Go forward, to the end at most."""
        assert place >= self._place, "tar_members goes forward only"
        while self._place < place and self.read(min(place - self._place, _PART_BYTES)):
            pass
        return self._place


def tar_members(file: BinaryIO | ForwardReader, size_bytes: int | None = None) -> Iterator[tarfile.TarInfo]:
    """Go through the regular files of a tar, seeking over what they hold.

    The file stands at the first byte of what the latest one holds; it may be read from there before the next is asked
    for.

    Args:
        file: at its beginning; never goes back.
        size_bytes: of the tar, with which a file that is cut short is found without reading it.

    Raises:
        TarDamageError: the tar ends before its end mark, or goes on with what is no header.
    """
    try:
        anything: Any = file  # what TarFile does with it needs no more than ForwardReader has
        tar: Any = tarfile.open(fileobj=anything, mode="r:", tarinfo=_Header)  # noqa: SIM115 - the file is the caller's
        while (member := tar.next()) is not None:
            tar.members.clear()
            if size_bytes is not None and member.offset_data + member.size > size_bytes:
                raise TarDamageError("truncated tar", f"it ends within {member.name}", member.name)
            if member.isreg():
                yield member
    except tarfile.TarError as error:
        if str(error).startswith("unexpected end"):
            raise TarDamageError("truncated tar", "it ends within a file") from error
        raise TarDamageError("unreadable tar", f"it is no tar: {error}") from error
    except OSError as error:
        raise TarDamageError("unreadable tar", f"it cannot be read: {error}") from error
    why_ended = type(getattr(tar, "why_ended", None)).__name__
    if why_ended == "InvalidHeaderError":
        raise TarDamageError("damaged tar", f"what comes at byte {tar.offset} is no header ({tar.why_ended})")
    if why_ended != "EOFHeaderError":
        raise TarDamageError("truncated tar", "it ends without an end mark")


def split_member_name(name: str) -> tuple[str, str] | tuple[None, None]:
    """Split a file's name in a tar into the key of its sample and its extension, as webdataset does.

    The key ends at the first dot of the last part. Hidden files, those without an extension and webdataset's own
    have none.

    >>> split_member_name("./sa_000000/sa_1.jpg"), split_member_name("a.seg.PNG"), split_member_name("._a.jpg")
    (('sa_000000/sa_1', 'jpg'), ('a', 'seg.png'), (None, None))
    """
    folder, slash, last = name.removeprefix("./").lstrip("/").rpartition("/")
    stem, _, extension = last.partition(".")
    if not stem or not extension or (stem.startswith("__") and stem.endswith("__")):
        return None, None
    return folder + slash + stem, extension.lower()
