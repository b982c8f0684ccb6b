"""Millions of names or small files as one block of bytes, which costs little to keep and to send to a process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray


class Blobs(Sequence[bytes]):
    """Byte strings end to end.

    Attributes:
        content: all of them.
        ends: (N,) int64, where each ends.

    >>> blobs = Blobs.of([b"ab", b"", b"c"])
    >>> blobs[0], blobs[-1], len(blobs), list(blobs.take([2, 0]))
    (b'ab', b'c', 3, [b'c', b'ab'])
    """

    def __init__(self, content: bytes, ends: NDArray[np.int64]) -> None:
        self.content = content
        self.ends = ends

    @classmethod
    def of(cls, parts: Iterable[bytes]) -> Blobs:
        """Put byte strings end to end."""
        listed = list(parts)
        return cls(b"".join(listed), np.cumsum([len(part) for part in listed], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        end = int(self.ends[index])
        position = index % len(self)
        return self.content[int(self.ends[position - 1]) if position else 0 : end]

    def take(self, indices: Iterable[int]) -> Blobs:
        """Keep some, in the order given."""
        return Blobs.of(self[int(index)] for index in indices)


class Names(Sequence[str]):
    """Text of any kind that a file system may hold, end to end.

    >>> names = Names.of(["sa_1", "sa_2"])
    >>> names[1], list(names), names == Names.of(["sa_1", "sa_2"])
    ('sa_2', ['sa_1', 'sa_2'], True)
    """

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Put names end to end."""
        return cls(Blobs.of(name.encode("utf-8", "surrogateescape") for name in names))

    def __len__(self) -> int:
        return len(self.blobs)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [_text(part) for part in self.blobs[index]]
        return _text(self.blobs[index])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Names) and list(self.blobs) == list(other.blobs)

    __hash__ = None  # type: ignore[assignment]

    def take(self, indices: Iterable[int]) -> Names:
        """Keep some, in the order given."""
        return Names(self.blobs.take(indices))


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def repeats_of(names: Sequence[str]) -> dict[int, int]:
    """Find names that came before: their places, each with the place where the name came first.

    Eight bytes a name are needed on the way, not a set of all of them.

    >>> repeats_of(["a", "b", "a", "c", "a"])
    {2: 0, 4: 0}
    """
    hashes = np.fromiter((hash(name) for name in names), np.int64, len(names))
    order = np.argsort(hashes, kind="stable")
    is_same = np.diff(hashes[order]) == 0
    suspects = np.unique(np.concatenate([order[1:][is_same], order[:-1][is_same]]))
    first: dict[str, int] = {}
    return {
        int(place): first[name]
        for place in suspects
        if first.setdefault(name := names[int(place)], int(place)) != place
    }
